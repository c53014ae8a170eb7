//! A non-blocking connection of the peer, plain or TLS.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

/// A socket, with TLS over it or without. Every call returns at once.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    pub(crate) socket: S,
    tls: Option<Box<ServerConnection>>,
}

impl<S: io::Read + io::Write> Wire<S> {
    /// Over a socket that was set non-blocking.
    pub(crate) fn new(socket: S, tls: Option<&Arc<ServerConfig>>) -> io::Result<Self> {
        let tls = match tls {
            Some(config) => {
                let mut connection =
                    ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                connection.set_buffer_limit(None);
                Some(Box::new(connection))
            }
            None => None,
        };
        Ok(Self { socket, tls })
    }

    /// What has arrived; `None`: nothing yet. An end of the stream is an error.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(tls) = &mut self.tls else {
            return pending(self.socket.read(buffer));
        };
        loop {
            if let Some(read) = pending(tls.reader().read(buffer))? {
                return Ok(Some(read));
            }
            if pending(tls.read_tls(&mut self.socket))?.is_none() {
                return Ok(None);
            }
            let processed = tls.process_new_packets();
            while tls.wants_write() && pending(tls.write_tls(&mut self.socket))?.is_some() {}
            processed.map_err(io::Error::other)?;
        }
    }

    /// Writes what fits and says how many of `bytes` that were.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return Ok(pending(self.socket.write(bytes))?.unwrap_or(0));
        };
        // One batch at a time, so that what the socket does not take does not pile up.
        while tls.wants_write() {
            if pending(tls.write_tls(&mut self.socket))?.is_none() {
                return Ok(0);
            }
        }
        let written = tls.writer().write(bytes)?;
        while tls.wants_write() && pending(tls.write_tls(&mut self.socket))?.is_some() {}
        Ok(written)
    }

    /// Writes what fits of `output` and takes it out.
    pub(crate) fn flush(&mut self, output: &mut Vec<u8>) -> io::Result<()> {
        if !output.is_empty() {
            let written = self.write(output)?;
            output.drain(..written);
        }
        Ok(())
    }

    /// Whether a read may leave something behind that no event of the socket will tell of.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

fn pending(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
