//! Handlers that publish into the link they are called by, whose queue is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use paquebot::mqtt::{QoS, Version};
use paquebot::{Fleet, Publish, SendError};
use paquebot_emulator::{Conditions, Proxy, Toward};

use crate::course::group;
use crate::mosquitto;
use crate::support::client::publish_soon;
use crate::support::fleet::{drain, online, soon, start, until};
use crate::support::mosquitto::Persistence;

/// Messages that come in while nothing goes out.
const COUNT: u64 = 20;

fn answer() -> Publish {
    Publish::new("answers", "x")
        .unwrap()
        .with_qos(QoS::AtLeastOnce)
}

#[tokio::test]
async fn a_handler_that_publishes_into_a_full_queue_is_told_so_and_holds_nothing_up() {
    let Some(server) = mosquitto(Persistence::Off).await else {
        return;
    };
    let proxy = Proxy::start(server.plain_address(), 1).await.unwrap();
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let link = start(
        group(&fleet, proxy.port(), Version::V5).queue_messages_max(3),
        "h",
    );
    let [taken, refused, waited] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let (own, counts) = (link.clone(), [Arc::clone(&taken), Arc::clone(&refused)]);
    let guard = link.subscribe_with("asked", QoS::AtMostOnce, move |_| {
        let outcome = own.try_publish_detached(answer());
        let count = match outcome {
            Ok(()) => &counts[0],
            Err(SendError::Full(_)) => &counts[1],
            Err(error) => panic!("{error}"),
        };
        count.fetch_add(1, Ordering::Relaxed);
    });
    let guard = guard.await.unwrap();
    // One that waits for room does so in its own task.
    let patient = link
        .subscribe("asked/patiently", QoS::AtMostOnce)
        .await
        .unwrap();
    soon("it is subscribed", patient.ready()).await.unwrap();
    let (own, count) = (link.clone(), Arc::clone(&waited));
    let serving = tokio::spawn(patient.serve(1, move |_| {
        let (own, count) = (own.clone(), Arc::clone(&count));
        async move {
            own.publish_detached(answer()).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
    }));
    online(&link).await;
    proxy.set(
        Toward::Server,
        Conditions {
            stalled: true,
            ..Conditions::default()
        },
    );
    for _ in 0..COUNT {
        publish_soon(&server.plain(), &["-t", "asked", "-m", "x"]).await;
    }
    publish_soon(&server.plain(), &["-t", "asked/patiently", "-m", "x"]).await;
    until("every message was handled", || {
        taken.load(Ordering::Relaxed) + refused.load(Ordering::Relaxed) == COUNT
    })
    .await;
    assert!(
        refused.load(Ordering::Relaxed) >= COUNT - 10,
        "{taken:?} {refused:?}"
    );
    assert!(taken.load(Ordering::Relaxed) >= 3, "{taken:?} {refused:?}");
    assert_eq!(waited.load(Ordering::Relaxed), 0);
    proxy.heal();
    until("who waited got through", || {
        waited.load(Ordering::Relaxed) == 1
    })
    .await;
    drop(guard);
    let totals = drain(&fleet).await;
    assert_eq!(
        totals.delivered,
        taken.load(Ordering::Relaxed) + 1,
        "{totals:?}"
    );
    soon("the stream ends", serving).await.unwrap();
}
