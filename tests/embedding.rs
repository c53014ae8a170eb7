//! The runtime inside programs of every kind: plain threads, tokio, actix, several fleets, and device logic on a link's own
//! thread.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Topic, Version};
use paquebot::{CommandReply, CommandStatus, Fleet, LinkState, Publish, SendError, Telemetry};
use paquebot_emulator::{Broker, BrokerThread};

#[path = "support/support.rs"]
mod support;

use support::fleet::{LIMIT, drain, fleet, group, named_fleet, online, soon, start, start_in, url};
use support::threads::threads_named;

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
