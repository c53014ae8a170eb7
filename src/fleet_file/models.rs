//! The tables `[models.NAME]`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use paquebot_protocols::mqtt::QoS;

use super::Context;
use super::plan::{CommandPlan, Interval, JobsPlan, ModelPlan, OnDesired, OnJob, TelemetryPlan};
use super::problem::{Problem, ProblemKind as Kind};
use super::reader::{Field, NAME_RULE, Section, is_name};
use super::source::Source;
use super::tree::{Origin, Value};
use crate::template::{PayloadTemplate, ReplyTemplate, Subject};

/// A model of the file.
pub(super) struct Model<'a> {
    pub(super) name: &'a str,
    /// `None` when something in it is wrong.
    pub(super) plan: Option<Arc<ModelPlan>>,
}

/// Longest time between two messages.
const EVERY_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Longest delay of a reply: no cloud waits longer for one.
const DELAY_MAX: Duration = Duration::from_secs(3_600);

/// Reads `[models]`.
pub(super) fn read_models<'a>(
    section: Option<Section<'a>>,
    context: &Context<'a>,
) -> Vec<Model<'a>> {
    let Some(section) = section else {
        return Vec::new();
    };
    section
        .named()
        .map(|(name, field)| {
            if !is_name(name) {
                field.fail_at_key(Kind::BadValue, format!("{name:?} is no name"), NAME_RULE);
            }
            let plan = field
                .section("a table")
                .and_then(|section| read_model(name, section, context));
            Model {
                name,
                plan: plan.map(Arc::new),
            }
        })
        .collect()
}

fn read_model<'a>(name: &str, section: Section<'a>, context: &Context<'a>) -> Option<ModelPlan> {
    let qos = match section.field("qos") {
        Some(field) => field
            .whole(0..=2)
            .and_then(|value| QoS::from_u8(u8::try_from(value).ok()?)),
        None => Some(QoS::AtLeastOnce),
    };
    let telemetry = read_telemetry(&section, context);
    let commands = section
        .field("commands")
        .and_then(|field| field.section("a table of commands"))
        .map(|section| read_commands(&section))
        .unwrap_or_default();
    let (reported, on_desired) = section
        .field("state")
        .map(|field| read_state(&field))
        .unwrap_or_default();
    let jobs = section.field("jobs").and_then(|field| read_jobs(&field));
    section.finish();
    Some(ModelPlan {
        name: name.into(),
        qos: qos?,
        telemetry: telemetry.ok()?,
        commands,
        reported,
        on_desired,
        jobs,
    })
}

/// A mistake was noted.
struct Noted;

fn read_telemetry<'a>(
    section: &Section<'a>,
    context: &Context<'a>,
) -> Result<Option<TelemetryPlan>, Noted> {
    let interval_field = section.field("interval");
    let payload_fields = (section.field("payload"), section.field("payload_file"));
    let retain = section
        .field("retain")
        .and_then(|field| field.boolean())
        .unwrap_or(false);
    let channel = section
        .field("channel")
        .and_then(|field| read_level(&field, "channel"));
    let content_type = section
        .field("content_type")
        .and_then(|field| read_content_type(&field));
    let expiry = section
        .field("expiry")
        .and_then(|field| field.seconds(Duration::from_secs(1)..=EVERY_MAX));
    let interval = interval_field.as_ref().map(read_interval);
    let payload = match &payload_fields {
        (Some(field), None) => Some(field.template("a payload", PayloadTemplate::new)),
        (None, Some(field)) => Some(read_payload_file(field, context)),
        (None, None) => None,
        (Some(_), Some(file)) => {
            file.fail_at_key(
                Kind::BadValue,
                "there is a payload too",
                "keep one of the two",
            );
            Some(None)
        }
    };
    let (interval, payload) = match (interval, payload) {
        (None, None) => return Ok(None),
        (Some(interval), Some(payload)) => (interval.ok_or(Noted)?, payload.ok_or(Noted)?),
        (Some(_), None) => {
            section.missing("payload", "write payload = '…', or payload_file = \"…\"");
            return Err(Noted);
        }
        (None, Some(_)) => {
            section.missing("interval", "write interval = \"30s\"");
            return Err(Noted);
        }
    };
    if content_type.as_deref() == Some("application/json")
        && let (Some(field), _) | (_, Some(field)) = &payload_fields
    {
        check_json(field, &payload);
    }
    Ok(Some(TelemetryPlan {
        interval,
        payload,
        retain,
        channel,
        content_type,
        expiry,
    }))
}

