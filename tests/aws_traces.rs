//! Our runtime does what scripts of Amazon's SDKs for Python do, before the same emulator, and is compared with what the
//! SDKs say there (`tests/aws_sdks.rs` holds the SDKs themselves to the same lists). What is different is named here.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use paquebot::aws::{Connection, JobName, JobStatus, JobUpdate, Jobs, StepTimeout};
use paquebot::mqtt::{QoS, Topic, Version};
use paquebot::{
    BackoffConfig, Deltas, Fleet, GroupBuilder, Jitter, Link, LinkState, OfflineLimit, Publish,
    Receipt, Shadow, StateUpdate,
};
use paquebot_emulator::Recording;
use paquebot_emulator::aws::Aws;
use paquebot_emulator::mqtt::{Sender, TopicFilter};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "support/aws_traces.rs"]
mod aws_traces;
#[path = "support/support.rs"]
mod support;

use aws_traces::{JOBS, NAMED_SHADOW, PLAIN, SHADOW_CALL_BY_CALL, SHADOW_PERSISTENTLY, lines};
use support::fleet::{LIMIT, drain, fleet, online, online_again, soon, start, until};

struct Scene {
    aws: Aws,
    recording: Recording,
    fleet: Fleet,
    link: Link,
    _folder: TempDir,
}

impl Scene {
    /// A link called `name` is online, and is set up as the first SDK is.
    async fn set(name: &str) -> Self {
        Self::set_with(name, |group| group).await
    }

