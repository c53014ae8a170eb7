//! What may depend on what, and how files are laid out: the rules of the design that manifests and
//! sources show.
#![expect(
    clippy::expect_used,
    reason = "a test that cannot read the repository has failed"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What a package may never name in its manifest, not even for its tests.
const NEVER: [(&str, &[&str]); 3] = [
    (
        "paquebot-protocols",
        &[
            "actix",
            "actix-rt",
            "async-channel",
            "paquebot",
            "paquebot-actors",
            "paquebot-emulator",
            "prometheus",
            "rustls",
            "tokio",
            "tokio-rustls",
            "tokio-util",
        ],
    ),
    ("paquebot-actors", &["paquebot"]),
    (
        "paquebot-emulator",
        &[
            "actix",
            "actix-rt",
            "async-channel",
            "paquebot",
            "paquebot-actors",
            "prometheus",
        ],
    ),
];

/// What a package may name for its tests and benches only.
const TESTS_ONLY: [(&str, &[&str]); 4] = [
    ("paquebot", ORACLES),
    ("paquebot-protocols", ORACLES),
    (
        "paquebot-actors",
        &["mqttrs", "mqtt-protocol-core", "paquebot-emulator"],
    ),
    ("paquebot-emulator", ORACLES),
];

/// The foreign codecs that ours is compared with.
const ORACLES: &[&str] = &["mqttrs", "mqtt-protocol-core"];

/// What cannot come in by way of another crate either: `protocols` has no sockets, threads, clock or
/// randomness.
const NEVER_BELOW_PROTOCOLS: &[&str] = &[
    "actix",
    "async-channel",
    "fastrand",
    "getrandom",
    "mio",
    "prometheus",
    "rand",
    "rustls",
    "socket2",
    "tokio",
];

/// What only the program needs, so that an embedder who takes no default feature does not get it.
const NEVER_IN_THE_EMBEDDERS_BUILD: &[&str] = &[
    "clap",
    "hdrhistogram",
    "indicatif",
    "paquebot-emulator",
    "rcgen",
    "tracing-subscriber",
];

/// Past this many lines of code a file has more than one responsibility.
const CODE_LINES_MAX: usize = 600;

/// The same for a file of tests, which may be one long table of cases.
const TEST_LINES_MAX: usize = 1000;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--locked", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// A dependency as a manifest names it.
#[derive(Debug)]
struct Dependency {
    package: String,
    on: String,
    for_tests_only: bool,
}

/// The packages of the workspace with the paths of their manifests.
fn packages(metadata: &Value) -> Vec<(String, PathBuf)> {
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages
        .iter()
        .map(|package| {
            (
                text(&package["name"]),
                PathBuf::from(text(&package["manifest_path"])),
            )
        })
        .collect()
}

fn dependencies(metadata: &Value) -> Vec<Dependency> {
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let mut all = Vec::new();
    for package in packages {
        for dependency in package["dependencies"]
            .as_array()
            .expect("a list of dependencies")
        {
            all.push(Dependency {
                package: text(&package["name"]),
                on: text(&dependency["name"]),
                for_tests_only: dependency["kind"] == "dev",
            });
        }
    }
    all
}

fn metadata() -> Value {
    let json = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    serde_json::from_str(&json).expect("cargo writes JSON")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The names of all crates that `cargo tree` shows, without the package itself.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let mut all = vec![
        "tree", "--prefix", "none", "--format", "{p}", "-e", "normal",
    ];
    all.extend_from_slice(arguments);
    cargo(&all)
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// Every Rust source below a folder of the repository, build products and fuzzing corpora left out.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                let generated = ["target", "artifacts", "corpus", "coverage"];
                if !name.starts_with('.') && !generated.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A source without its line comments.
fn code(source: &Path) -> String {
    let text = fs::read_to_string(source).expect("a readable source");
    let lines = text
        .lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n")
}

fn show(source: &Path) -> String {
    source
        .strip_prefix(root())
        .unwrap_or(source)
        .display()
        .to_string()
}

/// The modules of `paquebot_protocols` that a source names: `mqtt` in `paquebot_protocols::mqtt::Packet`,
/// each first segment in `paquebot_protocols::{…}`, and `*` or a whole-crate alias as they stand.
fn protocol_modules(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, name) in code.match_indices("paquebot_protocols") {
        let rest = code[at + name.len()..].trim_start();
        let Some(rest) = rest.strip_prefix("::") else {
            if rest.starts_with("as ") {
                found.insert("an alias".to_owned());
            }
            continue;
        };
        let rest = rest.trim_start();
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0_usize;
            let mut item = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.extend(first_segment(&std::mem::take(&mut item))),
                    _ => {}
                }
                if depth == 0 {
                    item.push(character);
                }
            }
            found.extend(first_segment(item.trim_start_matches(',')));
        } else {
            found.extend(first_segment(rest));
        }
    }
    found
}

