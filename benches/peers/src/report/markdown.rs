//! The page to read.

use std::fmt::Write as _;

use super::Report;
use crate::bench::Measured;
use crate::client::Client;
use crate::measure::{Column, Summary};
use crate::musts::{ratio, times, verdicts};
use crate::rows::Row;

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let mut page = head(report);
    page.push_str(&requirements(report));
    for measured in &report.measured {
        page.push_str(&section(measured));
    }
    page
}

fn head(report: &Report) -> String {
    let machine = &report.machine;
    let versions = report.versions().join(", ");
    let spans = format!(
        "{:.2} s warm-up, {:.2} s measured",
        report.timing.warm_up.as_secs_f64(),
        report.timing.span.as_secs_f64()
    );
    let cores = if machine.cores < 2 {
        "**This machine has one core: peer and client share it, and the figures say little.** "
    } else {
        ""
    };
    format!(
        "# paquebot beside other MQTT clients\n\n\
         - machine: {} cores of {}, {:.0} GiB, Linux {}, {} open files a process\n\
         - built with: {}, opt-level 3, thin LTO, one codegen unit\n\
         - versions: {versions}\n\
         - command: `cargo run --release --manifest-path benches/peers/Cargo.toml -- {}` ({:.0} s)\n\n\
         Every contestant is a process of its own on core {}, its peer is on core {}; {spans} each. {cores}Contestants \
         take turns, round after round, so that what disturbs the machine disturbs all of them alike; a figure is the \
         median of its rounds with the least and the most of them. Rates are counted by the peer. Compare within a \
         table: the ratios hold between machines far better than the figures do. Loopback makes a write dear (it runs \
         the receiver's half of TCP too), so a client that writes once for each message looks worse here than on a \
         network card. `paquebot = 1` tells how good the line's first figure is beside paquebot's: 0.1× is a tenth of \
         it.\n\n",
        machine.cores,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        machine.open_files_max,
        machine.compiler,
        report.command,
        report.took.as_secs_f64(),
        crate::machine::CLIENT_CORE,
        crate::machine::PEER_CORE,
    )
}

fn requirements(report: &Report) -> String {
    let verdicts = verdicts(&report.measured);
    let met = verdicts.iter().filter(|verdict| verdict.is_met).count();
    let mut text = format!(
        "## What is required\n\n{met} of {} requirements that this run measured are met.\n\n\
         | | required | wanted | measured | |\n|---|---|---|---|---|\n",
        verdicts.len()
    );
    for verdict in verdicts {
        let wanted = verdict.wanted.unwrap_or_default();
        let sign = if verdict.is_met { "pass" } else { "**FAIL**" };
        // A string takes all that is written to it.
        let _ = writeln!(
            text,
            "| {} | {} | {wanted} | {} | {sign} |",
            verdict.subject, verdict.required, verdict.measured
        );
    }
    text.push('\n');
    text
}

fn section(measured: &Measured) -> String {
    let section = &measured.section;
    let mut text = format!(
        "## {}\n\n{}\n\n- peer: {}\n- compared: {}\n- rounds: {}; `--only {}`\n\n",
        section.title,
        section.question,
        section.peer,
        section.compared,
        section.rounds,
        section.id
    );
    text.push_str("| client |");
    for row in &section.rows {
        for (index, column) in row.columns.iter().enumerate() {
            let _ = write!(text, " {}: {} |", row.title, column.title());
            if index == 0 && is_compared(row) {
                text.push_str(" paquebot = 1 |");
            }
        }
    }
    text.push_str("\n|---|");
    let columns = |row: &Row| row.columns.len() + usize::from(is_compared(row));
    text.push_str(&"---|".repeat(section.rows.iter().map(columns).sum()));
    text.push('\n');
    for client in measured.clients() {
        let name = if client.is_ours() {
            format!("**{}**", client.title())
        } else {
            client.title().to_owned()
        };
        let _ = write!(text, "| {name} |");
        for row in &section.rows {
            text.push_str(&cells(measured, row, client));
        }
        text.push('\n');
    }
    text.push('\n');
    for cell in measured.cells.iter().filter(|cell| cell.failure.is_some()) {
        let failure = cell.failure.as_deref().unwrap_or_default();
        let _ = writeln!(
            text,
            "- {} failed in `{}`: {failure}\n",
            cell.client.title(),
            cell.row
        );
    }
    text
}

/// Whether paquebot and somebody else take part.
fn is_compared(row: &Row) -> bool {
    row.contestants.len() > 1 && row.contestants.iter().any(|client| client.is_ours())
}

/// The cells of a contestant under one row's heads.
fn cells(measured: &Measured, row: &Row, client: Client) -> String {
    let mut text = String::new();
    for (index, column) in row.columns.iter().enumerate() {
        let cell = measured.cell(row, client);
        let summary = cell.and_then(|cell| cell.summary(*column));
        text.push_str(&match (summary, cell) {
            (Some(summary), _) => format!(" {} |", figure(*column, summary)),
            (None, Some(cell)) if cell.failure.is_some() => " failed |".to_owned(),
            _ => " |".to_owned(),
        });
        if index == 0 && is_compared(row) {
            let theirs = summary.zip(measured.ours(row));
            let times = theirs.map(|(theirs, ours)| times(ratio(*column, theirs.median, ours)));
            text.push_str(&format!(" {} |", times.unwrap_or_default()));
        }
    }
    text
}

fn figure(column: Column, summary: Summary) -> String {
    let number = |value: f64| match column {
        Column::Encode | Column::Decode | Column::Memory | Column::ConnectCpu | Column::Lost => {
            format!("{value:.1}")
        }
        Column::Rate | Column::Cpu | Column::Connects => grouped(value),
    };
    let (median, min, max) = (summary.median, summary.min, summary.max);
    if max - min < 0.05 {
        return number(median);
    }
    format!("{} [{}..{}]", number(median), number(min), number(max))
}

/// A whole number with thin groups of thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_stand_in_groups() {
        assert_eq!(grouped(7.4), "7");
        assert_eq!(grouped(999.6), "1\u{202f}000");
        assert_eq!(grouped(1_234_567.0), "1\u{202f}234\u{202f}567");
    }
}
