//! The other end of every contestant: it answers, floods and counts, on a core of its own.

mod crowd;
mod frames;
mod link;
mod pipes;
mod session;
mod wire;

pub(crate) use crowd::Crowd;
pub(crate) use frames::{Frames, publish};
pub(crate) use link::{Single, Source};
pub(crate) use pipes::Pipes;
