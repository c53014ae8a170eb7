//! Requests to AWS's services go past the link's queue: they are sent now or never, and counted while they wait.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use paquebot::aws::{Jobs, JobsError, Provisioning, ProvisioningError, RequestError};
use paquebot::dialect::{Aws, LikelyCause};
use paquebot::mqtt::{self, QoS, ReasonCode, Topic, TopicFilter, Version};
use paquebot::{Fleet, Link, LinkEvent, OfflineLimit, Publish, ShadowError};
use paquebot_emulator::{Ack, Broker, Client, Policy, Target, Verdict, Watch};
use serde_json::{Value, json};

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, Gangway, broker, drain, event, fleet, metric, online, soon, start, until,
};

const JOBS: &str = "$aws/things/Bot/jobs";

/// Messages beside the requests, where the watch sees them as well.
const BACKLOG: &str = "$aws/things/Bot/backlog";
const LAST: &str = "$aws/things/Bot/last";

struct Port {
    broker: Broker,
    gangway: Gangway,
    fleet: Fleet,
    /// What the thing publishes.
    watch: Watch,
}

impl Port {
    async fn new() -> Self {
        Self::of(broker().await)
    }

    fn of(broker: Broker) -> Self {
        Self {
            gangway: Gangway::new(&broker),
            fleet: fleet(),
            watch: broker.watch(TopicFilter::new("$aws/things/Bot/#").unwrap()),
            broker,
        }
    }

    /// A thing with the drain rate of Amazon's first SDK; it is online once the gangway is open.
    fn thing(&self, version: Version) -> Link {
        let group = self.gangway.group(&self.fleet, version);
        let group = group
            .dialect(Aws::default())
            .drain_rate(2.0)
            .offline_limit(OfflineLimit::None);
        start(group, "Bot")
    }

    /// The next message that the thing published: topic and payload.
    async fn published(&mut self) -> (String, Vec<u8>) {
        loop {
            let message = soon("it publishes", self.watch.recv()).await.unwrap();
            if message.client_id.is_some() {
                return (message.topic.to_string(), message.payload.to_vec());
            }
        }
    }

    fn answer(&self, end: &str, request: &[u8]) {
        let request: Value = serde_json::from_slice(request).unwrap();
        let body = json!({"clientToken": request["clientToken"], "queuedJobs": []});
        let topic = Topic::new(format!("{JOBS}/{end}")).unwrap();
        self.broker
            .publish(topic, body.to_string(), QoS::AtLeastOnce, false);
    }

    /// All that the thing published up to a message that it publishes now.
    async fn published_by_now(&mut self, link: &Link) -> Vec<String> {
        let last = Publish::new(LAST, "").unwrap();
        soon("it is taken", link.publish_detached(last))
            .await
            .unwrap();
        let mut topics = Vec::new();
        loop {
            let (topic, _) = self.published().await;
            if topic == LAST {
                return topics;
            }
            topics.push(topic);
        }
    }
}

fn is_asked(jobs: &Result<impl Sized, JobsError>) -> Option<&RequestError> {
    match jobs {
        Err(JobsError::Request(error)) => Some(error),
        _ => None,
    }
}

#[tokio::test]
async fn a_request_overtakes_a_hundred_messages_that_drain_at_two_a_second() {
    for version in BOTH {
        let mut port = Port::new().await;
        let link = port.thing(version);
        for n in 0..100 {
            let message = Publish::new(BACKLOG, n.to_string()).unwrap();
            link.publish_detached(message).await.unwrap();
        }
        until("all wait", || port.fleet.totals().held == 100).await;
        port.gangway.open();
        online(&link).await;
        let jobs = Jobs::of(&link.device()).unwrap();
        let mut overtaken = 100;
        let script = async {
            loop {
                match port.published().await {
                    (topic, body) if topic == format!("{JOBS}/get") => {
                        return port.answer("get/accepted", &body);
                    }
                    (topic, _) => assert_eq!(topic, BACKLOG),
                }
                overtaken -= 1;
            }
        };
        let ((), pending) = soon("it is answered", async {
            tokio::join!(script, jobs.pending())
        })
        .await;
        assert!(pending.unwrap().queued.is_empty());
        // In all the time that a test waits for anything, no more than 30 leave.
        assert!(overtaken >= 60, "{overtaken}");
        assert!(port.fleet.totals().held >= 60);
        soon("it stops", link.stop()).await;
        // A request is none of the messages.
        assert_eq!(drain(&port.fleet).await.accepted, 100);
    }
}

