//! Shadows of things that connect with certificates, before an AWS IoT Core on this machine: each refusal, each fault of
//! the service, breaks in the middle.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use futures_util::future::join_all;

use paquebot::dialect::Aws;
use paquebot::mqtt::Version;
use paquebot::{Fleet, Link, Shadow, ShadowError, StatePatch, StateUpdate};
use paquebot_emulator::aws::Aws as Cloud;
use paquebot_emulator::aws::services::{Operation, ServiceFault, ServiceSettings, UpdateMessage};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "support/support.rs"]
mod support;

use support::fleet::{BOTH, drain, fleet, group, metric, online, soon, start, until};

struct Account {
    cloud: Cloud,
    fleet: Fleet,
    link: Link,
    _directory: TempDir,
}

impl Account {
    async fn open(version: Version, settings: ServiceSettings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cloud = Cloud::builder()
            .directory(directory.path())
            .services(settings)
            .start()
            .await
            .unwrap();
        let files = cloud.client_certificate("Bot").unwrap().paths.unwrap();
        let fleet = fleet();
        let url = format!("mqtts://localhost:{}", cloud.mqtt_address().port());
        let builder = group(&fleet, &url, version)
            .dialect(Aws::default())
            .ca_file(cloud.authority_path().unwrap())
            .client_certificate(files.certificate, files.private_key);
        let link = start(builder, "Bot");
        online(&link).await;
        Self {
            cloud,
            fleet,
            link,
            _directory: directory,
        }
    }

    fn shadow(&self) -> Shadow {
        self.link.device().shadow().unwrap()
    }

    fn desire(&self, desired: &Value) {
        self.cloud
            .tell(|services, now| services.set_desired("Bot", None, desired, now))
            .unwrap();
    }

    fn inject(&self, operation: Operation, fault: ServiceFault) {
        self.cloud
            .services(|services| services.inject(operation, fault, 1));
    }

    fn reported(&self) -> Option<Value> {
        let shadow = self
            .cloud
            .services(|services| services.shadow("Bot", None))?;
        Some(shadow["state"]["reported"].clone())
    }

    async fn close(self) {
        drain(&self.fleet).await;
        self.cloud.stop().await;
    }
}

fn code(result: Result<paquebot::StateDocument, ShadowError>) -> u32 {
    match result {
        Err(ShadowError::Rejected(rejection)) => rejection.code,
        _ => 0,
    }
}

#[tokio::test]
async fn a_thing_follows_its_shadow() {
    for version in BOTH {
        let account = Account::open(version, ServiceSettings::default()).await;
        let shadow = account.shadow();
        assert_eq!(code(soon("it is answered", shadow.get()).await), 404);
        let mut deltas = shadow.deltas().await.unwrap();
        let mut documents = shadow.documents().await.unwrap();
        soon("it is subscribed", deltas.ready()).await.unwrap();
        soon("it is subscribed", documents.ready()).await.unwrap();
        for n in 1..=3_u64 {
            account.desire(&json!({"n": n, "deep": {"er": [n, {"a": n}]}}));
            let delta = soon("a delta comes", deltas.next()).await.unwrap();
            assert_eq!(delta.state["n"], json!(n));
            let change = soon("a change comes", documents.next()).await.unwrap();
            assert_eq!(change.current.version, delta.version);
            assert_eq!(change.previous.is_none(), n == 1);
            let update = StateUpdate::reported(delta.state);
            let update = shadow.update_if_version(update, delta.version.unwrap());
            let answer = soon("it is answered", update).await.unwrap();
            assert_eq!(answer.version, delta.version.map(|version| version + 1));
            soon("a change comes", documents.next()).await.unwrap();
            let read = soon("it is answered", shadow.get()).await.unwrap();
            assert_eq!(read.delta, None);
        }
        let deleted = soon("it is answered", shadow.delete()).await.unwrap();
        assert_eq!(deleted.version, Some(6));
        account.desire(&json!({"n": 9}));
        let delta = soon("a delta comes", deltas.next()).await.unwrap();
        assert_eq!((delta.state, delta.version), (json!({"n": 9}), Some(8)));
        account.close().await;
    }
}

