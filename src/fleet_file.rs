//! The fleet file: the TOML file that says which devices a process runs.
//!
//! [`FleetPlan::load`] reads a file and gives a [`FleetPlan`]: complete, checked, with units, ready to run. Or
//! it gives *all* mistakes at once, each with file, line, column, key and what to do.
//!
//! ```toml
//! [fleet]
//! name = "demo"
//! connect_rate = 200                # per second
//! [platforms.local]
//! kind = "mqtt"
//! endpoint = "mqtt://127.0.0.1:1883"
//! [models.meter]
//! interval = { every = "30s", jitter = "5s" }
//! payload = '{"v":{{normal(230,2)}},"t":{{now_ms}}}'
//! commands.reboot = { reply = '{"ok":true}', delay = "200ms" }
//! [[groups]]
//! name = "lab"
//! platform = "local"
//! model = "meter"
//! count = 1000
//! id = "lab-{{index:06}}"
//! ```
//!
//! The fields of the plan document each key: its unit, limits and default. Templates are documented in
//! [`crate::template`]. Values can be overridden from outside: see [`Overrides`].
//!
//! Reading never opens a connection. It does open the files that the fleet file names (certificates, keys,
//! passwords, payloads), so that a missing one is told before anything starts.

mod aws;
mod credentials;
mod endpoint;
mod groups;
mod models;
mod overrides;
mod plan;
mod platforms;
mod problem;
mod proxy;
mod reader;
mod settings;
mod source;
mod topics;
mod tree;
mod units;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

pub use aws::{AwsPlan, AwsWay};
pub use credentials::{AccessKeyPlan, AuthPlan, AuthorizerPlan, PasswordSource, PathTemplate};
pub use overrides::{ENVIRONMENT_PREFIX, Overrides};
pub use plan::{
    AdminPlan, CommandPlan, DeviceName, Endpoint, FleetPlan, GroupPlan, Interval, Jitter, JobsPlan,
    ModelPlan, OnDesired, OnJob, OutboxPlan, Overflow, PlatformKind, PlatformPlan, ReconnectPlan,
    TelemetryPlan, TlsPlan, TopicTemplates,
};
pub use problem::{Place, Problem, ProblemKind};
pub use proxy::ProxyPlan;

pub use units::{parse_duration, parse_size, show_duration, show_size};

use paquebot_protocols::mqtt::{QoS, Version};
use problem::Problems;
use reader::{Field, Section};
use source::Source;
use tree::{Origin, Table};

use crate::Durability;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetFileError {
    /// The file could not be read at all.
    #[error("{}: {error}; name a fleet file with -f, or - for standard input", path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file was read and is wrong; there is at least one problem, in the order of the file.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
}

/// Problems, one a line.
struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Largest fleet file in bytes.
const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How many mistakes of TOML are told: behind the first few, most follow from those before.
const SYNTAX_PROBLEMS_MAX: usize = 10;

/// What the readers of the tables share.
struct Context<'a> {
    /// Where relative paths start.
    base_dir: &'a Path,
    overrides: &'a Overrides,
    problems: &'a Problems<'a>,
}

impl FleetPlan {
    /// Reads a fleet file; `-` is standard input. Relative paths in the file start at its folder, or for
    /// standard input at the current one.
    ///
    /// # Errors
    /// The file cannot be read, or all that is wrong in it.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, FleetFileError> {
        let stdin = path == Path::new("-");
        let read = if stdin {
            read_limited(std::io::stdin().lock())
        } else {
            std::fs::File::open(path).and_then(read_limited)
        };
        let bytes = read.map_err(|error| FleetFileError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        let name = if stdin {
            "<stdin>".to_owned()
        } else {
            path.display().to_string()
        };
        let base_dir = path.parent().unwrap_or(Path::new(""));
        Self::parse(&name, &bytes, base_dir, overrides)
    }

    /// Reads the bytes of a fleet file. `name` is what messages call it, and relative paths start at
    /// `base_dir`.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(
        name: &str,
        bytes: &[u8],
        base_dir: &Path,
        overrides: &Overrides,
    ) -> Result<Self, FleetFileError> {
        let text = check_text(name, bytes)?;
        let source = Source::new(name, text);
        if let Some(offset) = tree::too_deep(text) {
            return Err(FleetFileError::Invalid(vec![Problem::new(
                ProblemKind::Syntax,
                source.place(offset),
                "",
                "this is nested deeper than 16 levels",
                "write it flatter",
            )]));
        }
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(FleetFileError::Invalid(syntax_problems(&source, &errors)));
        }
        let problems = Problems::new(&source);
        let mut root = Table::from_document(document.get_ref());
        overrides.apply(&mut root, &problems);
        let whole = Origin::File(0..0);
        let section = Section::new(&root, &whole, String::new(), &problems);
        let context = Context {
            base_dir,
            overrides,
            problems: &problems,
        };
        let mut plan = read_document(section, &context);
        plan.warnings.extend(problems.take_warnings());
        if problems.is_empty() {
            Ok(plan)
        } else {
            Err(FleetFileError::Invalid(problems.into_sorted()))
        }
    }
}

