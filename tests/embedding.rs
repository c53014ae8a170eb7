//! The runtime inside programs of every kind: plain threads, tokio, actix, several fleets, dialects of
//! one's own, and what is left when it is gone.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use paquebot::dialect::{
    Capabilities, ConnectSpec, Dialect, DialectError, Inbound, Interest, LinkIdentity, Outbound,
    Rendered,
};
use paquebot::mqtt::session::Incoming;
use paquebot::mqtt::{Properties, QoS, Subscription, Topic, TopicFilter, Version};
use paquebot::{
    Command, CommandReply, CommandStatus, DeviceId, DropReason, Fleet, LinkState, Outcome,
    Platform, Publish, ReplyAddress, SendError, StartError, StatePatch, SubscribeError, Telemetry,
};
use paquebot_emulator::{Broker, BrokerThread};

#[path = "support/support.rs"]
mod support;

use support::fleet::{LIMIT, drain, fleet, group, named_fleet, online, soon, start, start_in, url};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is, with a limit.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing woke this thread within {LIMIT:?}");
        thread::park_timeout(left);
    }
}

fn broker_thread() -> BrokerThread {
    Broker::builder()
        .tcp(([127, 0, 0, 1], 0))
        .start_on_thread()
        .unwrap()
}

/// Threads of this process whose names begin so. The system keeps 15 characters of a name.
fn threads_named(prefix: &str) -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}

fn no_thread_named(prefix: &str) {
    support::wait::until("the threads are gone", LIMIT, || threads_named(prefix) == 0);
}

/// What an embedding program does, on whatever executor it runs.
async fn voyage(fleet: Fleet, url: String) {
    let group = group(&fleet, &url, Version::V5).build().unwrap();
    let link = start_in(&group, "d1");
    let commands = link.device().commands().await.unwrap();
    commands.ready().await.unwrap();
    let application = group.application("app").unwrap().start().unwrap();
    let application = application.as_application();
    let mut replies = application.replies().await.unwrap();
    let mut feed = application.telemetry().await.unwrap();
    replies.ready().await.unwrap();
    feed.ready().await.unwrap();

    let sent = link.device().send(&Telemetry::new("21")).await.unwrap();
    assert!(sent.await.is_delivered());
    let (device, telemetry) = feed.next().await.unwrap();
    assert_eq!((&device, &*telemetry.payload), (link.id(), &b"21"[..]));

    let asked = application
        .command(link.id(), "open", "door", "r7")
        .await
        .unwrap();
    assert!(asked.await.is_delivered());
    let mut commands = commands;
    let request = commands.next().await.unwrap();
    assert_eq!(&*request.command().name, "open");
    let answered = request.reply(CommandReply::ok("done")).await.unwrap();
    assert!(answered.await.is_delivered());
    let (_, reply_to, reply) = replies.next().await.unwrap();
    assert_eq!((&*reply_to.request, &*reply.payload), ("r7", &b"done"[..]));

    let totals = fleet.drain(LIMIT).await;
    assert!(totals.is_balanced() && totals.held == 0, "{totals:?}");
}

