//! Our runtime does what scripts of Amazon's first SDK for Python do, before the same emulator, and is compared with what
//! the SDK says there (`tests/aws_sdks.rs` holds the SDK itself to the same lists). What is different is named here.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use paquebot::aws::Connection;
use paquebot::mqtt::QoS;
use paquebot::{
    BackoffConfig, Fleet, Jitter, Link, LinkState, OfflineLimit, Publish, Receipt, StateUpdate,
};
use paquebot_emulator::Recording;
use paquebot_emulator::aws::Aws;
use paquebot_emulator::mqtt::{Sender, TopicFilter};
use serde_json::json;
use tempfile::TempDir;

#[path = "support/aws_traces.rs"]
mod aws_traces;
#[path = "support/support.rs"]
mod support;

use aws_traces::{PLAIN, SHADOW_CALL_BY_CALL, SHADOW_PERSISTENTLY, lines};
use support::fleet::{LIMIT, drain, fleet, online, online_again, soon, until};

struct Scene {
    aws: Aws,
    recording: Recording,
    fleet: Fleet,
    link: Link,
    _folder: TempDir,
}

impl Scene {
    /// A link called `name` is online.
    async fn set(name: &str, limit: OfflineLimit) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let aws = Aws::builder().directory(folder.path());
        let aws = aws.start().await.unwrap();
        let files = aws.client_certificate("sdk").unwrap().paths.unwrap();
        let recording = aws.broker().record();
        let fleet = fleet();
        let backoff = BackoffConfig {
            base: Duration::from_millis(50),
            jitter: Jitter::None,
            ..paquebot::aws::backoff()
        };
        let group = fleet
            .group("things")
            .aws(Connection::mutual_tls("localhost").port(aws.mqtt_address().port()))
            .ca_file(aws.authority_path().unwrap())
            .client_certificate(files.certificate, files.private_key)
            .clean_start(true)
            .keep_alive(Duration::from_secs(600))
            .backoff(backoff)
            .offline_limit(limit);
        let link = group.build().unwrap().device(name).unwrap().start();
        let link = link.unwrap();
        online(&link).await;
        Self {
            aws,
            recording,
            fleet,
            link,
            _folder: folder,
        }
    }

    async fn publish(&self, topic: &str, payload: &str, qos: QoS) -> Receipt {
        let message = Publish::new(topic, payload.to_owned()).unwrap();
        let accepted = self.link.publish(message.with_qos(qos));
        soon("it is accepted", accepted).await.unwrap()
    }

    /// Waits until the server has no subscription of `name` to `filter` any more.
    async fn until_unsubscribed(&self, name: &str, filter: &str) {
        until("it is unsubscribed", || {
            let client = self.aws.broker().client(name).unwrap();
            client
                .subscriptions
                .iter()
                .all(|(known, _)| known != filter)
        })
        .await;
    }

    /// What the link said, once it has left.
    async fn said(mut self) -> Vec<String> {
        drain(&self.fleet).await;
        let gone = self
            .aws
            .broker()
            .wait_for(|stats| stats.connections == 0, LIMIT);
        gone.await.unwrap();
        let said = lines(&mut self.recording, Sender::Client);
        plain(said.iter().map(String::as_str))
    }
}

/// A trace without what is each client's own: packet identifiers, the SDK's name and version, and how many filters, at
/// most eight, share a SUBSCRIBE or UNSUBSCRIBE.
fn plain<'a>(trace: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut lines = Vec::new();
    for line in trace {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let without_id = || match rest.split_once(' ') {
            Some((id, rest)) if id.parse::<u16>().is_ok() => rest,
            _ => rest,
        };
        match kind {
            "CONNECT" => lines.push(rest.split("SDK=").next().unwrap_or(rest).to_owned()),
            "SUBSCRIBE" | "UNSUBSCRIBE" => {
                let filters = without_id().split(", ");
                lines.extend(filters.map(|filter| format!("{kind} {filter}")));
            }
            _ => lines.push(format!("{kind} {}", without_id())),
        }
    }
    lines
}

/// The part of a trace that is about one topic.
fn stream<'a>(trace: &'a [String], topic: &str) -> Vec<&'a str> {
    let lines = trace.iter().map(String::as_str);
    let is_about = |line: &&str| line.split(' ').any(|word| word == topic);
    lines.filter(is_about).collect()
}

#[tokio::test]
async fn the_plain_script_is_said_the_same() {
    let scene = Scene::set("basicPubSub", OfflineLimit::None).await;
    let topic = "sdk/test/Python";
    let mut inbox = scene.link.subscribe(topic, QoS::AtLeastOnce).await.unwrap();
    soon("it is subscribed", inbox.ready()).await.unwrap();
    drop(scene.publish(topic, "m0", QoS::AtMostOnce).await);
    drop(scene.publish(topic, "m1", QoS::AtLeastOnce).await);
    for payload in ["m0", "m1"] {
        let message = soon("it comes back", inbox.next()).await.unwrap();
        assert_eq!(&**message.payload(), payload.as_bytes());
    }
    drop(inbox);
    scene.until_unsubscribed("basicPubSub", topic).await;
    assert_eq!(scene.said().await, plain(PLAIN));
}

