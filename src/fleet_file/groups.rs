//! The tables `[[groups]]`, and what only all of them together can get wrong.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use super::aws::problem_of;
use super::credentials::check_files;
use super::models::Model;
use super::plan::{GroupPlan, ModelPlan, OutboxPlan};
use super::platforms::Platform;
use super::problem::ProblemKind as Kind;
use super::reader::{Field, Section};
use super::settings::{FleetSettings, read_durability};
use crate::template::{IdTemplate, nearest};

/// Most devices of one fleet.
pub(super) const DEVICES_MAX: u64 = 1_000_000;

/// Longest device id in bytes; the clouds take less.
const ID_BYTES_MAX: usize = 256;

/// A group of the file with what the checks over all groups need.
struct Group<'a> {
    id_field: Field<'a>,
    plan: Arc<GroupPlan>,
}

/// Reads `[[groups]]` and checks names, ids and files.
pub(super) fn read_groups<'a>(
    field: Option<Field<'a>>,
    settings: &FleetSettings,
    outbox: &OutboxPlan,
    platforms: &[Platform<'a>],
    models: &[Model<'a>],
) -> Vec<Arc<GroupPlan>> {
    let Some(field) = field else {
        return Vec::new();
    };
    let mut names = HashMap::new();
    let mut groups = Vec::new();
    let mut total = 0_u64;
    for field in field.list("a list of tables, [[groups]]") {
        let Some(section) = field.section("a table") else {
            continue;
        };
        let group = read_group(
            section, settings, outbox, platforms, models, &mut names, &mut total,
        );
        groups.extend(group);
    }
    if total > DEVICES_MAX {
        field.fail_at_key(
            Kind::BadValue,
            format!("the groups have {total} devices together"),
            format!("have at most {DEVICES_MAX}, and run more processes for more"),
        );
    } else {
        // Ids are rendered one by one, which is only bearable below the limit.
        check_ids(&groups);
        check_all_files(&groups, platforms);
    }
    groups.into_iter().map(|group| group.plan).collect()
}

fn read_group<'a>(
    section: Section<'a>,
    settings: &FleetSettings,
    outbox: &OutboxPlan,
    platforms: &[Platform<'a>],
    models: &[Model<'a>],
    names: &mut HashMap<&'a str, String>,
    total: &mut u64,
) -> Option<Group<'a>> {
    let name = read_name(&section, names);
    let platform = section
        .required("platform", "write the name of a platform")
        .and_then(|field| find(&field, "platform", platforms, |platform| platform.name));
    let model = section
        .required("model", "write the name of a model")
        .and_then(|field| find(&field, "model", models, |model| model.name));
    let count = section
        .required("count", "write how many devices there are")
        .and_then(|field| field.whole(0..=DEVICES_MAX));
    let start_index = match section.field("start_index") {
        Some(field) => field.whole(0..=i64::MAX.cast_unsigned() - DEVICES_MAX),
        None => Some(0),
    };
    let id_field = section.required("id", "write id = \"name-{{index:06}}\"");
    let id = id_field.as_ref().and_then(|field| read_id(field, count));
    let durability = section
        .field("durability")
        .and_then(|field| read_durability(&field));
    section.not_available("faults", "take it out");
    section.finish();
    *total = total.saturating_add(count.unwrap_or(0));
    let (name, platform) = (name?, platform?);
    let plan = Arc::new(GroupPlan {
        name: name.into(),
        platform: Arc::clone(platform.plan.as_ref()?),
        // A mistake in the model is noted; the ids and files of the group are looked at all the same.
        model: model
            .and_then(|model| model.plan.clone())
            .unwrap_or_else(|| Arc::new(ModelPlan::nothing())),
        // Likewise: one device is there in any case.
        count: count.unwrap_or(1),
        start_index: start_index?,
        id: id?,
        topics: platform.topics.of_group(&settings.name, name),
        fleet: Arc::clone(&settings.name),
        seed: settings.seed,
        durability: durability.unwrap_or(outbox.durability),
    });
    let group = Group {
        id_field: id_field?,
        plan,
    };
    if let Some((message, remedy)) = problem_of(&group.plan) {
        group.id_field.fail(Kind::BadValue, message, remedy);
        return Some(group);
    }
    check_id_form(&group).then_some(group)
}

fn read_name<'a>(section: &Section<'a>, names: &mut HashMap<&'a str, String>) -> Option<&'a str> {
    let field = section.required("name", "write name = \"…\"")?;
    let name = field.name()?;
    if let Some(first) = names.get(name) {
        field.fail(
            Kind::Duplicate,
            format!("{first} is {name:?} already"),
            "give each group its own name",
        );
        return None;
    }
    names.insert(name, field.path().to_owned());
    Some(name)
}

/// The platform or model that a group names.
fn find<'b, T>(
    field: &Field<'_>,
    what: &str,
    all: &'b [T],
    name_of: impl Fn(&T) -> &str,
) -> Option<&'b T> {
    let wanted = field.text(&format!("the name of a {what}"))?;
    let found = all.iter().find(|candidate| name_of(candidate) == wanted);
    if found.is_none() {
        let remedy = match nearest(wanted, all.iter().map(&name_of)) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None if all.is_empty() => format!("add a table [{what}s.{wanted}]"),
            None => {
                let names: Vec<&str> = all.iter().map(&name_of).collect();
                format!("there is {}", names.join(", "))
            }
        };
        field.fail(
            Kind::UnknownName,
            format!("there is no {what} {wanted:?}"),
            remedy,
        );
    }
    found
}

