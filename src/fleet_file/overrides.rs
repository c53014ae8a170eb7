//! Values from outside of the file: environment variables and `--set`.

use std::collections::BTreeMap;
use std::rc::Rc;

use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, ProblemKind as Kind, Problems};
use super::tree::{Entry, Node, Origin, OverrideText, Table, Value, join, too_deep};
use crate::template::nearest;

/// What changes a fleet file from outside. The order is: file, then environment, then `--set`; the later wins.
///
/// An override names a value by its path, `fleet.connect_rate` or `groups.lab.count`: a group is named by its
/// name or its position. The value is TOML (`10`, `true`, `"30s"`); what is not TOML is taken as text, so
/// `30s` needs no quotes. In an environment variable two underscores separate the parts of the path,
/// `PAQUEBOT__GROUPS__LAB__COUNT=10`; upper and lower case are the same there, and `_` also stands for `-`.
#[derive(Clone, Default)]
pub struct Overrides {
    environment: BTreeMap<String, String>,
    sets: Vec<String>,
}

/// Prefix of the environment variables that override the file.
pub const ENVIRONMENT_PREFIX: &str = "PAQUEBOT__";

/// Values may be secrets, so only the names of the overrides are shown.
impl std::fmt::Debug for Overrides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&String> = self
            .environment
            .keys()
            .filter(|name| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        let sets: Vec<&str> = self.sets.iter().map(|set| path_of(set)).collect();
        f.debug_struct("Overrides")
            .field("environment", &names)
            .field("sets", &sets)
            .finish()
    }
}

impl Overrides {
    /// No overrides, and an empty environment.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The environment of this process. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn from_process_environment() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::none().with_environment(std::env::vars_os().filter_map(text))
    }

    /// Adds environment variables: those that begin with `PAQUEBOT__` override the file, and `password_env`
    /// looks into all of them.
    #[must_use]
    pub fn with_environment(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Adds overrides of the form `path=value`, as `--set` takes them.
    #[must_use]
    pub fn with_sets(mut self, sets: impl IntoIterator<Item = String>) -> Self {
        self.sets.extend(sets);
        self
    }

    /// An environment variable.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// Puts the overrides into the tree.
    pub(super) fn apply(&self, root: &mut Table, problems: &Problems<'_>) {
        for (name, raw) in &self.environment {
            let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX) else {
                continue;
            };
            let path = path.split("__").map(str::to_lowercase).collect();
            Override::new(name.clone(), path, raw, Matching::Loose).apply(root, problems);
        }
        for set in &self.sets {
            let label = format!("--set {}", path_of(set));
            let parsed = set
                .split_once('=')
                .and_then(|(path, raw)| Some((parse_path(path)?, raw)));
            match parsed {
                Some((path, raw)) => {
                    Override::new(label, path, raw, Matching::Exact).apply(root, problems);
                }
                None => problems.add_problem(
                    usize::MAX,
                    Problem::new(
                        Kind::BadOverride,
                        Place::Override(label),
                        "",
                        "this is no override",
                        "write a path and a value, as in `--set groups.lab.count=10`",
                    ),
                ),
            }
        }
    }
}

/// Most parts of a path. The tree is walked by recursion, so its depth has to be bounded.
const PARTS_MAX: usize = 16;

/// The part of a `--set` that may be shown: the value could be a secret in the wrong place.
fn path_of(set: &str) -> &str {
    set.split_once('=').map_or(set, |(path, _)| path).trim()
}

/// A dotted key, with TOML's rules for quotes.
fn parse_path(path: &str) -> Option<Vec<String>> {
    let document = format!("{} = 0", path.trim());
    if too_deep(&document).is_some() {
        return None;
    }
    let parsed = DeTable::parse(&document).ok()?;
    let mut table = parsed.get_ref();
    let mut parts = Vec::new();
    loop {
        let mut entries = table.iter();
        let (key, value) = entries.next()?;
        parts.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) if entries.next().is_none() => table = inner,
            DeValue::Integer(_) if entries.next().is_none() => return Some(parts),
            _ => return None,
        }
    }
}

/// How keys of a path are compared with keys of the file.
#[derive(Clone, Copy)]
enum Matching {
    Exact,
    /// Ignoring case, and `_` for `-` and `.`: what a variable's name cannot say.
    Loose,
}

impl Matching {
    fn same(self, wanted: &str, key: &str) -> bool {
        match self {
            Self::Exact => wanted == key,
            Self::Loose => key.to_lowercase().replace(['-', '.'], "_") == wanted,
        }
    }
}

struct Override {
    text: Rc<OverrideText>,
    path: Vec<String>,
    node: Node,
    matching: Matching,
}

impl Override {
    fn new(label: String, path: Vec<String>, raw: &str, matching: Matching) -> Self {
        let text = Rc::new(OverrideText {
            label,
            raw: raw.to_owned(),
        });
        let value = match too_deep(raw) {
            None => DeValue::parse(raw.trim()).ok(),
            Some(_) => None,
        };
        let node = match value {
            Some(value) => Node::from_override(value.get_ref(), &text),
            None => Node {
                value: Value::Text(raw.to_owned()),
                origin: Origin::Override(Rc::clone(&text)),
            },
        };
        Self {
            text,
            path,
            node,
            matching,
        }
    }

