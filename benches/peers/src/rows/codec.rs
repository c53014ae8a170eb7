//! Encoding and decoding without sockets.

use super::{Extent, Row, Section};
use crate::client::Client;
use crate::measure::Column;
use crate::work::{Codec, Task};

pub(super) fn section(extent: Extent) -> Section {
    let mut rows = vec![row("codec-qos1-64", "QoS 1, 64 B", 1, 64)];
    if !extent.is_quick {
        rows.push(row("codec-qos0-64", "QoS 0, 64 B", 0, 64));
        rows.push(row("codec-qos1-256", "QoS 1, 256 B", 1, 256));
    }
    Section {
        id: "codec",
        title: "Codec",
        question: "What does it cost to write a PUBLISH into a buffer, and to read it out of a stream cut every \
                   64 KiB (the copy of the chunk into the read buffer included)?",
        peer: "none; in one process, nothing is sent",
        compared: "The codec of each client. mqttrs lends slices of the buffer and is given whole frames; paquebot \
                   tells where the parts are in the one shared read, and the second time gives packets that own their \
                   part, as the others do.",
        rows,
        rounds: 3 * extent.rounds(),
        has_rows_as_lines: false,
    }
}

fn row(id: &str, title: &str, qos: u8, payload_len: usize) -> Row {
    Row {
        id: id.to_owned(),
        title: title.to_owned(),
        task: Task::Codec(Codec { qos, payload_len }),
        tls: false,
        rounds_max: usize::MAX,
        columns: &[Column::Encode, Column::Decode],
        contestants: vec![
            Client::Paquebot,
            Client::PaquebotOwned,
            Client::RumqttcV4,
            Client::Mqttrs,
            Client::Ntex,
        ],
    }
}
