//! `paquebot demo`: everything on this machine, nobody lost, everything accounted for.
#![cfg(feature = "cli")]

use std::time::Duration;

#[path = "support/support.rs"]
mod support;

use support::program::{Program, assert_accounted_for};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_short_demo_brings_all_devices_online_and_accounts_for_every_message() {
    for version in ["3.1.1", "5"] {
        let arguments = ["demo", "--devices", "100", "--duration", "3s", "--json"];
        let program = Program::start(arguments.into_iter().chain(["--version", version]));
        let summary = program.finish(LIMIT).summary();
        assert_accounted_for(&summary);
        assert_eq!(summary["devices"], 100);
        assert_eq!(summary["online_peak"], 100, "{summary}");
        assert_eq!(summary["online_at_end"], 100, "{summary}");
        assert!(summary["delivered"].as_u64() > Some(200), "{summary}");
        assert!(summary["commands_answered"].as_u64() > Some(0), "{summary}");
        assert!(summary["duration_s"].as_f64() >= Some(3.0), "{summary}");
        assert_eq!(summary["dropped"], 0, "{summary}");
        assert_eq!(summary["held"], 0, "{summary}");
    }
}

#[test]
fn the_restart_of_the_broker_costs_no_message_and_everybody_comes_back() {
    let arguments = ["demo", "--devices", "200", "--duration", "8s", "--json"];
    let summary = Program::start(arguments).finish(LIMIT).summary();
    assert_accounted_for(&summary);
    assert_eq!(summary["reconnects"], 200, "{summary}");
    assert_eq!(summary["online_at_end"], 200, "{summary}");
    assert_eq!(summary["delivered"], summary["accepted"], "{summary}");
    assert!(
        summary["errors"]["peer_closed"]["count"].as_u64() >= Some(200),
        "{summary}"
    );
    assert_eq!(summary["planned_restarts"], 1, "{summary}");
}

#[test]
fn the_demo_says_where_its_metrics_are_and_sums_up_in_words() {
    let program = Program::start(["demo", "--devices", "5", "--duration", "2s"]);
    let metrics = program.told("metrics", LIMIT);
    assert!(metrics.starts_with("http://127.0.0.1:"), "{metrics}");
    let ended = program.finish(LIMIT);
    assert_eq!(ended.code(), 0, "{ended:#?}");
    // The line works where it is printed, whether the program is on the PATH or not.
    let program = env!("CARGO_BIN_EXE_paquebot");
    let line = format!("{program} sub -h 127.0.0.1");
    assert!(ended.errors.contains(&line), "{ended:#?}");
    assert!(ended.output.contains("demo: 5 devices"), "{ended:#?}");
    assert!(
        ended.output.contains("every message is accounted for"),
        "{ended:#?}"
    );
}

#[test]
fn a_demo_that_cannot_listen_says_so_and_starts_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let ended = Program::start(["demo", "--listen", &address]).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
    assert!(ended.errors.contains(&address), "{ended:#?}");
    assert_eq!(ended.output, "");
    let ended = Program::start(["demo", "--listen", "0.0.0.0:0"]).finish(LIMIT);
    assert_eq!(ended.code(), 2, "{ended:#?}");
    assert!(ended.errors.contains("loopback"), "{ended:#?}");
}
