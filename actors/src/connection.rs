//! The Connection actor: owns the socket, the connect attempts and the write side.
//!
//! It knows bytes and time, not MQTT. It moves bytes both ways at the end of each turn that has something for it, so
//! a `Transmit` is written in the turn it arrives in. Reads go into buffers
//! that all links of the thread share: an idle link holds none.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext, ActorFutureExt as _, Addr, AsyncContext, Handler, SpawnHandle,
    WrapFuture as _,
};
use bytes::{Bytes, BytesMut};
use paquebot_protocols::backoff::{Backoff, FailureClass};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use crate::event::{LinkEvent, LinkState};
use crate::link::{Context, LinkContext, Resident};
use crate::message::{
    AfterClose, CloseTransport, ReadingPaused, Received, SessionOnline, Shutdown, Transmit,
    TransportLost, TransportOpened, Written,
};
use crate::pause::Pause;
use crate::transport::{ConnectError, Opened, Stream, open};

mod pieces;
mod read_buffer;

use pieces::Pieces;
use read_buffer::{READ_BUFFER, ReadBuffer};

/// Most bytes that are read for a server's last words when writing to it has failed.
const LAST_WORDS_MAX: usize = 256 * 1024;

/// Most bytes that wait to be written while more is read. What the queue hands on is below it by far, so only
/// answers to a server that sends and does not read get here; it has to read before it is heard again.
const UNWRITTEN_MAX: usize = 8 * 1024 * 1024;

/// Most bytes that one link writes before the event loop has looked at the other sockets.
const WRITTEN_MAX: usize = 256 * 1024;

/// Most pieces that one system call writes.
const GATHERED_PIECES_MAX: usize = 16;

/// Small writes that wait are put together up to this size: one system call, one allocation.
const CHUNK: usize = 16 * 1024;

/// How long a connection that is being closed may take to write what is left and to see the server end it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The actor.
pub(crate) struct Connection {
    link: Arc<LinkContext>,
    backoff: Backoff,
    attempt: u32,
    /// Counts open connections, so that what belongs to an earlier one leaves the next alone.
    epoch: u64,
    phase: Phase,
}

enum Phase {
    /// No attempt under way and none planned.
    Idle,
    /// Waiting for the back-off, a place in line or the open stream.
    Opening(SpawnHandle),
    Open(Box<OpenConnection>),
}

/// In the order written here: what every message needs lies together.
#[repr(C)]
struct OpenConnection {
    stream: Stream,
    pending_bytes: usize,
    written: u64,
    pending: Pieces,
    /// The codec wants to know of what is written up to here.
    report_until: u64,
    /// Bytes written since the last pause.
    written_since: usize,
    write_pause: Pause,
    reading_paused: bool,
    /// Nothing was there at the last look, and the stream wakes this actor when something is.
    awaits_input: bool,
    closing: Option<AfterClose>,
    /// This end of the stream is over.
    is_shut: bool,
    flushed: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

/// What one turn of moving bytes came to.
enum Turn {
    GoOn,
    /// Everything is written and the stream was to be closed.
    Finished(AfterClose),
    Lost(Option<io::Error>),
}

impl Connection {
    pub(crate) fn new(link: Arc<LinkContext>) -> Self {
        let backoff = Backoff::new(Arc::clone(&link.profile.backoff));
        Self {
            link,
            backoff,
            attempt: 0,
            epoch: 0,
            phase: Phase::Idle,
        }
    }

    /// As [`OfflineQueue::call_up`](crate::offline_queue::OfflineQueue::call_up).
    #[inline]
    pub(crate) fn call_up(&self) -> usize {
        match &self.phase {
            Phase::Open(open) => open.pending_bytes ^ open.written_since,
            Phase::Idle | Phase::Opening(_) => 0,
        }
    }

    fn begin_attempt(&mut self, ctx: &mut Context<Self>) {
        self.attempt = self.attempt.saturating_add(1);
        self.link.events.enter(LinkState::Connecting);
        self.link.events.emit(&LinkEvent::Connecting {
            attempt: self.attempt,
        });
        let link = Arc::clone(&self.link);
        // The context boxes it and frees it when the stream is open: an idle link pays nothing for it.
        let attempt = async move {
            // The group's rate first: whoever waits for it takes no place of another group's links.
            link.profile.pacer.wait_in_line().await;
            let permit = link.pacer.wait().await;
            let profile = &link.profile;
            // A box of its own, made now: thousands of links may wait in line, and few are under way at once.
            let opening = open(&link.target, profile.proxy.as_deref(), profile.timeouts);
            (Box::pin(opening).await, permit)
        };
        let handle = ctx.spawn(attempt.into_actor(self).map(
            |(result, permit), connection, ctx| match result {
                Ok(opened) => connection.opened(opened, permit),
                Err(error) => connection.failed_to_open(error, ctx),
            },
        ));
        self.phase = Phase::Opening(handle);
    }

