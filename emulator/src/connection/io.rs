//! The input and output of one connection, as one poll that holds no buffer while it waits.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use paquebot_protocols::mqtt::{DecodeError, Decoded, Decoder, Packet, Version, encode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::CLOSE_TIMEOUT;
use crate::first_bytes::Spoken;
use crate::outbox::{Closing, Direction, Orders, Outbox, Outgoing};
use crate::shared::Shared;

/// Bytes of one read.
const READ_BYTES: usize = 32 * 1024;

/// What one thread lends to the connection that it polls.
#[derive(Default)]
struct Scratch {
    read: Vec<u8>,
    write: BytesMut,
    batch: VecDeque<Outgoing>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = work(&mut scratch);
    // A connection that breaks leaves things behind, and the next one is somebody else's.
    scratch.write.clear();
    scratch.batch.clear();
    SCRATCH.set(Some(scratch));
    result
}

/// What a connection has to tell.
pub(super) enum Step {
    /// There are packets in [`Io::packets`].
    Received,
    /// Messages that were held back for lack of room may come.
    Drained,
    /// The client's bytes are no MQTT; nothing more is read.
    Refused(DecodeError),
    /// No packet came in time.
    Silent,
    /// It is over.
    Ended(End),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The state closed it and all was written.
    Finished,
    /// The client or the network closed it, or a fault cut it.
    Broken,
}

pub(super) struct Io<S> {
    pub(super) outbox: Arc<Outbox>,
    /// What to encode for; known with CONNECT, even one that is refused.
    pub(super) version: Version,
    pub(super) packets: Vec<Packet>,
    /// What came in place of a CONNECT, once that was refused.
    pub(super) spoken: Spoken,
    decoder: Decoder,
    stream: S,
    shared: Arc<Shared>,
    /// The beginning of a packet whose rest has not come, and the length at which to look again.
    partial: BytesMut,
    wanted: usize,
    refused: Option<DecodeError>,
    /// Encoded, and not taken by the socket yet.
    unwritten: Bytes,
    is_unflushed: bool,
    reads: bool,
    is_closing: bool,
    is_finished: bool,
    cut: Option<(Direction, u64)>,
    /// Of CONNECT, then of the keep alive, then of the close.
    timer: Option<Pin<Box<Sleep>>>,
    silence_max: Duration,
    last_read: Instant,
}

impl<S> Io<S> {
    pub(super) fn new(
        stream: S,
        outbox: Arc<Outbox>,
        shared: Arc<Shared>,
        deadline: Instant,
    ) -> Self {
        let packet_bytes_max = shared.limits.packet_bytes_max as usize;
        Self {
            outbox,
            decoder: Decoder::awaiting_connect(packet_bytes_max),
            version: Version::default(),
            packets: Vec::new(),
            spoken: Spoken::Other,
            stream,
            shared,
            partial: BytesMut::new(),
            wanted: 0,
            refused: None,
            unwritten: Bytes::new(),
            is_unflushed: false,
            reads: true,
            is_closing: false,
            is_finished: false,
            cut: None,
            timer: Some(Box::pin(tokio::time::sleep_until(deadline))),
            silence_max: Duration::ZERO,
            last_read: Instant::now(),
        }
    }

    /// Begins to hold the client to one and a half times its keep alive `[MQTT-3.1.2-22]`.
    pub(super) fn set_keep_alive(&mut self, keep_alive: u16) {
        self.silence_max = Duration::from_millis(u64::from(keep_alive) * 1500);
        self.last_read = Instant::now();
        self.timer = (keep_alive > 0)
            .then(|| Box::pin(tokio::time::sleep_until(self.last_read + self.silence_max)));
    }

    pub(super) const fn stop_reading(&mut self) {
        self.reads = false;
    }

