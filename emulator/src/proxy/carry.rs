//! One connection of a proxy.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::conditions::{Conditions, Ending, Plan, Toward};
use super::{Orders, RECEIVE_BUFFER_BYTES, Shared};

/// Most bytes read at once.
const READ_MAX: usize = 16 * 1024;

/// Most bytes under way in a direction that has latency.
const UNDER_WAY_MAX: usize = 1024 * 1024;

/// A limited rate is kept to in steps of so long.
const RATE_STEP: Duration = Duration::from_millis(20);

/// How long both sides may take to end after a FIN.
const FIN_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Connection {
    pub(super) rng: fastrand::Rng,
    pub(super) plan: Plan,
    pub(super) shared: Arc<Shared>,
    pub(super) orders: watch::Receiver<Orders>,
    /// How many cuts there had been when it was admitted.
    pub(super) cuts: u64,
}

/// Why a direction carries nothing more.
enum Over {
    /// Its sender said so, in order.
    Sender,
    /// The plan of the connection.
    Plan(Ending),
}

/// One direction of a connection.
struct Lane<'a> {
    toward: Toward,
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    shared: &'a Shared,
    orders: watch::Receiver<Orders>,
    rng: fastrand::Rng,
    cut: Option<(u64, Ending)>,
    flip: Option<u64>,
    /// Bytes read and bytes written so far.
    read: u64,
    written: u64,
    /// What was read and when it is due.
    under_way: VecDeque<(Instant, BytesMut)>,
    under_way_bytes: usize,
    sender_is_done: bool,
    /// When the next byte may be written under a limited rate.
    next_write: Instant,
}

impl Connection {
    pub(super) async fn run(mut self, mut client: TcpStream) {
        let shared = Arc::clone(&self.shared);
        // Pieces are to leave as they are written.
        let upstream = match (connect(&shared).await, client.set_nodelay(true)) {
            (Ok(upstream), Ok(())) => upstream,
            (outcome, _) => {
                tracing::debug!(?outcome, "the proxy does not reach its server");
                reset(&client);
                shared.state().counts.open -= 1;
                return;
            }
        };
        let mut upstream = upstream;
        let ending = self.carry(&mut client, &mut upstream).await;
        {
            let mut state = shared.state();
            state.counts.open -= 1;
            state.counts.cuts += u64::from(ending.is_some());
        }
        match ending {
            // Both sides have said that they are done, or one is gone.
            None => {}
            Some(Ending::Rst) => {
                reset(&client);
                reset(&upstream);
            }
            Some(Ending::Fin) => {
                let farewells = async { tokio::join!(finish(client), finish(upstream)) };
                // Whoever does not end by then is reset by the drop of its socket.
                let _ = timeout(FIN_TIMEOUT, farewells).await;
            }
            Some(Ending::HalfOpen) => {
                reset(&upstream);
                drop(upstream);
                // The next cut ends this half too; the one that made it a half does not.
                let cuts = self.orders.borrow().cuts;
                hold(client, self.orders, cuts).await;
            }
        }
    }

    /// Carries both ways; gives how the proxy is to end it, `None` when the sides have ended it.
    async fn carry(&mut self, client: &mut TcpStream, upstream: &mut TcpStream) -> Option<Ending> {
        let (client_from, client_to) = client.split();
        let (server_from, server_to) = upstream.split();
        let mut to_server = self.lane(Toward::Server, client_from, server_to);
        let mut to_client = self.lane(Toward::Client, server_from, client_to);
        let both = async {
            let (up, down) = (to_server.carry(), to_client.carry());
            tokio::pin!(up, down);
            // One side may be done while the other still sends; a cut or an error ends both.
            let (first, second) = tokio::select! {
                first = &mut up => (first, None),
                first = &mut down => (first, Some(())),
            };
            if !matches!(first, Ok(Over::Sender)) {
                return first;
            }
            match second {
                None => down.await,
                Some(()) => up.await,
            }
        };
        let mut orders = self.orders.clone();
        let told = next_cut(&mut orders, self.cuts);
        tokio::select! {
            biased;
            ending = told => Some(ending),
            over = both => match over {
                Ok(Over::Plan(ending)) => Some(ending),
                Ok(Over::Sender) => None,
                Err(error) => {
                    tracing::debug!(%error, "a carried connection broke");
                    None
                }
            },
        }
    }

    fn lane<'a>(&'a self, toward: Toward, from: ReadHalf<'a>, to: WriteHalf<'a>) -> Lane<'a> {
        let mut rng = self.rng.clone();
        if toward == Toward::Client {
            // The other half of the same seed.
            rng = rng.fork();
        }
        Lane {
            toward,
            from,
            to,
            shared: &self.shared,
            orders: self.orders.clone(),
            rng,
            cut: self.plan.cut_in(toward),
            flip: self.plan.flip_in(toward),
            read: 0,
            written: 0,
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            sender_is_done: false,
            next_write: Instant::now(),
        }
    }
}