/// `v1_shadow.py` with our calls.
async fn the_shadow_script(is_persistent: bool) -> Vec<String> {
    let scene = Scene::set("shadow-client", OfflineLimit::None).await;
    let thing = scene.link.child("Bot".parse().unwrap());
    let mut shadow = thing.shadow().unwrap();
    if !is_persistent {
        shadow = shadow.with_subscriptions_per_call();
    }
    // What is given up and wanted again before it was said is not said, so each call waits for the end of the one before.
    let settled = async |operation: &str| {
        for answer in ["accepted", "rejected"] {
            if !is_persistent {
                let filter = format!("$aws/things/Bot/shadow/{operation}/{answer}");
                scene.until_unsubscribed("shadow-client", &filter).await;
            }
        }
    };
    let missing = soon("there is none", shadow.get()).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    settled("get").await;
    let mut deltas = shadow.deltas().await.unwrap();
    soon("deltas come", deltas.ready()).await.unwrap();
    let wish = StateUpdate::desired(json!({"p": 1}));
    let updated = soon("it is desired", shadow.update(wish)).await.unwrap();
    assert_eq!(updated.version, Some(1));
    settled("update").await;
    let delta = soon("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(delta.state, json!({"p": 1}));
    let report = StateUpdate::reported(delta.state);
    let updated = soon("it is reported", shadow.update(report)).await.unwrap();
    assert_eq!(updated.version, Some(2));
    let document = soon("it is read", shadow.get()).await.unwrap();
    assert_eq!(document.reported, Some(json!({"p": 1})));
    scene
        .aws
        .tell(|services, now| services.set_desired("Bot", None, &json!({"q": [1, 2]}), now))
        .unwrap();
    let delta = soon("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(delta.state, json!({"q": [1, 2]}));
    let deleted = soon("it is deleted", shadow.delete()).await.unwrap();
    assert_eq!(deleted.version, Some(3));
    settled("delete").await;
    let missing = soon("there is none", shadow.delete()).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    settled("delete").await;
    drop(deltas);
    let delta = "$aws/things/Bot/shadow/update/delta";
    scene.until_unsubscribed("shadow-client", delta).await;
    scene.said().await
}

/// Two things are different on purpose: deltas come at QoS 1, so that none is lost on the way, and when they begin the
/// document is read, so that what differs already is told.
#[tokio::test]
async fn the_shadow_script_is_said_the_same_but_for_how_deltas_begin() {
    for (is_persistent, trace) in [
        (true, &SHADOW_PERSISTENTLY[..]),
        (false, &SHADOW_CALL_BY_CALL[..]),
    ] {
        let ours = the_shadow_script(is_persistent).await;
        let theirs = plain(trace.iter().copied());
        assert_eq!(ours[0], theirs[0]);
        for operation in ["get", "update", "delete"] {
            for answer in ["accepted", "rejected"] {
                let topic = format!("P/{operation}/{answer}");
                let (ours, theirs) = (stream(&ours, &topic), stream(&theirs, &topic));
                assert!(!ours.is_empty());
                if operation != "get" || is_persistent {
                    assert_eq!(ours, theirs);
                }
            }
            let topic = format!("P/{operation}");
            let (ours, mut theirs) = (stream(&ours, &topic), stream(&theirs, &topic));
            if operation == "get" {
                theirs.push(theirs[0]);
            }
            assert_eq!(ours, theirs);
        }
        let deltas = stream(&ours, "P/update/delta");
        assert_eq!(
            deltas,
            ["SUBSCRIBE P/update/delta q1", "UNSUBSCRIBE P/update/delta"]
        );
        // No request leaves before it is subscribed to both of its answers.
        let place = |wanted: &str| ours.iter().position(|line| line.contains(wanted)).unwrap();
        for operation in ["get", "update", "delete"] {
            let request = place(&format!(" P/{operation} {{"));
            for answer in ["accepted", "rejected"] {
                assert!(place(&format!("SUBSCRIBE P/{operation}/{answer}")) < request);
            }
        }
    }
}

#[tokio::test]
async fn what_waited_offline_is_said_the_same() {
    for (limit, kept) in [
        (OfflineLimit::DropNewest(5), [1, 2, 3, 4, 5]),
        (OfflineLimit::DropOldest(5), [3, 4, 5, 6, 7]),
    ] {
        let scene = Scene::set("offline", limit).await;
        let mut arrived = scene.aws.broker().watch(TopicFilter::new("o/#").unwrap());
        let mut inboxes = Vec::new();
        for (filter, qos) in [("t/a", QoS::AtLeastOnce), ("t/b", QoS::AtMostOnce)] {
            let inbox = scene.link.subscribe(filter, qos).await.unwrap();
            soon("it is subscribed", inbox.ready()).await.unwrap();
            inboxes.push(inbox);
        }
        let faults = scene.aws.broker().faults();
        faults.restart_losing_sessions(LIMIT);
        let mut events = scene.link.events();
        until("it is offline", || scene.link.state() != LinkState::Online).await;
        let mut receipts = Vec::new();
        for number in 1..=7 {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce][number % 2];
            receipts.push(scene.publish(&format!("o/{number}"), "x", qos).await);
        }
        faults.clear();
        online_again(&mut events).await;
        for number in kept {
            let message = soon("it arrives", arrived.recv()).await.unwrap();
            assert_eq!(message.topic.as_str(), format!("o/{number}"));
            if number == kept[0] {
                receipts.push(scene.publish("o/live", "x", QoS::AtLeastOnce).await);
            }
        }
        let last = soon("it arrives", arrived.recv()).await.unwrap();
        assert_eq!(last.topic.as_str(), "o/live");
        let mut theirs = vec![
            "CONNECT offline 600 clean ?".to_owned(),
            "SUBSCRIBE t/a q1".to_owned(),
            "SUBSCRIBE t/b q0".to_owned(),
        ];
        theirs.extend_from_within(..);
        theirs.extend(kept.map(|n| format!("PUBLISH q{} o/{n} x", n % 2)));
        theirs.extend(["PUBLISH q1 o/live x", "DISCONNECT"].map(str::to_owned));
        let theirs = plain(theirs.iter().map(String::as_str));
        assert_eq!(scene.said().await, theirs);
    }
}
