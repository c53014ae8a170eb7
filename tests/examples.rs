//! The examples run, and say what they are there to show.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::path::PathBuf;
use std::process::Command;

/// What an example prints; it was built with the tests.
fn output_of(name: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let target = program.parent().and_then(|deps| deps.parent()).unwrap();
    let example: PathBuf = target.join("examples").join(name);
    let output = Command::new(&example).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{name}: {text}");
    text
}

#[test]
fn the_thermostat_measures_obeys_and_answers() {
    let text = output_of("thermostat");
    for line in [
        r#"application: thermostat-1 says [["celsius",21.5]]"#,
        "application: thermostat-1 answers request-1 with ok: blinking",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn the_gateway_speaks_for_its_children() {
    let text = output_of("gateway");
    assert!(
        text.contains("100 of 100 sensors delivered over one session"),
        "{text}"
    );
}

#[test]
fn a_dialect_from_outside_works() {
    let text = output_of("own_dialect");
    for line in ["up/d1: 23.5", "up/d1: did open the valve"] {
        assert!(text.contains(line), "{text}");
    }
}
