//! Publishing over TLS 1.3, beside the same without.

use super::{Extent, Row, Section, messages};
use crate::client::Client;
use crate::work::{Publish, Task};

pub(super) fn section(extent: Extent) -> Section {
    let who = [
        Client::Raw64k,
        Client::RawWriteEach,
        Client::RawChannel,
        Client::PaquebotBatch,
        Client::RumqttcV4,
        Client::RumqttcV4Nodelay,
    ];
    Section {
        id: "tls",
        title: "Publish, one link, over TLS 1.3",
        question: "What is left of the rate when every byte is encrypted?",
        peer: "the same sink behind rustls; a certificate on P-256 from an authority made for the run",
        compared: "The clients that bring rustls with them, all with the same provider (aws-lc-rs), and paquebot and raw \
                   behind a channel once more over TCP in the same turns. ntex-mqtt's TLS is a connector of another \
                   crate and is left out.",
        rows: vec![
            tls("tls-qos0-64", "QoS 0, TLS", 0, &who),
            plain("tls-tcp-qos0-64", "QoS 0, TCP", 0),
            tls("tls-qos1-64-w1000", "QoS 1, TLS", 1, &who),
            plain("tls-tcp-qos1-64-w1000", "QoS 1, TCP", 1),
        ],
        rounds: extent.rounds(),
        has_rows_as_lines: false,
    }
}

fn tls(id: &str, title: &str, qos: u8, who: &[Client]) -> Row {
    Row {
        tls: true,
        ..messages(id, title, task(qos), who)
    }
}

fn plain(id: &str, title: &str, qos: u8) -> Row {
    let who = [Client::RawChannel, Client::PaquebotBatch];
    messages(id, title, task(qos), &who)
}

fn task(qos: u8) -> Task {
    Task::Publish(Publish {
        qos,
        payload_len: 64,
        window: 1000,
    })
}
