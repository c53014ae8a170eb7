//! The peer of one connection. It spins on non-blocking reads, so that no client pays for waking it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use super::session::Session;
use super::wire::Wire;
use crate::Failure;
use crate::child::Child;
use crate::measure::{Column, Mark, Sample};
use crate::work::{Frame, Timing, publish_frame, publish_frame_v5};

/// How long a client may take to connect and to send or ask for its first message.
const START_MAX: Duration = Duration::from_secs(10);

/// Messages of QoS 1 that the source has unacknowledged at the most.
const UNACKNOWLEDGED_MAX: u64 = 1000;

/// How long a handler may stand still before the rest counts as lost.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// A listener for one client.
#[derive(Debug)]
pub(crate) struct Single {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

/// What the source sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) qos: u8,
    pub(crate) payload_len: usize,
}

impl Single {
    /// On a free port of the loopback interface.
    pub(crate) fn bind(tls: Option<Arc<ServerConfig>>) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, tls })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Result<SocketAddr, Failure> {
        Ok(self.listener.local_addr()?)
    }

    /// Takes and acknowledges what the client publishes and counts it.
    pub(crate) fn sink(self, child: &mut Child, timing: Timing) -> Result<Sample, Failure> {
        let deadline = Instant::now() + START_MAX;
        let mut wire = self.accept(child, deadline)?;
        let mut session = Session::default();
        let mut buffer = vec![0; 256 << 10];
        let mut gauge = Gauge::new(child, timing, deadline);
        loop {
            exchange(&mut wire, &mut session, &mut buffer)?;
            if let Some(sample) = gauge.look(session.published)? {
                return Ok(sample);
            }
        }
    }

    /// Sends messages as fast as the client takes them. At QoS 0 what was written counts, at QoS 1 what
    /// was acknowledged.
    pub(crate) fn source(
        self,
        source: Source,
        child: &mut Child,
        timing: Timing,
    ) -> Result<Sample, Failure> {
        let deadline = Instant::now() + START_MAX;
        let mut wire = self.accept(child, deadline)?;
        let mut session = Session::default();
        let mut buffer = vec![0; 64 << 10];
        let mut flood = None;
        let mut gauge = Gauge::new(child, timing, deadline);
        let sample = loop {
            exchange(&mut wire, &mut session, &mut buffer)?;
            if session.subscribed && session.output.is_empty() {
                flood
                    .get_or_insert_with(|| Flood::new(source, session.is_v5))
                    .write(&mut wire, session.acknowledged)?;
            }
            let counted = match source.qos {
                0 => flood.as_ref().map_or(0, |flood| flood.sent),
                _ => session.acknowledged,
            };
            if let Some(sample) = gauge.look(counted)? {
                break sample;
            }
        };
        let sent = flood.map_or(0, |flood| flood.sent);
        let handled = settle(child, sent)?;
        let lost = 1.0 - handled as f64 / sent as f64;
        Ok(sample.with(Column::Lost, (lost * 100.0).max(0.0)))
    }

    fn accept(&self, child: &mut Child, deadline: Instant) -> Result<Wire<TcpStream>, Failure> {
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true)?;
                    socket.set_nodelay(true)?;
                    return Ok(Wire::new(socket, self.tls.as_ref())?);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    child.check(deadline)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads once, answers once.
fn exchange(
    wire: &mut Wire<TcpStream>,
    session: &mut Session,
    buffer: &mut [u8],
) -> Result<(), Failure> {
    if let Some(read) = wire.read(buffer)? {
        session.handle(&buffer[..read])?;
    }
    wire.flush(&mut session.output)?;
    Ok(())
}

/// Asks the client how many messages its handler saw, until they are all or no more come.
fn settle(child: &mut Child, sent: u64) -> Result<u64, Failure> {
    let mut handled = child.tally()?;
    let mut still_since = Instant::now();
    while handled < sent && still_since.elapsed() < SETTLED_AFTER {
        std::thread::sleep(Duration::from_millis(5));
        let now = child.tally()?;
        if now > handled {
            (handled, still_since) = (now, Instant::now());
        }
    }
    Ok(handled)
}

/// Warm-up and measured span of one client.
#[derive(Debug)]
struct Gauge<'a> {
    child: &'a mut Child,
    timing: Timing,
    deadline: Instant,
    first: Option<Instant>,
    start: Option<Mark>,
}

impl<'a> Gauge<'a> {
    fn new(child: &'a mut Child, timing: Timing, deadline: Instant) -> Self {
        Self {
            child,
            timing,
            deadline,
            first: None,
            start: None,
        }
    }

    /// Looks at the clock and at the count; gives the figures once the span is over.
    fn look(&mut self, messages: u64) -> Result<Option<Sample>, Failure> {
        match (&self.start, self.first) {
            (Some(start), _) if start.elapsed() >= self.timing.span => {
                return Mark::now(messages, self.child.clock())?
                    .since(start)
                    .map(Some);
            }
            (Some(_), _) => {}
            (None, Some(first)) => {
                if first.elapsed() >= self.timing.warm_up {
                    self.start = Some(Mark::now(messages, self.child.clock())?);
                }
            }
            (None, None) if messages > 0 => self.first = Some(Instant::now()),
            (None, None) => self.child.check(self.deadline)?,
        }
        Ok(None)
    }
}

/// Messages on their way out, in blocks of whole packets.
#[derive(Debug)]
struct Flood {
    source: Source,
    frame: Frame,
    block: Vec<u8>,
    written: usize,
    next_id: u16,
    built: u64,
    sent: u64,
}

impl Flood {
    fn new(source: Source, is_v5: bool) -> Self {
        let frame = if is_v5 {
            publish_frame_v5
        } else {
            publish_frame
        };
        Self {
            source,
            frame: frame(source.qos, source.payload_len),
            block: Vec::new(),
            written: 0,
            next_id: 1,
            built: 0,
            sent: 0,
        }
    }

    fn write(&mut self, wire: &mut Wire<TcpStream>, acknowledged: u64) -> Result<(), Failure> {
        if self.written == self.block.len() {
            self.refill(acknowledged);
        }
        if self.written < self.block.len() {
            self.written += wire.write(&self.block[self.written..])?;
            let waiting = (self.block.len() - self.written).div_ceil(self.frame.bytes.len());
            self.sent = self.built - waiting as u64;
        }
        Ok(())
    }

    /// The next block; at QoS 0 it is always the same.
    fn refill(&mut self, acknowledged: u64) {
        let fitting = ((64 << 10) / self.frame.bytes.len()) as u64;
        self.written = 0;
        if self.source.qos == 0 {
            if self.block.is_empty() {
                self.block = self.frame.bytes.repeat(fitting as usize);
            }
            self.built += fitting;
            return;
        }
        let room = UNACKNOWLEDGED_MAX - (self.built - acknowledged);
        let count = room.min(fitting);
        self.block.clear();
        for _ in 0..count {
            let start = self.block.len();
            self.block.extend_from_slice(&self.frame.bytes);
            self.block[start + self.frame.id_at..][..2]
                .copy_from_slice(&self.next_id.to_be_bytes());
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        }
        self.built += count;
    }
}