#[tokio::test]
async fn each_refusal_of_the_service_is_typed() {
    let account = Account::open(Version::V311, ServiceSettings::default()).await;
    let shadow = account.shadow();
    let update =
        async |update: StateUpdate| code(soon("it is answered", shadow.update(update)).await);
    assert_eq!(update(StateUpdate::reported(json!({"a": 1}))).await, 0);
    assert_eq!(
        update(StateUpdate::reported(json!({"a": 1})).with_version(9)).await,
        409
    );
    let large = json!({"a": "x".repeat(9_000)});
    assert_eq!(update(StateUpdate::reported(large)).await, 413);
    let deep = json!({"1": {"2": {"3": {"4": {"5": {"6": {"7": 1}}}}}}});
    assert_eq!(update(StateUpdate::desired(deep)).await, 400);
    assert_eq!(
        update(StateUpdate::desired(json!({"a": [null]}))).await,
        400
    );
    assert_eq!(update(StateUpdate::reported(Value::Null)).await, 0);
    for status in [401, 403, 500] {
        let refusal = ServiceFault::Reject {
            status,
            code: String::new(),
            message: "no".into(),
        };
        account.inject(Operation::ShadowGet, refusal);
        assert_eq!(
            code(soon("it is answered", shadow.get()).await),
            u32::from(status)
        );
    }
    account.close().await;
}

