//! paquebot beside other MQTT clients: one run, one machine, contestants in turn.
//!
//! The program is the peer of every contestant and runs on one core; each contestant is this program once
//! more, as a child process on another core. What is measured stands in [`rows`], who takes part in
//! [`client`], what paquebot has to reach in [`musts`]. `--help` tells the rest.

mod bench;
mod certificates;
mod child;
mod client;
mod clients;
mod contestant;
mod links;
mod machine;
mod measure;
mod musts;
mod options;
mod peer;
mod report;
mod rows;
mod work;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::machine::Machine;
use crate::options::{Command, Options};
use crate::rows::{Extent, Section};
use crate::work::Timing;

/// Why a measurement, or the run, came to nothing; the text says it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let result = if arguments
        .next_if(|name| name == child::SUBCOMMAND)
        .is_some()
    {
        contestant::run(&arguments.next().unwrap_or_default())
    } else {
        run(arguments)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Result<(), Failure> {
    let links_max = usize::try_from(machine::raise_open_files())?;
    let known = rows::all(Extent {
        is_quick: false,
        links_max,
    });
    let names: Vec<_> = known.iter().map(|section| section.id).collect();
    match Command::parse(arguments, &names)? {
        Command::Help => {
            let rows = known.iter().map(|section| (section.id, section.title));
            print!("{}", options::help(&rows.collect::<Vec<_>>()));
            Ok(())
        }
        Command::Measure(options) => measure(&options, links_max),
    }
}

fn measure(options: &Options, links_max: usize) -> Result<(), Failure> {
    let start = Instant::now();
    let extent = Extent {
        is_quick: options.is_quick,
        links_max,
    };
    if links_max < 19_000 {
        eprintln!(
            "this process may open files for {links_max} links only, so rows with more are scaled down; \
             `ulimit -Hn 20000 && ulimit -n 20000` as root before it helps"
        );
    }
    let machine = Machine::here();
    machine::pin(machine::PEER_CORE);
    let bench = Bench::new(timing(options.is_quick))?;
    let sections = rows::all(extent)
        .into_iter()
        .filter_map(|section| chosen(section, options));
    let measured: Vec<_> = sections.map(|section| bench.measure(section)).collect();
    let report = report::Report {
        machine,
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        timing: timing(options.is_quick),
        took: start.elapsed(),
        measured,
    };
    report.write(&options.out, options.fill.as_deref())
}

fn timing(is_quick: bool) -> Timing {
    if is_quick {
        Timing {
            warm_up: Duration::from_millis(150),
            span: Duration::from_millis(350),
        }
    } else {
        Timing {
            warm_up: Duration::from_millis(300),
            span: Duration::from_millis(1000),
        }
    }
}

/// The section with what the command line leaves of it.
fn chosen(mut section: Section, options: &Options) -> Option<Section> {
    if !options.only.is_empty() && !options.only.iter().any(|id| id == section.id) {
        return None;
    }
    for row in &mut section.rows {
        row.contestants.retain(|client| {
            let is_chosen = options.clients.is_empty() || options.clients.contains(client);
            is_chosen && client.is_built()
        });
    }
    section.rows.retain(|row| !row.contestants.is_empty());
    (!section.rows.is_empty()).then_some(section)
}
