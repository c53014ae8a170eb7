//! The figures, to compute with.

use serde::Serialize;

use super::Report;
use crate::Failure;
use crate::machine::Machine;
use crate::measure::{Column, Summary};
use crate::musts::{Verdict, verdicts};

#[derive(Debug, Serialize)]
struct Run<'a> {
    machine: &'a Machine,
    versions: Vec<String>,
    arguments: &'a str,
    seconds: f64,
    peer_share: Option<Summary>,
    requirements: Vec<Verdict>,
    figures: Vec<Figure<'a>>,
}

#[derive(Debug, Serialize)]
struct Figure<'a> {
    section: &'a str,
    row: &'a str,
    client: &'static str,
    column: Column,
    unit: &'static str,
    summary: Option<Summary>,
    /// Every round, in turn.
    rounds: Vec<f64>,
    failures: &'a [String],
}

/// The run as JSON.
pub(super) fn text(report: &Report) -> Result<String, Failure> {
    let mut figures = Vec::new();
    for measured in &report.measured {
        for row in &measured.section.rows {
            let cells = measured.cells.iter().filter(|cell| cell.row == row.id);
            for (cell, column) in cells.flat_map(|cell| row.columns.iter().map(move |c| (cell, *c)))
            {
                let samples = cell.samples.iter();
                figures.push(Figure {
                    section: measured.section.id,
                    row: &row.id,
                    client: cell.client.id(),
                    column,
                    unit: column.title(),
                    summary: cell.summary(column),
                    rounds: samples.filter_map(|sample| sample.value(column)).collect(),
                    failures: &cell.failures,
                });
            }
        }
    }
    let run = Run {
        machine: &report.machine,
        versions: report.versions(),
        arguments: &report.command,
        seconds: report.took.as_secs_f64(),
        peer_share: report.peer_share(),
        requirements: verdicts(&report.measured),
        figures,
    };
    Ok(serde_json::to_string_pretty(&run)?)
}