/// `"30s"` or `{ every = "30s", jitter = "5s" }`.
fn read_interval(field: &Field<'_>) -> Option<Interval> {
    let limits = || Duration::from_millis(1)..=EVERY_MAX;
    if !matches!(field.value(), Value::Table(_)) {
        let every = field.duration(limits())?;
        return Some(Interval {
            every,
            jitter: Duration::ZERO,
        });
    }
    let section = field.section("a time, or a table")?;
    let every = section
        .required("every", "write every = \"30s\"")
        .and_then(|field| field.duration(limits()));
    let jitter = match section.field("jitter") {
        Some(field) => field
            .duration(Duration::ZERO..=EVERY_MAX)
            .filter(|jitter| match every {
                Some(every) if *jitter > every => {
                    field.fail(
                        Kind::BadValue,
                        "the jitter is longer than the interval",
                        "make it at most `every`",
                    );
                    false
                }
                _ => true,
            }),
        None => Some(Duration::ZERO),
    };
    section.finish();
    Some(Interval {
        every: every?,
        jitter: jitter?,
    })
}

/// A file with a payload template. A mistake in it is placed in that file.
fn read_payload_file(field: &Field<'_>, context: &Context<'_>) -> Option<PayloadTemplate> {
    let path = context.base_dir.join(field.text("a path")?);
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(why) => {
            field.fail(
                Kind::Unreadable,
                format!("{} cannot be read: {why}", path.display()),
                "relative paths start at the folder of the fleet file",
            );
            return None;
        }
    };
    // Editors end a file with a line break, which nobody means to send.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match PayloadTemplate::new(text) {
        Ok(template) => Some(template),
        Err(error) => {
            let name = path.display().to_string();
            let place = Source::new(&name, text).place(error.offset());
            let order = match field.origin() {
                Origin::File(span) => span.start,
                Origin::Override(_) => usize::MAX,
            };
            let problem = Problem::new(
                Kind::BadTemplate,
                place,
                field.path(),
                error.to_string(),
                "",
            );
            context.problems.add_problem(order, problem);
            None
        }
    }
}

