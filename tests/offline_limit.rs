//! What waits while a link is not online, and how fast a link sends: limits that Amazon's SDKs have made customary.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::ops::Range;
use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, TopicFilter};
use paquebot::{DropReason, Fleet, GroupBuilder, Link, OfflineLimit, Outcome, Publish, Receipt};
use paquebot_emulator::{Broker, Watch};

#[path = "support/support.rs"]
mod support;

use support::fleet::{BOTH, Gangway, broker, drain, fleet, numbers, online, soon, start, until};

async fn submit(link: &Link, numbers: Range<usize>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for n in numbers {
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce][n % 2];
        let publish = Publish::new("t/x", n.to_string()).unwrap().with_qos(qos);
        receipts.push(soon("it is taken", link.publish(publish)).await.unwrap());
    }
    receipts
}

struct Port {
    broker: Broker,
    watch: Watch,
    gangway: Gangway,
    fleet: Fleet,
}

impl Port {
    async fn new() -> Self {
        let broker = broker().await;
        Self {
            watch: broker.watch(TopicFilter::new("#").unwrap()),
            gangway: Gangway::new(&broker),
            fleet: fleet(),
            broker,
        }
    }

    /// A link that is not connected, once the queue has `count` messages of its.
    async fn offline(
        &self,
        settings: impl FnOnce(GroupBuilder) -> GroupBuilder,
        version: paquebot::mqtt::Version,
    ) -> Link {
        start(settings(self.gangway.group(&self.fleet, version)), "d1")
    }

    async fn taken(&self, count: u64) {
        until("the queue has looked at all", || {
            self.fleet.totals().accepted >= count
        })
        .await;
    }
}

#[tokio::test]
async fn of_seven_messages_five_wait_the_first_or_the_last() {
    for version in BOTH {
        for (limit, kept, dropped, reason) in [
            (OfflineLimit::DropNewest(5), 0..5, 5..7, DropReason::Newest),
            (OfflineLimit::DropOldest(5), 2..7, 0..2, DropReason::Oldest),
        ] {
            let mut port = Port::new().await;
            let link = port
                .offline(|group| group.offline_limit(limit), version)
                .await;
            let receipts = submit(&link, 0..7).await;
            port.taken(7).await;
            port.gangway.open();
            online(&link).await;
            assert_eq!(
                numbers(&mut port.watch, 5).await,
                kept.clone().collect::<Vec<_>>()
            );
            for (n, receipt) in receipts.into_iter().enumerate() {
                let outcome = soon("it ends", receipt).await;
                if dropped.contains(&n) {
                    assert_eq!(outcome, Outcome::Dropped(reason), "{n}");
                } else {
                    assert!(outcome.is_delivered(), "{n}: {outcome:?}");
                }
            }
            let totals = drain(&port.fleet).await;
            assert_eq!(
                (totals.accepted, totals.delivered, totals.dropped),
                (7, 5, 2)
            );
        }
    }
}

#[tokio::test]
async fn with_a_limit_of_none_nothing_waits_and_online_everything_goes() {
    for limit in [OfflineLimit::DropNewest(0), OfflineLimit::DropOldest(0)] {
        let mut port = Port::new().await;
        let link = port
            .offline(|group| group.offline_limit(limit), BOTH[0])
            .await;
        for receipt in submit(&link, 0..3).await {
            assert!(matches!(
                soon("it ends", receipt).await,
                Outcome::Dropped(_)
            ));
        }
        port.gangway.open();
        online(&link).await;
        let receipts = submit(&link, 3..203).await;
        for receipt in receipts {
            assert!(soon("it ends", receipt).await.is_delivered());
        }
        assert_eq!(
            numbers(&mut port.watch, 200).await,
            (3..203).collect::<Vec<_>>()
        );
        let totals = drain(&port.fleet).await;
        assert_eq!((totals.delivered, totals.dropped), (200, 3));
    }
}

#[tokio::test]
async fn what_comes_while_the_backlog_drains_is_limited_and_what_comes_after_it_is_not() {
    let mut port = Port::new().await;
    let settings = |group: GroupBuilder| {
        let group = group.offline_limit(OfflineLimit::DropNewest(5));
        // Slow enough that the backlog is there for as long as the test needs it.
        group.drain_rate(0.5)
    };
    let link = port.offline(settings, BOTH[0]).await;
    submit(&link, 0..2).await;
    port.taken(2).await;
    port.gangway.open();
    online(&link).await;
    assert_eq!(numbers(&mut port.watch, 1).await, [0]);
    // One waits for its time; four more find room.
    let receipts = submit(&link, 2..9).await;
    let (few, many) = receipts
        .into_iter()
        .enumerate()
        .partition::<Vec<_>, _>(|(n, _)| *n < 4);
    for (_, receipt) in many {
        let outcome = soon("it ends", receipt).await;
        assert_eq!(outcome, Outcome::Dropped(DropReason::Newest));
    }
    // Behind the backlog the rate is over: at half a message a second they would take far too long.
    assert_eq!(numbers(&mut port.watch, 5).await, [1, 2, 3, 4, 5]);
    for (_, receipt) in few {
        assert!(soon("it ends", receipt).await.is_delivered());
    }
    let receipts = submit(&link, 9..109).await;
    for receipt in receipts {
        assert!(soon("it ends", receipt).await.is_delivered());
    }
    assert_eq!(drain(&port.fleet).await.dropped, 3);
}

#[tokio::test]
async fn a_rate_of_sending_holds_all_the_time_and_keeps_the_order() {
    for version in BOTH {
        let mut port = Port::new().await;
        port.gangway.open();
        let link = port.offline(|group| group.send_rate(100.0), version).await;
        online(&link).await;
        let began = Instant::now();
        let receipts = submit(&link, 0..60).await;
        assert_eq!(
            numbers(&mut port.watch, 60).await,
            (0..60).collect::<Vec<_>>()
        );
        // Ten go at once, then one every 10 ms.
        assert!(
            began.elapsed() >= Duration::from_millis(490),
            "{:?}",
            began.elapsed()
        );
        for receipt in receipts {
            assert!(soon("it ends", receipt).await.is_delivered());
        }
        drain(&port.fleet).await;
        port.broker.stop().await;
    }
}