    fn opened(&mut self, opened: Opened, permit: Option<OwnedSemaphorePermit>) {
        for (stage, duration) in opened.durations.into_iter().flatten() {
            self.link.metrics.observe_stage(stage, duration);
        }
        self.phase = Phase::Open(Box::new(OpenConnection::new(opened.stream, permit)));
        self.epoch += 1;
        self.link.tell_codec(TransportOpened);
    }

    fn failed_to_open(&mut self, error: ConnectError, ctx: &mut Context<Self>) {
        tracing::debug!(link = %self.link.identity.id, %error, "connect failed");
        self.link.metrics.count_connect(error.class());
        let class = error.failure();
        self.link.events.emit(&LinkEvent::ConnectFailed {
            error: Arc::new(error),
        });
        self.phase = Phase::Idle;
        self.retry(class, ctx);
    }

    fn retry(&mut self, class: FailureClass, ctx: &mut Context<Self>) {
        self.backoff.lost(Instant::now());
        let delay = self.backoff.failure(class, fastrand::f64());
        self.link.events.enter(LinkState::Backoff);
        self.link.events.emit(&LinkEvent::Retrying { delay });
        let handle = ctx.run_later(delay, |connection, ctx| connection.begin_attempt(ctx));
        self.phase = Phase::Opening(handle);
    }

    fn end(&mut self, ctx: &mut Context<Self>) {
        if let Phase::Opening(handle) = std::mem::replace(&mut self.phase, Phase::Idle) {
            ctx.cancel_future(handle);
        }
        self.link.end();
    }

    fn after_close(&mut self, after: AfterClose, ctx: &mut Context<Self>) {
        self.phase = Phase::Idle;
        // What was not written by now never will be.
        self.link.tell_codec(TransportLost(None));
        match after {
            AfterClose::Retry(class) => self.retry(class, ctx),
            AfterClose::Reconnect => {
                self.backoff.lost(Instant::now());
                self.begin_attempt(ctx);
            }
            AfterClose::Stop => self.end(ctx),
        }
    }

    /// Writes what is pending, reads what has come. `was_woken` if the stream may have woken this actor: otherwise
    /// there is nothing new to read, and asking costs a link that only sends a good part of a message.
    pub(crate) fn move_bytes(
        &mut self,
        was_woken: bool,
        ctx: &mut Context<Self>,
        cx: &mut TaskContext<'_>,
    ) {
        if let Phase::Open(open) = &mut self.phase {
            open.awaits_input &= !was_woken;
        }
        self.take_turn(OpenConnection::poll, ctx, cx);
    }

    /// Writes what this turn has answered to what it read, and reads no more.
    pub(crate) fn answer(&mut self, ctx: &mut Context<Self>, cx: &mut TaskContext<'_>) {
        let write = |open: &mut OpenConnection, link: &LinkContext, cx: &mut TaskContext<'_>| {
            open.poll_out(link, cx).unwrap_or(Turn::GoOn)
        };
        self.take_turn(write, ctx, cx);
    }

    fn take_turn(
        &mut self,
        turn: impl FnOnce(&mut OpenConnection, &LinkContext, &mut TaskContext<'_>) -> Turn,
        ctx: &mut Context<Self>,
        cx: &mut TaskContext<'_>,
    ) {
        let Phase::Open(open) = &mut self.phase else {
            return;
        };
        let written_before = open.written;
        let turn = turn(open, &self.link, cx);
        if open.written != written_before && written_before < open.report_until {
            self.link.tell_codec(Written(open.written));
        }
        match turn {
            Turn::GoOn => {}
            Turn::Finished(after) => self.after_close(after, ctx),
            Turn::Lost(error) => {
                let closing = open.closing;
                let mut refusal = None;
                if let Some(error) = error {
                    tracing::debug!(link = %self.link.identity.id, %error, "stream failed");
                    refusal = self.link.target.refusal(&error);
                }
                match closing {
                    Some(after) => self.after_close(after, ctx),
                    None => {
                        self.phase = Phase::Idle;
                        // The codec answers with what is to follow.
                        self.link.tell_codec(TransportLost(refusal));
                    }
                }
            }
        }
    }
}

impl OpenConnection {
    fn new(stream: Stream, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            stream,
            pending: Pieces::default(),
            pending_bytes: 0,
            written: 0,
            report_until: 0,
            reading_paused: false,
            awaits_input: false,
            closing: None,
            is_shut: false,
            flushed: true,
            written_since: 0,
            write_pause: Pause::default(),
            _permit: permit,
        }
    }

