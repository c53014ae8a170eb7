//! Documents of state on AWS IoT: requests and answers, deltas, and what becomes of them when connections break and the
//! service misbehaves. Before the embedded broker and before a Mosquitto, with a shadow service of the tests' own.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use paquebot::dialect::Aws;
use paquebot::mqtt::{QoS, ReasonCode, Version};
use paquebot::{
    Durability, Fleet, Link, LinkEvent, Publish, SendError, Shadow, ShadowError, StatePatch,
    StateUpdate, SubscribeError, Telemetry,
};
use paquebot_emulator::{Broker, Ending, Limits, Proxy};
use serde_json::{Value, json};

#[path = "support/shadow_service.rs"]
mod shadow_service;
#[path = "support/support.rs"]
mod support;

use shadow_service::{Fault, ShadowService};
use support::client::off_the_runtime;
use support::fleet::{
    BOTH, broker, drain, event, fleet, group, metric, online, soon, start, until, url,
};
use support::mosquitto::Mosquitto;

/// The classic shadow of the thing.
const BOT: &str = "$aws/things/Bot/shadow";

struct Port {
    broker: Broker,
    service: ShadowService,
    fleet: Fleet,
    link: Link,
}

impl Port {
    async fn open(version: Version) -> Self {
        let broker = broker().await;
        let service = service(broker.tcp_address().unwrap()).await;
        let fleet = fleet();
        let link = start(
            group(&fleet, &url(&broker), version).dialect(Aws::default()),
            "Bot",
        );
        online(&link).await;
        Self {
            broker,
            service,
            fleet,
            link,
        }
    }

    fn shadow(&self) -> Shadow {
        self.link.device().shadow().unwrap()
    }

    /// How many requests of a kind ended so.
    fn ended(&self, operation: &str, outcome: &str) -> f64 {
        metric(
            &self.fleet,
            "paquebot_shadow_operations_total",
            &[operation, outcome],
        )
    }

    fn ignored(&self, why: &str) -> f64 {
        metric(
            &self.fleet,
            "paquebot_shadow_messages_ignored_total",
            &[why],
        )
    }

    async fn close(self) {
        drain(&self.fleet).await;
        drop(self.service);
        self.broker.stop().await;
    }
}

async fn service(broker: SocketAddr) -> ShadowService {
    let starting = tokio::task::spawn_blocking(move || ShadowService::start(broker));
    soon("the service is there", starting).await.unwrap()
}

fn reported(value: Value) -> StateUpdate {
    StateUpdate::reported(value)
}

async fn hurry<T>(what: &str, future: impl Future<Output = T>) -> T {
    soon(what, future).await
}

#[tokio::test]
async fn a_document_is_made_read_changed_and_deleted() {
    for version in BOTH {
        let port = Port::open(version).await;
        let shadow = port.shadow();
        let missing = hurry("it is answered", shadow.get()).await.unwrap_err();
        assert!(missing.is_not_found(), "{missing}");
        assert!(
            missing.to_string().contains("No shadow exists"),
            "{missing}"
        );
        let update = reported(json!({"a": 1})).with_desired(json!({"a": 2}));
        let made = hurry("it is answered", shadow.update(update))
            .await
            .unwrap();
        assert_eq!(made.version, Some(1));
        assert_eq!(made.reported, Some(json!({"a": 1})));
        let read = hurry("it is answered", shadow.get()).await.unwrap();
        assert_eq!(read.delta, Some(json!({"a": 2})));
        assert_eq!(read.version, Some(1));
        let conflict = shadow.update_if_version(reported(json!({"a": 3})), 7);
        let conflict = hurry("it is answered", conflict).await.unwrap_err();
        assert!(conflict.is_conflict(), "{conflict}");
        let deleted = hurry("it is answered", shadow.delete()).await.unwrap();
        assert_eq!(deleted.version, Some(1));
        assert_eq!(port.ended("update", "accepted"), 1.0);
        assert_eq!(port.ended("update", "rejected"), 1.0);
        assert_eq!(port.ended("get", "rejected"), 1.0);
        port.close().await;
    }
}

