//! Connecting many links, and what they take while they are idle.

use super::turns::thousands;
use super::{Extent, Row, Section};
use crate::client::Client;
use crate::measure::Column;
use crate::work::Task;

pub(super) fn section(extent: Extent) -> Section {
    let (few, many) = (extent.links(5000), extent.links(19_000));
    let few_tls = extent.links(if extent.is_quick { 2000 } else { 5000 });
    let everyone = [Client::RawTask, Client::Paquebot, Client::RumqttcV4];
    // rumqttc tells nothing new at the larger size and takes the longest.
    let slope = [Client::RawTask, Client::Paquebot];
    let mut rows = vec![
        row("connects-tcp-few", "TCP", few, false, &everyone),
        row("connects-tcp-many", "TCP", many, false, &slope),
        row("connects-tls-few", "TLS 1.3", few_tls, true, &everyone),
    ];
    if !extent.is_quick {
        rows.push(row("connects-tls-many", "TLS 1.3", many, true, &slope));
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
                   rumqttc: client and event loop with room for 10 requests, one task a link. Without the buffers of \
                   the kernel, which are the same for all.",
        rows,
        rounds: extent.few_rounds(),
        has_rows_as_lines: false,
    }
}

fn row(id: &str, transport: &str, links: usize, tls: bool, who: &[Client]) -> Row {
    Row {
        id: id.to_owned(),
        title: format!("{transport}, {} links", thousands(links)),
        task: Task::Idle { links },
        tls,
        columns: &[Column::Connects, Column::ConnectCpu, Column::Memory],
        contestants: who.to_vec(),
    }
}
