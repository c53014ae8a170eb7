//! The tables of the process itself: `[fleet]`, `[admin]` and `[outbox]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::Context;
use super::plan::{AdminPlan, OutboxPlan, Overflow};
use super::problem::ProblemKind as Kind;
use super::reader::{Field, Section};
use super::tree::Value;
use crate::Durability;

/// What `[fleet]` says.
pub(super) struct FleetSettings {
    pub(super) name: Arc<str>,
    pub(super) seed: u64,
    pub(super) connect_rate: Option<f64>,
    pub(super) drain_timeout: Duration,
    pub(super) workers: NonZeroUsize,
}

const DAY: Duration = Duration::from_secs(86_400);

/// Reads `[fleet]`. What is wrong in it is noted and replaced by its default.
pub(super) fn read_fleet(section: Option<Section<'_>>) -> FleetSettings {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut settings = FleetSettings {
        name: "fleet".into(),
        seed: 0,
        connect_rate: None,
        drain_timeout: Duration::from_secs(20),
        workers: cores(),
    };
    let Some(section) = section else {
        return settings;
    };
    if let Some(name) = section.field("name").and_then(|field| field.name()) {
        settings.name = name.into();
    }
    if let Some(seed) = section
        .field("seed")
        .and_then(|field| field.whole(0..=i64::MAX.cast_unsigned()))
    {
        settings.seed = seed;
    }
    settings.connect_rate = section.field("connect_rate").and_then(|field| field.rate());
    if let Some(timeout) = section
        .field("drain_timeout")
        .and_then(|field| field.duration(Duration::ZERO..=DAY))
    {
        settings.drain_timeout = timeout;
    }
    if let Some(workers) = section
        .field("workers")
        .and_then(|field| field.whole(1..=1_024))
        .and_then(|count| NonZeroUsize::new(usize::try_from(count).ok()?))
    {
        settings.workers = workers;
    }
    section.finish();
    settings
}

/// Reads `[admin]`.
pub(super) fn read_admin(section: &Section<'_>) -> Option<AdminPlan> {
    let allow_remote = section
        .field("allow_remote")
        .and_then(|field| field.boolean())
        .unwrap_or(false);
    section.not_available("token_file", "leave it out and listen on loopback");
    let listen = match section.field("listen") {
        Some(field) => read_listen(&field, allow_remote)?,
        None => SocketAddr::from((Ipv4Addr::LOCALHOST, 9_464)),
    };
    Some(AdminPlan { listen })
}

fn read_listen(field: &Field<'_>, allow_remote: bool) -> Option<SocketAddr> {
    let text = field.text("an address such as \"127.0.0.1:9464\"")?;
    let Ok(listen) = text.parse::<SocketAddr>() else {
        field.fail(
            Kind::BadValue,
            format!("{text:?} is no address with a port"),
            "write one such as \"127.0.0.1:9464\" or \"[::1]:9464\"",
        );
        return None;
    };
    if listen.ip().is_loopback() || allow_remote {
        return Some(listen);
    }
    field.fail(
        Kind::BadValue,
        format!(
            "{} can be reached from other machines, and the admin server asks for no password",
            listen.ip()
        ),
        "listen on 127.0.0.1, or write allow_remote = true to mean it",
    );
    None
}

/// Reads `[outbox]`, or the one word `outbox = "disk"`.
pub(super) fn read_outbox(field: Option<Field<'_>>, context: &Context<'_>) -> OutboxPlan {
    let mut outbox = OutboxPlan {
        durability: Durability::Memory,
        store: context.base_dir.join("outbox"),
        store_max_bytes: None,
        fleet_max_messages: None,
        fleet_max_bytes: None,
        max_messages: 1_000,
        max_bytes: 1024 * 1024,
        overflow: Overflow::default(),
        drain_rate: None,
    };
    let Some(field) = field else {
        return outbox;
    };
    if matches!(field.value(), Value::Text(_)) {
        outbox.durability = read_durability(&field).unwrap_or_default();
        return outbox;
    }
    let Some(section) = field.section("a table, or how durable it is such as \"disk\"") else {
        return outbox;
    };
    if let Some(field) = section.field("durability") {
        outbox.durability = read_durability(&field).unwrap_or_default();
    }
    outbox.store_max_bytes = section
        .field("store_max_bytes")
        .and_then(|field| field.size(64 * 1_024..=1 << 50));
    outbox.fleet_max_messages = section
        .field("fleet_max_messages")
        .and_then(|field| field.whole(1..=1_000_000_000));
    outbox.fleet_max_bytes = section
        .field("fleet_max_bytes")
        .and_then(|field| field.size(1_024..=1 << 40));
    if let Some(path) = section
        .field("store")
        .and_then(|field| field.text("a path"))
    {
        outbox.store = context.base_dir.join(path);
    }
    if let Some(count) = section
        .field("max_messages")
        .and_then(|field| field.whole(1..=10_000_000))
    {
        outbox.max_messages = count;
    }
    if let Some(size) = section
        .field("max_bytes")
        .and_then(|field| field.size(1_024..=1 << 40))
    {
        outbox.max_bytes = size;
    }
    if let Some(overflow) = section.field("overflow").and_then(|field| {
        field.word(&[
            ("drop_oldest", Overflow::DropOldest),
            ("drop_newest", Overflow::DropNewest),
            ("block", Overflow::Block),
            ("reject", Overflow::Reject),
        ])
    }) {
        outbox.overflow = overflow;
    }
    outbox.drain_rate = section.field("drain_rate").and_then(|field| field.rate());
    section.finish();
    outbox
}

/// Reads how durable what waits is.
pub(super) fn read_durability(field: &Field<'_>) -> Option<Durability> {
    field.word(&[
        ("memory", Durability::Memory),
        ("process", Durability::Process),
        ("disk", Durability::Disk),
    ])
}

/// Reads `[cluster]`: it may only say that there is none.
pub(super) fn read_cluster(field: &Field<'_>) {
    let Some(section) = field.section("a table") else {
        return;
    };
    let off = section
        .field("enabled")
        .is_some_and(|field| matches!(field.value(), Value::Boolean(false)));
    if !off {
        field.fail_at_key(
            Kind::NotAvailable,
            "it is not available in this version",
            "take the table out, or write enabled = false in it",
        );
    }
}
