//! Peers that take too little or nothing: bounds hold, the link stays where it may, and traffic flows again.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Version};
use paquebot::{DropReason, Fleet, Outcome, Overflow, Publish};
use paquebot_emulator::{Admission, Conditions, Ending, Proxy, Toward};

use crate::course::{Findings, group, publish_next, wrong_end};
use crate::support::client::off_the_runtime;
use crate::support::fleet::{drain, online, soon, start};
use crate::support::judge::{Judge, Sent};
use crate::support::mosquitto::Mosquitto;

/// The most that the link of [`slow_reader`] holds.
const HELD_MAX: usize = 100;

/// The server takes 1 KiB a second and far more is published: the queue drops the oldest, and the window keeps what is
/// in the sockets short enough for the pings to be answered.
pub(crate) async fn slow_reader(server: &Mosquitto, version: Version, lasts: Duration) -> Findings {
    let mut findings = Findings::new("slow_reader", 0);
    findings.faults = 1;
    let judge = Judge::start(&server.plain(), "judge", "course/#", 2).await;
    let proxy = Proxy::start(server.plain_address(), 1).await.unwrap();
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let builder = group(&fleet, proxy.port(), version)
        .keep_alive(Duration::from_secs(2))
        .inflight_max(8)
        .queue_messages_max(HELD_MAX)
        .overflow(Overflow::DropOldest);
    let link = start(builder, "slow");
    online(&link).await;
    proxy.set(
        Toward::Server,
        Conditions {
            bytes_per_second: NonZeroU64::new(1024),
            ..Conditions::default()
        },
    );
    let mut sent = Sent::default();
    let mut receipts = Vec::new();
    let since = Instant::now();
    let mut held_most = 0;
    while since.elapsed() < lasts {
        for _ in 0..5 {
            let receipt = publish_next(&link, &mut sent, QoS::AtLeastOnce);
            receipts.push(soon("it is taken", receipt).await.unwrap());
        }
        let totals = fleet.totals();
        findings.expect(totals.is_balanced(), format!("{totals:?}"));
        held_most = held_most.max(totals.held);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    findings.figure("held_most", held_most);
    // What the queue has taken and the caller was told of, and a turn's worth of what waits to be taken.
    findings.expect(held_most <= HELD_MAX as i64, format!("{held_most} held"));
    let before = fleet.totals();
    findings.expect(before.disconnects == 0, format!("{before:?}"));
    proxy.heal();
    let mut dropped = 0;
    for receipt in receipts {
        match soon("it ended", receipt).await {
            Outcome::Delivered { .. } => {}
            Outcome::Dropped(DropReason::Oldest) => dropped += 1,
            other => findings.expect(false, format!("{other:?}")),
        }
    }
    let totals = drain(&fleet).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while judge.received() < totals.delivered && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut verdicts = judge.verdicts(&sent, Duration::from_millis(500)).await;
    findings.figure("dropped_and_told", dropped);
    findings.expect(dropped > 0, "something is dropped");
    findings.expect(
        verdicts[1].lost == dropped && totals.dropped == dropped,
        format!("what is lost was told: {verdicts:?} {totals:?}"),
    );
    verdicts[1].lost -= dropped.min(verdicts[1].lost);
    findings.judge(totals, verdicts);
    findings
}

/// The server freezes with a full window before it and dies; the next one knows nothing.
pub(crate) async fn full_window(mut server: Mosquitto, version: Version) -> (Findings, Mosquitto) {
    let mut findings = Findings::new("full_window", 0);
    findings.faults = 1;
    let proxy = Proxy::start(server.plain_address(), 1).await.unwrap();
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let link = start(
        group(&fleet, proxy.port(), version).inflight_max(8),
        "window",
    );
    online(&link).await;
    let warm = Publish::new("warm", "x")
        .unwrap()
        .with_qos(QoS::AtLeastOnce);
    let receipt = link.publish(warm).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    server.freeze();
    let mut sent = Sent::default();
    let mut receipts = Vec::new();
    for _ in 0..50 {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            receipts.push((qos, publish_next(&link, &mut sent, qos).await.unwrap()));
        }
    }
    // The window has gone out when the proxy has carried this much to the frozen server.
    let carried = proxy.counts().bytes_to_server;
    let deadline = Instant::now() + Duration::from_secs(5);
    while proxy.counts().bytes_to_server < carried + 8 * 10 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    proxy.admit(Admission::Refuse);
    proxy.cut(Ending::Rst);
    let server = off_the_runtime(move || {
        server.kill();
        server.restart();
        server
    })
    .await;
    let judge = Judge::start(&server.plain(), "judge", "course/#", 2).await;
    proxy.heal();
    let since = Instant::now();
    let mut outcomes: HashMap<String, u64> = HashMap::new();
    for (qos, receipt) in receipts {
        let outcome = soon("it ended", receipt).await;
        findings.expect(!wrong_end(qos, &outcome), format!("{qos:?}: {outcome:?}"));
        *outcomes.entry(outcome.name().to_owned()).or_default() += 1;
    }
    findings.figure("flowed_after_seconds", since.elapsed().as_secs_f64());
    let totals = drain(&fleet).await;
    let verdicts = judge.verdicts(&sent, Duration::from_secs(10)).await;
    findings.judge(totals, verdicts);
    (findings, server)
}

