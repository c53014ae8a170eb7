//! Question: what does a link cost when there are many of them? Memory while idle, time to connect, time for one
//! message on each in turn, and whether a message costs more the more links there are.
//!
//! Command: `cargo bench --bench links -- [--only idle,tls,turn,growth] [--links N] [--tls-links N]
//! [--turn-links N] [--growth N,N,…] [--rounds N]`
//!
//! Comparison: what a program without a library would do on the same machine in the same minute. Idle and connect: one
//! tokio task for each connection that sends CONNECT, reads CONNACK and waits. In turn: one `write` for each message.
//! Growth: the same row with the fewest links.
//!
//! Every row runs in a process of its own, so that no row finds memory that another left, against a server that
//! does nothing but answer, in a process of its own as well. CPU time is that of all threads of the measuring process;
//! the growth row leaves out the thread of its server, which is in the same process. Quote the ratios: absolute
//! figures do not hold between machines. The server listens on several loopback addresses, since a connect
//! gets slow when half of the ports towards one address are taken.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench that cannot run measures nothing"
)]

mod ours;
mod peer;
mod process;
mod raw;
mod wire;

use std::collections::BTreeMap;

use process::{Figures, measure};

/// How many of what.
struct Plan {
    only: Vec<String>,
    links: usize,
    tls_links: usize,
    turn_links: usize,
    growth: Vec<usize>,
    rounds: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match arguments.first().map(String::as_str) {
        Some("peer") => peer::run(&arguments[1..]),
        Some("measure") => run_measure(&arguments[1..]),
        _ => compare(&Plan::parse(&arguments)),
    }
}

/// One row, as the child process that measures it.
fn run_measure(arguments: &[String]) {
    let [what, links, addresses @ ..] = arguments else {
        panic!("measure <row> <links> <addresses>");
    };
    let links: usize = links.parse().unwrap();
    let figures = match what.as_str() {
        "idle-raw" => raw::idle(links, addresses, None),
        "idle-ours" => ours::idle(links, addresses, None, false),
        "idle-commands" => ours::idle(links, addresses, None, true),
        "tls-raw" => raw::idle(links, &addresses[1..], Some(&addresses[0])),
        "tls-ours" => ours::idle(links, &addresses[1..], Some(&addresses[0]), false),
        "turn-raw" => raw::turn(links, addresses),
        "turn-ours" => ours::turn(links, addresses),
        "turn-beside" => ours::turn_beside(links, addresses),
        "turn-one" => ours::turn_one(links, addresses),
        "growth" => ours::growth(links),
        other => panic!("no row {other}"),
    };
    figures.print();
}

impl Plan {
    fn parse(arguments: &[String]) -> Self {
        let mut plan = Self {
            only: Vec::new(),
            links: 5_000,
            tls_links: 1_000,
            turn_links: 10_000,
            growth: vec![10, 1_000, 10_000],
            rounds: 3,
        };
        for pair in arguments.chunks(2) {
            let [flag, value] = pair else {
                panic!("{} wants a value", pair[0]);
            };
            let number = || value.parse().unwrap();
            match flag.as_str() {
                "--only" => plan.only = value.split(',').map(str::to_owned).collect(),
                "--links" => plan.links = number(),
                "--tls-links" => plan.tls_links = number(),
                "--turn-links" => plan.turn_links = number(),
                "--growth" => {
                    plan.growth = value.split(',').map(|n| n.parse().unwrap()).collect();
                }
                "--rounds" => plan.rounds = number(),
                other => panic!("no flag {other}"),
            }
        }
        plan
    }

    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == row)
    }
}

fn compare(plan: &Plan) {
    let server = peer::Server::start();
    if plan.wants("idle") {
        println!("idle over TCP, {} links", plan.links);
        let rows = ["idle-raw", "idle-ours", "idle-commands"];
        let figures = rounds(plan, &rows, plan.links, &server.tcp);
        print_idle(&figures, &rows);
    }
    if plan.wants("tls") {
        println!("idle over TLS, {} links", plan.tls_links);
        let rows = ["tls-raw", "tls-ours"];
        let figures = rounds(plan, &rows, plan.tls_links, &server.tls);
        print_idle(&figures, &rows);
    }
    if plan.wants("turn") {
        println!("one message on each of {} links in turn", plan.turn_links);
        let rows = ["turn-raw", "turn-one", "turn-beside", "turn-ours"];
        let figures = rounds(plan, &rows, plan.turn_links, &server.tcp);
        let raw = figures["turn-raw"].median("cpu_ns");
        for row in rows {
            let figures = &figures[row];
            println!(
                "  {row:14} {:7.0} ns CPU, {:7.0} ns wall a message; {:+7.0} ns CPU to raw, raw/this {:.2}",
                figures.median("cpu_ns"),
                figures.median("wall_ns"),
                figures.median("cpu_ns") - raw,
                raw / figures.median("cpu_ns"),
            );
        }
    }
    if plan.wants("growth") {
        println!("one message on each link in turn over the in-memory pipe");
        let mut least = None;
        for &links in &plan.growth {
            let figures = rounds(plan, &["growth"], links, &[]);
            let nanoseconds = figures["growth"].median("cpu_ns");
            let least = *least.get_or_insert(nanoseconds);
            println!(
                "  {links:7} links {nanoseconds:7.0} ns CPU, {:7.0} ns wall a message; x {:.2}; {:.2} KiB a link",
                figures["growth"].median("wall_ns"),
                nanoseconds / least,
                figures["growth"].median("kib"),
            );
        }
    }
}

/// Measures the rows in turn, so that what else the machine does falls on all of them.
fn rounds(
    plan: &Plan,
    rows: &[&'static str],
    links: usize,
    addresses: &[String],
) -> BTreeMap<&'static str, Figures> {
    let mut all: BTreeMap<&'static str, Figures> = BTreeMap::new();
    for _ in 0..plan.rounds {
        for row in rows {
            all.entry(row)
                .or_default()
                .extend(measure(row, links, addresses));
        }
    }
    all
}

fn print_idle(figures: &BTreeMap<&'static str, Figures>, rows: &[&'static str]) {
    let raw = &figures[rows[0]];
    for row in rows {
        let figures = &figures[row];
        println!(
            "  {row:14} {:6.2} KiB a link; {:6.0} connects/s (x {:.2} of raw), {:4.0} us CPU each (x {:.2})",
            figures.median("kib"),
            figures.median("connects_s"),
            figures.median("connects_s") / raw.median("connects_s"),
            figures.median("connect_cpu_us"),
            figures.median("connect_cpu_us") / raw.median("connect_cpu_us"),
        );
    }
}