#[test]
fn a_plain_main_needs_no_runtime() {
    let broker = broker_thread();
    let fleet = named_fleet("emb-plain");
    assert_eq!(threads_named("emb-plain"), 1);
    let url = url(&broker);
    thread::spawn(move || block_on(voyage(fleet, url)))
        .join()
        .unwrap();
    assert_eq!(threads_named("emb-plain"), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn a_tokio_main_of_one_thread_holds_a_fleet() {
    let broker = broker_thread();
    soon(
        "the voyage is over",
        voyage(named_fleet("emb-cur"), url(&broker)),
    )
    .await;
    assert_eq!(threads_named("emb-cur"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_tokio_main_of_many_threads_holds_a_fleet() {
    let broker = broker_thread();
    let voyage = tokio::spawn(voyage(named_fleet("emb-multi"), url(&broker)));
    soon("the voyage is over", voyage).await.unwrap();
    assert_eq!(threads_named("emb-multi"), 0);
}

#[test]
fn an_actix_main_holds_a_fleet_and_keeps_its_own_system() {
    let broker = broker_thread();
    let url = url(&broker);
    actix::System::new().block_on(async move {
        let own = actix::System::current().id();
        voyage(named_fleet("emb-actix"), url).await;
        assert_eq!(actix::System::current().id(), own);
    });
    assert_eq!(threads_named("emb-actix"), 0);
}

#[tokio::test]
async fn two_fleets_in_one_process_know_nothing_of_each_other() {
    let broker = broker_thread();
    let (one, other) = (named_fleet("emb-one"), named_fleet("emb-other"));
    let links: Vec<_> = [(&one, "d1"), (&other, "d2")]
        .into_iter()
        .map(|(fleet, id)| start(group(fleet, &url(&broker), Version::V311), id))
        .collect();
    for link in &links {
        online(link).await;
        let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
        assert!(soon("it is delivered", receipt).await.is_delivered());
    }
    // Each: `online` and one measurement.
    assert_eq!((one.totals().accepted, other.totals().accepted), (2, 2));
    drain(&one).await;
    assert_eq!(
        (threads_named("emb-one"), threads_named("emb-other")),
        (0, 1)
    );
    let receipt = links[1].device().send(&Telemetry::new("y")).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    drain(&other).await;
}

#[test]
fn handles_are_for_any_thread_and_what_they_give_is_send() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    fn sent<T: Send + 'static>() {}
    fn is_sent<T: Send>(_: &T) {}
    shared::<Fleet>();
    shared::<paquebot::Group>();
    shared::<paquebot::Link>();
    shared::<paquebot::Device>();
    shared::<paquebot::Application>();
    shared::<Publish>();
    sent::<paquebot::LinkBuilder>();
    sent::<paquebot::GroupBuilder>();
    sent::<paquebot::Receipt>();
    sent::<paquebot::Subscription>();
    sent::<paquebot::Commands>();
    sent::<paquebot::CommandRequest>();
    sent::<paquebot::DesiredStates>();
    sent::<paquebot::Message>();
    sent::<paquebot::Events>();
    sent::<SendError>();
    let fleet = fleet();
    let link = start(group(&fleet, "mqtt://127.0.0.1:9", Version::V5), "d1");
    is_sent(&link.publish(Publish::new("t", "x").unwrap()));
    is_sent(&link.subscribe("t", QoS::AtLeastOnce));
    is_sent(&link.drain(LIMIT));
    is_sent(&link.online());
    is_sent(&fleet.drain(LIMIT));
    block_on(fleet.drain(Duration::ZERO));
}

#[tokio::test]
async fn a_handler_that_panics_loses_its_own_item_and_nothing_else() {
    let broker = support::fleet::broker().await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V5);
    let group = builder.build().unwrap();
    let link = start_in(&group, "d1");
    let neighbour = start_in(&group, "d2");
    let commands = link.device().commands().await.unwrap();
    soon("commands come", commands.ready()).await.unwrap();
    let serving = tokio::spawn(commands.serve(2, async |command| {
        assert!(&*command.name != "panic", "as the test wants it");
        CommandReply::ok(command.payload)
    }));
    let messages = link.subscribe("news/#", QoS::AtLeastOnce).await.unwrap();
    soon("news come", messages.ready()).await.unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let reading = tokio::spawn(messages.serve(1, move |message| {
        // Before the first await as well as after it.
        assert!(&**message.payload() != b"early", "as the test wants it");
        let told = told.clone();
        async move {
            assert!(&**message.payload() != b"late", "as the test wants it");
            told.send(message.payload().clone()).unwrap();
        }
    }));
    let application = group.application("app").unwrap().start().unwrap();
    let application = application.as_application();
    let mut replies = application.replies().await.unwrap();
    soon("replies come", replies.ready()).await.unwrap();
    for (name, status) in [
        ("panic", CommandStatus::Failed),
        ("echo", CommandStatus::Ok),
    ] {
        drop(
            application
                .command(link.id(), name, "x", name)
                .await
                .unwrap(),
        );
        let (_, reply_to, reply) = soon("an answer comes", replies.next()).await.unwrap();
        assert_eq!((&*reply_to.request, reply.status), (name, status));
    }
    for payload in ["early", "late", "fine"] {
        broker.publish(
            Topic::new("news/x").unwrap(),
            payload,
            QoS::AtLeastOnce,
            false,
        );
    }
    assert_eq!(
        &*soon("the last is read", heard.recv()).await.unwrap(),
        b"fine"
    );
    assert_eq!(
        (link.state(), neighbour.state()),
        (LinkState::Online, LinkState::Online)
    );
    // Given up is acknowledged: the server does not send them for ever.
    support::fleet::until("nothing is owed to the broker", || {
        broker
            .client("d1")
            .is_some_and(|client| client.inflight == 0)
    })
    .await;
    drain(&fleet).await;
    soon("the streams end", serving).await.unwrap();
    soon("the streams end", reading).await.unwrap();
}

/// A platform of one's own: `acme/<device>/<what>`, commands as `name:request:payload`.
#[derive(Debug)]
struct Acme(Capabilities);

impl Acme {
    const PLATFORM: Platform = Platform::Custom("acme");

    fn new() -> Self {
        let mut capabilities = Capabilities::default();
        capabilities.commands = true;
        capabilities.application = true;
        capabilities.qos_max = QoS::AtLeastOnce;
        capabilities.payload_max = Some(64);
        Self(capabilities)
    }

    fn rendered(
        topic: String,
        payload: impl Into<bytes::Bytes>,
    ) -> Result<Option<Rendered>, DialectError> {
        let topic = Topic::new(topic).map_err(|error| DialectError::Invalid {
            what: "topic",
            problem: error.to_string(),
        })?;
        Ok(Some(Rendered {
            topic,
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties::default(),
            time_to_live: None,
            merges: false,
        }))
    }

    fn unsupported<T>(operation: &'static str) -> Result<T, DialectError> {
        Err(DialectError::Unsupported {
            platform: Self::PLATFORM,
            operation,
        })
    }
}

impl Dialect for Acme {
    fn platform(&self) -> Platform {
        Self::PLATFORM
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0
    }

    fn connect(&self, link: &LinkIdentity, _: SystemTime) -> Result<ConnectSpec, DialectError> {
        Ok(ConnectSpec {
            client_id: format!("acme-{}", link.id).into(),
            username: Some(link.id.text().clone()),
            password: Some("token".into()),
            will: None,
            expires_at: None,
        })
    }

    fn subscriptions(
        &self,
        _: &LinkIdentity,
        device: &DeviceId,
        interest: Interest,
    ) -> Result<Vec<Subscription>, DialectError> {
        let filter = match interest {
            Interest::Commands => format!("acme/{device}/do"),
            Interest::Replies => "acme/+/done".to_owned(),
            Interest::Telemetry => "acme/+/up".to_owned(),
            _ => return Self::unsupported("desired state"),
        };
        let filter = TopicFilter::new(filter).map_err(|error| DialectError::Invalid {
            what: "filter",
            problem: error.to_string(),
        })?;
        Ok(vec![Subscription::new(filter, QoS::AtLeastOnce)])
    }

    fn render(
        &self,
        _: &LinkIdentity,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Option<Rendered>, DialectError> {
        match outbound {
            Outbound::Telemetry(telemetry) => {
                Self::rendered(format!("acme/{device}/up"), telemetry.payload.clone())
            }
            Outbound::Reply { command, reply } => {
                let request = &command.reply_to.request;
                let text = String::from_utf8_lossy(&reply.payload);
                let payload = format!("{}:{request}:{text}", reply.status.name());
                Self::rendered(format!("acme/{device}/done"), payload)
            }
            Outbound::Command {
                name,
                payload,
                request,
            } => {
                let text = String::from_utf8_lossy(payload);
                let payload = format!("{name}:{request}:{text}");
                Self::rendered(format!("acme/{device}/do"), payload)
            }
            Outbound::Online | Outbound::Offline => Ok(None),
            _ => Self::unsupported("state"),
        }
    }

    fn classify(&self, _: &LinkIdentity, incoming: &Incoming) -> Result<Inbound, DialectError> {
        let mut levels = incoming.topic.as_str().split('/');
        let (Some("acme"), Some(device), Some(what)) =
            (levels.next(), levels.next(), levels.next())
        else {
            return Ok(Inbound::Raw);
        };
        let device = DeviceId::new(device.to_owned()).map_err(|error| DialectError::Invalid {
            what: "device",
            problem: error.to_string(),
        })?;
        let text = String::from_utf8_lossy(&incoming.payload).into_owned();
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        match what {
            "up" => Ok(Inbound::Telemetry {
                device,
                telemetry: Telemetry::new(incoming.payload.clone()),
            }),
            "do" => {
                assert!(text != "boom", "as the test wants it");
                let name = part().into();
                let reply_to = ReplyAddress {
                    request: part().into(),
                    ..ReplyAddress::default()
                };
                Ok(Inbound::Command(Command {
                    device,
                    name,
                    payload: part().into(),
                    reply_to,
                    time_to_answer: None,
                }))
            }
            "done" => {
                let status = CommandStatus::from_name(&part()).unwrap_or(CommandStatus::Failed);
                let reply_to = ReplyAddress {
                    request: part().into(),
                    ..ReplyAddress::default()
                };
                Ok(Inbound::Reply {
                    device,
                    reply_to,
                    reply: CommandReply {
                        status,
                        payload: part().into(),
                    },
                })
            }
            _ => Ok(Inbound::Raw),
        }
    }
}

#[tokio::test]
async fn a_dialect_of_ones_own_works_as_a_built_in_one() {
    let broker = support::fleet::broker().await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V311).dialect(Acme::new());
    let group = builder.build().unwrap();
    let link = start_in(&group, "pump");
    assert_eq!(link.capabilities().payload_max, Some(64));
    let device = link.device();
    let commands = device.commands().await.unwrap();
    soon("commands come", commands.ready()).await.unwrap();
    assert!(
        broker.client("acme-pump").is_some(),
        "the dialect names the client"
    );
    let serving = tokio::spawn(commands.serve(1, async |command| {
        CommandReply::ok(command.name.into_bytes())
    }));
    let application = group.application("app").unwrap().start().unwrap();
    let application = application.as_application();
    let mut replies = application.replies().await.unwrap();
    let mut feed = application.telemetry().await.unwrap();
    soon("replies come", replies.ready()).await.unwrap();
    soon("telemetry comes", feed.ready()).await.unwrap();

    let receipt = device.send(&Telemetry::new("3 bar")).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    let (from, telemetry) = soon("it is seen", feed.next()).await.unwrap();
    assert_eq!((&from, &*telemetry.payload), (device.id(), &b"3 bar"[..]));
    drop(
        application
            .command(link.id(), "stop", "now", "r1")
            .await
            .unwrap(),
    );
    let (_, reply_to, reply) = soon("it is answered", replies.next()).await.unwrap();
    assert_eq!((&*reply_to.request, &*reply.payload), ("r1", &b"stop"[..]));

    let state = StatePatch::json(&BTreeMap::from([("rpm", 900)])).unwrap();
    let refused = device.report(&state).await;
    assert!(
        matches!(&refused, Err(SendError::Dialect(DialectError::Unsupported { platform, .. })) if *platform == Acme::PLATFORM),
        "{refused:?}"
    );
    let refused = device.desired_states().await.map(|_| ());
    assert!(
        matches!(refused, Err(SubscribeError::Dialect(_))),
        "{refused:?}"
    );
    let refused = device.send(&Telemetry::new(vec![0; 65])).await;
    assert!(
        matches!(
            &refused,
            Err(SendError::Dialect(DialectError::PayloadTooLarge {
                max: 64,
                ..
            }))
        ),
        "{refused:?}"
    );
    drain(&fleet).await;
    soon("the stream ends", serving).await.unwrap();
}

#[tokio::test]
async fn a_dialect_that_panics_ends_its_own_link_as_failed() {
    let broker = support::fleet::broker().await;
    let fleet = fleet();
    let builder = group(&fleet, &url(&broker), Version::V5).dialect(Acme::new());
    let group = builder.build().unwrap();
    let (link, neighbour) = (start_in(&group, "pump"), start_in(&group, "valve"));
    let mut commands = link.device().commands().await.unwrap();
    soon("commands come", commands.ready()).await.unwrap();
    online(&neighbour).await;
    broker.faults().withhold(
        paquebot_emulator::Target::client("acme-pump"),
        &[paquebot_emulator::Ack::PubAck],
    );
    let held = link.device().send(&Telemetry::new("x")).await.unwrap();
    broker.publish(
        Topic::new("acme/pump/do").unwrap(),
        "boom",
        QoS::AtLeastOnce,
        false,
    );
    support::fleet::until("the link ends", || {
        matches!(link.state(), LinkState::Failed | LinkState::Stopped)
    })
    .await;
    assert_eq!(link.state(), LinkState::Failed);
    assert_eq!(
        soon("it ends", held).await,
        Outcome::Dropped(DropReason::Stopped)
    );
    assert!(soon("the stream ends", commands.next()).await.is_none());
    assert!(matches!(
        link.publish(Publish::new("t", "x").unwrap()).await,
        Err(SendError::Stopped(_))
    ));
    assert_eq!(fleet.totals().failed, 1);
    let receipt = neighbour.device().send(&Telemetry::new("x")).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    drain(&fleet).await;
}

/// Every call on the handles of a link that is over gives an error, ends a stream or returns; none waits.
async fn nothing_hangs(link: paquebot::Link) {
    let message = || Publish::new("t", "come back").unwrap();
    match soon("publish returns", link.publish(message())).await {
        Err(SendError::Stopped(message)) => assert_eq!(&*message.payload, b"come back"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        link.try_publish(message()),
        Err(SendError::Stopped(_))
    ));
    let sent = soon("send returns", link.device().send(&Telemetry::new("x"))).await;
    assert!(matches!(sent, Err(SendError::Stopped(_))), "{sent:?}");
    let subscribed = soon("subscribe returns", link.subscribe("t", QoS::AtLeastOnce)).await;
    assert!(
        matches!(subscribed, Err(SubscribeError::Stopped)),
        "{subscribed:?}"
    );
    let commands = soon("commands returns", link.device().commands()).await;
    assert!(
        matches!(commands, Err(SubscribeError::Stopped)),
        "{commands:?}"
    );
    assert!(soon("online returns", link.online()).await.is_err());
    assert!(matches!(
        link.state(),
        LinkState::Stopped | LinkState::Failed
    ));
    let mut events = link.events();
    assert!(soon("events end", async { events.next().await.is_none() }).await);
    link.reconnect();
    soon("drain returns", link.drain(LIMIT)).await;
    soon("stop returns", link.stop()).await;
}

#[tokio::test]
async fn handles_used_after_the_drain_give_errors_and_never_hang() {
    let broker = support::fleet::broker().await;
    let fleet = fleet();
    let group = group(&fleet, &url(&broker), Version::V5).build().unwrap();
    let link = start_in(&group, "d1");
    let mut events = link.events();
    let mut subscription = link.subscribe("t/#", QoS::AtLeastOnce).await.unwrap();
    let mut commands = link.device().commands().await.unwrap();
    online(&link).await;
    drain(&fleet).await;
    assert!(soon("the stream ends", subscription.next()).await.is_none());
    let _ = soon("ready returns", subscription.ready()).await;
    assert!(soon("the stream ends", commands.next()).await.is_none());
    let end = async { while events.next().await.is_some() {} };
    soon("the events end", end).await;
    nothing_hangs(link).await;
    let late = group.device("d2").unwrap().start();
    assert!(matches!(late, Err(StartError::Drained)), "{late:?}");
    let again = soon("a second drain returns", fleet.drain(LIMIT)).await;
    assert!(again.is_balanced());
}

#[tokio::test]
async fn a_fleet_dropped_without_a_drain_leaves_no_thread_and_no_handle_that_hangs() {
    let broker = support::fleet::broker().await;
    broker.faults().withhold(
        paquebot_emulator::Target::All,
        &[paquebot_emulator::Ack::PubAck],
    );
    let fleet = named_fleet("emb-drop");
    let group = group(&fleet, &url(&broker), Version::V5).build().unwrap();
    let link = start_in(&group, "d1");
    let connecting = start(
        support::fleet::group(&fleet, "mqtt://127.0.0.1:9", Version::V5),
        "d2",
    );
    let mut events = link.events();
    let mut subscription = link.subscribe("t/#", QoS::AtLeastOnce).await.unwrap();
    online(&link).await;
    let inflight = link.publish(Publish::new("t", "x").unwrap()).await.unwrap();
    let waiting = connecting
        .publish(Publish::new("t", "x").unwrap())
        .await
        .unwrap();
    let mut never_online = Box::pin(connecting.online());
    assert!((&mut never_online).now_or_never().is_none());
    let draining = link.clone();
    drop((fleet, group));
    for receipt in [inflight, waiting] {
        assert_eq!(
            soon("it ends", receipt).await,
            Outcome::Dropped(DropReason::Stopped)
        );
    }
    assert!(soon("online returns", never_online).await.is_err());
    assert!(soon("the stream ends", subscription.next()).await.is_none());
    let end = async { while events.next().await.is_some() {} };
    soon("the events end", end).await;
    nothing_hangs(draining).await;
    nothing_hangs(connecting.clone()).await;
    tokio::task::spawn_blocking(|| no_thread_named("emb-drop"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_link_that_is_started_while_its_fleet_is_dropped_does_not_hang() {
    for _ in 0..20 {
        let fleet = named_fleet("emb-race");
        let link = start(group(&fleet, "mqtt://127.0.0.1:9", Version::V5), "d1");
        drop(fleet);
        assert!(soon("online returns", link.online()).await.is_err());
        nothing_hangs(link).await;
    }
    tokio::task::spawn_blocking(|| no_thread_named("emb-race"))
        .await
        .unwrap();
}

#[tokio::test]
async fn device_logic_runs_on_its_links_own_thread_and_need_not_be_send() {
    let broker = support::fleet::broker().await;
    let fleet = named_fleet("emb-beside");
    let link = start(group(&fleet, &url(&broker), Version::V5), "d1");
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let logic = async move |link: paquebot::Link| {
        let sent = std::rc::Rc::new(std::cell::Cell::new(0));
        for _ in 0..3 {
            let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
            sent.set(sent.get() + i32::from(receipt.await.is_delivered()));
        }
        let thread = thread::current().name().map(str::to_owned);
        let _ = sender.send((sent.get(), thread, link.id().to_string()));
    };
    link.spawn(logic).unwrap();
    let (sent, thread, id) = soon("the logic is done", receiver).await.unwrap();
    assert_eq!((sent, id.as_str()), (3, "d1"));
    assert!(thread.unwrap().starts_with("emb-beside"));
    drain(&fleet).await;
}

#[tokio::test]
async fn a_panic_in_device_logic_touches_neither_its_link_nor_its_neighbours() {
    let broker = support::fleet::broker().await;
    let fleet = fleet();
    let group = group(&fleet, &url(&broker), Version::V5).build().unwrap();
    let (link, neighbour) = (start_in(&group, "d1"), start_in(&group, "d2"));
    let (begun, panicking) = tokio::sync::oneshot::channel::<()>();
    link.spawn(async move |_| {
        let _begun = begun;
        panic!("a bug in the program");
    })
    .unwrap();
    assert!(soon("it has panicked", panicking).await.is_err());
    link.spawn(|_| -> std::future::Ready<()> { panic!("before there is a future") })
        .unwrap();
    for link in [link, neighbour] {
        let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
        assert!(soon("it is delivered", receipt).await.is_delivered());
    }
    assert_eq!(drain(&fleet).await.failed, 0);
}

#[tokio::test]
async fn device_logic_ends_with_its_thread_and_is_refused_afterwards() {
    let fleet = fleet();
    let link = start(group(&fleet, "mqtt://127.0.0.1:9", Version::V5), "d1");
    let (held, dropped) = tokio::sync::oneshot::channel::<()>();
    let waits_for_ever = async move |_| {
        let _held = held;
        std::future::pending::<()>().await;
    };
    link.spawn(waits_for_ever).unwrap();
    drain(&fleet).await;
    assert!(soon("it is dropped", dropped).await.is_err());
    assert!(link.spawn(async |_| {}).is_err());
}
