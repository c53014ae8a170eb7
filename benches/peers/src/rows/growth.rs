//! The cost of a message as the fleet grows.

use super::turns::thousands;
use super::{Extent, Row, Section, messages};
use crate::client::Client;
use crate::measure::Column;
use crate::work::Task;

/// Messages under way at once: as many as the smallest fleet has links, so that all sizes work alike.
const OUTSTANDING: usize = 10;

pub(super) fn section(extent: Extent) -> Section {
    let pipes = [10, 1000, 10_000, 100_000];
    let sockets = [10, 1000, extent.links(10_000)];
    let mut rows: Vec<Row> = sockets.into_iter().map(socket).collect();
    rows.extend(pipes.into_iter().map(pipe));
    Section {
        id: "growth",
        title: "Cost of a message as the fleet grows, QoS 0, 64 B",
        question: "Does a message cost more because there are more links that have nothing to do with it?",
        peer: "over TCP the event loop of many links. Over pipes a task a link on a thread and core of its own in the \
               same process, which never sleeps; its CPU time is taken off the client's",
        compared: "paquebot with itself: one message on each link in turn, never more than 10 under way, so that no size \
                   gathers more into a write or a turn than another. One write to each bare socket or pipe in turn \
                   beside it: more of them are more memory to the kernel, or to the pipes, too.",
        rows,
        rounds: extent.few_rounds().max(2),
        has_rows_as_lines: true,
    }
}

fn socket(links: usize) -> Row {
    let task = Task::Turns {
        links,
        outstanding: OUTSTANDING,
    };
    let title = format!("TCP, {}", thousands(links));
    Row {
        columns: &[Column::Cpu],
        ..messages(
            format!("growth-tcp-{links}"),
            title,
            task,
            &[Client::RawWriteEach, Client::Paquebot],
        )
    }
}

fn pipe(links: usize) -> Row {
    let task = Task::Pipes {
        links,
        outstanding: OUTSTANDING,
    };
    let title = format!("pipe, {}", thousands(links));
    Row {
        columns: &[Column::Cpu],
        ..messages(
            format!("growth-pipe-{links}"),
            title,
            task,
            &[Client::RawWriteEach, Client::Paquebot],
        )
    }
}
