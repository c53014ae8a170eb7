//! The peer of many connections: one event loop that polls without sleeping.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::ServerConfig;
use socket2::SockRef;

use super::session::Session;
use super::wire::Wire;
use crate::Failure;
use crate::child::Child;
use crate::measure::{Column, Mark, Sample};
use crate::work::Timing;

/// Connections to one address and port. Past half of the ephemeral ports the kernel searches for a free
/// one, which costs eight times the connect itself; this stays well below.
const LINKS_PER_ADDRESS: usize = 5000;

/// How long the client may take to connect all links.
const CONNECT_MAX: Duration = Duration::from_secs(60);

/// How long the client may take to its first message once it is connected.
const START_MAX: Duration = Duration::from_secs(10);

/// Listeners and all connections to them.
#[derive(Debug)]
pub(crate) struct Crowd {
    poll: Poll,
    events: Events,
    listeners: Vec<TcpListener>,
    connections: Vec<Connection>,
    tls: Option<Arc<ServerConfig>>,
    buffer: Vec<u8>,
    connected: usize,
    published: u64,
    first_accept: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    wire: Wire<TcpStream>,
    session: Session,
    is_open: bool,
}

impl Crowd {
    /// Listens on as many loopback addresses as `links` connections need, each on a free port.
    pub(crate) fn bind(links: usize, tls: Option<Arc<ServerConfig>>) -> Result<Self, Failure> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for index in 0..links.div_ceil(LINKS_PER_ADDRESS) {
            let host = Ipv4Addr::new(127, 0, 0, u8::try_from(index + 1)?);
            let mut listener = TcpListener::bind(SocketAddr::from((host, 0)))?;
            // Connections have this from their listener: the peer closes them after the client has ended, and with a
            // reset nothing of them stays behind in TIME_WAIT for the minute in which others are measured.
            SockRef::from(&listener).set_linger(Some(Duration::ZERO))?;
            poll.registry()
                .register(&mut listener, Token(index), Interest::READABLE)?;
            listeners.push(listener);
        }
        Ok(Self {
            poll,
            events: Events::with_capacity(4096),
            listeners,
            connections: Vec::with_capacity(links),
            tls,
            buffer: vec![0; 64 << 10],
            connected: 0,
            published: 0,
            first_accept: None,
        })
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        let addresses = self.listeners.iter().map(TcpListener::local_addr);
        Ok(addresses.collect::<Result<_, _>>()?)
    }

    /// Serves until `links` clients have their CONNACK: connections a second from the first to the last.
    pub(crate) fn connects(&mut self, links: usize, child: &mut Child) -> Result<Sample, Failure> {
        let deadline = Instant::now() + CONNECT_MAX;
        while self.connected < links {
            self.turn()?;
            if let Err(error) = child.check(deadline) {
                return Err(
                    format!("{} of {links} links connected: {error}", self.connected).into(),
                );
            }
        }
        let elapsed = self.first_accept.ok_or("nobody connected")?.elapsed();
        Ok(Sample::default().with(Column::Connects, links as f64 / elapsed.as_secs_f64()))
    }

    /// Serves until the client reports its own figures.
    pub(crate) fn report(&mut self, child: &mut Child) -> Result<Sample, Failure> {
        let deadline = Instant::now() + START_MAX;
        loop {
            self.turn()?;
            if let Some(sample) = child.try_report()? {
                return Ok(sample);
            }
            child.check(deadline)?;
        }
    }

    /// Counts the messages of all links together.
    pub(crate) fn messages(
        &mut self,
        child: &mut Child,
        timing: Timing,
    ) -> Result<Sample, Failure> {
        let deadline = Instant::now() + START_MAX;
        while self.published == 0 {
            self.turn()?;
            child.check(deadline)?;
        }
        self.serve_for(timing.warm_up)?;
        let start = Mark::now(self.published, child.clock())?;
        self.serve_for(timing.span)?;
        Mark::now(self.published, child.clock())?.since(&start)
    }

    fn serve_for(&mut self, span: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        while start.elapsed() < span {
            self.turn()?;
        }
        Ok(())
    }

    /// Handles what is ready now.
    fn turn(&mut self) -> Result<(), Failure> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        match self.poll.poll(&mut events, Some(Duration::ZERO)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            match event.token().0.checked_sub(self.listeners.len()) {
                None => self.accept(event.token().0)?,
                Some(index) => self.serve(index),
            }
        }
        self.events = events;
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> Result<(), Failure> {
        loop {
            let mut socket = match self.listeners[listener].accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            self.first_accept.get_or_insert_with(Instant::now);
            socket.set_nodelay(true)?;
            let token = Token(self.listeners.len() + self.connections.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut socket, token, interest)?;
            self.connections.push(Connection {
                wire: Wire::new(socket, self.tls.as_ref())?,
                session: Session::default(),
                is_open: true,
            });
        }
    }

    /// Reads all that a connection has. One that fails is given up: the count tells.
    fn serve(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.is_open {
            return;
        }
        let was_connected = connection.session.connected;
        let before = connection.session.published;
        connection.is_open = connection.exchange(&mut self.buffer).is_ok();
        self.published += connection.session.published - before;
        self.connected += usize::from(connection.session.connected && !was_connected);
    }
}

impl Connection {
    fn exchange(&mut self, buffer: &mut [u8]) -> Result<(), Failure> {
        loop {
            let read = self.wire.read(buffer)?;
            if let Some(read) = read {
                self.session.handle(&buffer[..read])?;
            }
            self.wire.flush(&mut self.session.output)?;
            // A plain socket that gave less than was asked for is empty; the next byte is a new event.
            let is_empty = read.is_none_or(|read| !self.wire.is_tls() && read < buffer.len());
            if is_empty {
                return Ok(());
            }
        }
    }
}