impl Lane<'_> {
    async fn carry(&mut self) -> io::Result<Over> {
        loop {
            let conditions = self.orders.borrow_and_update().toward(self.toward).clone();
            if let Some((byte, ending)) = self.cut
                && self.written >= byte
            {
                return Ok(Over::Plan(ending));
            }
            if conditions.stalled {
                self.changed().await?;
                continue;
            }
            let due = self.under_way.front().map(|(due, _)| *due);
            if let Some(due) = due
                && due <= Instant::now()
            {
                self.write(&conditions).await?;
                continue;
            }
            if due.is_none() && self.sender_is_done {
                self.to.shutdown().await?;
                return Ok(Over::Sender);
            }
            let room = READ_MAX.min(UNDER_WAY_MAX - self.under_way_bytes);
            let room = match conditions.bytes_per_second {
                // What has been read is to be written soon, or the sender would not feel the limit.
                Some(rate) => room.min(step(rate).saturating_sub(self.under_way_bytes)),
                None => room,
            };
            let may_read = room > 0 && !self.sender_is_done;
            let mut piece = BytesMut::zeroed(if may_read { room } else { 0 });
            let mut changes = self.orders.clone();
            tokio::select! {
                changed = changes.changed() => changed.map_err(|_| gone())?,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                count = self.from.read(&mut piece), if may_read => {
                    piece.truncate(count?);
                    self.take(piece, &conditions);
                }
            }
        }
    }

    fn take(&mut self, mut piece: BytesMut, conditions: &Conditions) {
        if piece.is_empty() {
            self.sender_is_done = true;
            return;
        }
        self.flip(&mut piece, conditions);
        self.read += piece.len() as u64;
        self.under_way_bytes += piece.len();
        self.under_way
            .push_back((Instant::now() + conditions.latency, piece));
    }

    fn flip(&mut self, piece: &mut [u8], conditions: &Conditions) {
        let mut flips = 0;
        let planned = self
            .flip
            .and_then(|byte| usize::try_from(byte.checked_sub(self.read)?).ok());
        if let Some(byte) = planned.and_then(|at| piece.get_mut(at)) {
            *byte ^= 1 << self.rng.u32(0..8);
            flips += 1;
        }
        if conditions.flips_per_byte > 0.0 {
            for byte in piece {
                if self.rng.f64() < conditions.flips_per_byte {
                    *byte ^= 1 << self.rng.u32(0..8);
                    flips += 1;
                }
            }
        }
        if flips > 0 {
            self.shared.state().counts.flips += flips;
        }
    }

    /// Writes the first piece under way, or as much of it as the conditions allow at once.
    async fn write(&mut self, conditions: &Conditions) -> io::Result<()> {
        let Some((_, piece)) = self.under_way.front() else {
            return Ok(());
        };
        let mut length = piece.len();
        if let Some(max) = conditions.slice_bytes_max {
            length = length.min(self.rng.usize(1..=max.get()));
        }
        if let Some((byte, _)) = self.cut {
            let left = usize::try_from(byte - self.written).unwrap_or(usize::MAX);
            length = length.min(left);
        }
        if let Some(rate) = conditions.bytes_per_second {
            length = length.min(step(rate));
            let mut changes = self.orders.clone();
            tokio::select! {
                // Whatever changed is looked at before anything is written.
                changed = changes.changed() => return changed.map_err(|_| gone()),
                () = sleep_until(self.next_write) => {}
            }
            let pause = Duration::from_secs_f64(length as f64 / rate.get() as f64);
            self.next_write = self.next_write.max(Instant::now()) + pause;
        }
        let count = self.to.write(&piece[..length]).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.written += count as u64;
        self.under_way_bytes -= count;
        let mut state = self.shared.state();
        match self.toward {
            Toward::Server => state.counts.bytes_to_server += count as u64,
            Toward::Client => state.counts.bytes_to_client += count as u64,
        }
        drop(state);
        if let Some((_, piece)) = self.under_way.front_mut() {
            piece.advance(count);
            if piece.is_empty() {
                self.under_way.pop_front();
            }
        }
        Ok(())
    }

    async fn changed(&mut self) -> io::Result<()> {
        self.orders.changed().await.map_err(|_| gone())
    }
}

/// How many bytes of a limited rate go at once.
fn step(rate: NonZeroU64) -> usize {
    let bytes = rate.get() as f64 * RATE_STEP.as_secs_f64();
    (bytes as usize).clamp(1, READ_MAX)
}

fn gone() -> io::Error {
    io::Error::other("the proxy is gone")
}

async fn connect(shared: &Shared) -> io::Result<TcpStream> {
    let socket = if shared.server.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    let upstream = socket.connect(shared.server).await?;
    upstream.set_nodelay(true)?;
    Ok(upstream)
}

/// Has the socket say RST when it is dropped.
pub(super) fn reset(stream: &TcpStream) {
    // It fails for a socket that is gone already.
    let _ = stream.set_zero_linger();
}

/// Says FIN and throws away what still comes: a socket with unread bytes would say RST.
async fn finish(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let mut rest = vec![0; READ_MAX];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    }
}

/// Keeps a connection open, unread, until there were more than so many cuts.
pub(super) async fn hold(client: TcpStream, mut orders: watch::Receiver<Orders>, cuts: u64) {
    match next_cut(&mut orders, cuts).await {
        Ending::Fin => {
            let _ = timeout(FIN_TIMEOUT, finish(client)).await;
        }
        Ending::Rst | Ending::HalfOpen => reset(&client),
    }
}

/// Waits until there were more than so many cuts, and says how the last one is to end connections.
async fn next_cut(orders: &mut watch::Receiver<Orders>, cuts: u64) -> Ending {
    match orders.wait_for(|orders| orders.cuts > cuts).await {
        Ok(orders) => orders.ending,
        Err(_) => Ending::Rst,
    }
}
