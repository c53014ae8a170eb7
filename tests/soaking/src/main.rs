//! Faults for long: each subcommand is one fault, done again and again to links that publish to a Mosquitto, and judged
//! by a `mosquitto_sub`. It prints one line of JSON and ends with 0 if every promise was kept, 1 if one was broken, 2 if
//! it could not be run. `tests/soak` builds and starts it.

#![expect(
    clippy::unwrap_used,
    reason = "whatever goes wrong ends the run as failed, with the reason on stderr"
)]

use std::process::ExitCode;
use std::time::Duration;

use paquebot::mqtt::Version;
use paquebot::{Durability, Overflow};
use serde_json::json;

#[path = "../../support/support.rs"]
mod support;

#[path = "../../faults/breaks.rs"]
mod breaks;
#[path = "../../faults/confined.rs"]
mod confined;
#[path = "../../faults/course.rs"]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "tests assert what is printed here")
)]
mod course;
#[path = "../../faults/cuts.rs"]
mod cuts;
#[path = "../../faults/garbled.rs"]
mod garbled;
#[path = "../../faults/partition.rs"]
mod partition;
#[path = "../../faults/pressure.rs"]
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "a lost session with a full window is not a matter of time"
    )
)]
mod pressure;
#[path = "../../faults/silence.rs"]
mod silence;

mod arguments;
mod child;
mod clock;
mod credentials;
mod kill;
mod memory;
mod merge;
mod publisher;
mod restart;
mod storm;

use arguments::Arguments;
use course::Findings;
use support::client::off_the_runtime;
use support::mosquitto::{Mosquitto, Persistence};
use support::network::Way;
use support::server::find_broker;

const HELP: &str = "\
Faults for long, judged by a Mosquitto and a mosquitto_sub. One line of JSON tells what came of it: the seed, the terms
of the equation, what the judge says of each QoS, durations, and the verdict. Status: 0 pass, 1 fail, 2 not run.

usage: tests/soak RUN [--OPTION VALUE]...

  cuts         a scripted session cut at every byte, either way, by FIN and RST       --rounds 3
  breaks       breaks at random bytes while a link publishes       --rounds 20 --breaks 100 --messages 10000
  silence      black holes of three keep alives, one way, both ways, half open        --keep-alive 10
  partition    a server in a network namespace that is cut off                --seconds 30 --links 20
  restart      the broker dies and comes back under load     --runs 50 --persistence on|off --rate 2000
  storm        the broker dies for a while, and everybody comes back at once     --links 5000 --down 30
  credentials  refused credentials                                                --minutes 10 --links 20
  clock        a process that sleeps, and wall clocks that jump (with libfaketime)             --runs 10
  hostile      inverted bits in all that both sides send                                   --seconds 60
  slow         a server that reads 1 KiB a second                                          --seconds 60
  memory       a server that reads nothing: resident memory stays flat                    --seconds 600
  confined     a process with little memory is offered more messages than that, its server away, each policy: it lives
               behind the bounds of its fleet, and is killed without            --messages 1000000 --memory-mib 128
  kill         kill -9 of a process that publishes; runs of each durability unless one is named
                                                --runs 500 --durability process|disk|memory --rate 2000

Every run takes --seed N; without it chance chooses one, which is printed. cuts, breaks and the like run for MQTT 3.1.1
and 5 unless --version says which.";

#[tokio::main]
async fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let run = words.next().unwrap_or_default();
    if matches!(run.as_str(), "" | "-h" | "--help" | "help") {
        println!("{HELP}");
        return ExitCode::from(if run.is_empty() { 2 } else { 0 });
    }
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(error) => return not_run(&error),
    };
    if run == "child" {
        return child::run(&arguments).await;
    }
    if run == "offered" {
        confined::offered(arguments.text("word").unwrap_or_default()).await;
        return ExitCode::SUCCESS;
    }
    if run != "confined" && find_broker("mosquitto").is_none() {
        return not_run("tests/run installs what is missing");
    }
    let name = match checked(&run, &arguments) {
        Ok(name) => name,
        Err(error) => return not_run(&error),
    };
    let seed = match arguments.number("seed", u64::from(fastrand::u32(..))) {
        Ok(seed) => seed,
        Err(error) => return not_run(&error),
    };
    // On a task of its own, so that a panic is a verdict too.
    let outcome = tokio::spawn(async move { perform(name, &arguments, seed).await });
    match outcome.await {
        Ok(Ok(findings)) => {
            println!("{}", findings.to_json());
            ExitCode::from(u8::from(!findings.is_good()))
        }
        Ok(Err(error)) => not_run(&error),
        Err(error) => {
            let broken = [error.to_string()];
            println!(
                "{}",
                json!({ "run": run, "seed": seed, "broken": broken, "verdict": "fail" })
            );
            ExitCode::from(1)
        }
    }
}

fn not_run(error: &str) -> ExitCode {
    eprintln!("not run: {error}; tests/soak --help tells more");
    ExitCode::from(2)
}

/// A broker that keeps whatever it is given; it was looked for before.
async fn mosquitto(persistence: Persistence) -> Option<Mosquitto> {
    let setup = course::broker(persistence);
    off_the_runtime(|| setup.start()).await
}

