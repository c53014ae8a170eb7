//! One connection's task: bytes to packets for the state, packets from the outbox to bytes.

mod io;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use paquebot_protocols::mqtt::{DecodeError, Packet, ReasonCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;

use self::io::{End, Io, Step};
use crate::first_bytes::Spoken;
use crate::link::{LinkId, refusal};
use crate::outbox::{Closing, Outbox, Outgoing};
use crate::policy::Peer;
use crate::remarks::{Explanation, Who};
use crate::shared::Shared;
use crate::state::{Admission, Arrival};

/// Time that a closing connection gets for what is left to say, and its client to close as well.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Slots for decoded packets that an idle connection keeps.
const KEPT_PACKETS: usize = 4;

/// What a connection was accepted with.
pub(crate) struct Accepted {
    pub(crate) shared: Arc<Shared>,
    /// The restart that the connection belongs to.
    pub(crate) epoch: u64,
    /// For its CONNECT.
    pub(crate) deadline: Instant,
    /// Held for as long as the connection lives.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Accepted {
    /// `None` while no connection is to be accepted.
    pub(crate) fn now(shared: &Arc<Shared>) -> Option<Self> {
        Some(Self {
            epoch: shared.admission_epoch()?,
            deadline: Instant::now() + shared.limits.connect_timeout,
            stopping: shared.stopping(),
            shared: Arc::clone(shared),
        })
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve<S>(stream: S, peer: Arc<Peer>, accepted: Accepted)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Accepted {
        shared,
        epoch,
        deadline,
        mut stopping,
    } = accepted;
    let limits = &shared.limits;
    let outbox = Arc::new(Outbox::new(
        limits.outbound_packets_max,
        limits.outbound_bytes_max,
    ));
    let arrival = Arrival {
        outbox: Arc::clone(&outbox),
        peer,
        epoch,
    };
    let mut io = Io::new(stream, outbox, Arc::clone(&shared), deadline);
    // Boxed, because only the steps after CONNECT are worth room in the task for its whole life.
    let opening = Box::pin(async {
        let arrival = arrival;
        tokio::select! {
            link = open(&mut io, &shared, &arrival) => link,
            _ = stopping.wait_for(|stopping| *stopping) => None,
        }
    })
    .await;
    let is_graceful = match opening {
        Some(link) => converse(&mut io, &shared, link).await,
        None => io.is_finished(),
    };
    if is_graceful {
        let closing = close(io.into_stream());
        Box::pin(async {
            tokio::select! {
                () = closing => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        })
        .await;
    }
}

/// Takes the CONNECT; `None` when the connection is over.
async fn open<S>(io: &mut Io<S>, shared: &Shared, arrival: &Arrival) -> Option<LinkId>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|cx| io.poll_step(cx)).await {
            Step::Received => {
                let mut packets = std::mem::take(&mut io.packets).into_iter();
                let Some(Packet::Connect(connect)) = packets.next() else {
                    return None;
                };
                io.version = connect.version;
                let admission =
                    shared.turn(|state, now| state.handle_connect(*connect, arrival, now));
                match admission {
                    Admission::Accepted { link, keep_alive } => {
                        io.set_keep_alive(keep_alive);
                        let mut rest = packets.collect();
                        shared.turn(|state, now| state.handle_packets(link, &mut rest, now));
                        return Some(link);
                    }
                    Admission::Refused => io.stop_reading(),
                    Admission::Dropped => return None,
                }
            }
            Step::Drained => {}
            Step::Refused(error) => {
                remark(io.spoken, &error, arrival, shared);
                refuse(io, &error);
            }
            Step::Silent => {
                let why = Explanation::new("time for CONNECT", "no CONNECT came in time");
                let who = Who::peer(&arrival.peer);
                shared.remarks.tell(&who, CLOSED, &why);
                return None;
            }
            Step::Ended(_) => return None,
        }
    }
}

/// What the log says of a connection that the server ends.
const CLOSED: &str = "its connection is closed";

/// Says in the log what came in place of a CONNECT.
fn remark(spoken: Spoken, error: &DecodeError, arrival: &Arrival, shared: &Shared) {
    let who = Who::peer(&arrival.peer);
    let plain = "this port speaks plain MQTT";
    let versions = "MQTT 3.1.1 and 5 only [MQTT-3.1.2-2]";
    match spoken {
        Spoken::Tls => {
            let text =
                "it speaks TLS to a port of plain MQTT; take the TLS port, or connect without TLS";
            let why = Explanation::new(plain, text);
            shared.remarks.warn(&who, CLOSED, &why);
        }
        Spoken::Http => {
            let text = "it speaks HTTP to a port of plain MQTT";
            let why = Explanation::new(plain, text);
            shared.remarks.warn(&who, CLOSED, &why);
        }
        Spoken::Mqtt31 => {
            let text =
                "it speaks MQTT 3.1 (MQIsdp), which AWS IoT does not; set its version to 3.1.1";
            let why = Explanation::new(versions, text);
            let what = "CONNECT is refused with CONNACK 1";
            shared.remarks.tell(&who, what, &why);
        }
        Spoken::Mqtt | Spoken::Other => {
            let why =
                Explanation::new("MQTT: a well-formed CONNECT comes first", error.to_string());
            shared.remarks.tell(&who, CLOSED, &why);
        }
    }
}

/// Answers what was no CONNECT, as far as there is an answer.
fn refuse<S>(io: &mut Io<S>, error: &DecodeError) {
    if error.reason_code == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION {
        // The one answer that clients of every version read: CONNACK of MQTT 3.1.1 with return code 1.
        io.outbox
            .push(Outgoing::Raw(Bytes::from_static(&[0x20, 0x02, 0x00, 0x01])));
    } else if error.reason_code == ReasonCode::CLIENT_IDENTIFIER_NOT_VALID {
        // Only an MQTT 3.1.1 CONNECT is refused for it while it is decoded [MQTT-3.1.3-9].
        io.outbox.push(refusal(Version::V311, error.reason_code));
    } else if io.version == Version::V5 {
        io.outbox.push(refusal(Version::V5, error.reason_code));
    }
    io.stop_reading();
    io.outbox.close(Closing::AfterWriting);
}

/// Serves an accepted client; returns whether its connection is to be closed with good manners.
async fn converse<S>(io: &mut Io<S>, shared: &Shared, link: LinkId) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|cx| io.poll_step(cx)).await {
            Step::Received => {
                shared.turn(|state, now| state.handle_packets(link, &mut io.packets, now));
                if io.packets.capacity() > KEPT_PACKETS {
                    io.packets = Vec::new();
                }
            }
            Step::Drained => shared.turn(|state, now| state.handle_drained(link, now)),
            Step::Refused(error) => {
                io.stop_reading();
                shared.turn(|state, now| state.handle_violation(link, error.into(), now));
            }
            Step::Silent => {
                shared.turn(|state, now| state.handle_keep_alive_timeout(link, now));
            }
            Step::Ended(End::Finished) => return true,
            Step::Ended(End::Broken) => {
                shared.turn(|state, now| state.handle_lost(link, now));
                return false;
            }
        }
    }
}

/// Closes the write side and waits for the client to do the same: a socket that is dropped with bytes
/// unread is reset, and the reset may overtake the last packet.
async fn close<S>(mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let farewell = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut rest = [0; 256];
        while matches!(stream.read(&mut rest).await, Ok(count) if count > 0) {}
    };
    // A client that neither reads nor closes is not waited for any longer.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
}
