//! A WebSocket as the byte stream that MQTT is written on (MQTT 5 §6): binary messages, whose borders mean
//! nothing to a client that keeps to the specification.
//!
//! The first generation of Amazon's SDK for Python does not: of a message with two packets it hands out one
//! and waits for the socket before it looks at the other. So each packet goes out in a message, and each
//! message in a write, which makes a TLS record of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Bytes of one message from a client.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// The server's end of a WebSocket, after its handshake.
pub(crate) struct WebSocketBytes<S> {
    socket: WebSocketStream<S>,
    /// What is left of the last message.
    rest: Bytes,
    /// Bytes that are still to come of the packet that is being written.
    packet_left: usize,
}

impl<S> WebSocketBytes<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) async fn new(stream: S) -> Self {
        let config = WebSocketConfig::default()
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        Self {
            socket: WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await,
            rest: Bytes::new(),
            packet_left: 0,
        }
    }
}

impl<S> AsyncRead for WebSocketBytes<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Text(_))) => {
                    let text = "MQTT comes in binary messages [MQTT-6.0.0-1]";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                // The library answers pings by itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncWrite for WebSocketBytes<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io_error)?;
        if self.packet_left == 0 {
            self.packet_left = packet_len(bytes);
        }
        let count = self.packet_left.min(bytes.len());
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..count]));
        Pin::new(&mut self.socket)
            .start_send(message)
            .map_err(io_error)?;
        self.packet_left -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io_error)
    }
}

/// How long the packet is that begins here. Bytes that tell no length count as one.
fn packet_len(bytes: &[u8]) -> usize {
    let mut remaining = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return 2 + index + remaining;
        }
    }
    bytes.len()
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::packet_len;

    #[test]
    fn a_packet_ends_where_its_length_says() {
        assert_eq!(packet_len(&[0xd0, 0x00, 0xd0, 0x00]), 2);
        assert_eq!(packet_len(&[0x40, 0x02, 0x00]), 4);
        assert_eq!(packet_len(&[0x30, 0x80, 0x01]), 131);
        for unknown in [
            &[0x30][..],
            &[0x30, 0x80],
            &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01],
        ] {
            assert_eq!(packet_len(unknown), unknown.len());
        }
    }
}
