//! The child's side: one contestant, one task, on a core of its own.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::measure::Sample;
use crate::work::Work;
use crate::{Failure, clients, machine};

/// Messages that the user's handler has seen.
static HANDLED: AtomicU64 = AtomicU64::new(0);

/// A task that goes on until the parent kills it.
pub(crate) type Endless = Result<Infallible, Failure>;

/// Does what the parent asks for in `work`.
pub(crate) fn run(work: &str) -> Result<(), Failure> {
    let work: Work = serde_json::from_str(work)?;
    machine::pin(machine::CLIENT_CORE);
    std::thread::Builder::new()
        .name("tally".to_owned())
        .stack_size(64 << 10)
        .spawn(answer_tallies)?;
    clients::run(&work)
}

/// Counts one message in a user's handler. One thread calls it.
pub(crate) fn handled() {
    HANDLED.store(HANDLED.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Tells the parent the figures of this contestant.
pub(crate) fn report(sample: &Sample) -> Result<(), Failure> {
    say(&serde_json::to_string(sample)?)
}

/// The parent asks with a line and ends by killing; without a parent there is nothing to do either.
fn answer_tallies() {
    for _ in std::io::stdin().lines().map_while(Result::ok) {
        if say(&HANDLED.load(Ordering::Relaxed).to_string()).is_err() {
            break;
        }
    }
    std::process::exit(0);
}

fn say(line: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}
