//! What a proxy may be told to do.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Toward {
    /// What the client sends.
    Server,
    /// What the server sends.
    Client,
}

/// How one direction carries bytes. Default: as they are, at once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conditions {
    /// How late each byte arrives. It costs no throughput, up to 1 MiB under way.
    pub latency: Duration,
    /// Most bytes carried in a second, evenly. `None`: no limit. Senders feel it: the proxy reads no faster, and
    /// about 64 KiB wait in its socket.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Bytes are written in pieces of 1 to so many, each with a system call of its own, their lengths drawn by
    /// chance. `None`: as they came.
    pub slice_bytes_max: Option<NonZeroUsize>,
    /// Nothing is read and nothing is written.
    pub stalled: bool,
    /// The probability that one bit of a byte is inverted, for each byte, in [0, 1].
    pub flips_per_byte: f64,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Ending {
    /// Both sides are told in order that nothing follows; what they still send is thrown away.
    #[default]
    Fin,
    /// Both sides are told that the connection is void.
    Rst,
    /// The server is told that the connection is void, the client nothing: its half stays open, takes no more than
    /// fits the buffers of its socket, and says nothing.
    HalfOpen,
}

/// What becomes of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Admission {
    /// They are carried to the server.
    #[default]
    Carry,
    /// They are reset as soon as they are there.
    Refuse,
    /// They are accepted and nothing comes of it, until they are cut.
    Hold,
}

/// What becomes of one connection at a byte of its own. Bytes are counted from 0 in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Plan {
    pub(crate) cut: Option<(Toward, u64, Ending)>,
    pub(crate) flip: Option<(Toward, u64)>,
}

impl Plan {
    /// A connection that is let alone.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cut: None,
            flip: None,
        }
    }

    /// The connection ends as soon as exactly so many bytes were carried in this direction. With 0 it ends before any
    /// of them.
    #[must_use]
    pub const fn cut_at(mut self, toward: Toward, byte: u64, ending: Ending) -> Self {
        self.cut = Some((toward, byte, ending));
        self
    }

    /// One bit of this byte is inverted; chance says which.
    #[must_use]
    pub const fn flip_at(mut self, toward: Toward, byte: u64) -> Self {
        self.flip = Some((toward, byte));
        self
    }

    /// The byte of this direction at which the connection ends, and how.
    pub(super) fn cut_in(&self, toward: Toward) -> Option<(u64, Ending)> {
        let (_, byte, ending) = self.cut.filter(|(at, ..)| *at == toward)?;
        Some((byte, ending))
    }

    pub(super) fn flip_in(&self, toward: Toward) -> Option<u64> {
        let (_, byte) = self.flip.filter(|(at, _)| *at == toward)?;
        Some(byte)
    }
}

/// What a proxy has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ProxyCounts {
    /// Connections that were carried, open or not.
    pub connections: u64,
    /// Connections that are carried now.
    pub open: u64,
    /// Connections that were reset as they came.
    pub refused: u64,
    /// Connections that were accepted and left alone.
    pub held: u64,
    /// Connections that the proxy ended: by a verb or by their plan.
    pub cuts: u64,
    /// Bits that were inverted.
    pub flips: u64,
    /// Bytes written to the server.
    pub bytes_to_server: u64,
    /// Bytes written to clients.
    pub bytes_to_client: u64,
}