    fn apply(self, root: &mut Table, problems: &Problems<'_>) {
        let origin = Origin::Override(Rc::clone(&self.text));
        if self.path.len() > PARTS_MAX || self.path.iter().any(String::is_empty) {
            problems.add(
                Kind::BadOverride,
                &origin,
                "",
                "a part of the path is empty, or there are too many",
                "write 1 to 16 parts, such as groups.lab.count",
            );
            return;
        }
        if let Err(refusal) = put(root, "", &self.path, &self, &origin) {
            problems.add(
                Kind::BadOverride,
                &origin,
                &refusal.key,
                refusal.message,
                refusal.remedy,
            );
        }
    }
}

/// Why an override found no place.
struct Refusal {
    key: String,
    message: String,
    remedy: String,
}

/// Puts the value at `path` below `table`, making the tables on the way.
fn put(
    table: &mut Table,
    at: &str,
    path: &[String],
    it: &Override,
    origin: &Origin,
) -> Result<(), Refusal> {
    let Some((wanted, rest)) = path.split_first() else {
        return Ok(());
    };
    let found = table
        .entries
        .iter()
        .position(|entry| it.matching.same(wanted, &entry.key));
    let place = found.unwrap_or(table.entries.len());
    if found.is_none() {
        table.entries.push(Entry {
            key: wanted.clone(),
            key_origin: origin.clone(),
            node: Node {
                value: Value::Table(Table::default()),
                origin: origin.clone(),
            },
        });
    }
    let Some(entry) = table.entries.get_mut(place) else {
        return Ok(());
    };
    let at = join(at, &entry.key);
    if rest.is_empty() {
        entry.node = it.node.clone();
        entry.key_origin = origin.clone();
        return Ok(());
    }
    descend(&mut entry.node, &at, rest, it, origin)
}

fn descend(
    node: &mut Node,
    at: &str,
    path: &[String],
    it: &Override,
    origin: &Origin,
) -> Result<(), Refusal> {
    match &mut node.value {
        Value::Table(table) => put(table, at, path, it, origin),
        Value::List(nodes) => {
            let Some((wanted, rest)) = path.split_first() else {
                return Ok(());
            };
            let place = position(nodes, at, wanted, it.matching)?;
            let at = format!("{at}[{place}]");
            match nodes.get_mut(place) {
                Some(node) if rest.is_empty() => {
                    *node = it.node.clone();
                    Ok(())
                }
                Some(node) => descend(node, &at, rest, it, origin),
                None => Ok(()),
            }
        }
        other => Err(Refusal {
            key: at.to_owned(),
            message: format!("this is {}, nothing is below it", other.type_name()),
            remedy: "override the whole value".to_owned(),
        }),
    }
}

/// The element of a list of tables with this `name`, or at this position.
fn position(nodes: &[Node], at: &str, wanted: &str, matching: Matching) -> Result<usize, Refusal> {
    let names: Vec<Option<&str>> = nodes.iter().map(name_of).collect();
    let by_name = names
        .iter()
        .position(|name| name.is_some_and(|name| matching.same(wanted, name)));
    let by_number = || {
        wanted
            .parse::<usize>()
            .ok()
            .filter(|place| *place < nodes.len())
    };
    by_name.or_else(by_number).ok_or_else(|| {
        let names = || names.iter().flatten().copied();
        let remedy = match nearest(wanted, names()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("there is {}", names().collect::<Vec<_>>().join(", ")),
        };
        Refusal {
            key: at.to_owned(),
            message: format!("nothing here is named `{wanted}`"),
            remedy,
        }
    })
}

fn name_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Table(table) => match &table.entry("name")?.node.value {
            Value::Text(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_the_rules_of_dotted_keys() {
        assert_eq!(
            parse_path("a.b-c.\"d.e\""),
            Some(["a", "b-c", "d.e"].map(String::from).to_vec())
        );
        assert_eq!(
            parse_path(" a . b "),
            Some(["a", "b"].map(String::from).to_vec())
        );
        for bad in ["", "a.", ".a", "a b", "[a]", "a=1\nb", "a.b = 1\nc"] {
            assert_eq!(parse_path(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn shown_overrides_hold_no_values() {
        let overrides = Overrides::none()
            .with_environment([
                ("PAQUEBOT__FLEET__NAME".to_owned(), "value".to_owned()),
                ("SECRET".to_owned(), "hunter2".to_owned()),
            ])
            .with_sets(["a.b=hunter2".to_owned()]);
        let shown = format!("{overrides:?}");
        assert!(shown.contains("PAQUEBOT__FLEET__NAME"), "{shown}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("SECRET") && !shown.contains("value"),
            "{shown}"
        );
    }
}