async fn perform(run: &'static str, arguments: &Arguments, seed: u64) -> Result<Findings, String> {
    let versions = arguments.versions()?;
    let mut all = Findings::new(run, seed);
    match run {
        "cuts" => {
            let rounds = arguments.number("rounds", 3)?;
            for version in each(&versions, rounds) {
                let server = mosquitto(Persistence::Off).await.unwrap();
                all.merge(cuts::course(&server, version, 1).await);
            }
        }
        "breaks" => {
            let rounds = arguments.number("rounds", 20)?;
            let breaks = arguments.number("breaks", 100)?;
            let messages = arguments.number("messages", 10_000)?;
            for (n, version) in each(&versions, rounds).enumerate() {
                let server = mosquitto(Persistence::Off).await.unwrap();
                let measures = breaks::Measures {
                    version,
                    breaks,
                    messages,
                    bytes_max: 2_500,
                    seed: seed.wrapping_add(n as u64),
                };
                all.merge(breaks::course(&server, measures).await);
            }
        }
        "silence" => {
            let keep_alive = arguments.seconds("keep-alive", 10)?;
            for version in versions {
                for silence in [
                    silence::Silence::BothWays,
                    silence::Silence::TowardServer,
                    silence::Silence::TowardClient,
                    silence::Silence::HalfOpen,
                ] {
                    let server = mosquitto(Persistence::Off).await.unwrap();
                    all.merge(silence::course(&server, version, silence, keep_alive).await);
                }
            }
        }
        "partition" => {
            let lasts = arguments.seconds("seconds", 30)?;
            let links = arguments.number("links", 20)?;
            for version in versions {
                for closed in [
                    &[Way::ToServer, Way::ToClient][..],
                    &[Way::ToServer],
                    &[Way::ToClient],
                ] {
                    let measures = partition::Measures {
                        version,
                        links: usize::try_from(links).unwrap(),
                        keep_alive: Duration::from_secs(5),
                        lasts,
                        closed,
                    };
                    let findings = partition::course(measures).await;
                    all.merge(findings.ok_or("no network namespaces here")?);
                }
            }
        }
        "hostile" => {
            let lasts = arguments.seconds("seconds", 60)?;
            for version in versions {
                let server = mosquitto(Persistence::Off).await.unwrap();
                all.merge(garbled::course(&server, version, lasts, seed).await);
            }
        }
        "slow" => {
            let lasts = arguments.seconds("seconds", 60)?;
            for version in versions {
                let server = mosquitto(Persistence::Off).await.unwrap();
                all.merge(pressure::slow_reader(&server, version, lasts).await);
            }
        }
        "restart" => restart::course(&mut all, arguments, &versions).await?,
        "storm" => storm::course(&mut all, arguments, versions[0]).await?,
        "credentials" => credentials::course(&mut all, arguments, versions[0]).await?,
        "memory" => memory::course(&mut all, arguments, versions[0]).await?,
        "clock" => clock::course(&mut all, arguments, versions[0]).await?,
        "confined" => confine(&mut all, arguments).await?,
        "kill" => kill::course(&mut all, arguments, &versions).await?,
        other => return Err(format!("there is no run {other:?}")),
    }
    Ok(all)
}

/// Each policy and durability within the bounds, and none without.
async fn confine(all: &mut Findings, arguments: &Arguments) -> Result<(), String> {
    let messages = arguments.number("messages", 1_000_000)?;
    let memory_bytes = arguments.number("memory-mib", 128)? * 1024 * 1024;
    let bytes_max = usize::try_from(memory_bytes / 4).ok();
    let (memory, process) = (Durability::Memory, Durability::Process);
    for (overflow, durability, bytes_max) in [
        (Overflow::Reject, memory, None),
        (Overflow::Wait, memory, bytes_max),
        (Overflow::Wait, Durability::Disk, bytes_max),
        (Overflow::Reject, memory, bytes_max),
        (Overflow::Reject, process, bytes_max),
        (Overflow::DropNewest, memory, bytes_max),
        (Overflow::DropOldest, memory, bytes_max),
        (Overflow::DropOldest, process, bytes_max),
    ] {
        let offer = confined::Offer {
            overflow,
            durability,
            messages,
            bytes_max,
        };
        let findings = confined::course(offer, memory_bytes, |command, word| {
            let program = std::env::current_exe().unwrap();
            command.arg(program).args(["offered", "--word"]).arg(word);
        });
        all.merge(findings.await);
    }
    Ok(())
}

/// The versions in turn, so many rounds of them.
fn each(versions: &[Version], rounds: u64) -> impl Iterator<Item = Version> {
    (0..rounds).flat_map(|_| versions.iter().copied())
}

/// The runs, and the options of each beside `--seed`.
const RUNS: [(&str, &[&str]); 13] = [
    ("cuts", &["version", "rounds"]),
    ("breaks", &["version", "rounds", "breaks", "messages"]),
    ("silence", &["version", "keep-alive"]),
    ("partition", &["version", "seconds", "links"]),
    ("restart", &["version", "runs", "persistence", "rate"]),
    ("storm", &["version", "links", "down"]),
    ("credentials", &["version", "minutes", "links"]),
    ("clock", &["version", "runs", "rate"]),
    ("hostile", &["version", "seconds"]),
    ("slow", &["version", "seconds"]),
    ("memory", &["version", "seconds"]),
    ("confined", &["messages", "memory-mib"]),
    ("kill", &["version", "runs", "durability", "rate"]),
];

/// The name of a run whose options are all known.
fn checked(run: &str, arguments: &Arguments) -> Result<&'static str, String> {
    let known = RUNS.iter().find(|(name, _)| *name == run);
    let (name, options) = known.ok_or_else(|| format!("there is no run {run:?}"))?;
    arguments.only(&[&["seed"], *options].concat())?;
    Ok(name)
}