#[tokio::test]
async fn what_is_asked_offline_is_refused_at_once_and_never_asked() {
    let mut port = Port::new().await;
    let link = port.thing(Version::V311);
    let jobs = Jobs::of(&link.device()).unwrap();
    let pending = soon("it is refused", jobs.pending()).await;
    assert!(matches!(is_asked(&pending), Some(RequestError::Offline)));
    let files = paquebot::aws::IdentityFiles::new("none.pem", "none.key");
    let provisioning = Provisioning::with_template("pumps");
    let provisioned = soon("it is refused", provisioning.provision(&link, files)).await;
    assert!(matches!(
        provisioned,
        Err(ProvisioningError::Request(RequestError::Offline))
    ));
    let shadow = link.device().shadow().unwrap();
    let document = soon("it is refused", shadow.get()).await;
    assert!(matches!(document, Err(ShadowError::Offline)));
    assert_eq!(link.requests_in_flight(), 0);
    port.gangway.open();
    online(&link).await;
    assert_eq!(port.published_by_now(&link).await, Vec::<String>::new());
    drain(&port.fleet).await;
}

#[tokio::test]
async fn what_failed_with_its_connection_before_it_left_never_leaves() {
    for version in BOTH {
        let mut port = Port::new().await;
        port.gangway.open();
        let link = port.thing(version);
        online(&link).await;
        let jobs = Jobs::of(&link.device()).unwrap();
        // It waits for the server's word on the topics of its answers when the connection goes.
        let mut events = link.events();
        let silence = port
            .broker
            .faults()
            .withhold(Target::client("Bot"), &[Ack::SubAck]);
        let cut = async {
            let is_subscribed = || {
                let client = port.broker.client("Bot").unwrap();
                !client.subscriptions.is_empty()
            };
            until("it subscribes", is_subscribed).await;
            port.broker
                .faults()
                .disconnect(&Target::client("Bot"), None);
        };
        let ((), pending) = soon("it fails", async { tokio::join!(cut, jobs.pending()) }).await;
        assert!(
            matches!(is_asked(&pending), Some(RequestError::Disconnected)),
            "{pending:?}"
        );
        silence.lift();
        support::fleet::online_again(&mut events).await;
        assert_eq!(port.published_by_now(&link).await, Vec::<String>::new());
        drain(&port.fleet).await;
    }
}

#[tokio::test]
async fn what_a_server_that_does_not_read_never_got_does_not_come_on_the_next_connection() {
    let mut port = Port::new().await;
    port.gangway.open();
    let link = port.thing(Version::V311);
    online(&link).await;
    let jobs = Jobs::of(&link.device()).unwrap();
    let first = async {
        let (_, body) = port.published().await;
        port.answer("get/accepted", &body);
    };
    let ((), first) = soon("it is answered", async {
        tokio::join!(first, jobs.pending())
    })
    .await;
    first.unwrap();
    let thing = || Target::client("Bot");
    let mut events = link.events();
    let stall = port.broker.faults().stall_reading(thing());
    // Twice what a link gives to a connection that does not take it.
    for _ in 0..6 {
        let large = Publish::new(BACKLOG, vec![0; 100_000]).unwrap();
        let large = large.with_qos(QoS::AtMostOnce);
        link.publish_detached(large).await.unwrap();
    }
    let cut = async {
        until("it is on its way", || link.requests_in_flight() == 1).await;
        port.broker.faults().disconnect(&thing(), None);
    };
    let ((), pending) = soon("it fails", async { tokio::join!(cut, jobs.pending()) }).await;
    assert!(
        matches!(is_asked(&pending), Some(RequestError::Disconnected)),
        "{pending:?}"
    );
    stall.lift();
    support::fleet::online_again(&mut events).await;
    let published = port.published_by_now(&link).await;
    assert!(
        published.iter().all(|topic| topic == BACKLOG),
        "{published:?}"
    );
    drain(&port.fleet).await;
}

