//! The same through paquebot's public API.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use paquebot::mqtt::{QoS, Topic};
use paquebot::{Fleet, Group, Link, PipeConnector, Publish, Receipt};
use tokio::io::DuplexStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::LocalSet;

use crate::process::{Figures, Reading, opening, sending};
use crate::raw::{CONNECTS_MAX, turns};
use crate::{peer, wire};

/// The thread of the server behind the pipe, as the system names it.
const PIPE_SERVER: &str = "pipe-server";

/// Room of one direction of a pipe.
const PIPE_BYTES: usize = 4 * 1024;

/// Messages that the one caller on the links' own thread has under way: fewer than there are links, so that none
/// has two of them.
const UNDER_WAY: usize = 1_000;

/// The same where fleets of different sizes are compared: as many as the smallest has links.
const UNDER_WAY_FEW: usize = 10;

/// Links that go online and then wait; with `commands` each has a consumer of commands.
pub(crate) fn idle(
    links: usize,
    addresses: &[String],
    ca: Option<&str>,
    commands: bool,
) -> Figures {
    block_on(async {
        let fleet = fleet();
        let groups = groups(&fleet, addresses, ca);
        let started = Reading::now();
        let open = start(&groups, links);
        let mut consumers = Vec::new();
        for link in open.iter().filter(|_| commands) {
            consumers.push(link.device().commands().await.unwrap());
        }
        wait_online(&open).await;
        let online = Reading::now();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let idle = Reading::now();
        leave(opening(links, &started, &online, &idle))
    })
}

/// One message on each link in turn, by a caller on a thread of its own.
pub(crate) fn turn(links: usize, addresses: &[String]) -> Figures {
    block_on(async {
        let fleet = fleet();
        let links = start(&groups(&fleet, addresses, None), links);
        wait_online(&links).await;
        let (started, ended) = take_turns(&links, turns(links.len())).await;
        leave(sending(turns(links.len()) * links.len(), &started, &ended))
    })
}

/// One message on each link in turn, by logic on the links' own thread: every link waits for its outcome before
/// the next turn.
pub(crate) fn turn_beside(links: usize, addresses: &[String]) -> Figures {
    block_on(async {
        let fleet = fleet();
        let links = start(&groups(&fleet, addresses, None), links);
        wait_online(&links).await;
        let turns = turns(links.len());
        let (begun, mut beginning) = unbounded_channel();
        let (done, mut ending) = unbounded_channel();
        let go = Arc::new(tokio::sync::Notify::new());
        for link in &links {
            let (begun, done, go) = (begun.clone(), done.clone(), Arc::clone(&go));
            let logic = async move |link: Link| {
                // What a link makes at its first message is not what a message costs.
                publish_and_wait(&link, &message()).await;
                let message = message();
                let going = go.notified();
                begun.send(()).unwrap();
                going.await;
                for _ in 0..turns {
                    publish_and_wait(&link, &message).await;
                }
                done.send(()).unwrap();
            };
            link.spawn(logic).unwrap();
        }
        for _ in &links {
            beginning.recv().await.unwrap();
        }
        // The last one may not wait yet.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let started = Reading::now();
        go.notify_waiters();
        for _ in &links {
            ending.recv().await.unwrap();
        }
        leave(sending(turns * links.len(), &started, &Reading::now()))
    })
}

/// One message on each link in turn, by one caller on the links' own thread with [`UNDER_WAY`] messages at once.
pub(crate) fn turn_one(links: usize, addresses: &[String]) -> Figures {
    block_on(async {
        let fleet = fleet();
        let links = start(&groups(&fleet, addresses, None), links);
        wait_online(&links).await;
        let (done, mut ended) = unbounded_channel();
        let first = links[0].clone();
        let logic = async move |_: Link| {
            let turns = turns(links.len());
            let readings = in_turn(&links, turns, UNDER_WAY, None).await;
            done.send((turns * links.len(), readings)).unwrap();
        };
        first.spawn(logic).unwrap();
        let (messages, (started, ended)) = ended.recv().await.unwrap();
        leave(sending(messages, &started, &ended))
    })
}

