//! The plain dialect: which topic means what, and back.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

use std::time::SystemTime;

use bytes::Bytes;
use paquebot_protocols::dialect::plain::Topics;
use paquebot_protocols::dialect::{
    Dialect, DialectError, Inbound, Interest, LinkIdentity, Outbound, Plain, Rendered,
};
use paquebot_protocols::model::{
    Command, CommandReply, CommandStatus, DeviceId, Role, StatePatch, Telemetry,
};
use paquebot_protocols::mqtt::session::Incoming;
use paquebot_protocols::mqtt::{Properties, PropertySet, QoS, Topic, Version};

fn link(role: Role, version: Version) -> LinkIdentity {
    LinkIdentity {
        id: id("d1"),
        role,
        version,
    }
}

fn id(text: &str) -> DeviceId {
    DeviceId::new(text.to_owned()).unwrap()
}

fn incoming(topic: &str, properties: Properties) -> Incoming {
    Incoming {
        topic: Topic::new(topic.to_owned()).unwrap(),
        payload: Bytes::from_static(b"payload"),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        properties,
        id: None,
    }
}

fn render(role: Role, version: Version, outbound: &Outbound<'_>) -> Rendered {
    Plain::default()
        .render(&link(role, version), &id("d1"), outbound)
        .unwrap()
        .unwrap()
}

fn command(topic: &str, properties: Properties) -> Command {
    let inbound = Plain::default()
        .classify(
            &link(Role::Device, Version::V5),
            &incoming(topic, properties),
        )
        .unwrap();
    match inbound {
        Inbound::Command(command) => command,
        other => panic!("{other:?}"),
    }
}

#[test]
fn telemetry_goes_to_the_devices_topic_and_a_channel_is_one_level_more() {
    let telemetry = Telemetry::new(&b"1"[..])
        .with_qos(QoS::ExactlyOnce)
        .with_retain(true);
    let sent = render(
        Role::Device,
        Version::V311,
        &Outbound::Telemetry(&telemetry),
    );
    assert_eq!(sent.topic.as_str(), "devices/d1/telemetry");
    assert_eq!(
        (sent.qos, sent.retain, &*sent.payload),
        (QoS::ExactlyOnce, true, &b"1"[..])
    );
    let telemetry = telemetry.with_channel("power");
    let sent = render(
        Role::Device,
        Version::V311,
        &Outbound::Telemetry(&telemetry),
    );
    assert_eq!(sent.topic.as_str(), "devices/d1/telemetry/power");
}

#[test]
fn a_command_is_answered_on_the_reply_topic_with_its_status_and_request() {
    for (topic, reply) in [
        (
            "devices/d1/commands/reboot/42",
            "devices/d1/replies/reboot/ok/42",
        ),
        ("devices/d1/commands/reboot", "devices/d1/replies/reboot/ok"),
    ] {
        let command = command(topic, Properties::default());
        assert_eq!((&*command.name, &command.device), ("reboot", &id("d1")));
        let outbound = Outbound::Reply {
            command: &command,
            reply: &CommandReply::ok(&b"{}"[..]),
        };
        assert_eq!(
            render(Role::Device, Version::V311, &outbound)
                .topic
                .as_str(),
            reply
        );
    }
}

#[test]
fn a_response_topic_of_mqtt_5_wins_and_gets_its_correlation_data_back() {
    let properties = Properties::from(PropertySet {
        response_topic: Some("app/answers".into()),
        correlation_data: Some(Bytes::from_static(b"\x01\x02")),
        ..PropertySet::default()
    });
    let command = command("devices/d1/commands/reboot", properties);
    let reply = CommandReply::with_status(CommandStatus::Unknown);
    let outbound = Outbound::Reply {
        command: &command,
        reply: &reply,
    };
    let sent = render(Role::Device, Version::V5, &outbound);
    assert_eq!(sent.topic.as_str(), "app/answers");
    assert_eq!(
        sent.properties.correlation_data.as_deref(),
        Some(&b"\x01\x02"[..])
    );
    assert_eq!(
        sent.properties.user_properties,
        [("status".into(), "unknown".into())]
    );
}

#[test]
fn what_a_device_says_an_application_reads_back() {
    let plain = Plain::default();
    let application = link(Role::Application, Version::V311);
    let read = |topic: &str| {
        plain
            .classify(&application, &incoming(topic, Properties::default()))
            .unwrap()
    };
    match read("devices/d1/telemetry/power") {
        Inbound::Telemetry { device, telemetry } => {
            assert_eq!(
                (device, telemetry.channel.as_deref()),
                (id("d1"), Some("power"))
            );
        }
        other => panic!("{other:?}"),
    }
    match read("devices/d1/replies/reboot/expired/7") {
        Inbound::Reply {
            device,
            reply_to,
            reply,
        } => {
            assert_eq!((device, &*reply_to.request), (id("d1"), "7"));
            assert_eq!(reply.status, CommandStatus::Expired);
        }
        other => panic!("{other:?}"),
    }
    let outbound = Outbound::Command {
        name: "reboot",
        payload: &Bytes::new(),
        request: "7",
    };
    let sent = render(Role::Application, Version::V311, &outbound);
    assert_eq!(sent.topic.as_str(), "devices/d1/commands/reboot/7");
}