#[tokio::test]
async fn requests_of_all_services_are_counted_while_they_wait() {
    let mut port = Port::new().await;
    port.gangway.open();
    let link = port.thing(Version::V311);
    online(&link).await;
    let jobs = Jobs::of(&link.device()).unwrap();
    let shadow = link.device().shadow().unwrap();
    let asking = tokio::spawn(async move { tokio::join!(jobs.pending(), shadow.get()) });
    let mut bodies = std::collections::HashMap::new();
    while bodies.len() < 2 {
        let (topic, body) = port.published().await;
        bodies.insert(topic, body);
    }
    let gauge = || metric(&port.fleet, "paquebot_requests_in_flight", &[]);
    assert_eq!((link.requests_in_flight(), gauge()), (2, 2.0));
    port.answer("get/accepted", &bodies[&format!("{JOBS}/get")]);
    until("one is answered", || link.requests_in_flight() == 1).await;
    asking.abort();
    link.stop().await;
    until("none waits", || {
        (link.requests_in_flight(), gauge()) == (0, 0.0)
    })
    .await;
    drain(&port.fleet).await;
}

/// Closes without a word, as AWS IoT does, when something is published on this topic.
struct Closes(&'static str);

impl Policy for Closes {
    fn judge_publish(&self, _: &Client<'_>, topic: &Topic, _: &mqtt::Publish) -> Verdict {
        if topic.as_str() == self.0 {
            Verdict::Close(ReasonCode::NOT_AUTHORIZED)
        } else {
            Verdict::Allow
        }
    }
}

#[tokio::test]
async fn a_close_upon_requests_is_explained_as_one_upon_messages() {
    let builder = Broker::builder().policy(Closes("$aws/things/Bot/jobs/get"));
    let port = Port::of(builder.start().await.unwrap());
    port.gangway.open();
    let link = port.thing(Version::V311);
    let jobs = Jobs::of(&link.device()).unwrap();
    let mut events = link.events();
    let mut failed = 0;
    while failed < 2 {
        online(&link).await;
        match soon("it fails", jobs.pending()).await {
            Err(JobsError::Request(RequestError::Disconnected)) => failed += 1,
            // The link was on its way down.
            Err(JobsError::Request(RequestError::Offline)) => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            other => unreachable!("{other:?}"),
        }
    }
    let cause = event(&mut events, "LikelyCause", |event| match event {
        LinkEvent::LikelyCause { cause, .. } => Some(*cause),
        _ => None,
    });
    assert_eq!(cause.await, LikelyCause::PublishNotAllowed);
    drain(&port.fleet).await;
}

#[tokio::test]
async fn a_deadline_of_none_sends_nothing() {
    let mut port = Port::new().await;
    port.gangway.open();
    let link = port.thing(Version::V5);
    online(&link).await;
    let jobs = Jobs::of(&link.device()).unwrap();
    let hasty = jobs.with_deadline(Duration::ZERO);
    let pending = soon("it ends", hasty.pending()).await;
    assert!(
        matches!(is_asked(&pending), Some(RequestError::TimedOut(_))),
        "{pending:?}"
    );
    assert_eq!(port.published_by_now(&link).await, Vec::<String>::new());
    drain(&port.fleet).await;
}
