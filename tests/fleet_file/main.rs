//! What the fleet file promises: every mistake at once, each with its place; overrides; a complete plan.
#![cfg(feature = "cli")]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "the functions that tests share are outside of the test functions that the lints spare"
)]

use std::path::Path;

use paquebot::fleet_file::{FleetFileError, FleetPlan, Overrides, Place, Problem, ProblemKind};

mod arbitrary;
mod aws;
mod credentials;
mod mistakes;
mod overrides;
mod plans;
mod proxy;

/// The smallest file that is a fleet; tests append to it or change it.
const GOOD: &str = r#"
[platforms.local]
kind = "mqtt"
endpoint = "mqtt://127.0.0.1:1883"
[models.meter]
interval = "30s"
payload = '{"i":{{index}}}'
[[groups]]
name = "lab"
platform = "local"
model = "meter"
count = 10
id = "lab-{{index:06}}"
"#;

fn parse_in(dir: &Path, text: &str, overrides: &Overrides) -> Result<FleetPlan, Vec<Problem>> {
    match FleetPlan::parse("fleet.toml", text.as_bytes(), dir, overrides) {
        Ok(plan) => Ok(plan),
        Err(FleetFileError::Invalid(problems)) => {
            assert!(!problems.is_empty());
            Err(problems)
        }
        Err(other) => panic!("{other}"),
    }
}

fn parse(text: &str) -> Result<FleetPlan, Vec<Problem>> {
    parse_in(Path::new(""), text, &Overrides::none())
}

fn plan(text: &str) -> FleetPlan {
    parse(text).unwrap_or_else(|problems| panic!("{}", shown(&problems).join("\n")))
}

fn shown(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// All mistakes of a text, as printed.
fn mistakes(text: &str) -> Vec<String> {
    shown(&parse(text).expect_err("the text has mistakes"))
}

/// The only mistake of a text: its kind, its printed form, and the letters of the text at its place.
fn mistake(text: &str) -> (ProblemKind, String, &str) {
    let problems = parse(text).expect_err("the text has a mistake");
    assert_eq!(problems.len(), 1, "{:#?}", shown(&problems));
    let Place::Text { line, column, .. } = problems[0].place() else {
        panic!("{}", problems[0]);
    };
    let line = text.lines().nth(line - 1).unwrap_or("");
    let at = line
        .char_indices()
        .nth(column - 1)
        .map_or("", |(at, _)| &line[at..]);
    (problems[0].kind(), problems[0].to_string(), at)
}

/// `GOOD` with one piece of text replaced.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    GOOD.replacen(old, new, 1)
}

/// `GOOD` with lines put into one of its tables.
fn with_line(table: &str, line: &str) -> String {
    with(table, &format!("{table}\n{line}"))
}
