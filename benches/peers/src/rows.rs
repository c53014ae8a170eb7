//! What is measured: one file for each question.

mod codec;
mod connects;
mod growth;
mod publish;
mod receipts;
mod receive;
mod tls;
mod turns;

use crate::client::Client;
use crate::measure::Column;
use crate::work::Task;

/// A question and the measurements that answer it; they take turns with each other.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    /// Its name on the command line.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) question: &'static str,
    /// The other end.
    pub(crate) peer: &'static str,
    /// Who is compared, and how each is used.
    pub(crate) compared: &'static str,
    pub(crate) rows: Vec<Row>,
    /// How often each measurement is repeated.
    pub(crate) rounds: usize,
    /// Whether one table shows all rows: they differ in a size, and few take part.
    pub(crate) has_rows_as_lines: bool,
}

/// One measurement that several contestants make.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) task: Task,
    pub(crate) tls: bool,
    /// Rounds of the section in which it takes part at the most: fewer for what takes long and swings little.
    pub(crate) rounds_max: usize,
    /// What the table shows; the plot shows the first.
    pub(crate) columns: &'static [Column],
    pub(crate) contestants: Vec<Client>,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Less of everything: under three minutes.
    pub(crate) is_quick: bool,
    /// Links that this process may open.
    pub(crate) links_max: usize,
}

impl Extent {
    /// How often a short measurement is repeated.
    pub(crate) const fn rounds(self) -> usize {
        if self.is_quick { 3 } else { 5 }
    }

    /// How often a long one is.
    pub(crate) const fn few_rounds(self) -> usize {
        if self.is_quick { 1 } else { 3 }
    }

    /// As many links as wanted, or as the system allows.
    fn links(self, wanted: usize) -> usize {
        wanted.min(self.links_max)
    }
}

/// All sections in the order of the report.
pub(crate) fn all(extent: Extent) -> Vec<Section> {
    vec![
        codec::section(extent),
        publish::at_most_once(extent),
        publish::at_least_once(extent),
        receipts::section(extent),
        tls::section(extent),
        receive::section(extent),
        turns::section(extent),
        connects::section(extent),
        growth::section(extent),
    ]
}

/// A row whose messages are counted.
fn messages(id: impl Into<String>, title: impl Into<String>, task: Task, who: &[Client]) -> Row {
    Row {
        id: id.into(),
        title: title.into(),
        task,
        tls: false,
        rounds_max: usize::MAX,
        columns: &[Column::Rate, Column::Cpu],
        contestants: who.to_vec(),
    }
}