    async fn set_with(name: &str, settings: impl Fn(GroupBuilder) -> GroupBuilder) -> Self {
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
            .backoff(backoff);
        let link = start(settings(group), name);
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

/// The topic or filter that a line of a plain trace is about; none where it is about the connection.
fn topic_of(line: &str) -> Option<&str> {
    let mut words = line.split(' ');
    match words.next()? {
        "SUBSCRIBE" | "UNSUBSCRIBE" => words.next(),
        "PUBLISH" => words.nth(1),
        _ => None,
    }
}

/// Whether both say the same, topic by topic, and ours lets no request go before the answers to it are subscribed to.
fn assert_same_streams(ours: &[String], theirs: &[String]) {
    let topics: BTreeSet<_> = [ours, theirs]
        .into_iter()
        .flatten()
        .map(|line| topic_of(line))
        .collect();
    for topic in topics {
        let of_topic = |trace: &[String]| {
            let mut stream = trace.to_vec();
            stream.retain(|line| topic_of(line) == topic);
            stream
        };
        assert_eq!(of_topic(ours), of_topic(theirs));
    }
    let mut subscribed = Vec::new();
    for line in ours {
        match line.split_once(' ').unwrap_or((line, "")).0 {
            "SUBSCRIBE" => subscribed.extend(topic_of(line)),
            "UNSUBSCRIBE" => subscribed.retain(|topic| Some(*topic) != topic_of(line)),
            "PUBLISH" => {
                for answer in ["accepted", "rejected"] {
                    let answer = Topic::new(format!("{}/{answer}", topic_of(line).unwrap()));
                    let answer = answer.unwrap();
                    assert!(
                        subscribed
                            .iter()
                            .any(|filter| TopicFilter::new(*filter).unwrap().matches(&answer)),
                        "{line}"
                    );
                }
            }
            _ => {}
        }
    }
}

/// Deltas come at QoS 1, so that none is lost on the way; and when they begin the document is read, so that what differs
/// already is told. It is read again after each connect, so the subscriptions to that answer stay for as long as there are
/// deltas, also where the script makes them call by call; there nobody else needs them, and they go with the deltas.
fn begin_deltas_as_here(theirs: &mut Vec<String>, prefix: &str) {
    let delta = format!("SUBSCRIBE {prefix}/update/delta");
    let begun = theirs.iter().position(|line| line.starts_with(&delta));
    let mut since = theirs.split_off(begun.unwrap());
    since[0] = format!("{delta} q1");
    let answers = ["accepted", "rejected"].map(|answer| format!("{prefix}/get/{answer}"));
    let is_answer = |line: &String| answers.iter().any(|answer| topic_of(line) == Some(answer));
    let is_subscribed = theirs
        .iter()
        .rfind(|line| is_answer(line))
        .is_some_and(|line| line.starts_with("SUBSCRIBE"));
    since.retain(|line| !is_answer(line));
    if !is_subscribed {
        theirs.extend(
            answers
                .each_ref()
                .map(|answer| format!("SUBSCRIBE {answer} q0")),
        );
        let delta = format!("UNSUBSCRIBE {prefix}/update/delta");
        if let Some(ended) = since.iter().position(|line| *line == delta) {
            let given_up = answers.map(|answer| format!("UNSUBSCRIBE {answer}"));
            since.splice(ended + 1..ended + 1, given_up);
        }
    }
    theirs.push(format!(r#"PUBLISH q0 {prefix}/get {{"clientToken":"…"}}"#));
    theirs.append(&mut since);
}

/// Requests and their answers go at QoS 0: what is lost with its connection is not said again behind its caller's back, and
/// an answer that the service kept for a later connection nobody would wait for.
fn ask_as_here(theirs: &mut [String]) {
    for line in theirs {
        let is_event = |topic: &str| topic.ends_with("/delta") || topic.ends_with("/notify-next");
        if topic_of(line).is_none_or(is_event) {
            continue;
        }
        if let Some(rest) = line.strip_prefix("PUBLISH q1") {
            *line = format!("PUBLISH q0{rest}");
        } else if let Some(rest) = line.strip_suffix(" q1") {
            *line = format!("{rest} q0");
        }
    }
}

/// Accepted and rejected are asked for by name, and not with a wildcard of which a service could say more.
fn name_answers_as_here(theirs: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for line in theirs {
        if topic_of(line).is_some_and(|topic| topic.ends_with("/+")) {
            let answers = ["/accepted", "/rejected"];
            lines.extend(answers.map(|answer| line.replacen("/+", answer, 1)));
        } else {
            lines.push(line.clone());
        }
    }
    lines
}

#[tokio::test]
async fn the_plain_script_is_said_the_same() {
    let scene = Scene::set("basicPubSub").await;
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

impl Scene {
    /// Waits until the answers to one kind of request are given up: what is wanted again before that was said is not said.
    async fn settled(&self, request: &str) {
        for answer in ["accepted", "rejected"] {
            self.until_unsubscribed("shadow-client", &format!("{request}/{answer}"))
                .await;
        }
    }

    /// Opens the deltas of a shadow; the document has been asked for as well.
    async fn deltas(&self, shadow: &Shadow, prefix: &str) -> Deltas {
        let request = TopicFilter::new(format!("{prefix}/get")).unwrap();
        let mut asked = self.aws.broker().watch(request);
        let deltas = shadow.deltas().await.unwrap();
        soon("deltas come", deltas.ready()).await.unwrap();
        soon("it is asked for", asked.recv()).await.unwrap();
        deltas
    }

    fn desire(&self, name: Option<&str>, desired: &Value) {
        self.aws
            .tell(|services, now| services.set_desired("Bot", name, desired, now))
            .unwrap();
    }
}

/// `v1_shadow.py` with our calls.
async fn the_shadow_script(is_persistent: bool) -> Vec<String> {
    let scene = Scene::set("shadow-client").await;
    let thing = scene.link.child("Bot".parse().unwrap());
    let mut shadow = thing.shadow().unwrap();
    if !is_persistent {
        shadow = shadow.with_subscriptions_per_call();
    }
    let prefix = "$aws/things/Bot/shadow";
    let settled = async |operation: &str| {
        if !is_persistent {
            scene.settled(&format!("{prefix}/{operation}")).await;
        }
    };
    let missing = soon("there is none", shadow.get()).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    settled("get").await;
    let mut deltas = scene.deltas(&shadow, prefix).await;
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
    scene.desire(None, &json!({"q": [1, 2]}));
    let delta = soon("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(delta.state, json!({"q": [1, 2]}));
    let deleted = soon("it is deleted", shadow.delete()).await.unwrap();
    assert_eq!(deleted.version, Some(3));
    settled("delete").await;
    let missing = soon("there is none", shadow.delete()).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    settled("delete").await;
    drop(deltas);
    let delta = format!("{prefix}/update/delta");
    scene.until_unsubscribed("shadow-client", &delta).await;
    settled("get").await;
    scene.said().await
}

#[tokio::test]
async fn the_shadow_script_is_said_the_same_but_for_how_deltas_begin() {
    for (is_persistent, trace) in [
        (true, &SHADOW_PERSISTENTLY[..]),
        (false, &SHADOW_CALL_BY_CALL[..]),
    ] {
        let mut theirs = plain(trace.iter().copied());
        begin_deltas_as_here(&mut theirs, "P");
        let ours = the_shadow_script(is_persistent).await;
        assert_same_streams(&ours, &theirs);
        // What the deltas need is not given up before them.
        let place = |topic: &str| {
            let line = format!("UNSUBSCRIBE {topic}");
            ours.iter().rposition(|said| *said == line)
        };
        let ended = place("P/update/delta");
        assert!(ended.is_some());
        for answer in ["P/get/accepted", "P/get/rejected"] {
            assert_eq!(place(answer) > ended, !is_persistent, "{ours:?}");
        }
    }
}

/// `v2_shadow.py` with our calls.
async fn the_named_shadow_script() -> Vec<String> {
    let scene = Scene::set_with("shadow-client", |group| {
        let keep_alive = Duration::from_secs(1_200);
        group.version(Version::V5).keep_alive(keep_alive)
    })
    .await;
    let thing = scene.link.child("Bot".parse().unwrap());
    let shadow = thing.shadow_named("config").unwrap();
    let shadow = shadow.with_subscriptions_per_call();
    let prefix = "$aws/things/Bot/shadow/name/config";
    let settled = async |operation: &str| scene.settled(&format!("{prefix}/{operation}")).await;
    let mut deltas = scene.deltas(&shadow, prefix).await;
    let missing = soon("there is none", shadow.get()).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let wish = StateUpdate::desired(json!({"p": 1}));
    let updated = soon("it is desired", shadow.update(wish)).await.unwrap();
    assert_eq!(updated.version, Some(1));
    settled("update").await;
    let delta = soon("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(delta.state, json!({"p": 1}));
    scene.desire(Some("config"), &json!({"p": 2}));
    let delta = soon("a delta comes", deltas.next()).await.unwrap();
    let report = StateUpdate::reported(delta.state);
    let updated = soon("it is reported", shadow.update(report)).await.unwrap();
    assert_eq!(updated.version, Some(3));
    let document = soon("it is read", shadow.get()).await.unwrap();
    assert_eq!(document.desired, document.reported);
    let deleted = soon("it is deleted", shadow.delete()).await.unwrap();
    assert_eq!(deleted.version, Some(3));
    settled("delete").await;
    scene.said().await
}

#[tokio::test]
async fn the_script_of_a_named_shadow_is_said_the_same_but_for_how_it_asks() {
    let mut theirs = name_answers_as_here(&plain(NAMED_SHADOW));
    ask_as_here(&mut theirs);
    begin_deltas_as_here(&mut theirs, "P/name/config");
    // Who leaves on purpose says so, and no will is published for it.
    theirs.push("DISCONNECT ".to_owned());
    assert_same_streams(&the_named_shadow_script().await, &theirs);
}

/// `v1_jobs.py` with our calls.
async fn the_jobs_script() -> Vec<String> {
    let scene = Scene::set("jobs-client").await;
    let jobs = Jobs::of(&scene.link.child("Bot".parse().unwrap())).unwrap();
    let mut heads = jobs.notify_next().await.unwrap();
    soon("it is subscribed", heads.ready()).await.unwrap();
    let document = json!({"operation": "reboot"});
    scene
        .aws
        .tell(|services, now| services.create_job("job1", &document, &["Bot"], now))
        .unwrap();
    let head = soon("it is told", heads.next()).await.unwrap().unwrap();
    assert_eq!(head.job_id, "job1");
    let pending = soon("it is answered", jobs.pending()).await.unwrap();
    assert_eq!(pending.queued.len(), 1);
    let details = Some([("by", "test")].into());
    let started = jobs.start_next(details, Some(StepTimeout::Minutes(5)));
    let started = soon("it is answered", started).await.unwrap().unwrap();
    assert_eq!(started.version, Some(2));
    let described = jobs.describe(JobName::Id("job1".into()), true);
    let described = soon("it is answered", described).await.unwrap().unwrap();
    assert_eq!(described.document, Some(document));
    let mut update = JobUpdate::new(JobStatus::Succeeded).with_expected_version(2);
    update.execution_number = Some(1);
    let updated = jobs.update("job1", update);
    let updated = soon("it is answered", updated).await.unwrap();
    assert_eq!(updated.state.unwrap().status, JobStatus::Succeeded);
    assert_eq!(soon("it is told", heads.next()).await.unwrap(), None);
    scene.said().await
}

#[tokio::test]
async fn the_jobs_script_is_said_the_same_but_for_how_it_asks_and_updates() {
    let mut theirs = plain(JOBS);
    ask_as_here(&mut theirs);
    let theirs: Vec<String> = theirs
        .iter()
        .map(|line| {
            // Numbers are numbers, and the new state is asked for: the next update expects its version.
            line.replace(r#""executionNumber":"1""#, r#""executionNumber":1"#)
                .replace(
                    r#""expectedVersion":"2""#,
                    r#""expectedVersion":2,"includeJobExecutionState":true"#,
                )
        })
        .collect();
    assert_same_streams(&the_jobs_script().await, &theirs);
}

#[tokio::test]
async fn what_waited_offline_is_said_the_same() {
    for (limit, kept) in [
        (OfflineLimit::DropNewest(5), [1, 2, 3, 4, 5]),
        (OfflineLimit::DropOldest(5), [3, 4, 5, 6, 7]),
    ] {
        let scene = Scene::set_with("offline", |group| group.offline_limit(limit)).await;
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
