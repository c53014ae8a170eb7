//! Connecting many links, and what they take while they are idle.

use super::turns::thousands;
use super::{Extent, Row, Section};
use crate::client::Client;
use crate::measure::Column;
use crate::work::Task;

/// Rounds of the rows over TCP, of which each takes a second or two: a single one tells nothing, since the kernel's share
/// of a connect swings with all that the machine did before.
const TCP_ROUNDS: usize = 5;

pub(super) fn section(extent: Extent) -> Section {
    let (few, many) = (extent.links(5000), extent.links(19_000));
    let few_tls = extent.links(if extent.is_quick { 2000 } else { 5000 });
    let everyone = [Client::RawTask, Client::Paquebot, Client::RumqttcV4];
    // rumqttc tells nothing new at the larger size and takes the longest.
    let slope = [Client::RawTask, Client::Paquebot];
    let mut rows = vec![
        tcp("connects-tcp-few", few, &everyone),
        tcp("connects-tcp-many", many, &slope),
        tls("connects-tls-few", few_tls, &everyone, extent),
    ];
    if !extent.is_quick {
        rows.push(tls("connects-tls-many", many, &slope, extent));
    }
    Section {
        id: "connects",
        title: "Connects, and idle links",
        question: "How fast do links connect, is the nineteen-thousandth as fast as the first, and how much memory does \
                   an idle link take?",
        peer: "an event loop on a core of its own, listening on one loopback address for every 5,000 links (past half \
               of the ephemeral ports of one destination the kernel searches for a free one). Connects are counted \
               from the first accept to the last CONNACK; memory is the resident set (smaps_rollup) before the first \
               connect and 0.3 s after the last, divided by the links",
        compared: "64 connects under way at once everywhere. Raw: one task a link that shares its read buffer with all. \
                   paquebot: the first link is online before the others are made, so that their making is within the count as \
                   it is with the others; who makes and waits for them is on the links' thread, as with the others, since \
                   all of a contestant's threads share one core. \
                   rumqttc: client and event loop with room for 10 requests, one task a link. Without the buffers of \
                   the kernel, which are the same for all. The peer resets its connections when a client has ended, so \
                   that none stays in TIME_WAIT for the next one to find.",
        rows,
        rounds: TCP_ROUNDS,
        has_rows_as_lines: false,
    }
}

fn tcp(id: &str, links: usize, who: &[Client]) -> Row {
    Row {
        id: id.to_owned(),
        title: format!("TCP, {} links", thousands(links)),
        task: Task::Idle { links },
        tls: false,
        rounds_max: TCP_ROUNDS,
        columns: &[Column::Connects, Column::ConnectCpu, Column::Memory],
        contestants: who.to_vec(),
    }
}

/// A handshake takes ten times as long as a connect and swings less.
fn tls(id: &str, links: usize, who: &[Client], extent: Extent) -> Row {
    Row {
        title: format!("TLS 1.3, {} links", thousands(links)),
        tls: true,
        rounds_max: extent.few_rounds(),
        ..tcp(id, links, who)
    }
}