    fn poll(&mut self, link: &LinkContext, cx: &mut TaskContext<'_>) -> Turn {
        if let Some(turn) = self.poll_out(link, cx) {
            return turn;
        }
        let is_flooded = self.pending_bytes > UNWRITTEN_MAX;
        if self.closing.is_some() || self.reading_paused || is_flooded || self.awaits_input {
            return Turn::GoOn;
        }
        self.poll_read(READ_BUFFER, link, cx)
    }

    /// Writes, and ends the stream behind what was written if it is to be ended. `None` when the stream goes on.
    fn poll_out(&mut self, link: &LinkContext, cx: &mut TaskContext<'_>) -> Option<Turn> {
        match self.poll_write(cx) {
            Poll::Ready(Err(error)) => Some(self.read_last_words(error, link, cx)),
            Poll::Ready(Ok(())) => {
                let after = self.closing?;
                Some(match self.poll_close(after, cx) {
                    Poll::Ready(()) => Turn::Finished(after),
                    Poll::Pending => Turn::GoOn,
                })
            }
            Poll::Pending => None,
        }
    }

    /// Ends the stream. Before the next connection it waits until the server has done so too, or the close timeout
    /// is over: a server that sees the next one first ends this one as taken over.
    ///
    /// A socket that is closed with something unread takes back what the server has not read yet: DISCONNECT, without
    /// which it publishes the will. So what is there is read.
    fn poll_close(&mut self, after: AfterClose, cx: &mut TaskContext<'_>) -> Poll<()> {
        if !self.is_shut {
            let ended = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
            self.is_shut = true;
            if ended.is_err() || matches!(after, AfterClose::Retry(_)) {
                return Poll::Ready(());
            }
        }
        let mut buffer = ReadBuffer::take();
        let mut space = ReadBuf::new(buffer.space());
        match Pin::new(&mut self.stream).poll_read(cx, &mut space) {
            Poll::Pending if after == AfterClose::Stop => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
            Poll::Ready(read) if read.is_err() || space.filled().is_empty() => Poll::Ready(()),
            Poll::Ready(_) => {
                // More may be waiting, and the others have their turn first.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                Poll::Pending
            }
        }
    }

    /// Writing failed: a server that closes first says why, and that may still be there to be read.
    fn read_last_words(
        &mut self,
        error: io::Error,
        link: &LinkContext,
        cx: &mut TaskContext<'_>,
    ) -> Turn {
        match self.poll_read(LAST_WORDS_MAX, link, cx) {
            Turn::Lost(Some(last)) => Turn::Lost(Some(last)),
            _ => Turn::Lost(Some(error)),
        }
    }

    fn poll_write(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        if self.write_pause.is_on() {
            return Poll::Pending;
        }
        while self.pending_bytes > 0 {
            // What is written comes back as room for more: without a pause a peer that reads fast would keep
            // this link writing and all others of its thread waiting.
            if self.written_since >= WRITTEN_MAX {
                self.written_since = 0;
                self.write_pause.begin(cx.waker());
                return Poll::Pending;
            }
            let count = ready!(self.poll_write_some(WRITTEN_MAX - self.written_since, cx))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count as u64;
            self.written_since += count;
            self.pending_bytes -= count;
            self.flushed = false;
            self.pending.advance(count);
        }
        if !self.flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes at most `bytes_max` bytes of what is pending, with one call.
    fn poll_write_some(
        &mut self,
        bytes_max: usize,
        cx: &mut TaskContext<'_>,
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        if self.pending.is_several() && stream.is_write_vectored() {
            let mut slices = [IoSlice::new(&[]); GATHERED_PIECES_MAX];
            let count = self.pending.gather(&mut slices, bytes_max);
            return stream.poll_write_vectored(cx, &slices[..count]);
        }
        stream.poll_write(cx, self.pending.front(bytes_max).unwrap_or_default())
    }

    /// Reads at most `budget` bytes, and what is left of it when the event loop has looked at all other sockets.
    fn poll_read(
        &mut self,
        mut budget: usize,
        link: &LinkContext,
        cx: &mut TaskContext<'_>,
    ) -> Turn {
        let mut buffer = ReadBuffer::take();
        while budget > 0 {
            let space = buffer.space();
            let room = budget.min(space.len());
            let mut space = ReadBuf::new(&mut space[..room]);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut space);
            let filled = space.filled().len();
            match read {
                Poll::Pending => {
                    self.awaits_input = true;
                    return Turn::GoOn;
                }
                Poll::Ready(Err(error)) => return Turn::Lost(Some(error)),
                Poll::Ready(Ok(())) if filled == 0 => return Turn::Lost(None),
                Poll::Ready(Ok(())) => {
                    budget -= filled;
                    link.tell_codec(Received(buffer.split(filled)));
                }
            }
        }
        // More may be waiting. Waking this task at once would not do: the others of its thread would wait for
        // dozens of such turns until the event loop looks at their sockets.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        Turn::GoOn
    }