fn read_id(field: &Field<'_>, count: Option<u64>) -> Option<IdTemplate> {
    let id = field.template("an id template", IdTemplate::new)?;
    if count.is_some_and(|count| count > 1) && !id.varies() {
        field.fail(
            Kind::Duplicate,
            "all devices of the group would have this id",
            "put {{index}} into it",
        );
        return None;
    }
    Some(id)
}

/// Looks at the last id, which is the longest; all ids of a group are made of the same characters but for digits.
fn check_id_form(group: &Group<'_>) -> bool {
    let last = group.plan.indexes().end.saturating_sub(1);
    let id = group.plan.device(last.max(group.plan.start_index)).id;
    let bad = id
        .chars()
        .find(|letter| letter.is_control() || ['/', '+', '#'].contains(letter));
    let (message, remedy) = if let Some(letter) = bad {
        (
            format!("an id cannot hold {letter:?}, because it becomes one level of a topic"),
            "use other characters",
        )
    } else if id.is_empty() {
        ("the id is empty".to_owned(), "write an id")
    } else if id.len() > ID_BYTES_MAX {
        (
            format!("the ids have {} bytes", id.len()),
            "make them at most 256 bytes long",
        )
    } else {
        return true;
    };
    group.id_field.fail(Kind::BadValue, message, remedy);
    false
}

/// Where one id is: the hash of its text, the group and the index.
type IdPlace = (u64, usize, u64);

/// Finds ids that exist twice on one broker, which only two groups can manage: inside of a group the id grows
/// with the index, and ids of the same length differ in their first number. Only hashes are kept, 24 bytes a
/// device, and a pair of equal hashes is rendered again before it is called a double.
fn check_ids(groups: &[Group<'_>]) {
    let mut brokers: HashMap<(&str, u16), Vec<usize>> = HashMap::new();
    for (at, group) in groups.iter().enumerate() {
        let endpoint = &group.plan.platform.endpoint;
        let broker = (endpoint.host.as_str(), endpoint.port);
        brokers.entry(broker).or_default().push(at);
    }
    for members in brokers.values() {
        check_broker(groups, members);
    }
}

fn check_broker(groups: &[Group<'_>], members: &[usize]) {
    let hasher = RandomState::new();
    let mut places: Vec<IdPlace> = Vec::new();
    let mut id = Vec::new();
    for &at in members {
        let Some(group) = groups.get(at) else {
            continue;
        };
        let plan = &group.plan;
        for index in plan.indexes() {
            id.clear();
            plan.id.render_into(&plan.fleet, &plan.name, index, &mut id);
            places.push((hasher.hash_one(&id), at, index));
        }
    }
    places.sort_unstable();
    let mut told: HashMap<(usize, usize), (u64, IdPlace, IdPlace)> = HashMap::new();
    for run in places.chunk_by(|left, right| left.0 == right.0) {
        for pair in run.windows(2) {
            let &[first, second] = pair else {
                continue;
            };
            if id_at(groups, first) == id_at(groups, second) {
                let told = told
                    .entry((first.1, second.1))
                    .or_insert((0, first, second));
                told.0 += 1;
                // Hashes come in no order that a reader knows, so the example is the lowest index.
                if second.2 < told.2.2 {
                    (told.1, told.2) = (first, second);
                }
            }
        }
    }
    for (count, first, second) in told.into_values() {
        tell_double(groups, count, first, second);
    }
}

fn id_at(groups: &[Group<'_>], (_, at, index): IdPlace) -> Option<String> {
    groups.get(at).map(|group| group.plan.device(index).id)
}

fn tell_double(groups: &[Group<'_>], count: u64, first: IdPlace, second: IdPlace) {
    let (Some(one), Some(other)) = (groups.get(first.1), groups.get(second.1)) else {
        return;
    };
    let id = other.plan.device(second.2).id;
    let more = match count - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let message = format!(
        "the groups {:?} and {:?} both have a device {id:?}{more} on {}",
        &*one.plan.name, &*other.plan.name, other.plan.platform.endpoint
    );
    other.id_field.fail(
        Kind::Duplicate,
        message,
        "a broker keeps one connection for an id; put {{group}} into one of them, or change its start_index",
    );
}

fn check_all_files(groups: &[Group<'_>], platforms: &[Platform<'_>]) {
    let mut seen: HashSet<PathBuf> = HashSet::new();
    for group in groups.iter().filter(|group| group.plan.count > 0) {
        let platform = platforms
            .iter()
            .find(|platform| *platform.name == *group.plan.platform.name);
        if let Some(platform) = platform {
            check_files(&group.plan, &platform.needed_files, &mut seen);
        }
    }
}