#[test]
fn topics_of_nobody_are_raw_and_deeper_ones_are_no_commands() {
    let plain = Plain::default();
    for topic in [
        "devices/d1/commands/a/b/c",
        "devices/d1/commands",
        "devices//commands/a",
        "devices/d1",
        "x/devices/d1/commands/a",
    ] {
        let identity = link(Role::Device, Version::V5);
        let inbound = plain
            .classify(&identity, &incoming(topic, Properties::default()))
            .unwrap();
        assert_eq!(inbound, Inbound::Raw, "{topic}");
    }
}

#[test]
fn the_filters_cover_the_topics_of_what_is_wanted() {
    let plain = Plain::default();
    let filter = |role, interest| {
        plain
            .subscriptions(&link(role, Version::V5), &id("d1"), interest)
            .map(|s| s[0].filter.to_string())
    };
    assert_eq!(
        filter(Role::Device, Interest::Commands).unwrap(),
        "devices/d1/commands/+/#"
    );
    assert_eq!(
        filter(Role::Device, Interest::DesiredState).unwrap(),
        "devices/d1/state/desired"
    );
    assert_eq!(
        filter(Role::Application, Interest::Telemetry).unwrap(),
        "devices/+/telemetry/#"
    );
    assert_eq!(
        filter(Role::Application, Interest::Replies).unwrap(),
        "devices/+/replies/+/+/#"
    );
    for (role, interest) in [
        (Role::Application, Interest::Commands),
        (Role::Device, Interest::Telemetry),
    ] {
        let refused = filter(role, interest);
        assert!(
            matches!(refused, Err(DialectError::Unsupported { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn the_last_will_says_offline_where_the_status_says_online() {
    let plain = Plain::default();
    let identity = link(Role::Device, Version::V311);
    let will = plain
        .connect(&identity, SystemTime::UNIX_EPOCH)
        .unwrap()
        .will
        .unwrap();
    assert_eq!(
        (will.topic.as_str(), &*will.payload),
        ("devices/d1/status", &b"offline"[..])
    );
    let online = render(Role::Device, Version::V311, &Outbound::Online);
    assert_eq!(
        (online.topic.as_str(), &*online.payload),
        ("devices/d1/status", &b"online"[..])
    );
    assert!(will.retain && online.retain);
    let application = link(Role::Application, Version::V311);
    assert!(
        plain
            .connect(&application, SystemTime::UNIX_EPOCH)
            .unwrap()
            .will
            .is_none()
    );
}

#[test]
fn state_is_reported_retained_and_desired_by_the_application_alone() {
    let patch = StatePatch::json(&[("fw", "1")]).unwrap();
    let sent = render(Role::Device, Version::V311, &Outbound::ReportState(&patch));
    assert_eq!(
        (sent.topic.as_str(), sent.retain),
        ("devices/d1/state/reported", true)
    );
    let refused = Plain::default().render(
        &link(Role::Device, Version::V311),
        &id("d1"),
        &Outbound::DesireState(&patch),
    );
    assert!(
        matches!(refused, Err(DialectError::Unsupported { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_bad_template_is_named_with_what_is_wrong() {
    let with = |change: fn(&mut Topics)| {
        let mut topics = Topics::default();
        change(&mut topics);
        Plain::new(&topics)
            .map(|_| ())
            .map_err(|(name, error)| format!("{name}: {error}"))
    };
    assert_eq!(with(|_| ()), Ok(()));
    for (change, said) in [
        (
            (|t| t.telemetry = "telemetry".into()) as fn(&mut Topics),
            "telemetry: the template needs {device}",
        ),
        (
            |t| t.telemetry = "{device}/{command}".into(),
            "telemetry: {command} is no placeholder",
        ),
        (
            |t| t.commands = "{device}/x-{command}".into(),
            "commands: the level \"x-{command}\"",
        ),
        (
            |t| t.reported = "{device}/#".into(),
            "reported: the template gives no valid topic",
        ),
        (
            |t| t.status = Some("{id}".into()),
            "status: {id} is no placeholder",
        ),
    ] {
        let error = with(change).unwrap_err();
        assert!(error.starts_with(said), "{error}");
    }
}