    fn push(&mut self, bytes: BytesMut, payload: Bytes, wants_report: bool) {
        self.pending_bytes += bytes.len() + payload.len();
        if wants_report {
            self.report_until = self.written + self.pending_bytes as u64;
        }
        self.pending.push(bytes, CHUNK);
        if !payload.is_empty() {
            self.pending.push_payload(payload);
        }
    }
}

impl Resident for Connection {
    fn address(link: &LinkContext) -> &Addr<Self> {
        &link.connection
    }
}

impl Actor for Connection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.begin_attempt(ctx);
    }
}

impl Handler<Transmit> for Connection {
    type Result = ();

    fn handle(&mut self, message: Transmit, _: &mut Self::Context) {
        if let Phase::Open(open) = &mut self.phase {
            open.push(message.bytes, message.payload, message.wants_report);
        }
    }
}

impl Handler<SessionOnline> for Connection {
    type Result = ();

    fn handle(&mut self, _: SessionOnline, _: &mut Self::Context) {
        self.attempt = 0;
        self.backoff.online(Instant::now());
        if let Phase::Open(open) = &mut self.phase {
            // The attempt is over; its place goes to the next link.
            open._permit = None;
        }
    }
}

impl Handler<CloseTransport> for Connection {
    type Result = ();

    fn handle(&mut self, message: CloseTransport, ctx: &mut Self::Context) {
        match &mut self.phase {
            Phase::Open(open) => {
                let first = open.closing.is_none();
                if first || message.0 == AfterClose::Stop {
                    open.closing = Some(message.0);
                }
                if first {
                    let epoch = self.epoch;
                    ctx.run_later(CLOSE_TIMEOUT, move |connection, ctx| {
                        if let Phase::Open(open) = &connection.phase
                            && connection.epoch == epoch
                            && let Some(after) = open.closing
                        {
                            connection.after_close(after, ctx);
                        }
                    });
                }
            }
            Phase::Idle => self.after_close(message.0, ctx),
            Phase::Opening(_) if message.0 == AfterClose::Stop => self.end(ctx),
            Phase::Opening(_) => {}
        }
    }
}

impl Handler<ReadingPaused> for Connection {
    type Result = ();

    fn handle(&mut self, message: ReadingPaused, _: &mut Self::Context) {
        if let Phase::Open(open) = &mut self.phase {
            open.reading_paused = message.0;
        }
    }
}

impl Handler<Shutdown> for Connection {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const ROUNDS: usize = 4;

    /// Writes all that is pending; says how much each turn of the event loop took.
    async fn write_all(mut open: OpenConnection) -> Vec<usize> {
        let mut turns = Vec::new();
        std::future::poll_fn(|cx| {
            let poll = open.poll_write(cx);
            turns.push(open.written as usize / WRITTEN_MAX);
            // Another wake-up, as of a mailbox message, ends no pause.
            let again = open.poll_write(&mut TaskContext::from_waker(Waker::noop()));
            assert_eq!(poll.is_ready(), again.is_ready());
            assert_eq!(open.written as usize / WRITTEN_MAX, turns.len());
            poll
        })
        .await
        .unwrap_or_else(|error| unreachable!("{error}"));
        assert_eq!(open.pending_bytes, 0);
        turns
    }

    fn open() -> (OpenConnection, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(2 * ROUNDS * WRITTEN_MAX);
        (OpenConnection::new(Stream::Pipe(ours), None), theirs)
    }

    #[actix::test]
    async fn a_link_with_much_to_write_goes_on_when_the_event_loop_has_looked_at_the_others() {
        let (mut open, _theirs) = open();
        for _ in 0..ROUNDS * WRITTEN_MAX / CHUNK {
            open.push(BytesMut::zeroed(CHUNK), Bytes::new(), false);
        }
        assert_eq!(write_all(open).await, [1, 2, 3, 4]);
    }

    #[actix::test]
    async fn one_large_message_takes_no_more_of_a_turn_than_many_small_ones() {
        let all = ROUNDS * WRITTEN_MAX;
        let head = 10;
        for (bytes, payload) in [(all, 0), (head, all - head)] {
            let (mut open, _theirs) = open();
            let payload = Bytes::from(vec![0; payload]);
            open.push(BytesMut::zeroed(bytes), payload, false);
            assert_eq!(write_all(open).await, [1, 2, 3, 4]);
        }
    }
}
