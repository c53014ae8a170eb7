//! Many links that have one message each: nothing to batch.

use super::{Extent, Section, messages};
use crate::client::Client;
use crate::work::Task;

/// Messages under way at once, on as many links.
const OUTSTANDING: usize = 1000;

pub(super) fn section(extent: Extent) -> Section {
    let links = extent.links(10_000);
    let task = Task::Turns {
        links,
        outstanding: OUTSTANDING,
    };
    let who = [
        Client::RawWriteEach,
        Client::Paquebot,
        Client::RumqttcV4Nodelay,
    ];
    Section {
        id: "turns",
        title: "Many links, one message each in turn, QoS 0, 64 B",
        question: "What does a client add to the one write that every message needs when no link has two of them?",
        peer: "an event loop on a core of its own that polls without sleeping, reads what is ready and counts",
        compared: "One task that writes to every socket in turn; paquebot, and rumqttc with one event loop a link: each \
                   has every message written before its link gets the next one (1,000 under way at once).",
        rows: vec![messages(
            "turns",
            format!("{} links", thousands(links)),
            task,
            &who,
        )],
        // How fast a process is here depends on where its memory happens to lie.
        rounds: extent.few_rounds().max(4),
        has_rows_as_lines: false,
    }
}

/// A count with a comma between thousands.
pub(super) fn thousands(count: usize) -> String {
    match (count / 1000, count % 1000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn a_count_has_a_comma_between_thousands() {
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1000), "1,000");
        assert_eq!(thousands(19_020), "19,020");
    }
}