    pub(super) const fn is_finished(&self) -> bool {
        self.is_finished
    }

    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Decodes what was read. An error waits until the packets before it are taken.
    fn take_in(&mut self, bytes: &[u8]) {
        let mut input = if self.partial.is_empty() {
            Bytes::copy_from_slice(bytes)
        } else {
            self.partial.extend_from_slice(bytes);
            if self.partial.len() < self.wanted {
                return;
            }
            std::mem::take(&mut self.partial).freeze()
        };
        loop {
            match self.decoder.decode(&mut input) {
                Ok(Decoded::Packet(packet)) => {
                    tracing::trace!(packet = packet.name(), "received");
                    self.packets.push(packet);
                }
                Ok(Decoded::Incomplete { missing }) => {
                    self.wanted = input.len() + missing.unwrap_or(1);
                    if !input.is_empty() {
                        self.partial = input
                            .try_into_mut()
                            .unwrap_or_else(|shared| BytesMut::from(&*shared));
                    }
                    return;
                }
                Err(error) => {
                    if self.decoder.version().is_none() {
                        self.spoken = Spoken::of(&input);
                        if is_v5_connect(&input) {
                            self.version = Version::V5;
                        }
                    }
                    self.reads = false;
                    self.refused = Some(error);
                    return;
                }
            }
        }
    }

    /// How many bytes a scripted cut still lets through, and whether that is the end.
    fn allowance(&self, direction: Direction, wanted: usize) -> usize {
        match self.cut {
            Some((cut, left)) if cut == direction => {
                usize::try_from(left).map_or(wanted, |left| left.min(wanted))
            }
            _ => wanted,
        }
    }

    fn count_down(&mut self, direction: Direction, bytes: usize) {
        if let Some((cut, left)) = &mut self.cut
            && *cut == direction
        {
            *left = left.saturating_sub(bytes as u64);
        }
    }

    fn is_cut(&self) -> bool {
        matches!(self.cut, Some((_, 0)))
    }
}