/// One message on each link after the other, at most `under_way` at once; a first turn is not measured.
async fn in_turn(
    links: &[Link],
    turns: usize,
    under_way: usize,
    without: Option<&str>,
) -> (Reading, Reading) {
    let message = message();
    let mut receipts = VecDeque::<Receipt>::with_capacity(under_way);
    let mut started = None;
    for _ in 0..=turns {
        for link in links {
            if receipts.len() >= under_way
                && let Some(oldest) = receipts.pop_front()
            {
                assert!(oldest.await.is_delivered());
            }
            receipts.push_back(link.publish(message.clone()).await.unwrap());
        }
        started.get_or_insert_with(|| Reading::without_thread(without));
    }
    (started.unwrap(), Reading::without_thread(without))
}

async fn publish_and_wait(link: &Link, message: &Publish) {
    let receipt = link.publish(message.clone()).await.unwrap();
    assert!(receipt.await.is_delivered());
}

fn message() -> Publish {
    Publish::on(Topic::new(wire::TOPIC).unwrap(), &wire::PAYLOAD[..]).with_qos(QoS::AtMostOnce)
}

/// The same over pipes, to a server on another thread of this process.
pub(crate) fn growth(links: usize) -> Figures {
    block_on(async {
        let (sender, receiver) = unbounded_channel();
        std::thread::Builder::new()
            .name(PIPE_SERVER.to_owned())
            .spawn(move || serve_pipes(receiver))
            .unwrap();
        let connector: PipeConnector = Arc::new(move || {
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            sender
                .send(far)
                .map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(near)
        });
        let fleet = fleet();
        let group = fleet.group("bench").pipe(connector).build().unwrap();
        let before = Reading::now();
        let links = start(&[group], links);
        wait_online(&links).await;
        let kib = before.kib_to(&Reading::now()) / links.len() as f64;
        let turns = turns(links.len());
        let (started, ended) = in_turn(&links, turns, UNDER_WAY_FEW, Some(PIPE_SERVER)).await;
        leave(sending(turns * links.len(), &started, &ended).with("kib", kib))
    })
}

fn fleet() -> Fleet {
    let builder = Fleet::builder().workers(1).connects_max(CONNECTS_MAX);
    builder.start().unwrap()
}

fn groups(fleet: &Fleet, addresses: &[String], ca: Option<&str>) -> Vec<Group> {
    let group = |address: &String| {
        let group = fleet.group("bench").clean_start(true);
        match ca {
            None => group.endpoint(format!("mqtt://{address}")).build(),
            Some(ca) => group
                .endpoint(format!("mqtts://{address}"))
                .ca_file(ca)
                .server_name("localhost")
                .build(),
        }
    };
    addresses
        .iter()
        .map(|address| group(address).unwrap())
        .collect()
}

fn start(groups: &[Group], links: usize) -> Vec<Link> {
    (0..links)
        .map(|link| {
            let group = &groups[link % groups.len()];
            let id = format!("dev-{link:06}");
            group.device(id).unwrap().start().unwrap()
        })
        .collect()
}

async fn wait_online(links: &[Link]) {
    for link in links {
        link.online().await.unwrap();
    }
}

async fn take_turns(links: &[Link], turns: usize) -> (Reading, Reading) {
    let message = message();
    // What a link makes at its first message is not what a message costs.
    take_turn(links, &message).await;
    let started = Reading::now();
    for _ in 0..turns {
        take_turn(links, &message).await;
    }
    (started, Reading::now())
}

async fn take_turn(links: &[Link], message: &Publish) {
    let mut receipts = Vec::with_capacity(links.len());
    for link in links {
        receipts.push(link.publish(message.clone()).await.unwrap());
    }
    for receipt in receipts {
        assert!(receipt.await.is_delivered());
    }
}

fn serve_pipes(mut pipes: UnboundedReceiver<DuplexStream>) {
    block_on(async {
        while let Some(pipe) = pipes.recv().await {
            tokio::task::spawn_local(peer::serve(pipe));
        }
    });
}

/// Ends the process with the row's figures: taking down a hundred thousand links is not what is measured.
fn leave(figures: Figures) -> ! {
    figures.print();
    std::process::exit(0);
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, future)
}
