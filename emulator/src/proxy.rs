//! A stretch of network between a client and a server, with faults on demand.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

mod carry;
mod conditions;

pub use conditions::{Admission, Conditions, Ending, Plan, ProxyCounts, Toward};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// The receive buffer of each of the proxy's sockets, in bytes: small, so that a stalled or slow direction is
/// felt by the sender soon. The operating system doubles it.
const RECEIVE_BUFFER_BYTES: u32 = 64 * 1024;

/// A TCP proxy on a loopback port that does to its connections what a bad network does.
///
/// It knows nothing of what it carries, so it stands before any server. Every verb takes effect while it runs,
/// on connections that are open and on those to come; what chance decides is drawn from the seed and the
/// number of the connection, so that a run with the same bytes repeats.
///
/// ```
/// use std::time::Duration;
/// use paquebot_emulator::{Broker, Conditions, Ending, Proxy, Toward};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::builder().tcp(([127, 0, 0, 1], 0)).start().await?;
/// let server = broker.tcp_address().ok_or("no listener")?;
/// let proxy = Proxy::start(server, 7).await?;
/// println!("connect to {}", proxy.address());
/// let latency = Duration::from_millis(40);
/// proxy.set(Toward::Client, Conditions { latency, ..Conditions::default() });
/// assert_eq!(proxy.cut(Ending::Rst), 0);
/// # broker.stop().await;
/// # Ok(())
/// # }
/// ```
///
/// It ends when dropped, and its connections with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

/// What the handle and the connections share.
#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    seed: u64,
    orders: watch::Sender<Orders>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: ProxyCounts,
    plans: VecDeque<Plan>,
}

/// What is in force for all connections.
#[derive(Debug, Clone, Default)]
struct Orders {
    toward_server: Conditions,
    toward_client: Conditions,
    admission: Admission,
    /// How many times all connections were cut, and how the last time.
    cuts: u64,
    ending: Ending,
}

impl Orders {
    const fn toward(&self, toward: Toward) -> &Conditions {
        match toward {
            Toward::Server => &self.toward_server,
            Toward::Client => &self.toward_client,
        }
    }

    const fn toward_mut(&mut self, toward: Toward) -> &mut Conditions {
        match toward {
            Toward::Server => &mut self.toward_server,
            Toward::Client => &mut self.toward_client,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// A proxy before `server` on a free port of 127.0.0.1, on the caller's tokio runtime. Until told otherwise
    /// it carries everything as it is.
    ///
    /// # Errors
    /// No port can be listened on.
    ///
    /// # Panics
    /// Outside a tokio runtime with its network and time drivers.
    #[expect(
        clippy::unused_async,
        reason = "says that it needs a runtime, as the broker's `start` does"
    )]
    pub async fn start(server: SocketAddr, seed: u64) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // What is accepted inherits it.
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            seed,
            orders: watch::Sender::new(Orders::default()),
            state: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            accepting,
        })
    }

    /// Where clients connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of [`Proxy::address`].
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> ProxyCounts {
        self.shared.state().counts
    }

    /// Sets the conditions of a direction, of all connections. What is under way keeps the latency it set out with.
    pub fn set(&self, toward: Toward, conditions: Conditions) {
        self.order(|orders| *orders.toward_mut(toward) = conditions);
    }

    /// Stops both directions: nothing is read any more, no connection ends, and neither side is told.
    pub fn stall(&self) {
        self.order(|orders| {
            orders.toward_server.stalled = true;
            orders.toward_client.stalled = true;
        });
    }

    /// Takes back all conditions and [`Proxy::admit`], and forgets plans that wait for a connection. Stalled
    /// bytes go on.
    pub fn heal(&self) {
        self.shared.state().plans.clear();
        self.order(|orders| {
            orders.toward_server = Conditions::default();
            orders.toward_client = Conditions::default();
            orders.admission = Admission::default();
        });
    }

    /// Says what becomes of connections to come; those that are held stay so.
    pub fn admit(&self, admission: Admission) {
        self.order(|orders| orders.admission = admission);
    }

    /// Ends all connections now, held ones too. Returns how many were carried.
    pub fn cut(&self, ending: Ending) -> u64 {
        let open = self.counts().open;
        self.order(|orders| {
            orders.cuts += 1;
            orders.ending = ending;
        });
        open
    }

    /// Gives the next connection without a plan this one. Plans are taken in the order they were given, one for
    /// each connection that is carried.
    pub fn plan(&self, plan: Plan) {
        self.shared.state().plans.push_back(plan);
    }

    /// How many plans wait for a connection.
    #[must_use]
    pub fn planned(&self) -> usize {
        self.shared.state().plans.len()
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.shared.orders.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        // A connection that outlives this would hold its client's and its server's sockets.
        self.cut(Ending::Rst);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => admit(client, &shared),
            Err(error) => {
                tracing::warn!(%error, "the proxy accepted no connection");
                tokio::time::sleep(crate::listener::ACCEPT_RETRY).await;
            }
        }
    }
}

fn admit(client: TcpStream, shared: &Arc<Shared>) {
    let orders = shared.orders.subscribe();
    let (admission, cuts) = {
        let orders = orders.borrow();
        (orders.admission, orders.cuts)
    };
    let mut state = shared.state();
    match admission {
        Admission::Carry => {
            state.counts.connections += 1;
            state.counts.open += 1;
            let connection = carry::Connection {
                rng: fastrand::Rng::with_seed(shared.seed ^ state.counts.connections),
                plan: state.plans.pop_front().unwrap_or_default(),
                shared: Arc::clone(shared),
                orders,
                cuts,
            };
            tokio::spawn(connection.run(client));
        }
        Admission::Refuse => {
            state.counts.refused += 1;
            carry::reset(&client);
        }
        Admission::Hold => {
            state.counts.held += 1;
            tokio::spawn(carry::hold(client, orders, cuts));
        }
    }
}
