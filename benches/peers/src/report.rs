//! What a run leaves behind: a page to read, figures to compute with, a picture.

mod fill;
mod json;
mod markdown;
mod plot;

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Failure;
use crate::bench::{Cell, Measured};
use crate::client::{Client, locked};
use crate::machine::Machine;
use crate::measure::{Column, Summary};
use crate::rows::Row;
use crate::work::Timing;

/// A run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The arguments of the program.
    pub(crate) command: String,
    pub(crate) timing: Timing,
    pub(crate) took: Duration,
    pub(crate) measured: Vec<Measured>,
}

impl Report {
    /// Writes `peers.md`, `peers.json` and `peers.svg` into `folder`, the tables into `document`, if there is
    /// one, and the page to standard output.
    pub(crate) fn write(&self, folder: &Path, document: Option<&Path>) -> Result<(), Failure> {
        let page = markdown::page(self);
        fs::create_dir_all(folder)?;
        fs::write(folder.join("peers.md"), &page)?;
        fs::write(folder.join("peers.json"), json::text(self)?)?;
        fs::write(folder.join("peers.svg"), plot::picture(self))?;
        if let Some(document) = document {
            let text = fs::read_to_string(document)?;
            fs::write(document, fill::filled(&text, self)?)?;
        }
        println!("{page}");
        eprintln!("written to {}", folder.display());
        Ok(())
    }

    /// How much of its core the peer had in all measurements, in percent.
    fn peer_share(&self) -> Option<Summary> {
        let cells = self.measured.iter().flat_map(|measured| &measured.cells);
        let samples = cells.flat_map(|cell| &cell.samples);
        let shares = samples.filter_map(|sample| sample.value(Column::PeerShare));
        Summary::of(shares.collect())
    }

    /// Crates and libraries that took part, with their versions.
    fn versions(&self) -> Vec<String> {
        let clients = self.measured.iter().flat_map(|measured| &measured.cells);
        let mut versions: Vec<String> = clients
            .filter_map(|cell| cell.client.version())
            .chain(
                ["tokio", "rustls", "ntex"]
                    .into_iter()
                    .filter_map(|name| Some(format!("{name} {}", locked(name)?))),
            )
            .collect();
        versions.sort();
        versions.dedup();
        versions
    }
}

impl Measured {
    /// The contestants of all rows, each once, in the order of tables.
    fn clients(&self) -> Vec<Client> {
        let mut clients: Vec<Client> = self.cells.iter().map(|cell| cell.client).collect();
        clients.sort();
        clients.dedup();
        clients
    }

    /// All rounds of a contestant in a row, if it took part there.
    fn cell(&self, row: &Row, client: Client) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.row == row.id && cell.client == client)
    }

    /// The median of a figure that stands for paquebot: of its first contestant in the row.
    fn ours(&self, row: &Row, column: Column) -> Option<f64> {
        let ours = self
            .clients()
            .into_iter()
            .find(|client| client.is_ours() && self.cell(row, *client).is_some())?;
        Some(self.cell(row, ours)?.summary(column)?.median)
    }
}