fn first_segment(path: &str) -> Option<String> {
    let path = path.trim_start_matches([',', ' ', '\n', '\t']);
    if path.starts_with('*') {
        return Some("*".to_owned());
    }
    let end = path
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

#[test]
fn no_package_depends_on_what_the_design_forbids_it() {
    let metadata = metadata();
    let known: Vec<String> = packages(&metadata)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for (package, _) in NEVER.iter().chain(&TESTS_ONLY) {
        assert!(
            known.iter().any(|name| name == package),
            "no package {package} in {known:?}"
        );
    }
    let forbidden: Vec<Dependency> = dependencies(&metadata)
        .into_iter()
        .filter(|dependency| {
            let in_rules = |rules: &[(&str, &[&str])]| {
                rules.iter().any(|(package, names)| {
                    *package == dependency.package && names.contains(&dependency.on.as_str())
                })
            };
            in_rules(&NEVER) || (in_rules(&TESTS_ONLY) && !dependency.for_tests_only)
        })
        .collect();
    assert!(forbidden.is_empty(), "{forbidden:#?}");
}

#[test]
fn nothing_impure_comes_into_protocols_by_way_of_another_crate() {
    let tree = tree(&["-p", "paquebot-protocols"]);
    assert!(
        tree.contains("bytes"),
        "this is not the tree of paquebot-protocols: {tree:?}"
    );
    let impure: Vec<_> = tree
        .iter()
        .filter(|name| NEVER_BELOW_PROTOCOLS.contains(&name.as_str()))
        .collect();
    assert!(impure.is_empty(), "{impure:?}");
}

#[test]
fn an_embedder_gets_nothing_of_the_program() {
    let tree = tree(&["-p", "paquebot", "--no-default-features"]);
    assert!(
        tree.contains("paquebot-protocols"),
        "this is not the tree of paquebot: {tree:?}"
    );
    let surplus: Vec<_> = tree
        .iter()
        .filter(|name| NEVER_IN_THE_EMBEDDERS_BUILD.contains(&name.as_str()))
        .collect();
    assert!(surplus.is_empty(), "{surplus:?}");
}

#[test]
fn the_emulator_shares_the_packets_with_us_and_no_dialect() {
    let sources = sources("emulator");
    assert!(!sources.is_empty(), "found no source of the emulator");
    for source in sources {
        let mut modules = protocol_modules(&code(&source));
        modules.remove("mqtt");
        assert!(
            modules.is_empty(),
            "{} uses paquebot_protocols::{modules:?}",
            show(&source)
        );
    }
}

#[test]
fn the_search_for_modules_finds_each_way_to_name_one() {
    let found = |code| protocol_modules(code).into_iter().collect::<Vec<_>>();
    assert_eq!(found("use paquebot_protocols::mqtt::Packet;"), ["mqtt"]);
    assert_eq!(
        found("let d = paquebot_protocols :: dialect::Plain;"),
        ["dialect"]
    );
    assert_eq!(
        found("use paquebot_protocols::{mqtt::{Packet, dialect}, model::Role,\n    backoff};"),
        ["backoff", "model", "mqtt"]
    );
    assert_eq!(
        found("use paquebot_protocols::{mqtt, dialect::{Dialect}};"),
        ["dialect", "mqtt"]
    );
    assert_eq!(found("use paquebot_protocols::*;"), ["*"]);
    assert_eq!(found("use paquebot_protocols as p;"), ["an alias"]);
    assert_eq!(found("use bytes::Bytes;"), [""; 0]);
}

#[test]
fn only_tests_and_benches_name_the_foreign_codecs() {
    let shipped = [
        "src",
        "protocols/src",
        "actors/src",
        "emulator/src",
        "examples",
    ];
    let sources: Vec<_> = shipped.into_iter().flat_map(sources).collect();
    assert!(sources.len() > 4, "found only {sources:?}");
    for source in sources {
        let code = code(&source);
        for oracle in ["mqttrs", "mqtt_protocol_core"] {
            assert!(!code.contains(oracle), "{} names {oracle}", show(&source));
        }
    }
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    for (package, manifest) in packages(&metadata()) {
        let text = fs::read_to_string(&manifest).expect("a readable manifest");
        let mut section = "";
        let inherits = text.lines().map(str::trim).any(|line| {
            if line.starts_with('[') {
                section = line;
            }
            section == "[lints]" && line.replace(' ', "") == "workspace=true"
        });
        assert!(inherits, "{package} has no `[lints] workspace = true`");
    }
}

#[test]
fn every_proof_that_the_guarantees_name_is_there() {
    let page = fs::read_to_string(root().join("docs/guarantees.md")).expect("a readable page");
    let runs =
        fs::read_to_string(root().join("tests/soaking/src/main.rs")).expect("a readable source");
    let mut proofs = 0;
    // What stands between backquotes.
    for quoted in page.split('`').skip(1).step_by(2) {
        if let Some(run) = quoted.strip_prefix("tests/soak ") {
            let name = run.split(' ').next().unwrap_or_default();
            let is_run = name == "NAME" || runs.contains(&format!("(\"{name}\", "));
            assert!(is_run, "tests/soak has no {name:?}");
        } else if let Some((first, rest)) = quoted.split_once("::")
            && !quoted.contains('…')
        {
            let folder = match first {
                "protocols" | "actors" => first.to_owned(),
                file => format!("tests/{file}"),
            };
            let name = rest.rsplit("::").next().unwrap_or_default();
            let mut places = sources(&folder);
            places.extend(Some(root().join(format!("{folder}.rs"))).filter(|file| file.is_file()));
            let definition = format!("fn {name}(");
            let is_there = places.iter().any(|place| code(place).contains(&definition));
            assert!(is_there, "no test {quoted}");
            proofs += 1;
        }
    }
    assert!(proofs > 50, "found only {proofs}");
}

#[test]
fn files_are_named_for_what_they_hold() {
    let vague = [
        "mod", "util", "utils", "common", "helper", "helpers", "misc",
    ];
    let misnamed: Vec<String> = sources(".")
        .iter()
        .filter(|source| {
            let stem = source.file_stem().unwrap_or_default().to_string_lossy();
            let folder = source
                .parent()
                .and_then(Path::file_name)
                .unwrap_or_default();
            vague.contains(&&*stem) || vague.contains(&&*folder.to_string_lossy())
        })
        .map(|source| show(source))
        .collect();
    assert!(misnamed.is_empty(), "{misnamed:#?}");
}

#[test]
fn no_source_outgrows_its_responsibility() {
    let sources = sources(".");
    assert!(sources.len() > 10, "found only {sources:?}");
    let outgrown: Vec<String> = sources
        .iter()
        .map(|source| (source, code_lines(source)))
        .filter(|(source, lines)| *lines > lines_max(source))
        .map(|(source, lines)| format!("{}: {lines} lines of code", show(source)))
        .collect();
    assert!(outgrown.is_empty(), "{outgrown:#?}");
}

fn lines_max(source: &Path) -> usize {
    let is_test = source.components().any(|part| part.as_os_str() == "tests");
    if is_test {
        TEST_LINES_MAX
    } else {
        CODE_LINES_MAX
    }
}

/// Lines that are neither blank nor comment, up to the unit tests that end a file.
fn code_lines(source: &Path) -> usize {
    let code = code(source);
    let own = code
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    own.lines().filter(|line| !line.trim().is_empty()).count()
}