#[tokio::test]
async fn named_documents_are_apart_and_many() {
    let port = Port::open(Version::V311).await;
    let names = ["config", "firmware", "net"];
    for name in names {
        let shadow = port.link.device().shadow_named(name).unwrap();
        let update = reported(json!({"name": name}));
        hurry("it is answered", shadow.update(update))
            .await
            .unwrap();
    }
    for name in names {
        let prefix = format!("{BOT}/name/{name}");
        let (_, reported, version) = port.service.document(&prefix).unwrap();
        assert_eq!((reported, version), (json!({"name": name}), 1));
    }
    assert_eq!(port.service.document(BOT), None);
    assert!(port.link.device().shadow_named("a/b").is_err());
    port.close().await;
}

#[tokio::test]
async fn what_is_desired_comes_as_deltas_and_is_gone_once_reported() {
    let port = Port::open(Version::V5).await;
    port.service.desire(BOT, &json!({"power": "on"}));
    let shadow = port.shadow();
    let mut deltas = shadow.deltas().await.unwrap();
    // What was there before is told as well.
    let first = hurry("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(first.state, json!({"power": "on"}));
    let mut patches = port.link.device().desired_states().await.unwrap();
    hurry("it is subscribed", patches.ready()).await.unwrap();
    let again = hurry("a patch comes", patches.next()).await.unwrap();
    assert_eq!(
        (again.document.as_ref(), again.version),
        (&br#"{"power":"on"}"#[..], Some(1))
    );
    hurry("it is told again", deltas.next()).await.unwrap();
    let update = reported(first.state);
    hurry("it is answered", shadow.update(update))
        .await
        .unwrap();
    port.service.desire(BOT, &json!({"power": "off"}));
    let second = hurry("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(
        (second.state, second.version),
        (json!({"power": "off"}), Some(3))
    );
    let patch = hurry("a patch comes", patches.next()).await.unwrap();
    assert_eq!(patch.version, Some(3));
    port.close().await;
}

#[tokio::test]
async fn changes_come_with_the_document_before_and_after() {
    let port = Port::open(Version::V311).await;
    let shadow = port.shadow();
    let mut documents = shadow.documents().await.unwrap();
    hurry("it is subscribed", documents.ready()).await.unwrap();
    port.service.desire(BOT, &json!({"a": 1}));
    port.service.desire(BOT, &json!({"a": 2}));
    let made = hurry("a change comes", documents.next()).await.unwrap();
    assert_eq!(made.previous, None);
    let changed = hurry("a change comes", documents.next()).await.unwrap();
    assert_eq!(changed.previous.unwrap().desired, Some(json!({"a": 1})));
    assert_eq!(changed.current.desired, Some(json!({"a": 2})));
    port.close().await;
}

#[tokio::test]
async fn an_answer_before_its_delta_hides_it_not_and_doubled_ones_are_ignored() {
    let port = Port::open(Version::V311).await;
    port.service.fault(Fault::Noisy);
    let shadow = port.shadow();
    let mut deltas = shadow.deltas().await.unwrap();
    hurry("it is subscribed", deltas.ready()).await.unwrap();
    for n in 1..=5_u64 {
        let update = StateUpdate::desired(json!({"n": n}));
        let answer = hurry("it is answered", shadow.update(update))
            .await
            .unwrap();
        assert_eq!(answer.version, Some(n));
        let delta = hurry("a delta comes", deltas.next()).await.unwrap();
        assert_eq!((delta.version, delta.state), (Some(n), json!({"n": n})));
    }
    until("the doubles came", || port.ignored("late") >= 5.0).await;
    until("the doubles came", || port.ignored("stale") >= 5.0).await;
    assert!(port.ignored("foreign") >= 5.0);
    port.close().await;
}

#[tokio::test]
async fn each_refusal_comes_with_the_platforms_code_and_words() {
    let port = Port::open(Version::V311).await;
    let shadow = port.shadow();
    for (code, words) in [(400, "Invalid JSON"), (403, "Forbidden"), (500, "Internal")] {
        port.service.fault(Fault::Refuse(code, words));
        let error = hurry("it is answered", shadow.get()).await.unwrap_err();
        let ShadowError::Rejected(rejection) = error else {
            panic!("{error}");
        };
        assert_eq!((rejection.code, &*rejection.message), (code, words));
    }
    port.close().await;
}

#[tokio::test]
async fn answers_that_cannot_be_read_are_an_error_and_the_link_goes_on() {
    let port = Port::open(Version::V311).await;
    let shadow = port
        .shadow()
        .with_deadline(Duration::from_millis(300))
        .unwrap();
    port.service.fault(Fault::Garbled);
    let error = hurry("it ends", shadow.get()).await.unwrap_err();
    assert!(matches!(error, ShadowError::Unreadable { .. }), "{error}");
    let mut deltas = shadow.deltas().await.unwrap();
    hurry("it is subscribed", deltas.ready()).await.unwrap();
    port.service.fault(Fault::None);
    for payload in [&b"{"[..], b"\xff", b"", br#"{"version":1}"#] {
        port.service.say(&format!("{BOT}/update/delta"), payload);
    }
    port.service.desire(BOT, &json!({"a": 1}));
    let delta = hurry("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(delta.state, json!({"a": 1}));
    assert!(port.ignored("unreadable") >= 5.0);
    port.close().await;
}

#[tokio::test]
async fn a_request_without_an_answer_ends_in_time_and_its_late_answer_is_ignored() {
    let port = Port::open(Version::V311).await;
    port.service.fault(Fault::Mute);
    let quick = port
        .shadow()
        .with_deadline(Duration::from_millis(200))
        .unwrap();
    let error = hurry("it ends", quick.update(reported(json!({})))).await;
    assert_eq!(error.unwrap_err(), ShadowError::TimedOut);
    port.service.fault(Fault::None);
    // Whatever the server has done to the subscriptions meanwhile: the next request has its answer.
    let shadow = port.shadow();
    let answer = hurry("it is answered", shadow.update(reported(json!({"a": 1})))).await;
    assert_eq!(answer.unwrap().version, Some(2));
    port.service.say_held();
    until("the late answer came", || port.ignored("late") == 1.0).await;
    port.close().await;
}

#[tokio::test]
async fn modify_tries_again_while_others_change_the_document() {
    let port = Port::open(Version::V311).await;
    port.service.desire(BOT, &json!({"count": 0}));
    let shadow = port.shadow();
    port.service.fault(Fault::Rival(3));
    let mut calls = 0;
    let modified = shadow.modify(|document| {
        calls += 1;
        let count = document.desired.as_ref()?["count"].as_u64()?;
        Some(StateUpdate::desired(json!({"count": count + 1})))
    });
    hurry("it is done", modified).await.unwrap();
    assert_eq!(calls, 4);
    let (desired, _, version) = port.service.document(BOT).unwrap();
    assert_eq!(
        (&desired["count"], &desired["rival"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(version, 5);
    port.service.fault(Fault::Rival(usize::MAX));
    let never = shadow.modify(|_| Some(StateUpdate::desired(json!({"count": 9}))));
    assert!(hurry("it ends", never).await.unwrap_err().is_conflict());
    port.close().await;
}

#[tokio::test]
async fn nothing_is_asked_without_a_connection() {
    let fleet = fleet();
    let link = start(
        group(&fleet, "mqtt://127.0.0.1:1", Version::V311).dialect(Aws::default()),
        "Bot",
    );
    let shadow = link.device().shadow().unwrap();
    for _ in 0..3 {
        let error = hurry("it ends", shadow.get()).await.unwrap_err();
        assert_eq!(error, ShadowError::Offline);
    }
    let offline = metric(
        &fleet,
        "paquebot_shadow_operations_total",
        &["get", "offline"],
    );
    assert_eq!(offline, 3.0);
    hurry("it stops", link.stop()).await;
    let error = hurry("it ends", shadow.get()).await.unwrap_err();
    assert_eq!(error, ShadowError::Stopped);
    drain(&fleet).await;
}

#[tokio::test]
async fn a_broken_connection_ends_what_waits_and_what_differs_comes_after_the_next() {
    let broker = broker().await;
    let service = service(broker.tcp_address().unwrap()).await;
    let proxy = Proxy::start(broker.tcp_address().unwrap(), 1)
        .await
        .unwrap();
    let fleet = fleet();
    let address = format!("mqtt://{}", proxy.address());
    let link = start(
        group(&fleet, &address, Version::V311).dialect(Aws::default()),
        "Bot",
    );
    online(&link).await;
    let shadow = link.device().shadow().unwrap();
    let mut deltas = shadow.deltas().await.unwrap();
    hurry("it is subscribed", deltas.ready()).await.unwrap();
    until("it was read", || !service.requests("/get").is_empty()).await;
    service.fault(Fault::Mute);
    let waiting = tokio::spawn({
        let shadow = shadow.clone();
        async move { shadow.update(reported(json!({"a": 1}))).await }
    });
    until("it left", || service.requests("/update").len() == 1).await;
    proxy.cut(Ending::Rst);
    let error = hurry("it ends", waiting).await.unwrap().unwrap_err();
    assert_eq!(error, ShadowError::Disconnected { was_sent: true });
    service.fault(Fault::None);
    service.desire(BOT, &json!({"b": 2}));
    let delta = hurry("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(delta.state["b"], json!(2));
    // It was not sent again behind the caller's back.
    assert_eq!(service.requests("/update").len(), 1);
    let update = shadow.update(reported(json!({"a": 1})));
    hurry("it is answered", update).await.unwrap();
    drain(&fleet).await;
}

#[tokio::test]
async fn versions_that_start_anew_are_followed() {
    let port = Port::open(Version::V311).await;
    let shadow = port.shadow();
    let mut deltas = shadow.deltas().await.unwrap();
    hurry("it is subscribed", deltas.ready()).await.unwrap();
    until("it was read", || !port.service.requests("/get").is_empty()).await;
    for n in 1..=3_u64 {
        port.service.desire(BOT, &json!({"n": n}));
        let delta = hurry("a delta comes", deltas.next()).await.unwrap();
        assert_eq!(delta.version, Some(n));
    }
    // A document that is made anew soon goes on above its tombstone.
    port.service.delete(BOT);
    port.service.desire(BOT, &json!({"n": 5}));
    let delta = hurry("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(delta.version, Some(5));
    // Much later it starts at 1, which looks old until the document is read: at once, or soon after the last time.
    port.service.delete(BOT);
    port.service.forget_deleted();
    port.service.desire(BOT, &json!({"n": 6}));
    let delta = hurry("a delta comes", deltas.next()).await.unwrap();
    assert_eq!((delta.version, delta.state), (Some(1), json!({"n": 6})));
    port.service.desire(BOT, &json!({"n": 7}));
    let delta = hurry("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(delta.version, Some(2));
    port.close().await;
}

#[tokio::test]
async fn subscriptions_per_call_are_given_up_after_it() {
    let port = Port::open(Version::V311).await;
    let kept = port.shadow();
    let per_call = kept.clone().with_subscriptions_per_call();
    let _ = hurry("it is answered", per_call.get()).await;
    let is_subscribed = |end: &str| {
        let topic = format!("{BOT}/{end}");
        let client = port.broker.client("Bot").unwrap();
        client
            .subscriptions
            .iter()
            .any(|(filter, _)| *filter == topic)
    };
    until("they are given up", || !is_subscribed("get/accepted")).await;
    until("they are given up", || !is_subscribed("get/rejected")).await;
    let _ = hurry("it is answered", kept.get()).await;
    assert!(is_subscribed("get/accepted") && is_subscribed("get/rejected"));
    let _ = hurry("it is answered", per_call.get()).await;
    assert!(is_subscribed("get/accepted"));
    // The last handle takes the rest along.
    drop((kept, per_call));
    until("they are given up", || !is_subscribed("get/accepted")).await;
    port.close().await;
}

#[tokio::test]
async fn requests_overtake_what_the_queue_holds() {
    let broker = broker().await;
    let service = service(broker.tcp_address().unwrap()).await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V311)
        .dialect(Aws::default())
        .drain_rate(0.5);
    let link = start(builder, "Bot");
    for n in 0..20 {
        let telemetry = Telemetry::new(n.to_string());
        link.device().send_detached(&telemetry).await.unwrap();
    }
    online(&link).await;
    let shadow = link.device().shadow().unwrap();
    let asked = Instant::now();
    let update = shadow.update(reported(json!({"a": 1})));
    hurry("it is answered", update).await.unwrap();
    assert!(fleet.totals().held > 0, "{:?}", asked.elapsed());
    assert_eq!(service.requests("/update").len(), 1);
    hurry("it stops", link.stop()).await;
    let totals = fleet.totals();
    assert!(totals.is_balanced(), "{totals:?}");
}

#[tokio::test]
async fn reports_wait_for_the_connection_and_keep_the_latest_value_of_each_key() {
    let broker = broker().await;
    let service = service(broker.tcp_address().unwrap()).await;
    let gangway = support::fleet::Gangway::new(&broker);
    let fleet = fleet();
    let link = start(
        gangway.group(&fleet, Version::V311).dialect(Aws::default()),
        "Bot",
    );
    let shadow = link.device().shadow_named("config").unwrap();
    let mut receipts = Vec::new();
    for value in [json!({"a": 1, "b": 1}), json!({"a": 2}), json!({"c": 3})] {
        let patch = StatePatch::json(&value).unwrap();
        receipts.push(shadow.report(&patch).await.unwrap());
    }
    gangway.open();
    let last = receipts.pop().unwrap();
    assert!(hurry("it ended", last).await.is_delivered());
    let prefix = format!("{BOT}/name/config");
    until("it arrived", || service.document(&prefix).is_some()).await;
    let (_, reported, version) = service.document(&prefix).unwrap();
    assert_eq!(reported, json!({"a": 2, "b": 1, "c": 3}));
    assert_eq!(version, 1);
    drain(&fleet).await;
}

#[tokio::test]
async fn what_the_platform_does_not_take_is_refused_before_it_is_sent() {
    let port = Port::open(Version::V311).await;
    let link = &port.link;
    let publish = |topic: &str, payload: Vec<u8>, qos| {
        let publish = Publish::new(topic.to_owned(), payload)
            .unwrap()
            .with_qos(qos);
        link.try_publish(publish)
    };
    let at_least = QoS::AtLeastOnce;
    let is_refused = |result: Result<_, SendError>| matches!(result, Err(SendError::Dialect(_)));
    assert!(is_refused(publish("t", vec![0; 128 * 1024 + 1], at_least)));
    assert!(is_refused(publish("t", Vec::new(), QoS::ExactlyOnce)));
    assert!(is_refused(publish(
        "1/2/3/4/5/6/7/8/9",
        Vec::new(),
        at_least
    )));
    assert!(is_refused(publish(&"x".repeat(257), Vec::new(), at_least)));
    assert!(publish("$aws/rules/r/1/2/3/4/5/6/7/8", Vec::new(), at_least).is_ok());
    let deep = link.subscribe("1/2/3/4/5/6/7/8/9", at_least).await;
    assert!(matches!(deep, Err(SubscribeError::Dialect(_))));
    let twice = link.subscribe("t", QoS::ExactlyOnce).await;
    assert!(matches!(twice, Err(SubscribeError::Dialect(_))));
    let shadow = port.shadow();
    let wrong = shadow.update(StateUpdate::desired(json!(1))).await;
    assert!(matches!(wrong, Err(ShadowError::Dialect(_))));
    let large = reported(json!({"a": "x".repeat(128 * 1024)}));
    assert!(matches!(
        shadow.update(large).await,
        Err(ShadowError::Dialect(_))
    ));
    let group = group(&port.fleet, &url(&port.broker), Version::V311)
        .dialect(Aws::default())
        .build()
        .unwrap();
    assert!(group.device("$me").unwrap().start().is_err());
    assert!(group.device("x".repeat(129)).unwrap().start().is_err());
    port.close().await;
}

#[tokio::test]
async fn a_request_that_the_server_does_not_take_says_so_and_leaves_nothing() {
    let mut limits = Limits::default();
    limits.packet_bytes_max = 1_000;
    let broker = Broker::builder()
        .tcp(([127, 0, 0, 1], 0))
        .limits(limits)
        .start()
        .await
        .unwrap();
    let fleet = fleet();
    let group = group(&fleet, &url(&broker), Version::V5).dialect(Aws::default());
    let link = start(group, "Bot");
    online(&link).await;
    let shadow = link.device().shadow().unwrap();
    let large = reported(json!({"a": "x".repeat(2_000)}));
    let error = hurry("it ends", shadow.update(large)).await.unwrap_err();
    assert_eq!(error, ShadowError::Refused(ReasonCode::PACKET_TOO_LARGE));
    let refused = metric(
        &fleet,
        "paquebot_shadow_operations_total",
        &["update", "refused"],
    );
    assert_eq!(refused, 1.0);
    drain(&fleet).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_platform_without_documents_says_so() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V311), "Bot");
    let error = link.device().shadow().unwrap_err();
    assert_eq!(error.to_string(), "mqtt has no documents of state");
    drain(&fleet).await;
}

#[tokio::test]
async fn a_durable_link_has_shadows_too() {
    let broker = broker().await;
    let service = service(broker.tcp_address().unwrap()).await;
    let directory = tempfile::tempdir().unwrap();
    let fleet = support::fleet::fleet_on(directory.path());
    let builder = group(&fleet, &url(&broker), Version::V311)
        .dialect(Aws::default())
        .durability(Durability::Process);
    let link = start(builder, "Bot");
    online(&link).await;
    let shadow = link.device().shadow().unwrap();
    for n in 0..10_u64 {
        let patch = StatePatch::json(&json!({"r": n})).unwrap();
        let receipt = link.device().report(&patch).await.unwrap();
        let update = shadow.update(StateUpdate::desired(json!({"n": n})));
        hurry("it is answered", update).await.unwrap();
        assert!(hurry("it ended", receipt).await.is_delivered());
    }
    until("all arrived", || service.document(BOT).unwrap().2 == 20).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn a_server_that_kept_the_session_is_not_asked_again() {
    let broker = broker().await;
    let service = service(broker.tcp_address().unwrap()).await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V311).dialect(Aws::default());
    let link = start(builder, "Bot");
    online(&link).await;
    let shadow = link.device().shadow().unwrap();
    let mut deltas = shadow.deltas().await.unwrap();
    hurry("it is subscribed", deltas.ready()).await.unwrap();
    let _ = hurry("it is answered", shadow.get()).await;
    let mut events = link.events();
    link.reconnect();
    let session_present = event(&mut events, "Connected", |event| match event {
        LinkEvent::Connected {
            session_present, ..
        } => Some(*session_present),
        _ => None,
    });
    assert!(session_present.await);
    until("it was read again", || service.requests("/get").len() >= 3).await;
    service.desire(BOT, &json!({"a": 1}));
    hurry("a delta comes", deltas.next()).await.unwrap();
    let mut seen = Vec::new();
    while let Some(Some(event)) = futures_util::FutureExt::now_or_never(events.next()) {
        seen.push(event);
    }
    let is_asked = |event: &LinkEvent| matches!(event, LinkEvent::Subscribed { .. });
    assert!(!seen.is_empty() && !seen.iter().any(is_asked), "{seen:?}");
    drain(&fleet).await;
}

#[tokio::test]
async fn a_mosquitto_between_thing_and_service_changes_nothing() {
    let Some(mosquitto) = off_the_runtime(|| Mosquitto::setup().plain().start()).await else {
        return;
    };
    let address = SocketAddr::from(([127, 0, 0, 1], mosquitto.plain_port()));
    let service = service(address).await;
    for version in BOTH {
        let fleet = fleet();
        let url = format!("mqtt://{address}");
        let link = start(group(&fleet, &url, version).dialect(Aws::default()), "Bot");
        online(&link).await;
        let shadow = link.device().shadow().unwrap();
        let mut deltas = shadow.deltas().await.unwrap();
        hurry("it is subscribed", deltas.ready()).await.unwrap();
        let missing = hurry("it is answered", shadow.get()).await.unwrap_err();
        assert!(missing.is_not_found(), "{missing}");
        let update = StateUpdate::desired(json!({"a": 1}));
        let made = hurry("it is answered", shadow.update(update))
            .await
            .unwrap();
        let delta = hurry("a delta comes", deltas.next()).await.unwrap();
        assert_eq!(delta.version, made.version);
        let update = shadow.update_if_version(reported(delta.state), delta.version.unwrap());
        hurry("it is answered", update).await.unwrap();
        link.reconnect();
        service.desire(BOT, &json!({"a": 2}));
        let delta = hurry("a delta comes", deltas.next()).await.unwrap();
        assert_eq!(delta.state, json!({"a": 2}));
        online(&link).await;
        let per_call = shadow.clone().with_subscriptions_per_call();
        let modified = per_call.modify(|document| {
            let desired = document.desired.clone()?;
            Some(reported(desired))
        });
        hurry("it is done", modified).await.unwrap();
        let read = hurry("it is answered", shadow.get()).await.unwrap();
        assert_eq!(read.delta, None);
        hurry("it is answered", shadow.delete()).await.unwrap();
        service.forget_deleted();
        drain(&fleet).await;
    }
}
