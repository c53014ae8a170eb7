//! One link that publishes: at QoS 0, and at QoS 1 with a window.

use super::{Extent, Row, Section, messages};
use crate::client::Client;
use crate::work::{Publish, Task};

/// Who publishes, beside paquebot.
const OTHERS: [Client; 11] = [
    Client::Raw64k,
    Client::RawWriteEach,
    Client::RawChannel,
    Client::Ntex,
    Client::RumqttcV4,
    Client::RumqttcV4Nodelay,
    Client::RumqttcV5,
    Client::RumqttcV5Nodelay,
    Client::Mqtt5,
    Client::Paho,
    Client::Libmosquitto,
];

const SINK: &str = "a sink on a core of its own: it spins on non-blocking reads, looks at fixed headers and packet \
                    identifiers only, acknowledges each read in one write, and counts";

pub(super) fn at_most_once(extent: Extent) -> Section {
    let ours = [
        Client::PaquebotBatch,
        Client::PaquebotDetached,
        Client::Paquebot,
    ];
    let mut rows = vec![row("publish-qos0-64", "64 B", 0, 64, 1, &ours)];
    if !extent.is_quick {
        rows.push(row("publish-qos0-256", "256 B", 0, 256, 1, &ours));
    }
    Section {
        id: "publish-qos0",
        title: "Publish, one link, QoS 0",
        question: "How many messages a second does one link publish when nothing is acknowledged?",
        peer: SINK,
        compared: "Each client's fastest way to publish. paquebot three times: in batches of 256 with one receipt, \
                   with single calls without receipts, with single calls and a receipt each. The raw sockets behind a \
                   channel are what paquebot is held against; the 64 KiB buffer is the floor of the machine.",
        rows,
        rounds: extent.rounds(),
        has_rows_as_lines: false,
    }
}

pub(super) fn at_least_once(extent: Extent) -> Section {
    let ours = [Client::PaquebotBatch];
    let mut rows = vec![row(
        "publish-qos1-64-w1000",
        "64 B, window 1,000",
        1,
        64,
        1000,
        &ours,
    )];
    if !extent.is_quick {
        let title = "64 B, window 100";
        rows.push(row("publish-qos1-64-w100", title, 1, 64, 100, &ours));
        let title = "256 B, window 1,000";
        rows.push(row("publish-qos1-256-w1000", title, 1, 256, 1000, &ours));
    }
    Section {
        id: "publish-qos1",
        title: "Publish, one link, QoS 1",
        question: "How many acknowledged messages a second does one link publish?",
        peer: SINK,
        compared: "Each client with as many messages in flight as the window says. paquebot in batches of 256, each \
                   receipt awaited; ntex-mqtt with its callback; mqtt5 with as many callers as the window has places, \
                   since its call returns with the acknowledgement.",
        rows,
        rounds: extent.rounds(),
        has_rows_as_lines: false,
    }
}

fn row(id: &str, title: &str, qos: u8, payload_len: usize, window: u16, ours: &[Client]) -> Row {
    let task = Task::Publish(Publish {
        qos,
        payload_len,
        window,
    });
    let mut who = OTHERS.to_vec();
    who.extend_from_slice(ours);
    messages(id, title, task, &who)
}
