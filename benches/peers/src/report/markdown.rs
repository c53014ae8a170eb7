//! The page to read.

use std::fmt::Write as _;

use super::Report;
use crate::bench::{Cell, Measured};
use crate::measure::{Column, Summary};
use crate::musts::{ratio, times, verdicts};
use crate::rows::Row;

/// A peer that has less of its core shares it with something else.
const QUIET_PERCENT: f64 = 90.0;

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
    let spans = format!(
        "{:.2} s warm-up, {:.2} s measured",
        report.timing.warm_up.as_secs_f64(),
        report.timing.span.as_secs_f64()
    );
    format!(
        "# paquebot beside other MQTT clients\n\n{}\
         Every contestant is a process of its own on core {}, its peer is on core {}; {spans} each. Contestants \
         take turns, round after round, so that what disturbs the machine disturbs all of them alike; a figure is the \
         median of its rounds [least..most]. Rates are counted by the peer. Compare within a \
         table: the ratios hold between machines far better than the figures do. Loopback makes a write dear (it runs \
         the receiver's half of TCP too), so a client that writes once for each message looks worse here than on a \
         network card. `paquebot = 1` tells how good a line is beside paquebot: at 0.1× it is a tenth as good.\n\n",
        machine(report),
        crate::machine::CLIENT_CORE,
        crate::machine::PEER_CORE,
    )
}

/// Machine, versions and command.
pub(super) fn machine(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "- machine: {} cores of {}, {:.0} GiB, Linux {}, {} open files a process\n\
         - built with: {}, opt-level 3, thin LTO, one codegen unit\n\
         - versions: {}\n\
         - command: `cargo run --release --manifest-path benches/peers/Cargo.toml -- {}` ({:.0} s)\n\
         - quiet: {}\n\n",
        machine.cores,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        machine.open_files_max,
        machine.compiler,
        report.versions().join(", "),
        report.command,
        report.took.as_secs_f64(),
        quiet(report),
    )
}

/// What there is to say about the machine's peace.
fn quiet(report: &Report) -> String {
    if report.machine.cores < 2 {
        return "**This machine has one core: peer and client share it, and the figures say little.**".into();
    }
    let Some(share) = report.peer_share() else {
        return "not told, no row had a spinning peer".into();
    };
    let mut text = format!(
        "the peer had its core for {:.0} % [{:.0}..{:.0}] of the measured time",
        share.median, share.min, share.max
    );
    if share.median < QUIET_PERCENT {
        text.push_str(
            ". **Something else ran: rates are too low, and clients that write once for each message look too \
             good, since a peer that is kept from reading makes the kernel gather their writes; a client with more \
             threads gets more of the core it shares. Trust the CPU time.**",
        );
    }
    text
}

fn requirements(report: &Report) -> String {
    format!("## What is required\n\n{}", required(report))
}

/// Every requirement and whether it is met.
pub(super) fn required(report: &Report) -> String {
    let verdicts = verdicts(&report.measured);
    let met = verdicts.iter().filter(|verdict| verdict.is_met).count();
    let mut text = format!(
        "{met} of {} requirements that this run measured are met. *By CPU* is the same \
         ratio of the client's CPU time a message or a connect, which a busy machine disturbs less. *Raw reaches* is what \
         the row's bare sockets reach against the same client, behind a channel where the row has that, and against \
         themselves where paquebot is held against itself in another row: a requirement beyond it is out of \
         reach of whoever pays what they pay.\n\n\
         | | required | wanted | measured | | by CPU | raw reaches |\n|---|---|---|---|---|---|---|\n",
        verdicts.len()
    );
    for verdict in verdicts {
        let wanted = verdict.wanted.unwrap_or_default();
        let raw = verdict.raw.unwrap_or_default();
        let by_cpu = verdict.by_cpu.unwrap_or_default();
        let sign = if verdict.is_met { "pass" } else { "**FAIL**" };
        // A string takes all that is written to it.
        let _ = writeln!(
            text,
            "| {} | {} | {wanted} | {} | {sign} | {by_cpu} | {raw} |",
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
        section.title, section.question, section.peer, section.compared, section.rounds, section.id
    );
    text.push_str(&tables(measured));
    text
}

/// The tables of a section, and what failed in it.
pub(super) fn tables(measured: &Measured) -> String {
    let section = &measured.section;
    let mut text = String::new();
    if section.has_rows_as_lines {
        text.push_str(&sizes(measured));
    } else {
        for row in &section.rows {
            text.push_str(&table(measured, row));
        }
    }
    for cell in &measured.cells {
        let Some(last) = cell.failures.last() else {
            continue;
        };
        let _ = writeln!(
            text,
            "- {} failed in `{}`, {} of {} times: {last}\n",
            cell.client.title(),
            cell.row,
            cell.failures.len(),
            cell.failures.len() + cell.samples.len(),
        );
    }
    text
}

/// A row's contestants one below the other.
fn table(measured: &Measured, row: &Row) -> String {
    let is_compared = row.contestants.iter().any(|client| client.is_ours());
    let mut head = format!("| {} |", row.title);
    for column in row.columns {
        let _ = write!(head, " {} |", column.title());
        if is_compared && column.is_compared() {
            head.push_str(" paquebot = 1 |");
        }
    }
    let rule = "---|".repeat(head.matches('|').count() - 1);
    let mut text = format!("{head}\n|{rule}\n");
    for client in measured.clients() {
        let Some(cell) = measured.cell(row, client) else {
            continue;
        };
        let mark = if client.is_ours() { "**" } else { "" };
        let _ = write!(text, "| {mark}{}{mark} |", client.title());
        for column in row.columns {
            let summary = cell.summary(*column);
            let _ = write!(text, " {} |", shown(cell, *column));
            if is_compared && column.is_compared() {
                let both = summary.zip(measured.ours(row, *column));
                let ratio = both.map(|(theirs, ours)| ratio(*column, theirs.median, ours));
                let _ = write!(text, " {} |", ratio.map(times).unwrap_or_default());
            }
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

/// Rows one below the other, contestants side by side.
fn sizes(measured: &Measured) -> String {
    let rows = &measured.section.rows;
    let columns = rows.first().map_or(&[][..], |row| row.columns);
    let mut head = "| |".to_owned();
    for client in measured.clients() {
        for column in columns {
            let _ = write!(head, " {}: {} |", client.title(), column.title());
        }
    }
    let rule = "---|".repeat(head.matches('|').count() - 1);
    let mut text = format!("{head}\n|{rule}\n");
    for row in rows {
        let _ = write!(text, "| {} |", row.title);
        for client in measured.clients() {
            for column in columns {
                let shown = measured.cell(row, client).map(|cell| shown(cell, *column));
                let _ = write!(text, " {} |", shown.unwrap_or_default());
            }
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

/// A figure of a contestant that took part.
fn shown(cell: &Cell, column: Column) -> String {
    let summary = cell.summary(column);
    summary.map_or("failed".to_owned(), |summary| figure(column, summary))
}

fn figure(column: Column, summary: Summary) -> String {
    let number = |value: f64| match column {
        Column::Encode
        | Column::Decode
        | Column::Memory
        | Column::ConnectCpu
        | Column::Lost
        | Column::PeerShare => {
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
