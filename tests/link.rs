//! A link against the embedded broker: what is sent arrives, what is asked is answered.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use paquebot::dialect::{
    Capabilities, ConnectSpec, Dialect, DialectError, Inbound, Interest, LinkIdentity, Outbound,
    Plain, Rendered,
};
use paquebot::mqtt::session::Incoming;
use paquebot::mqtt::{QoS, Subscription, Topic, TopicFilter, Version};
use paquebot::{
    CommandReply, Credentials, DeviceId, Fleet, Group, LinkEvent, Outcome, Platform, Publish,
    Telemetry,
};
use paquebot_emulator::{Ack, Broker, Target};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

async fn broker() -> Broker {
    Broker::builder()
        .tcp(([127, 0, 0, 1], 0))
        .start()
        .await
        .unwrap()
}

fn group(fleet: &Fleet, broker: &Broker, version: Version) -> Group {
    let url = format!("mqtt://{}", broker.tcp_address().unwrap());
    fleet
        .group("test")
        .endpoint(url)
        .version(version)
        .build()
        .unwrap()
}

#[tokio::test]
async fn telemetry_at_every_qos_is_delivered_and_seen_by_the_broker() {
    for version in [Version::V311, Version::V5] {
        let broker = broker().await;
        let mut watch = broker.watch(TopicFilter::new("devices/+/telemetry").unwrap());
        let fleet = Fleet::builder().workers(1).start().unwrap();
        let link = group(&fleet, &broker, version)
            .device("d1")
            .unwrap()
            .start()
            .unwrap();
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let telemetry = Telemetry::new(&b"21.5"[..]).with_qos(qos);
            let receipt = link.device().send(&telemetry).await.unwrap();
            let outcome = timeout(LIMIT, receipt).await.unwrap();
            assert!(outcome.is_delivered(), "{version} {qos:?}: {outcome:?}");
            let seen = timeout(LIMIT, watch.recv()).await.unwrap().unwrap();
            assert_eq!((seen.qos, &*seen.payload), (qos, &b"21.5"[..]));
        }
        let totals = timeout(LIMIT, fleet.drain(LIMIT)).await.unwrap();
        assert!(totals.is_balanced(), "{totals:?}");
        assert_eq!(totals.held, 0, "{totals:?}");
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_command_is_answered_and_the_application_gets_the_answer() {
    for version in [Version::V311, Version::V5] {
        let broker = broker().await;
        let fleet = Fleet::builder().workers(2).start().unwrap();
        let group = group(&fleet, &broker, version);
        let link = group.device("d1").unwrap().start().unwrap();
        let commands = link.device().commands().await.unwrap();
        timeout(LIMIT, commands.ready()).await.unwrap().unwrap();
        let serving = tokio::spawn(commands.serve(4, async |command| match &*command.name {
            "echo" => CommandReply::ok(command.payload),
            _ => CommandReply::with_status(paquebot::CommandStatus::Unknown),
        }));
        let application = group
            .application("app")
            .unwrap()
            .start()
            .unwrap()
            .as_application();
        let mut replies = application.replies().await.unwrap();
        timeout(LIMIT, replies.ready()).await.unwrap().unwrap();
        let device = link.id();
        for (name, status) in [("echo", "ok"), ("fly", "unknown")] {
            let sent = application
                .command(device, name, &b"hello"[..], "r1")
                .await
                .unwrap();
            assert!(timeout(LIMIT, sent).await.unwrap().is_delivered());
            let (from, reply_to, reply) = timeout(LIMIT, replies.next()).await.unwrap().unwrap();
            assert_eq!((&from, &*reply_to.request), (device, "r1"));
            assert_eq!(reply.status.name(), status);
        }
        assert_eq!(fleet.totals().commands_answered, 2);
        timeout(LIMIT, fleet.drain(LIMIT)).await.unwrap();
        timeout(LIMIT, serving).await.unwrap().unwrap();
        broker.stop().await;
    }
}

#[tokio::test]
async fn messages_published_offline_are_sent_in_order_after_the_broker_is_back() {
    let broker = broker().await;
    let mut watch = broker.watch(TopicFilter::new("t/#").unwrap());
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let link = group(&fleet, &broker, Version::V5)
        .device("d1")
        .unwrap()
        .start()
        .unwrap();
    timeout(LIMIT, link.online()).await.unwrap().unwrap();
    broker
        .faults()
        .restart_losing_sessions(Duration::from_millis(300));
    let mut receipts = Vec::new();
    for n in 0..500 {
        let message = Publish::on(Topic::new("t/x").unwrap(), n.to_string());
        receipts.push(link.publish(message).await.unwrap());
    }
    for receipt in receipts {
        assert!(timeout(LIMIT, receipt).await.unwrap().is_delivered());
    }
    let mut last = None;
    let mut distinct = std::collections::BTreeSet::new();
    while distinct.len() < 500 {
        let seen = timeout(LIMIT, watch.recv()).await.unwrap().unwrap();
        let n: u32 = std::str::from_utf8(&seen.payload).unwrap().parse().unwrap();
        if distinct.insert(n) {
            assert!(last.is_none_or(|last| last < n), "{n} after {last:?}");
            last = Some(n);
        }
    }
    let totals = timeout(LIMIT, fleet.drain(LIMIT)).await.unwrap();
    assert!(totals.is_balanced(), "{totals:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_stopped_link_ends_what_it_holds_as_dropped() {
    let fleet = Fleet::builder().workers(1).start().unwrap();
    // Nothing listens on the port, so everything is held.
    let group = fleet
        .group("test")
        .endpoint("mqtt://127.0.0.1:9")
        .build()
        .unwrap();
    let link = group.device("d1").unwrap().start().unwrap();
    let receipt = link
        .device()
        .send(&Telemetry::new(&b"x"[..]))
        .await
        .unwrap();
    timeout(LIMIT, link.stop()).await.unwrap();
    assert_eq!(
        timeout(LIMIT, receipt).await.unwrap(),
        Outcome::Dropped(paquebot::DropReason::Stopped)
    );
    let totals = timeout(LIMIT, fleet.drain(LIMIT)).await.unwrap();
    assert!(totals.is_balanced(), "{totals:?}");
    assert_eq!(totals.dropped, 1);
}

#[tokio::test]
async fn a_reconnect_asks_for_fresh_credentials_and_loses_nothing() {
    let broker = broker().await;
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let link = group(&fleet, &broker, Version::V5)
        .device("d1")
        .unwrap()
        .credentials(Credentials::provider(move || {
            let n = counted.fetch_add(1, Ordering::Relaxed);
            Credentials::password("d1", format!("token-{n}"))
        }))
        .start()
        .unwrap();
    timeout(LIMIT, link.online()).await.unwrap().unwrap();
    let mut events = link.events();
    link.reconnect();
    let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
    loop {
        let event = timeout(LIMIT, events.next()).await.unwrap().unwrap();
        assert!(
            !matches!(event, LinkEvent::Retrying { .. }),
            "nothing failed, so nothing waits"
        );
        if matches!(event, LinkEvent::Online) {
            break;
        }
    }
    assert!(timeout(LIMIT, receipt).await.unwrap().is_delivered());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    timeout(LIMIT, fleet.drain(LIMIT)).await.unwrap();
    broker.stop().await;
}

/// The plain dialect with credentials that are about to expire.
#[derive(Debug, Default)]
struct Expiring(Plain);

impl Dialect for Expiring {
    fn platform(&self) -> Platform {
        self.0.platform()
    }

    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    fn connect(&self, link: &LinkIdentity, now: SystemTime) -> Result<ConnectSpec, DialectError> {
        let mut spec = self.0.connect(link, now)?;
        spec.expires_at = Some(now + Duration::from_secs(1));
        Ok(spec)
    }

    fn subscriptions(
        &self,
        link: &LinkIdentity,
        device: &DeviceId,
        interest: Interest,
    ) -> Result<Vec<Subscription>, DialectError> {
        self.0.subscriptions(link, device, interest)
    }

    fn render(
        &self,
        link: &LinkIdentity,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Option<Rendered>, DialectError> {
        self.0.render(link, device, outbound)
    }

    fn classify(&self, link: &LinkIdentity, incoming: &Incoming) -> Result<Inbound, DialectError> {
        self.0.classify(link, incoming)
    }
}

#[tokio::test]
async fn credentials_that_expire_are_renewed_by_a_connection_of_its_own() {
    let broker = broker().await;
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let url = format!("mqtt://{}", broker.tcp_address().unwrap());
    let group = fleet
        .group("test")
        .endpoint(url)
        .dialect(Expiring::default())
        .build()
        .unwrap();
    let link = group.device("d1").unwrap().start().unwrap();
    let mut events = link.events();
    let mut online = 0;
    while online < 2 {
        let event = timeout(LIMIT, events.next()).await.unwrap().unwrap();
        online += u32::from(matches!(event, LinkEvent::Online));
    }
    timeout(LIMIT, fleet.drain(LIMIT)).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn events_from_the_start_tell_how_the_first_attempt_ended() {
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let group = fleet
        .group("test")
        .endpoint("mqtt://127.0.0.1:9")
        .build()
        .unwrap();
    for n in 0..50 {
        let builder = group.device(format!("d{n}")).unwrap();
        let (link, mut events) = builder.start_with_events().unwrap();
        let first = timeout(LIMIT, events.next()).await.unwrap();
        assert!(
            matches!(first, Some(LinkEvent::Connecting { attempt: 1 })),
            "{first:?}"
        );
        let second = timeout(LIMIT, events.next()).await.unwrap();
        assert!(
            matches!(second, Some(LinkEvent::ConnectFailed { .. })),
            "{second:?}"
        );
        timeout(LIMIT, link.stop()).await.unwrap();
    }
    timeout(LIMIT, fleet.drain(LIMIT)).await.unwrap();
}

#[tokio::test]
async fn a_link_that_holds_qos0_loses_nothing_to_a_slow_consumer() {
    const COUNT: usize = 3_000;
    let broker = broker().await;
    let url = format!("mqtt://{}", broker.tcp_address().unwrap());
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let slow = fleet
        .group("slow")
        .endpoint(&url)
        .hold_qos0(true)
        .inbox_max(4);
    let slow = slow.build().unwrap().device("slow").unwrap();
    let slow = slow.start().unwrap();
    let mut inbox = slow.subscribe("t", QoS::AtMostOnce).await.unwrap();
    timeout(LIMIT, inbox.ready()).await.unwrap().unwrap();
    let sender = group(&fleet, &broker, Version::V311)
        .device("sender")
        .unwrap()
        .start()
        .unwrap();
    let mut receipts = Vec::new();
    for n in 0..COUNT {
        let message = Publish::on(Topic::new("t").unwrap(), n.to_string());
        let message = message.with_qos(QoS::AtMostOnce);
        receipts.push(sender.publish(message).await.unwrap());
    }
    for receipt in receipts {
        assert!(timeout(LIMIT, receipt).await.unwrap().is_delivered());
    }
    for n in 0..COUNT {
        let message = timeout(LIMIT, inbox.next()).await.unwrap().unwrap();
        assert_eq!(message.payload(), n.to_string().as_bytes());
        assert_eq!(message.packet_id(), None);
    }
    timeout(LIMIT, fleet.drain(LIMIT)).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn a_server_that_cannot_say_how_many_qos2_messages_it_takes_gets_20_at_once() {
    for (version, at_once) in [(Version::V311, 20), (Version::V5, 50)] {
        let broker = broker().await;
        let mut watch = broker.watch(TopicFilter::new("t").unwrap());
        let withheld = broker
            .faults()
            .withhold(Target::All, &[Ack::PubRec, Ack::PubComp]);
        let fleet = Fleet::builder().workers(1).start().unwrap();
        let link = group(&fleet, &broker, version)
            .application("app")
            .unwrap()
            .start()
            .unwrap();
        let mut receipts = Vec::new();
        for n in 0..50 {
            let message = Publish::on(Topic::new("t").unwrap(), n.to_string());
            let message = message.with_qos(QoS::ExactlyOnce);
            receipts.push(link.publish(message).await.unwrap());
        }
        for _ in 0..at_once {
            timeout(LIMIT, watch.recv()).await.unwrap().unwrap();
        }
        let more = timeout(Duration::from_millis(200), watch.recv()).await;
        assert!(more.is_err(), "{version}: {more:?}");
        withheld.lift();
        for receipt in receipts {
            assert!(timeout(LIMIT, receipt).await.unwrap().is_delivered());
        }
        timeout(LIMIT, fleet.drain(LIMIT)).await.unwrap();
        broker.stop().await;
    }
}
