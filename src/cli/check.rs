//! `paquebot check`: reads a fleet file and says what it would do, without a network.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use paquebot::aws::AccessKeys;
use paquebot::fleet_file::{
    AccessKeyPlan, AuthPlan, FleetFileError, FleetPlan, GroupPlan, Overrides, PlatformPlan,
    TelemetryPlan, show_duration, show_size,
};

/// Names a fleet file and what to change in it; the same for `check` and `run`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FleetFileArgs {
    /// The fleet file, TOML; - reads standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    named: Option<PathBuf>,
    /// The same without -f
    #[arg(
        value_name = "FILE",
        required_unless_present = "named",
        conflicts_with = "named"
    )]
    bare: Option<PathBuf>,
    /// Override one value: --set groups.lab.count=10 (repeatable; wins over PAQUEBOT__GROUPS__LAB__COUNT=10)
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) sets: Vec<String>,
}

/// Read a fleet file and print what it would do, without a network
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckArgs {
    /// Which file, and what to change in it.
    #[command(flatten)]
    pub(crate) fleet_file: FleetFileArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

impl FleetFileArgs {
    pub(crate) const fn new(file: PathBuf, sets: Vec<String>) -> Self {
        Self {
            named: Some(file),
            bare: None,
            sets,
        }
    }

    /// The path of the file.
    pub(crate) fn file(&self) -> &Path {
        let file = self.named.as_deref().or(self.bare.as_deref());
        // The command line has one of the two; nothing is read like standard input.
        file.unwrap_or(Path::new("-"))
    }

    /// Reads the file with the environment of this process and the `--set` overrides.
    ///
    /// # Errors
    /// The file cannot be read, or all that is wrong in it.
    pub(crate) fn load(&self) -> Result<FleetPlan, FleetFileError> {
        let overrides = Overrides::from_process_environment().with_sets(self.sets.iter().cloned());
        FleetPlan::load(self.file(), &overrides)
    }

    /// The same; what is wrong with the file goes to `err`, all of it, and there is no plan.
    ///
    /// # Errors
    /// Writing to `err` failed.
    pub(crate) fn load_or_explain(&self, err: &mut dyn Write) -> io::Result<Option<FleetPlan>> {
        let error = match self.load() {
            Ok(plan) => return Ok(Some(plan)),
            Err(error) => error,
        };
        writeln!(err, "{error}")?;
        if let FleetFileError::Invalid(problems) = &error
            && problems.len() > 1
        {
            writeln!(err, "{} mistakes; nothing was started", problems.len())?;
        }
        Ok(None)
    }
}

/// Runs `paquebot check`: the plan goes to `out`, mistakes and warnings to `err`.
///
/// The exit status is 0 for a good file and 2 for a bad one.
///
/// # Errors
/// Writing to `out` or `err` failed.
pub(crate) fn run(
    args: &CheckArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<ExitCode> {
    let Some(mut plan) = args.fleet_file.load_or_explain(err)? else {
        return Ok(ExitCode::from(2));
    };
    let missing: Vec<String> = plan
        .platforms
        .iter()
        .filter_map(|p| missing_key(p))
        .collect();
    plan.warnings.extend(missing);
    if args.json {
        writeln!(out, "{}", as_json(&plan))?;
    } else {
        write!(out, "{}", as_text(&plan))?;
        for warning in &plan.warnings {
            writeln!(err, "warning: {warning}")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// That the devices of a platform will find no access key, as far as this process can tell for one that runs them.
fn missing_key(platform: &PlatformPlan) -> Option<String> {
    let AuthPlan::AccessKey(source) = &platform.auth else {
        return None;
    };
    let keys = match source {
        AccessKeyPlan::Surroundings => AccessKeys::default(),
        AccessKeyPlan::Profile(name) => AccessKeys::profile(name),
        // Where else there may be one cannot be known without a network.
        _ => return None,
    };
    let error = keys.look().err()?;
    Some(format!("platforms.{}: {error}", platform.name))
}

/// What one group sends.
struct Traffic {
    messages_per_s: f64,
    payload_bytes: f64,
    sample: String,
}

impl Traffic {
    /// Payloads vary, so a few devices render a few messages each and the mean is taken.
    fn of(group: &GroupPlan) -> Option<Self> {
        const DEVICES: usize = 8;
        const MESSAGES: u32 = 4;
        let telemetry = group.model.telemetry.as_ref()?;
        let now_ms = unix_ms_now();
        let (mut payload, mut sample) = (Vec::new(), None);
        let (mut rendered, mut bytes) = (0.0, 0.0);
        for device in group.devices().take(DEVICES) {
            let mut state = group.telemetry_state(device.index)?;
            for _ in 0..MESSAGES {
                payload.clear();
                let subject = group.subject(&device);
                telemetry
                    .payload
                    .render(&subject, now_ms, &mut state, &mut payload);
                sample.get_or_insert_with(|| shortened(&payload));
                rendered += 1.0;
                #[expect(clippy::cast_precision_loss, reason = "a payload is a few MiB at most")]
                let length = payload.len() as f64;
                bytes += length;
            }
        }
        Some(Self {
            messages_per_s: group.messages_per_second(),
            payload_bytes: bytes / f64::max(rendered, 1.0),
            sample: sample.unwrap_or_default(),
        })
    }

    fn bytes_per_s(&self) -> f64 {
        self.messages_per_s * self.payload_bytes
    }
}

fn unix_ms_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|time| u64::try_from(time.as_millis()).ok())
        .unwrap_or(0)
}

/// A payload as one line of a terminal.
fn shortened(payload: &[u8]) -> String {
    const LETTERS_MAX: usize = 160;
    let text = String::from_utf8_lossy(payload);
    let mut line: String = text
        .chars()
        .take(LETTERS_MAX)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if text.chars().count() > LETTERS_MAX {
        line.push('…');
    }
    line
}

fn first_and_last(group: &GroupPlan) -> Option<(String, String)> {
    let indexes = group.indexes();
    let last = indexes.end.checked_sub(1).filter(|_| group.count > 0)?;
    Some((group.device(indexes.start).id, group.device(last).id))
}

/// The memory that full outboxes of all devices would take, in bytes.
fn outbox_bytes(plan: &FleetPlan) -> u64 {
    let each = plan.device_count().saturating_mul(plan.outbox.max_bytes);
    plan.outbox
        .fleet_max_bytes
        .map_or(each, |max| max.min(each))
}

fn as_json(plan: &FleetPlan) -> Value {
    let groups: Vec<Value> = plan.groups.iter().map(|group| group_json(group)).collect();
    let platforms: Vec<Value> = plan
        .platforms
        .iter()
        .map(|platform| platform_json(platform))
        .collect();
    let total = |of: fn(&Traffic) -> f64| -> f64 {
        plan.groups
            .iter()
            .filter_map(|group| Traffic::of(group))
            .map(|traffic| of(&traffic))
            .sum()
    };
    json!({
        "fleet": &*plan.name,
        "seed": plan.seed,
        "devices": plan.device_count(),
        "workers": plan.workers,
        "connect_rate": plan.connect_rate,
        "connect_s": plan.connect_time().as_secs_f64(),
        "drain_timeout_s": plan.drain_timeout.as_secs_f64(),
        "messages_per_s": plan.messages_per_second(),
        "payload_bytes_per_s": total(Traffic::bytes_per_s),
        "admin": plan.admin.as_ref().map(|admin| admin.listen.to_string()),
        "outbox": {
            "durability": plan.outbox.durability.to_string(),
            "store": plan.store_directory(),
            "store_max_bytes": plan.outbox.store_max_bytes,
            "fleet_max_messages": plan.outbox.fleet_max_messages,
            "fleet_max_bytes": plan.outbox.fleet_max_bytes,
            "max_messages": plan.outbox.max_messages,
            "max_bytes": plan.outbox.max_bytes,
            "overflow": plan.outbox.overflow.to_string(),
            "drain_rate": plan.outbox.drain_rate,
        },
        "platforms": platforms,
        "groups": groups,
        "warnings": plan.warnings,
    })
}

fn platform_json(platform: &PlatformPlan) -> Value {
    json!({
        "name": &*platform.name,
        "kind": platform.kind.to_string(),
        "endpoint": platform.endpoint.to_string(),
        "version": platform.version.to_string(),
        "connect_rate": platform.connect_rate,
        "way": platform.way(),
        "proxy": platform.proxy.as_ref().map(|proxy| &proxy.url),
    })
}

fn group_json(group: &GroupPlan) -> Value {
    let traffic = Traffic::of(group);
    let traffic = traffic.as_ref();
    let ids = first_and_last(group);
    json!({
        "name": &*group.name,
        "platform": &*group.platform.name,
        "model": &*group.model.name,
        "devices": group.count,
        "first_id": ids.as_ref().map(|(first, _)| first),
        "last_id": ids.as_ref().map(|(_, last)| last),
        "every_s": telemetry(group).map(|it| it.interval.every.as_secs_f64()),
        "messages_per_s": traffic.map_or(0.0, |traffic| traffic.messages_per_s),
        "payload_bytes": traffic.map(|traffic| traffic.payload_bytes),
        "payload_bytes_per_s": traffic.map_or(0.0, Traffic::bytes_per_s),
        "sample": traffic.map(|traffic| &traffic.sample),
        "commands": command_names(group),
        "jobs": group.model.jobs.map(|jobs| json!({
            "on_job": jobs.on_job.name(),
            "delay_s": jobs.delay.as_secs_f64(),
            "fail": jobs.fail,
        })),
        "durability": group.durability.to_string(),
    })
}

fn telemetry(group: &GroupPlan) -> Option<&TelemetryPlan> {
    group.model.telemetry.as_ref()
}

fn command_names(group: &GroupPlan) -> Vec<&str> {
    let commands = group.model.commands.iter();
    commands.map(|command| command.name.as_str()).collect()
}

fn as_text(plan: &FleetPlan) -> String {
    let mut text = format!(
        "fleet {}: {} devices in {} groups, seed {}, {} threads\n",
        plan.name,
        grouped(plan.device_count()),
        plan.groups.len(),
        plan.seed,
        plan.workers
    );
    let connects = match plan.connect_rate {
        Some(rate) => format!("{rate} a second"),
        None => "as fast as they go".to_owned(),
    };
    let connect_time = match plan.connect_time() {
        time if time.is_zero() => String::new(),
        time => format!(", all after {:.1} s", time.as_secs_f64()),
    };
    let drain = plan
        .outbox
        .drain_rate
        .map_or_else(String::new, |rate| format!(", drained at {rate} a second"));
    let fleet_max = match plan.outbox.fleet_max_messages {
        Some(messages) => format!("{} messages and ", grouped(messages)),
        None => String::new(),
    };
    let admin = plan.admin.as_ref().map_or("none".to_owned(), |admin| {
        format!("http://{}", admin.listen)
    });
    let _ = write!(
        text,
        "  connects  {connects}{connect_time}\n  outbox    {}, {} messages and {} a device, {} when full{drain}; {fleet_max}{} over all devices at the most\n  admin     {admin}\n",
        outbox_place(plan),
        grouped(plan.outbox.max_messages),
        show_size(plan.outbox.max_bytes),
        plan.outbox.overflow,
        amount(outbox_bytes(plan)),
    );
    let mut total = (0.0, 0.0);
    for group in &plan.groups {
        let traffic = Traffic::of(group);
        if let Some(traffic) = &traffic {
            total.0 += traffic.messages_per_s;
            total.1 += traffic.bytes_per_s();
        }
        group_text(&mut text, plan, group, traffic.as_ref());
    }
    let _ = writeln!(
        text,
        "in all {:.1} messages a second, {:.1} kB of payload a second",
        total.0,
        total.1 / 1_000.0
    );
    text
}

/// How durable the outbox is, and where.
fn outbox_place(plan: &FleetPlan) -> String {
    let durability = plan.outbox.durability;
    match plan.store_directory() {
        Some(directory) => format!("{durability} (store in {})", directory.display()),
        None => durability.to_string(),
    }
}

fn group_text(text: &mut String, plan: &FleetPlan, group: &GroupPlan, traffic: Option<&Traffic>) {
    let ids = match first_and_last(group) {
        Some((first, last)) if first != last => format!(", {first} to {last}"),
        Some((only, _)) => format!(", {only}"),
        None => String::new(),
    };
    let way = group.platform.way();
    let mut way = way.map_or_else(String::new, |way| format!(", {way}"));
    if let Some(proxy) = &group.platform.proxy {
        let _ = write!(way, ", through the proxy {proxy}");
    }
    let _ = write!(
        text,
        "group {}: {} devices{ids}\n  platform  {}: {}, MQTT {}{way}\n",
        group.name,
        grouped(group.count),
        group.platform.name,
        group.platform.endpoint,
        group.platform.version,
    );
    if group.durability != plan.outbox.durability {
        let _ = writeln!(text, "  outbox    {}", group.durability);
    }
    if let (Some(telemetry), Some(traffic)) = (telemetry(group), traffic) {
        let jitter = match telemetry.interval.jitter {
            jitter if jitter.is_zero() => String::new(),
            jitter => format!(" ± {}", show_duration(jitter)),
        };
        let _ = write!(
            text,
            "  model     {}: every {}{jitter} at QoS {}, {:.1} messages and {:.1} kB a second\n  payload   {:.0} bytes: {}\n",
            group.model.name,
            show_duration(telemetry.interval.every),
            group.model.qos as u8,
            traffic.messages_per_s,
            traffic.bytes_per_s() / 1_000.0,
            traffic.payload_bytes,
            traffic.sample,
        );
    } else {
        let _ = writeln!(
            text,
            "  model     {}: sends nothing by itself",
            group.model.name
        );
    }
    let commands = command_names(group);
    if !commands.is_empty() {
        let _ = writeln!(text, "  commands  {}", commands.join(", "));
    }
    if let Some(jobs) = group.model.jobs {
        let _ = write!(
            text,
            "  jobs      {} after {}",
            jobs.on_job.name(),
            show_duration(jobs.delay)
        );
        if jobs.fail > 0.0 {
            let _ = write!(text, ", {} of 1 fail", jobs.fail);
        }
        text.push('\n');
    }
}

/// A count with commas between its thousands.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size to think with: one decimal of the largest binary unit below it.
fn amount(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1_024.0 && unit + 1 < units.len() {
        amount /= 1_024.0;
        unit += 1;
    }
    format!(
        "{amount:.1} {}",
        units.get(unit).copied().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn checked(file: &Path, more: &[&str]) -> (ExitCode, String, String) {
        let command = CheckArgs::augment_args(clap::Command::new("check"));
        let given = ["check", "-f", file.to_str().unwrap()];
        let matches = command.get_matches_from(given.iter().chain(more));
        let args = CheckArgs::from_arg_matches(&matches).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&args, &mut out, &mut err).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (code, text(out), text(err))
    }

    fn example() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mosquitto.toml")
    }

    #[test]
    fn the_example_is_a_thousand_devices() {
        let (code, out, err) = checked(&example(), &[]);
        assert_eq!(code, ExitCode::SUCCESS, "{err}");
        assert_eq!(err, "");
        assert!(out.contains(": 1,000 devices in 2 groups"), "{out}");
        assert!(out.contains("mqtt://127.0.0.1:1883"), "{out}");
    }

    #[test]
    fn the_example_for_aws_says_how_its_things_get_there() {
        let file = example().with_file_name("aws.toml");
        let (code, out, err) = checked(&file, &[]);
        assert_eq!(code, ExitCode::SUCCESS);
        // Whether there are keys on this machine is not the example's matter.
        let is_of_keys =
            |line: &str| line.starts_with("warning: platforms.cloud: there are no AWS");
        assert!(err.lines().all(is_of_keys), "{err}");
        let way = "websocket, signed for eu-central-1 with the key of the environment";
        assert!(out.contains(way), "{out}");
        let (_, out, _) = checked(&file, &["--json"]);
        let json: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json["platforms"][0]["way"], way);
        assert_eq!(json["platforms"][0]["kind"], "aws");
    }

    #[test]
    fn json_says_the_same_and_follows_set() {
        let (code, out, _) = checked(&example(), &["--json", "--set", "groups.meters.count=2"]);
        assert_eq!(code, ExitCode::SUCCESS);
        let json: Value = serde_json::from_str(&out).unwrap();
        let groups = json["groups"].as_array().unwrap();
        let meters = groups.iter().find(|g| g["name"] == "meters").unwrap();
        assert_eq!(meters["devices"], 2);
        assert_eq!(meters["first_id"], "meter-000000");
        assert_eq!(meters["last_id"], "meter-000001");
        let rate = 2.0 / meters["every_s"].as_f64().unwrap();
        assert!((meters["messages_per_s"].as_f64().unwrap() - rate).abs() < 1e-9);
        assert!(serde_json::from_str::<Value>(meters["sample"].as_str().unwrap()).is_ok());
    }

    #[test]
    fn a_bad_file_ends_with_status_two_and_prints_no_plan() {
        let (code, out, err) = checked(
            &example(),
            &[
                "--json",
                "--set",
                "fleet.sead=1",
                "--set",
                "outbox.overflow=drop",
            ],
        );
        assert_eq!(code, ExitCode::from(2));
        assert_eq!(out, "");
        assert!(err.contains("--set fleet.sead: fleet.sead: "), "{err}");
        assert!(err.contains("--set outbox.overflow: "), "{err}");
        assert!(err.ends_with("2 mistakes; nothing was started\n"), "{err}");
    }

    #[test]
    fn a_file_that_is_not_there_ends_with_status_two() {
        let (code, out, err) = checked(Path::new("no/such/fleet.toml"), &[]);
        assert_eq!(code, ExitCode::from(2));
        assert_eq!(out, "");
        assert!(err.starts_with("no/such/fleet.toml: "), "{err}");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(amount(1_023), "1023.0 B");
        assert_eq!(amount(1_536), "1.5 KiB");
    }
}