fn read_limited(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, FleetFileError> {
    let refuse = |place, message: &str, remedy: &str| {
        let problem = Problem::new(ProblemKind::Syntax, place, "", message, remedy);
        Err(FleetFileError::Invalid(vec![problem]))
    };
    if bytes.len() > FILE_BYTES_MAX {
        let place = Source::new(name, "").place(0);
        return refuse(
            place,
            "the file is larger than 8 MiB",
            "devices are counted in [[groups]], not listed",
        );
    }
    std::str::from_utf8(bytes).or_else(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let good = String::from_utf8_lossy(good);
        let place = Source::new(name, &good).place(good.len());
        refuse(place, "this byte is not UTF-8", "save the file as UTF-8")
    })
}

fn syntax_problems(source: &Source<'_>, errors: &[toml::de::Error]) -> Vec<Problem> {
    errors
        .iter()
        .take(SYNTAX_PROBLEMS_MAX)
        .map(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            Problem::new(
                ProblemKind::Syntax,
                source.place(offset),
                "",
                format!("this is not TOML: {}", error.message()),
                "",
            )
        })
        .collect()
}

/// Reads all tables. With problems noted the plan is not to be used.
fn read_document<'a>(section: Section<'a>, context: &Context<'a>) -> FleetPlan {
    let table = |field: Option<Field<'a>>| field.and_then(|field| field.section("a table"));
    let settings = settings::read_fleet(table(section.field("fleet")));
    let admin = table(section.field("admin")).and_then(|admin| {
        let plan = settings::read_admin(&admin);
        admin.finish();
        plan
    });
    let outbox = settings::read_outbox(section.field("outbox"), context);
    let platforms = platforms::read_platforms(table(section.field("platforms")), context);
    let models = models::read_models(table(section.field("models")), context);
    let groups_field = section.required("groups", "add a group of devices: [[groups]]");
    let groups = groups::read_groups(
        groups_field.clone(),
        &settings,
        &outbox,
        &platforms,
        &models,
    );
    if let Some(cluster) = section.field("cluster") {
        settings::read_cluster(&cluster);
    }
    section.finish();
    if let Some(field) = groups_field
        && context.problems.is_empty()
        && groups.iter().all(|group| group.count == 0)
    {
        field.fail_at_key(
            ProblemKind::BadValue,
            "there is no device in them",
            "give at least one group a count above 0",
        );
    }
    let platforms: Vec<_> = platforms.into_iter().filter_map(|it| it.plan).collect();
    let models: Vec<_> = models.into_iter().filter_map(|it| it.plan).collect();
    FleetPlan {
        warnings: warnings(&platforms, &models, &groups),
        name: settings.name,
        seed: settings.seed,
        connect_rate: settings.connect_rate,
        drain_timeout: settings.drain_timeout,
        workers: settings.workers,
        admin,
        outbox,
        platforms,
        models,
        groups,
    }
}

fn warnings(
    platforms: &[Arc<PlatformPlan>],
    models: &[Arc<ModelPlan>],
    groups: &[Arc<GroupPlan>],
) -> Vec<String> {
    let used = |platform: &&Arc<PlatformPlan>| {
        groups
            .iter()
            .any(|group| group.platform.name == platform.name)
    };
    let risky = platforms
        .iter()
        .filter(used)
        .filter_map(|platform| platforms::warn(platform));
    let idle_platforms = platforms
        .iter()
        .filter(|platform| !used(platform))
        .map(|platform| format!("platforms.{}: no group uses it", platform.name));
    let idle_models = models
        .iter()
        .filter(|model| !groups.iter().any(|group| group.model.name == model.name))
        .map(|model| format!("models.{}: no group uses it", model.name));
    let half_durable = groups.iter().filter_map(|group| warn_of_durability(group));
    risky
        .chain(idle_platforms)
        .chain(idle_models)
        .chain(half_durable)
        .collect()
}

/// What of a group's durability is probably less than was meant.
fn warn_of_durability(group: &GroupPlan) -> Option<String> {
    let (name, platform) = (&group.name, &group.platform);
    if group.durability == Durability::Memory {
        return None;
    }
    let forgets = platform.clean_start
        || (platform.version == Version::V5 && platform.session_expiry.is_zero());
    match group.model.qos {
        QoS::AtMostOnce => Some(format!(
            "groups.{name}: a durable outbox keeps nothing of QoS 0; give models.{} qos = 1 or 2",
            group.model.name
        )),
        QoS::ExactlyOnce if forgets => Some(format!(
            "groups.{name}: QoS 2 is not exactly once over a restart when the broker forgets the session; take \
             clean_start out of platforms.{0} and give it a session_expiry",
            platform.name
        )),
        _ => None,
    }
}
