//! A WebSocket as a stream of bytes.
//!
//! Reads unwrap frames in the caller's buffer and writes go through a buffer of the thread, so an idle link holds
//! neither: it costs a few hundred bytes beside what is below it.

use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::crypto::{SecureRandom, aws_lc_rs};

use super::WebSocketError;
use super::frames::{Deframer, HEADER_MAX, Opcode, write_frame};
use crate::buffers;
use crate::transport::Stream;

/// Most payload bytes in one frame of ours: what the connection writes at once.
const FRAME_MAX: usize = 64 * 1024;

/// Code of a close frame: the purpose of the connection is fulfilled (RFC 6455, section 7.4.1).
const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();

/// An open WebSocket.
pub(crate) struct WebSocket {
    inner: Stream,
    deframer: Deframer,
    /// Bytes that came with the answer to the request.
    early: BytesMut,
    /// Frames that are not in the stream yet; empty most of the time.
    outgoing: BytesMut,
    /// This end has said that it closes.
    has_closed: bool,
    /// The end was told to the reader.
    end_is_told: bool,
}

impl WebSocket {
    /// `early` is what followed the server's answer in the same read.
    pub(super) fn new(inner: Stream, early: BytesMut) -> Self {
        Self {
            inner,
            deframer: Deframer::new(),
            early,
            outgoing: BytesMut::new(),
            has_closed: false,
            end_is_told: false,
        }
    }

    fn push_frame(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let mask = random()?;
        if self.outgoing.capacity() == 0 {
            self.outgoing = buffers::take(payload.len() + HEADER_MAX);
        }
        write_frame(opcode, payload, mask, &mut self.outgoing);
        Ok(())
    }