/// Messages that come in each second while what was in flight is sent again.
const FLOOD_RATE: u32 = 5_000;

/// How long it may take in that flood.
const SENT_AGAIN_WITHIN: Duration = Duration::from_secs(5);

/// A hundred messages are in flight at a break, and 5,000 a second come in while they are sent again.
pub(crate) async fn flood(server: &Mosquitto, version: Version) -> Findings {
    let mut findings = Findings::new("flood", 0);
    findings.faults = 1;
    let judge = Judge::start(&server.plain(), "judge", "course/#", 2).await;
    let proxy = Proxy::start(server.plain_address(), 1).await.unwrap();
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let link = start(group(&fleet, proxy.port(), version), "flooded");
    let heard = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&heard);
    let guard = link.subscribe_with("flood", QoS::AtMostOnce, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let guard = guard.await.unwrap();
    online(&link).await;
    let flooding = Fleet::builder().workers(1).start().unwrap();
    let flooder = start(group(&flooding, server.plain_port(), version), "flooder");
    online(&flooder).await;
    let pouring = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            for _ in 0..FLOOD_RATE / 100 {
                let message = Publish::new("flood", [b'x'; 64].to_vec()).unwrap();
                let message = message.with_qos(QoS::AtMostOnce);
                if flooder.publish_detached(message).await.is_err() {
                    return;
                }
            }
        }
    });
    let flows = async |more: u64| {
        let wanted = heard.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + Duration::from_secs(10);
        while heard.load(Ordering::Relaxed) < wanted && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        heard.load(Ordering::Relaxed) >= wanted
    };
    findings.expect(flows(500).await, "the flood comes in");
    proxy.set(
        Toward::Client,
        Conditions {
            stalled: true,
            ..Conditions::default()
        },
    );
    let (mut sent, mut receipts) = (Sent::default(), Vec::new());
    for n in 0..100 {
        let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce][n % 2];
        receipts.push((qos, publish_next(&link, &mut sent, qos).await.unwrap()));
    }
    proxy.cut(Ending::Rst);
    proxy.heal();
    let since = Instant::now();
    findings.expect_ends(receipts).await;
    let took = since.elapsed();
    findings.figure("sent_again_after_seconds", took.as_secs_f64());
    findings.expect(
        took < SENT_AGAIN_WITHIN,
        format!("sent again after {took:?}"),
    );
    findings.expect(flows(500).await, "the flood goes on");
    pouring.abort();
    drop(guard);
    let totals = drain(&fleet).await;
    drain(&flooding).await;
    let verdicts = judge.verdicts(&sent, Duration::from_secs(10)).await;
    findings.judge(totals, verdicts);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mosquitto;
    use crate::support::fleet::BOTH;
    use crate::support::mosquitto::Persistence;

    #[tokio::test]
    async fn behind_a_server_that_reads_a_kibibyte_a_second_bounds_hold_and_pings_are_answered() {
        let course = async |version| {
            if let Some(server) = mosquitto(Persistence::Off).await {
                let findings = slow_reader(&server, version, Duration::from_secs(4)).await;
                findings.assert_good();
            }
        };
        // It is waited for most of the time.
        futures_util::future::join_all(BOTH.map(course)).await;
    }

    #[tokio::test]
    async fn what_was_in_flight_is_sent_again_in_a_flood_of_5000_messages_a_second() {
        for version in BOTH {
            let Some(server) = mosquitto(Persistence::Off).await else {
                return;
            };
            flood(&server, version).await.assert_good();
        }
    }

    #[tokio::test]
    async fn traffic_resumes_after_the_session_was_lost_with_a_full_window() {
        for version in BOTH {
            let Some(server) = mosquitto(Persistence::Off).await else {
                return;
            };
            full_window(server, version).await.0.assert_good();
        }
    }
}
