//! `--name value` pairs.

use std::collections::BTreeMap;
use std::time::Duration;

use paquebot::mqtt::Version;

/// The options of a run.
#[derive(Debug)]
pub(crate) struct Arguments(BTreeMap<String, String>);

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word
                .strip_prefix("--")
                .ok_or_else(|| format!("{word:?} is no option"))?;
            let value = words
                .next()
                .ok_or_else(|| format!("--{name} has no value"))?;
            values.insert(name.to_owned(), value);
        }
        Ok(Self(values))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|error| format!("--{name} {text}: {error}")),
        }
    }

    pub(crate) fn seconds(&self, name: &str, default: u64) -> Result<Duration, String> {
        self.number(name, default).map(Duration::from_secs)
    }

    /// Both versions, or the one that is asked for.
    pub(crate) fn versions(&self) -> Result<Vec<Version>, String> {
        match self.text("version") {
            None => Ok(vec![Version::V5, Version::V311]),
            Some("5") => Ok(vec![Version::V5]),
            Some("3.1.1") => Ok(vec![Version::V311]),
            Some(other) => Err(format!("--version {other}: take 3.1.1 or 5")),
        }
    }

    /// Refuses options that are not among these.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), String> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(format!("this run has no option --{name}")),
        }
    }
}
