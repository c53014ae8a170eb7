//! Servers that grant a subscription and refuse it on a later connection: whoever waits for what it brought learns it.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::{Arc, Mutex};

use paquebot::aws::{Job, JobDetails, JobOutcome, Jobs, JobsError, RequestError};
use paquebot::dialect::Aws;
use paquebot::mqtt::{QoS, Topic, TopicFilter, Version};
use paquebot::{Fleet, Link, LinkEvent, ShadowError, SubscribeError};
use paquebot_emulator::{Broker, Policy};
use serde_json::{Value, json};

#[path = "support/shadow_service.rs"]
#[expect(dead_code, reason = "only a part of it is of use here")]
mod shadow_service;
#[path = "support/support.rs"]
mod support;

use shadow_service::ShadowService;
use support::fleet::{BOTH, drain, event, fleet, group, online, soon, start, url};

/// Refuses the device each filter with this in it.
#[derive(Default)]
struct Turncoat(Mutex<Option<&'static str>>);

impl Turncoat {
    fn refuse(&self, what: Option<&'static str>) {
        *self.0.lock().unwrap() = what;
    }
}

impl Policy for Turncoat {
    fn may_subscribe(&self, client_id: &str, filter: &TopicFilter) -> bool {
        let refused = *self.0.lock().unwrap();
        client_id != "Bot" || !refused.is_some_and(|what| filter.as_str().contains(what))
    }
}

struct Course {
    policy: Arc<Turncoat>,
    broker: Broker,
    fleet: Fleet,
    link: Link,
}

impl Course {
    async fn open(version: Version) -> Self {
        let policy = Arc::new(Turncoat::default());
        let broker = Broker::builder()
            .tcp(([127, 0, 0, 1], 0))
            .policy(Arc::clone(&policy))
            .start()
            .await
            .unwrap();
        let fleet = fleet();
        let group = group(&fleet, &url(&broker), version)
            .dialect(Aws::default())
            .clean_start(true);
        let link = start(group, "Bot");
        online(&link).await;
        Self {
            policy,
            broker,
            fleet,
            link,
        }
    }

    /// Connects anew, and is refused what it was granted before.
    async fn fall_from_grace(&self, what: &'static str) {
        self.policy.refuse(Some(what));
        let mut events = self.link.events();
        self.link.reconnect();
        event(&mut events, "SubscriptionRefused", |event| {
            matches!(event, LinkEvent::SubscriptionRefused { .. }).then_some(())
        })
        .await;
        online(&self.link).await;
    }

    async fn close(self) {
        drain(&self.fleet).await;
        self.broker.stop().await;
    }
}

fn assert_refused(result: &Result<QoS, SubscribeError>) {
    assert!(
        matches!(result, Err(SubscribeError::Refused { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn streams_end_and_say_why() {
    for version in BOTH {
        let course = Course::open(version).await;
        let mut feed = course
            .link
            .subscribe("a/b", QoS::AtLeastOnce)
            .await
            .unwrap();
        soon("it is granted", feed.ready()).await.unwrap();
        let shadow = course.link.device().shadow().unwrap();
        let mut deltas = shadow.deltas().await.unwrap();
        let mut documents = shadow.documents().await.unwrap();
        soon("it is granted", deltas.ready()).await.unwrap();
        soon("it is granted", documents.ready()).await.unwrap();
        course.fall_from_grace("").await;
        assert!(soon("it ends", feed.next()).await.is_none());
        assert_refused(&feed.ready().await);
        assert_eq!(soon("it ends", deltas.next()).await, None);
        assert_refused(&deltas.ready().await);
        assert_eq!(soon("it ends", documents.next()).await, None);
        assert_refused(&documents.ready().await);
        // A server that has second thoughts has to be asked.
        course.policy.refuse(None);
        let deltas = shadow.deltas().await.unwrap();
        soon("it is granted", deltas.ready()).await.unwrap();
        course.close().await;
    }
}

#[tokio::test]
async fn requests_fail_at_once_and_are_made_again_when_the_server_allows_it() {
    for version in BOTH {
        let course = Course::open(version).await;
        let address = course.broker.tcp_address().unwrap();
        let starting = tokio::task::spawn_blocking(move || ShadowService::start(address));
        let service = soon("the service is there", starting).await.unwrap();
        let shadow = course.link.device().shadow().unwrap();
        let error = soon("it is answered", shadow.get()).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        course.fall_from_grace("").await;
        for _ in 0..2 {
            let error = soon("it fails", shadow.get()).await.unwrap_err();
            assert!(
                matches!(error, ShadowError::SubscriptionRefused(_)),
                "{error}"
            );
        }
        course.policy.refuse(None);
        let error = soon("it is answered", shadow.get()).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        drop(service);
        course.close().await;
    }
}

/// Says that there is no job, as often as it is asked.
async fn no_jobs(broker: Broker) {
    let filter = TopicFilter::new("$aws/things/Bot/jobs/start-next").unwrap();
    let mut asked = broker.watch(filter);
    while let Some(message) = asked.recv().await {
        let mut body: Value = serde_json::from_slice(&message.payload).unwrap();
        body = json!({"clientToken": body["clientToken"].take()});
        let topic = Topic::new("$aws/things/Bot/jobs/start-next/accepted").unwrap();
        broker.publish(topic, body.to_string(), QoS::AtLeastOnce, false);
    }
}

#[tokio::test]
async fn whoever_serves_jobs_is_told() {
    // What tells of new jobs, and the answers.
    for refused in ["notify-next", "accepted"] {
        let course = Course::open(Version::V311).await;
        let service = tokio::spawn(no_jobs(course.broker.clone()));
        let filter = TopicFilter::new("$aws/things/Bot/jobs/start-next/accepted").unwrap();
        let mut answers = course.broker.watch(filter);
        let jobs = Jobs::of(&course.link.device()).unwrap();
        let serving = tokio::spawn(async move {
            let handler = |_: Job| async { JobOutcome::Rejected(JobDetails::new()) };
            jobs.serve(handler).await
        });
        soon("it has asked for jobs", answers.recv()).await.unwrap();
        course.fall_from_grace(refused).await;
        let error = soon("it ends", serving).await.unwrap().unwrap_err();
        assert!(
            matches!(error, JobsError::Request(RequestError::Subscribe(_))),
            "{error}"
        );
        service.abort();
        course.close().await;
    }
}
