//! A server that a test plays itself, at the far end of a pipe: it reads the packets of a client of MQTT 3.1.1.

use bytes::{Bytes, BytesMut};
use paquebot::mqtt::{Decoded, Decoder, Packet, Sender, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::support::fleet::soon;

pub(crate) struct Peer {
    pub(crate) stream: DuplexStream,
    decoder: Decoder,
    /// What was read and is no whole packet yet.
    pub(crate) input: BytesMut,
}

impl Peer {
    pub(crate) fn new(stream: DuplexStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(Version::V311, Sender::Client, 1 << 20),
            input: BytesMut::new(),
        }
    }

    pub(crate) async fn next(&mut self) -> Packet {
        loop {
            let mut input = Bytes::copy_from_slice(&self.input);
            if !input.is_empty()
                && let Decoded::Packet(packet) = self.decoder.decode(&mut input).unwrap()
            {
                let _ = self.input.split_to(self.input.len() - input.len());
                return packet;
            }
            let read = self.stream.read_buf(&mut self.input);
            assert_ne!(soon("a packet comes", read).await.unwrap(), 0, "closed");
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let written = self.stream.write_all(bytes);
        soon("the client reads", written).await.unwrap();
    }
}
