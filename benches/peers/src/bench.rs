//! The run: every contestant of a section in turn, round after round.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Failure;
use crate::certificates::Certificates;
use crate::child::Child;
use crate::client::Client;
use crate::measure::{Column, Sample, Summary};
use crate::peer::{Crowd, Single, Source};
use crate::rows::{Row, Section};
use crate::work::{Task, Timing, Work};

/// How long a contestant that works without the parent's peer may take.
const ALONE_MAX: Duration = Duration::from_secs(90);

/// Rounds in which a contestant may fail; it is not tried again after that.
const FAILURES_MAX: usize = 2;

/// What all measurements share.
#[derive(Debug)]
pub(crate) struct Bench {
    timing: Timing,
    certificates: Certificates,
    /// Holds the authority's file for as long as contestants read it.
    _folder: TempDir,
}

/// A section with what was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) section: Section,
    /// In the order of the section's rows and of their contestants.
    pub(crate) cells: Vec<Cell>,
}

/// All rounds of one contestant in one row.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) row: String,
    pub(crate) client: Client,
    pub(crate) samples: Vec<Sample>,
    /// What went wrong, round by round.
    pub(crate) failures: Vec<String>,
}

impl Cell {
    /// Whether it fails too often to be tried again; each failure may take many seconds.
    fn is_given_up(&self) -> bool {
        self.failures.len() >= FAILURES_MAX
    }

    /// Median and range of a figure.
    pub(crate) fn summary(&self, column: Column) -> Option<Summary> {
        let values = self
            .samples
            .iter()
            .filter_map(|sample| sample.value(column));
        Summary::of(values.collect())
    }
}

impl Bench {
    /// Makes the certificates.
    pub(crate) fn new(timing: Timing) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        Ok(Self {
            timing,
            certificates: Certificates::make(folder.path())?,
            _folder: folder,
        })
    }

    /// Measures a section; contestants take turns, so that what disturbs the machine disturbs all alike.
    pub(crate) fn measure(&self, section: Section) -> Measured {
        let cells = section.rows.iter().flat_map(|row| {
            row.contestants.iter().map(|client| Cell {
                row: row.id.clone(),
                client: *client,
                samples: Vec::new(),
                failures: Vec::new(),
            })
        });
        let mut cells: Vec<Cell> = cells.collect();
        for round in 0..section.rounds {
            let start = Instant::now();
            // Every other round in the opposite order: whoever comes second may find what the first one warmed.
            if round > 0 {
                cells.reverse();
            }
            for cell in cells.iter_mut().filter(|cell| !cell.is_given_up()) {
                let Some(row) = section.rows.iter().find(|row| row.id == cell.row) else {
                    continue;
                };
                if round >= row.rounds_max {
                    continue;
                }
                match self.measure_once(row, cell.client) {
                    Ok(sample) => cell.samples.push(sample),
                    Err(error) => {
                        eprintln!("{}, {}: {error}", row.id, cell.client.id());
                        cell.failures.push(error.to_string());
                    }
                }
            }
            eprintln!(
                "{}: round {} of {} in {:.1} s",
                section.id,
                round + 1,
                section.rounds,
                start.elapsed().as_secs_f64()
            );
        }
        if section.rounds.is_multiple_of(2) && section.rounds > 0 {
            cells.reverse();
        }
        Measured { section, cells }
    }

    fn measure_once(&self, row: &Row, client: Client) -> Result<Sample, Failure> {
        let tls = row.tls.then(|| self.certificates.server.clone());
        let start = |addresses| {
            Child::start(&Work {
                client,
                task: row.task,
                timing: self.timing,
                addresses,
                ca_file: row.tls.then(|| self.certificates.ca_file.clone()),
            })
        };
        match row.task {
            Task::Codec(_) | Task::Pipes { .. } => start(Vec::new())?.report(ALONE_MAX),
            Task::Publish(_) => {
                let peer = Single::bind(tls)?;
                let mut child = start(vec![peer.address()?])?;
                let sample = peer.sink(&mut child, self.timing);
                sample.map_err(|error| child.explain(error))
            }
            Task::Receive { qos } => {
                let peer = Single::bind(tls)?;
                let mut child = start(vec![peer.address()?])?;
                let source = Source {
                    qos,
                    payload_len: 64,
                };
                let sample = peer.source(source, &mut child, self.timing);
                sample.map_err(|error| child.explain(error))
            }
            Task::Idle { links } | Task::Turns { links, .. } => {
                let mut peer = Crowd::bind(links, tls)?;
                let mut child = start(peer.addresses()?)?;
                let sample = self.measure_links(row.task, links, &mut peer, &mut child);
                sample.map_err(|error| child.explain(error))
            }
        }
    }

    fn measure_links(
        &self,
        task: Task,
        links: usize,
        peer: &mut Crowd,
        child: &mut Child,
    ) -> Result<Sample, Failure> {
        let connects = peer.connects(links, child)?;
        match task {
            Task::Idle { .. } => Ok(connects.and(peer.report(child)?)),
            _ => peer.messages(child, self.timing),
        }
    }
}
