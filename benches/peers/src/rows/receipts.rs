//! QoS 1 with an answer for every single message.

use super::{Extent, Section, messages};
use crate::client::Client;
use crate::work::{Publish, Task};

pub(super) fn section(extent: Extent) -> Section {
    let task = Task::Publish(Publish {
        qos: 1,
        payload_len: 64,
        window: 1000,
    });
    let who = [Client::RawChannel, Client::Paquebot, Client::Ntex];
    Section {
        id: "receipts",
        title: "Publish, one link, QoS 1, one receipt for each message",
        question: "What does it cost to be told of every single message how it ended?",
        peer: "the same sink",
        compared: "paquebot awaits a receipt of each message; ntex-mqtt runs a callback for each acknowledgement; raw \
                   behind a channel tells nobody.",
        rows: vec![messages(
            "receipts-qos1-64-w1000",
            "64 B, window 1,000",
            task,
            &who,
        )],
        rounds: extent.rounds(),
        has_rows_as_lines: false,
    }
}
