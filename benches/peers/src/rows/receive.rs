//! One link that receives.

use super::{Extent, Row, Section};
use crate::client::Client;
use crate::measure::Column;
use crate::work::Task;

pub(super) fn section(extent: Extent) -> Section {
    Section {
        id: "receive",
        title: "Receive, one link, 64 B",
        question: "How many messages a second reach a user's handler, which looks at topic and payload?",
        peer: "a source on a core of its own that floods. At QoS 0 the messages written count, and afterwards the \
               handler is asked how many it saw (lost %); at QoS 1 at most 1,000 are unacknowledged, and the \
               acknowledgements count",
        compared: "The handler that each client offers; paquebot with a handler on the link's thread, and with a stream of \
                   owned messages on the caller's. The raw sockets walk over the messages where the read left \
                   them, 16 KiB at a time, and acknowledge each read in one write.",
        rows: vec![row("receive-qos0-64", 0), row("receive-qos1-64", 1)],
        rounds: extent.rounds(),
        has_rows_as_lines: false,
    }
}

fn row(id: &str, qos: u8) -> Row {
    Row {
        id: id.to_owned(),
        title: format!("QoS {qos}"),
        task: Task::Receive { qos },
        tls: false,
        rounds_max: usize::MAX,
        columns: &[Column::Rate, Column::Cpu, Column::Lost],
        contestants: vec![
            Client::Raw16k,
            Client::Paquebot,
            Client::PaquebotOwned,
            Client::RumqttcV4,
            Client::RumqttcV5,
            Client::Ntex,
            Client::Mqtt5,
        ],
    }
}
