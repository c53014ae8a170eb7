//! A link's task, turned by hand in the test's own thread: how often it has a turn can be counted.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::Arbiter;
use bytes::Bytes;
use paquebot_protocols::backoff::BackoffConfig;
use paquebot_protocols::dialect::plain::{Plain, Topics};
use paquebot_protocols::dialect::{LinkIdentity, Rendered};
use paquebot_protocols::model::{DeviceId, Platform, Role};
use paquebot_protocols::mqtt::session::{SessionConfig, UNSENT_QOS0_MAX};
use paquebot_protocols::mqtt::{Properties, QoS, Topic, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::task::LinkTask;
use super::{LinkHandle, LinkProfile, LinkSpec, PreparedLink};
use crate::credentials::Credentials;
use crate::event::LinkState;
use crate::message::PublishRequest;
use crate::metrics::Metrics;
use crate::offline_queue::{FleetRoom, OutboxConfig, QueueLimits};
use crate::pacer::ConnectPacer;
use crate::transport::{ConnectTimeouts, Target};

mod backlog;
mod large;
mod panics;
mod returned;

/// A link that is online, on a task that counts its turns, and its server's end of the connection.
struct Rig {
    link: LinkHandle,
    server: DuplexStream,
    turns: Rc<Cell<usize>>,
    metrics: Metrics,
    /// That of its fleet.
    room: Arc<FleetRoom>,
}

struct Counted {
    task: LinkTask,
    turns: Rc<Cell<usize>>,
}

impl Future for Counted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        self.turns.set(self.turns.get() + 1);
        Pin::new(&mut self.task).poll(cx)
    }
}

impl Rig {
    /// `pipe_bytes` are between the link and its server.
    async fn online(outbox: OutboxConfig, pipe_bytes: usize) -> Self {
        let metrics = Metrics::new().unwrap();
        let (connect, servers) = async_channel::unbounded();
        let target = Target::Pipe(Arc::new(move || {
            let (near, far) = tokio::io::duplex(pipe_bytes);
            let sent = connect.try_send(far);
            sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(near)
        }));
        let mut spec = spec(outbox, target, &metrics);
        let limits = QueueLimits {
            messages_max: Some(usize::MAX),
            bytes_max: None,
        };
        let room = FleetRoom::new(limits).unwrap();
        spec.fleet_room = Some(Arc::clone(&room));
        let (prepared, link) = PreparedLink::new(spec, Arbiter::current());
        let turns = Rc::new(Cell::new(0));
        actix::spawn(Counted {
            task: LinkTask::new(prepared),
            turns: Rc::clone(&turns),
        });
        let mut server = servers.recv().await.unwrap();
        let mut header = [0; 2];
        server.read_exact(&mut header).await.unwrap();
        let mut connect = vec![0; header[1].into()];
        server.read_exact(&mut connect).await.unwrap();
        server.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        link.wait_for(|state| state == LinkState::Online).await;
        Self {
            link,
            server,
            turns,
            metrics,
            room,
        }
    }

    /// Lets everything on this thread have its turns until the link has no more.
    async fn settle(&self) {
        for _ in 0..20 {
            let before = self.turns.get();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            if self.turns.get() == before {
                return;
            }
        }
        panic!("the link has turns for ever: {}", self.turns.get());
    }
}

fn spec(outbox: OutboxConfig, target: Target, metrics: &Metrics) -> LinkSpec {
    let topics = Topics {
        status: None,
        ..Topics::default()
    };
    let profile = LinkProfile {
        dialect: Arc::new(Plain::new(&topics).unwrap()),
        session: Arc::new(SessionConfig::default()),
        clean_start: false,
        keep_alive: Duration::ZERO,
        session_expiry: None,
        timeouts: ConnectTimeouts::default(),
        proxy: None,
        backoff: Arc::new(BackoffConfig::default()),
        outbox: Arc::new(outbox),
        inbox_max: 10,
        holds_qos0: false,
        command_timeout: Duration::from_secs(10),
        pacer: ConnectPacer::default(),
    };
    LinkSpec {
        identity: LinkIdentity {
            id: DeviceId::new("d1").unwrap(),
            role: Role::Device,
            version: Version::V311,
        },
        profile: Arc::new(profile),
        target: Arc::new(target),
        credentials: Credentials::default(),
        client_id: None,
        will: None,
        pacer: ConnectPacer::default(),
        metrics: metrics.group(Platform::Mqtt, "test"),
        durable: None,
        fleet_room: None,
    }
}

fn message(qos: QoS, payload: Bytes) -> Rendered {
    Rendered {
        topic: Topic::from_static("t").unwrap(),
        payload,
        qos,
        retain: false,
        properties: Properties::EMPTY,
        time_to_live: None,
        merges: false,
    }
}