/// Reads a small text file.
fn read_text(path: &Path) -> Result<String, String> {
    use std::io::Read;

    const BYTES_MAX: u64 = 1024 * 1024;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    if !file
        .metadata()
        .map_err(|error| error.to_string())?
        .is_file()
    {
        return Err("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err("it is larger than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

/// Renders a sample, because a payload that claims to be JSON and is not fails far from here.
fn check_json(field: &Field<'_>, payload: &PayloadTemplate) {
    let subject = Subject {
        fleet: "fleet",
        group: "group",
        index: 0,
        id: "device",
    };
    let mut sample = Vec::new();
    payload.render(&subject, 0, &mut payload.state(0, "group", 0), &mut sample);
    if let Err(error) = serde_json::from_slice::<serde_json::Value>(&sample) {
        field.fail(
            Kind::BadValue,
            format!("the content type says JSON, and the payload is none: {error}"),
            "put texts into double quotes, or change content_type",
        );
    }
}

fn read_content_type(field: &Field<'_>) -> Option<String> {
    let text = field.text("a content type")?;
    if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
        field.fail(
            Kind::BadValue,
            "this is no content type",
            "write one such as \"application/json\"",
        );
        return None;
    }
    Some(text.to_owned())
}

/// A name that becomes one level of a topic.
fn read_level(field: &Field<'_>, what: &str) -> Option<String> {
    let text = field.text(&format!("the name of a {what}"))?;
    if is_level(text) {
        return Some(text.to_owned());
    }
    field.fail(
        Kind::BadValue,
        format!("{text:?} is no name of a {what}"),
        LEVEL_RULE,
    );
    None
}

const LEVEL_RULE: &str = "write 1 to 128 bytes without / + # and without control characters: it becomes one level of a topic";

fn is_level(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text
            .chars()
            .any(|letter| letter.is_control() || ['/', '+', '#', '{', '}'].contains(&letter))
}

fn read_commands(section: &Section<'_>) -> Vec<CommandPlan> {
    section
        .named()
        .filter_map(|(name, field)| {
            if !is_level(name) {
                field.fail_at_key(
                    Kind::BadValue,
                    format!("{name:?} is no name of a command"),
                    LEVEL_RULE,
                );
            }
            read_command(name, &field)
        })
        .collect()
}

fn read_command(name: &str, field: &Field<'_>) -> Option<CommandPlan> {
    let section = field.section("a table such as { reply = '{\"ok\":true}' }")?;
    let reply = section
        .required("reply", "write reply = '{\"ok\":true}'")
        .and_then(|field| field.template("a reply", ReplyTemplate::new));
    let delay = match section.field("delay") {
        Some(field) => field.duration(Duration::ZERO..=DELAY_MAX),
        None => Some(Duration::ZERO),
    };
    let fail = match section.field("fail") {
        Some(field) => field.probability(),
        None => Some(0.0),
    };
    section.finish();
    Some(CommandPlan {
        name: name.to_owned(),
        reply: reply?,
        delay: delay?,
        fail: fail?,
    })
}

/// `None` as well for a device that ignores jobs.
fn read_jobs(field: &Field<'_>) -> Option<JobsPlan> {
    let section = field.section("a table such as { on_job = \"succeed\", delay = \"2s\" }")?;
    let on_job = section
        .required(
            "on_job",
            "write on_job = \"succeed\", \"fail\", \"reject\" or \"ignore\"",
        )
        .and_then(|field| {
            field.word(&[
                (OnJob::Succeed.name(), Some(OnJob::Succeed)),
                (OnJob::Fail.name(), Some(OnJob::Fail)),
                (OnJob::Reject.name(), Some(OnJob::Reject)),
                ("ignore", None),
            ])
        });
    let delay = match section.field("delay") {
        Some(field) => field.duration(Duration::ZERO..=DELAY_MAX),
        None => Some(Duration::ZERO),
    };
    let fail = match section.field("fail") {
        Some(field) if on_job.is_some_and(|on_job| on_job != Some(OnJob::Succeed)) => {
            field.fail_at_key(
                Kind::BadValue,
                "it is the share of jobs that fail although they are to succeed",
                "write on_job = \"succeed\", or take the key out",
            );
            None
        }
        Some(field) => field.probability(),
        None => Some(0.0),
    };
    section.finish();
    Some(JobsPlan {
        on_job: on_job??,
        delay: delay?,
        fail: fail?,
    })
}

type Document = serde_json::Map<String, serde_json::Value>;

fn read_state(field: &Field<'_>) -> (Option<Document>, OnDesired) {
    let Some(section) = field.section("a table such as { reported = { fw = \"1.0\" } }") else {
        return (None, OnDesired::default());
    };
    let on_desired = section.field("on_desired").and_then(|field| {
        field.word(&[("ignore", OnDesired::Ignore), ("apply", OnDesired::Apply)])
    });
    let reported = section.field("reported").and_then(|field| {
        field.section("a table of values")?;
        match to_json(&field, field.value()) {
            Some(serde_json::Value::Object(map)) => Some(map),
            _ => None,
        }
    });
    section.finish();
    (reported, on_desired.unwrap_or_default())
}

/// A value as JSON; a date becomes its text, and what JSON cannot say is refused.
fn to_json(field: &Field<'_>, value: &Value) -> Option<serde_json::Value> {
    use serde_json::Value as Json;

    Some(match value {
        Value::Text(text) | Value::Moment(text) => Json::String(text.clone()),
        Value::Boolean(truth) => Json::Bool(*truth),
        Value::List(nodes) => Json::Array(
            nodes
                .iter()
                .map(|node| to_json(field, &node.value))
                .collect::<Option<_>>()?,
        ),
        Value::Table(table) => Json::Object(
            table
                .entries
                .iter()
                .map(|entry| Some((entry.key.clone(), to_json(field, &entry.node.value)?)))
                .collect::<Option<_>>()?,
        ),
        Value::Integer(Some(number)) => Json::from(*number),
        Value::Float(number) if number.is_finite() => Json::from(*number),
        Value::Integer(None) | Value::Float(_) => {
            field.fail(
                Kind::BadValue,
                "a number in it does not exist in JSON",
                "write a finite number of at most 64 bits",
            );
            return None;
        }
    })
}