#[tokio::test]
async fn what_the_service_says_wrong_harms_nothing() {
    let mut settings = ServiceSettings::default();
    // AWS promises no order: the answer comes before what it caused.
    settings.shadow.update_messages = vec![
        UpdateMessage::Accepted,
        UpdateMessage::Documents,
        UpdateMessage::Delta,
    ];
    let account = Account::open(Version::V5, settings).await;
    let quick = account
        .shadow()
        .with_deadline(Duration::from_millis(300))
        .unwrap();
    let shadow = account.shadow();
    let mut deltas = shadow.deltas().await.unwrap();
    soon("it is subscribed", deltas.ready()).await.unwrap();
    let update = StateUpdate::desired(json!({"n": 0}));
    let made = soon("it is answered", shadow.update(update)).await.unwrap();
    let delta = soon("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(delta.version, made.version);
    account.inject(Operation::ShadowGet, ServiceFault::Drop);
    let error = soon("it ends", quick.get()).await.unwrap_err();
    assert_eq!(error, ShadowError::TimedOut);
    account.inject(Operation::ShadowGet, ServiceFault::WrongToken);
    let error = soon("it ends", quick.get()).await.unwrap_err();
    assert_eq!(error, ShadowError::TimedOut);
    account.inject(Operation::ShadowGet, ServiceFault::Malformed);
    let error = soon("it ends", quick.get()).await.unwrap_err();
    assert!(matches!(error, ShadowError::Unreadable { .. }), "{error}");
    account.inject(Operation::ShadowGet, ServiceFault::Duplicate);
    soon("it is answered", shadow.get()).await.unwrap();
    account.inject(
        Operation::ShadowDelta,
        ServiceFault::VersionBackwards { by: 1 },
    );
    account.inject(Operation::ShadowDelta, ServiceFault::Malformed);
    account.inject(Operation::ShadowDelta, ServiceFault::Duplicate);
    for n in 1..=4 {
        account.desire(&json!({"n": n}));
    }
    // Two of them could not be used; the third says all that differs.
    let third = soon("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(third.state, json!({"n": 3}));
    let fourth = soon("a delta comes", deltas.next()).await.unwrap();
    assert_eq!(fourth.state, json!({"n": 4}));
    let ignored = |why: &'static str| {
        let name = "paquebot_shadow_messages_ignored_total";
        metric(&account.fleet, name, &[why])
    };
    until("all came", || {
        ignored("foreign") >= 1.0 && ignored("late") >= 1.0
    })
    .await;
    assert!(ignored("stale") >= 2.0 && ignored("unreadable") >= 2.0);
    account.close().await;
}

#[tokio::test]
async fn tasks_that_modify_one_document_lose_no_change() {
    let account = Account::open(Version::V311, ServiceSettings::default()).await;
    account.desire(&json!({"count": 0}));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let shadow = account.shadow();
        tasks.spawn(async move {
            loop {
                let modified = shadow.modify(|document| {
                    let count = document.desired.as_ref()?["count"].as_u64()?;
                    Some(StateUpdate::desired(json!({"count": count + 1})))
                });
                match modified.await {
                    Ok(_) => return,
                    Err(ShadowError::Rejected(rejection))
                        if rejection.is_conflict() || rejection.code == 429 =>
                    {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Err(error) => std::panic::panic_any(error.to_string()),
                }
            }
        });
    }
    while let Some(done) = soon("it is done", tasks.join_next()).await {
        done.unwrap();
    }
    let shadow = account
        .cloud
        .services(|services| services.shadow("Bot", None));
    assert_eq!(shadow.unwrap()["state"]["desired"]["count"], json!(5));
    account.close().await;
}

#[tokio::test]
async fn reports_and_requests_go_on_over_reconnects() {
    let account = Account::open(Version::V311, ServiceSettings::default()).await;
    let shadow = account.shadow();
    let mut deltas = shadow.deltas().await.unwrap();
    soon("it is subscribed", deltas.ready()).await.unwrap();
    let mut last = None;
    for n in 1..=5_u64 {
        account.link.reconnect();
        account.desire(&json!({"n": n}));
        let patch = StatePatch::json(&json!({"r": n})).unwrap();
        last = Some(account.link.device().report(&patch).await.unwrap());
        while soon("a delta comes", deltas.next()).await.unwrap().state["n"] != json!(n) {}
    }
    assert!(soon("it ended", last.unwrap()).await.is_delivered());
    until("it arrived", || account.reported() == Some(json!({"r": 5}))).await;
    account.close().await;
}

/// Thirty requests at once about three documents; how many of them went out in vain.
async fn throttled(requests_in_flight_max: usize) -> f64 {
    let mut settings = ServiceSettings::default();
    settings.shadow.answer_delay = Duration::from_millis(20);
    settings.shadow.requests_per_second_max = None;
    settings.shadow.requests_in_flight_max = requests_in_flight_max;
    let account = Account::open(Version::V311, settings).await;
    let device = account.link.device();
    let shadows = ["a", "b", "c"].map(|name| device.shadow_named(name).unwrap());
    let updates = (0..30).map(|n| {
        let shadow = shadows[n % shadows.len()].clone();
        async move {
            let update = StateUpdate::reported(json!({"n": n}));
            shadow.update(update).await
        }
    });
    for answer in soon("all are answered", join_all(updates)).await {
        answer.unwrap();
    }
    for shadow in &shadows {
        let read = soon("it is answered", shadow.get()).await.unwrap();
        assert_eq!(read.version, Some(10));
    }
    let name = "paquebot_shadow_operations_total";
    let throttled = metric(&account.fleet, name, &["update", "throttled"]);
    account.close().await;
    throttled
}

#[tokio::test]
async fn all_documents_of_a_link_keep_to_the_requests_that_its_connection_may_have_under_way() {
    assert_eq!(throttled(10).await, 0.0);
}

#[tokio::test]
async fn requests_that_the_service_refuses_for_too_many_are_made_again() {
    assert!(throttled(3).await >= 1.0);
}

#[tokio::test]
async fn too_many_requests_for_longer_than_the_deadline_end_at_it() {
    let account = Account::open(Version::V5, ServiceSettings::default()).await;
    let deadline = Duration::from_secs(2);
    let shadow = account.shadow().with_deadline(deadline).unwrap();
    let refusal = ServiceFault::Reject {
        status: 429,
        code: String::new(),
        message: "Too many requests".into(),
    };
    account
        .cloud
        .services(|services| services.inject(Operation::ShadowGet, refusal, 1_000));
    // The last try may have been on its way when the deadline came.
    match soon("it ends", shadow.get()).await.unwrap_err() {
        ShadowError::Rejected(rejection) => assert_eq!(rejection.code, 429),
        error => assert_eq!(error, ShadowError::TimedOut),
    }
    let name = "paquebot_shadow_operations_total";
    assert!(metric(&account.fleet, name, &["get", "throttled"]) >= 1.0);
    account.close().await;
}

#[tokio::test]
async fn a_deadline_that_no_request_can_have_is_refused() {
    let account = Account::open(Version::V311, ServiceSettings::default()).await;
    for seconds in [0, 3601] {
        let deadline = Duration::from_secs(seconds);
        let error = account.shadow().with_deadline(deadline).unwrap_err();
        assert_eq!(error, ShadowError::Deadline(deadline));
    }
    for seconds in [1, 3600] {
        let deadline = Duration::from_secs(seconds);
        assert!(account.shadow().with_deadline(deadline).is_ok());
    }
    account.close().await;
}