    fn push_close(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.has_closed, true) {
            self.push_frame(Opcode::Close, &NORMAL_CLOSURE)?;
        }
        Ok(())
    }

    /// Writes the frames that are not in the stream yet.
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.outgoing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(count);
        }
        if self.outgoing.capacity() > 0 {
            buffers::give_back(std::mem::take(&mut self.outgoing));
        }
        Poll::Ready(Ok(()))
    }

    /// Answers what the server wants answered, as far as it goes at once: the rest goes with the next read or write.
    /// Whoever writes hears of a stream that takes nothing any more.
    fn answer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.outgoing.is_empty()
            && !self.has_closed
            && let Some(ping) = self.deframer.take_ping()
        {
            self.push_frame(Opcode::Pong, ping.bytes())?;
        }
        if matches!(self.deframer.end(), Some(WebSocketError::Closed { .. })) {
            self.push_close()?;
        }
        if !self.outgoing.is_empty() && matches!(self.poll_outgoing(cx), Poll::Ready(Ok(()))) {
            let _ = Pin::new(&mut self.inner).poll_flush(cx);
        }
        Ok(())
    }

    /// Reads into `buf` what the stream has, frames and all.
    fn poll_raw(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let count = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early.split_to(count));
        if self.early.is_empty() {
            self.early = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            this.answer(cx)?;
            if let Some(end) = this.deframer.end() {
                if std::mem::replace(&mut this.end_is_told, true) {
                    return Poll::Ready(Ok(()));
                }
                return Poll::Ready(Err(io::Error::other(end.clone())));
            }
            ready!(this.poll_raw(cx, buf))?;
            let raw = &mut buf.filled_mut()[before..];
            if raw.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let payload = this.deframer.deframe(raw);
            buf.set_filled(before + payload);
            if payload > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for WebSocket {
    /// Takes up to 64 KiB as one frame, once the frame before is in the stream.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_outgoing(cx))?;
        if this.has_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let payload = &buf[..buf.len().min(FRAME_MAX)];
        if payload.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.push_frame(Opcode::Binary, payload)?;
        match this.poll_outgoing(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What is left goes with the next write or flush.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(payload.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_outgoing(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.push_close()?;
        ready!(this.poll_outgoing(cx))?;
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

/// Unpredictable bytes, as masks and keys have to be (RFC 6455, section 10.3).
pub(super) fn random<const LENGTH: usize>() -> io::Result<[u8; LENGTH]> {
    static SOURCE: OnceLock<&dyn SecureRandom> = OnceLock::new();
    let source = SOURCE.get_or_init(|| aws_lc_rs::default_provider().secure_random);
    let mut bytes = [0; LENGTH];
    source
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

    use super::*;

    /// Our end, and a server's of another make.
    async fn pair(room: usize) -> (WebSocket, WebSocketStream<DuplexStream>) {
        let (ours, theirs) = duplex(room);
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(0);
        let server = WebSocketStream::from_raw_socket(theirs, Role::Server, Some(config)).await;
        (WebSocket::new(Stream::Pipe(ours), BytesMut::new()), server)
    }

    fn closed(error: &io::Error) -> WebSocketError {
        let cause = error
            .get_ref()
            .and_then(|cause| cause.downcast_ref::<WebSocketError>());
        cause.cloned().unwrap_or_else(|| unreachable!("{error}"))
    }

    #[tokio::test]
    async fn bytes_go_both_ways_in_frames_of_64_kib_at_the_most() {
        for room in [1, 100, 1 << 20] {
            let (mut ours, mut server) = pair(room).await;
            let sent: Vec<u8> = (0..150_000_u32).map(|at| (at % 251) as u8).collect();
            let expected = sent.clone();
            let writing = async {
                ours.write_all(&sent).await.unwrap();
                ours.flush().await.unwrap();
                let mut back = vec![0; sent.len()];
                ours.read_exact(&mut back).await.unwrap();
                (ours, back)
            };
            let echoing = async {
                let (mut came, mut frames) = (Vec::new(), Vec::new());
                while came.len() < expected.len() {
                    let message = server.next().await.unwrap().unwrap();
                    assert!(message.is_binary());
                    frames.push(message.len());
                    came.extend_from_slice(&message.into_data());
                }
                assert_eq!(frames, [FRAME_MAX, FRAME_MAX, 150_000 - 2 * FRAME_MAX]);
                for piece in came.chunks(40_000) {
                    server.send(Message::binary(piece.to_vec())).await.unwrap();
                }
            };
            let ((ours, back), ()) = tokio::join!(writing, echoing);
            assert_eq!(back, expected);
            // An idle one holds no buffer.
            assert_eq!((ours.outgoing.capacity(), ours.early.capacity()), (0, 0));
        }
    }

    #[tokio::test]
    async fn a_ping_is_answered_by_whoever_reads() {
        let (mut ours, mut server) = pair(1 << 16).await;
        server
            .send(Message::Ping(vec![1, 2, 3].into()))
            .await
            .unwrap();
        server.send(Message::binary(vec![7])).await.unwrap();
        assert_eq!(ours.read_u8().await.unwrap(), 7);
        // The answer leaves with the next look at the stream.
        let mut byte = [0];
        let reading = ours.read(&mut byte);
        let answer = server.next();
        tokio::select! {
            biased;
            _ = reading => unreachable!("there is nothing to read"),
            answer = answer => assert_eq!(answer.unwrap().unwrap(), Message::Pong(vec![1, 2, 3].into())),
        }
    }

    #[tokio::test]
    async fn a_close_of_the_server_is_an_error_with_its_words_and_is_answered() {
        use tokio_tungstenite::tungstenite::protocol::CloseFrame;
        let (mut ours, mut server) = pair(1 << 16).await;
        let frame = CloseFrame {
            code: 1008.into(),
            reason: "not you".into(),
        };
        server
            .send(Message::binary(b"last".to_vec()))
            .await
            .unwrap();
        server.close(Some(frame)).await.unwrap();
        let mut last = [0; 4];
        ours.read_exact(&mut last).await.unwrap();
        let error = ours.read_u8().await.unwrap_err();
        let expected = WebSocketError::Closed {
            code: Some(1008),
            reason: "not you".into(),
        };
        assert_eq!(closed(&error), expected);
        assert!(server.next().await.unwrap().unwrap().is_close());
        assert!(ours.write_all(b"late").await.is_err());
    }

    #[tokio::test]
    async fn text_is_an_error() {
        let (mut ours, mut server) = pair(1 << 16).await;
        server.send(Message::text("hello")).await.unwrap();
        let error = ours.read_u8().await.unwrap_err();
        assert_eq!(closed(&error), WebSocketError::Text);
    }

    #[tokio::test]
    async fn the_end_of_ours_is_a_close_frame() {
        let (mut ours, mut server) = pair(1 << 16).await;
        ours.write_all(b"last").await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(
            server.next().await.unwrap().unwrap().into_data(),
            &b"last"[..]
        );
        let close = server.next().await.unwrap().unwrap();
        assert!(matches!(close, Message::Close(Some(frame)) if u16::from(frame.code) == 1000));
    }

    #[tokio::test]
    async fn what_came_with_the_answer_to_the_request_is_read_first() {
        let (ours, mut theirs) = duplex(64);
        let early = BytesMut::from(&[0x82, 3, b'a', b'b'][..]);
        let mut ours = WebSocket::new(Stream::Pipe(ours), early);
        theirs.write_all(&[b'c', 0x82, 1, b'd']).await.unwrap();
        let mut bytes = [0; 4];
        ours.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"abcd");
    }
}