impl<S> Io<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let orders = match with_scratch(|scratch| self.poll_output(cx, scratch)) {
            Ok(orders) => orders,
            Err(end) => {
                self.is_finished = end == End::Finished;
                return Poll::Ready(Step::Ended(end));
            }
        };
        if orders.drained {
            return Poll::Ready(Step::Drained);
        }
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Step::Refused(error));
        }
        // A client that does not read its acknowledgements is not read from either.
        let is_paused = orders.reading_stalled || !self.outbox.has_room();
        if is_paused {
            self.last_read = Instant::now();
        } else if self.reads
            && let Poll::Ready(step) = with_scratch(|scratch| self.poll_input(cx, scratch))
        {
            return Poll::Ready(step);
        }
        self.poll_timer(cx)
    }

    fn poll_input(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<Step> {
        scratch.read.resize(READ_BYTES, 0);
        loop {
            let limit = self.allowance(Direction::Read, READ_BYTES);
            let mut buffer = ReadBuf::new(&mut scratch.read[..limit]);
            let result = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            let bytes = buffer.filled();
            if result.is_err() || bytes.is_empty() {
                return Poll::Ready(Step::Ended(End::Broken));
            }
            self.last_read = Instant::now();
            self.shared.bytes.add_received(bytes.len());
            self.count_down(Direction::Read, bytes.len());
            self.take_in(bytes);
            if !self.packets.is_empty() {
                return Poll::Ready(Step::Received);
            }
            if let Some(error) = self.refused.take() {
                return Poll::Ready(Step::Refused(error));
            }
            if self.is_cut() {
                return Poll::Ready(Step::Ended(End::Broken));
            }
        }
    }

    /// Writes until the socket is full or nothing is left to write.
    fn poll_output(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<Orders, End> {
        let mut drained = false;
        loop {
            let is_blocked = !self.poll_unwritten(cx)?;
            let batch = (!is_blocked).then_some(&mut scratch.batch);
            let mut orders = self.outbox.look(cx, batch);
            drained |= orders.drained;
            orders.drained = drained;
            if orders.cut.is_some() {
                self.cut = orders.cut;
            }
            if orders.closing == Closing::AtOnce || self.is_cut() {
                return Err(End::Broken);
            }
            if orders.closing == Closing::AfterWriting && !self.is_closing {
                self.is_closing = true;
                self.reads = false;
                self.timer = Some(Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
            }
            if is_blocked {
                return Ok(orders);
            }
            if scratch.batch.is_empty() {
                if self.is_closing {
                    return Err(End::Finished);
                }
                return Ok(orders);
            }
            self.encode(scratch);
            self.write_scratch(cx, &mut scratch.write)?;
        }
    }

    fn encode(&self, scratch: &mut Scratch) {
        for outgoing in scratch.batch.drain(..) {
            match outgoing {
                Outgoing::Raw(bytes) => scratch.write.extend_from_slice(&bytes),
                Outgoing::Packet(packet) => {
                    if let Err(error) = encode(&packet, self.version, &mut scratch.write) {
                        tracing::warn!(packet = packet.name(), %error, "packet not sent");
                    } else {
                        tracing::trace!(packet = packet.name(), "sent");
                    }
                }
            }
        }
    }

    /// Writes straight out of the thread's buffer; only what the socket does not take is copied.
    fn write_scratch(&mut self, cx: &mut Context<'_>, encoded: &mut BytesMut) -> Result<(), End> {
        while !encoded.is_empty() {
            match self.poll_write(cx, encoded)? {
                Poll::Ready(count) => encoded.advance(count),
                Poll::Pending => {
                    self.unwritten = Bytes::copy_from_slice(encoded);
                    encoded.clear();
                }
            }
        }
        Ok(())
    }

    /// Returns whether everything encoded is written and flushed.
    fn poll_unwritten(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        while !self.unwritten.is_empty() {
            let bytes = self.unwritten.clone();
            match self.poll_write(cx, &bytes)? {
                Poll::Ready(count) => self.unwritten.advance(count),
                Poll::Pending => return Ok(false),
            }
        }
        self.unwritten = Bytes::new();
        if self.is_unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.is_unflushed = false,
                Poll::Ready(Err(_)) => return Err(End::Broken),
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<Poll<usize>, End> {
        if self.is_cut() {
            // What the cut let through has to leave before the socket is dropped.
            let flushed = Pin::new(&mut self.stream).poll_flush(cx).is_ready();
            return if flushed {
                Err(End::Broken)
            } else {
                Ok(Poll::Pending)
            };
        }
        let limit = self.allowance(Direction::Written, bytes.len());
        match Pin::new(&mut self.stream).poll_write(cx, &bytes[..limit]) {
            Poll::Ready(Ok(0) | Err(_)) => Err(End::Broken),
            Poll::Ready(Ok(count)) => {
                self.is_unflushed = true;
                self.shared.bytes.add_sent(count);
                self.count_down(Direction::Written, count);
                Ok(Poll::Ready(count))
            }
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        loop {
            ready!(timer.as_mut().poll(cx));
            if self.is_closing {
                return Poll::Ready(Step::Ended(End::Broken));
            }
            // The timer is not moved with each read: here it is set to where the last one puts it.
            let due = self.last_read + self.silence_max;
            if self.silence_max.is_zero() || due <= Instant::now() {
                self.timer = None;
                return Poll::Ready(Step::Silent);
            }
            timer.as_mut().reset(due);
        }
    }
}

/// Whether bytes that are no legal CONNECT are so in the way of MQTT 5: its client is told why.
fn is_v5_connect(bytes: &[u8]) -> bool {
    let Some((&0x10, rest)) = bytes.split_first() else {
        return false;
    };
    let length_bytes = rest.iter().take(4).position(|byte| byte & 0x80 == 0);
    length_bytes
        .and_then(|last| rest.get(last + 1..))
        .is_some_and(|body| body.starts_with(b"\0\x04MQTT\x05"))
}
