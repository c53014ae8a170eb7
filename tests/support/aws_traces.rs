//! What Amazon's SDKs for Python say to AWS IoT, packet by packet, and how a recording is written down.

use paquebot_emulator::Recording;
use paquebot_emulator::mqtt::{Packet, Sender, TopicFilter};
use serde_json::Value;

/// Where the shadows of `Bot` are, and its jobs; in a line they are `P` and `J`.
const PREFIXES: [(&str, &str); 2] = [
    ("$aws/things/Bot/shadow", "P"),
    ("$aws/things/Bot/jobs", "J"),
];

fn shortened(topics: &str) -> String {
    let mut topics = topics.to_owned();
    for (prefix, short) in PREFIXES {
        topics = topics.replace(prefix, short);
    }
    topics
}

/// A packet in a line, with its packet identifier where it has one; a client token counts as `…`.
pub(crate) fn line(packet: &Packet) -> String {
    match packet {
        Packet::Connect(connect) => format!(
            "CONNECT {} {} {} {}",
            connect.client_id,
            connect.keep_alive,
            if connect.clean_start {
                "clean"
            } else {
                "lasting"
            },
            connect.username.as_deref().unwrap_or("-"),
        ),
        Packet::ConnAck(connack) => format!("CONNACK {}", connack.reason_code.0),
        Packet::Publish(publish) => {
            let topic = publish.topic.as_ref().map_or("", |topic| topic.as_str());
            let mut body = String::from_utf8_lossy(&publish.payload).into_owned();
            if let Ok(Value::Object(mut document)) = serde_json::from_str(&body) {
                if let Some(token) = document.get_mut("clientToken") {
                    *token = "…".into();
                }
                document.remove("timestamp");
                document.remove("metadata");
                body = Value::Object(document).to_string();
            }
            let id = publish.packet_id.map_or(0, |id| id.value());
            let dup = if publish.dup { " dup" } else { "" };
            let topic = shortened(topic);
            format!("PUBLISH{dup} {id} q{} {topic} {body}", publish.qos as u8)
        }
        Packet::Subscribe(subscribe) => {
            let filters: Vec<String> = subscribe
                .filters
                .iter()
                .map(|wanted| format!("{} q{}", wanted.filter.as_str(), wanted.qos as u8))
                .collect();
            let filters = shortened(&filters.join(", "));
            format!("SUBSCRIBE {} {filters}", subscribe.packet_id.value())
        }
        Packet::Unsubscribe(unsubscribe) => {
            let filters: Vec<&str> = unsubscribe
                .filters
                .iter()
                .map(TopicFilter::as_str)
                .collect();
            let filters = shortened(&filters.join(", "));
            format!("UNSUBSCRIBE {} {filters}", unsubscribe.packet_id.value())
        }
        other => other.name().to_owned(),
    }
}

/// What one side said so far. Its acknowledgements are left out: they come when a thread gets to it.
pub(crate) fn lines(recording: &mut Recording, sender: Sender) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(recorded) = recording.try_recv() {
        if recorded.sender == sender && !matches!(recorded.packet, Packet::PubAck(_)) {
            lines.push(line(&recorded.packet));
        }
    }
    assert_eq!(recording.lost(), 0);
    lines
}

/// What the first SDK says in `v1_plain.py`.
pub(crate) const PLAIN: [&str; 6] = [
    "CONNECT basicPubSub 600 clean ?SDK=Python&Version=1.6.2",
    "SUBSCRIBE 1 sdk/test/Python q1",
    "PUBLISH 0 q0 sdk/test/Python m0",
    "PUBLISH 3 q1 sdk/test/Python m1",
    "UNSUBSCRIBE 4 sdk/test/Python",
    "DISCONNECT",
];

/// What the first SDK says in `v1_shadow.py` with a persistent handler.
pub(crate) const SHADOW_PERSISTENTLY: [&str; 16] = [
    "CONNECT shadow-client 600 clean ?SDK=Python&Version=1.6.2",
    "SUBSCRIBE 1 P/get/accepted q0",
    "SUBSCRIBE 2 P/get/rejected q0",
    r#"PUBLISH 0 q0 P/get {"clientToken":"…"}"#,
    "SUBSCRIBE 4 P/update/delta q0",
    "SUBSCRIBE 5 P/update/accepted q0",
    "SUBSCRIBE 6 P/update/rejected q0",
    r#"PUBLISH 0 q0 P/update {"clientToken":"…","state":{"desired":{"p":1}}}"#,
    r#"PUBLISH 0 q0 P/update {"clientToken":"…","state":{"reported":{"p":1}}}"#,
    r#"PUBLISH 0 q0 P/get {"clientToken":"…"}"#,
    "SUBSCRIBE 10 P/delete/accepted q0",
    "SUBSCRIBE 11 P/delete/rejected q0",
    r#"PUBLISH 0 q0 P/delete {"clientToken":"…"}"#,
    r#"PUBLISH 0 q0 P/delete {"clientToken":"…"}"#,
    "UNSUBSCRIBE 14 P/update/delta",
    "DISCONNECT",
];

/// What it says there with one that is not.
pub(crate) const SHADOW_CALL_BY_CALL: [&str; 34] = [
    "CONNECT shadow-client 600 clean ?SDK=Python&Version=1.6.2",
    "SUBSCRIBE 1 P/get/accepted q0",
    "SUBSCRIBE 2 P/get/rejected q0",
    r#"PUBLISH 0 q0 P/get {"clientToken":"…"}"#,
    "UNSUBSCRIBE 4 P/get/accepted",
    "UNSUBSCRIBE 5 P/get/rejected",
    "SUBSCRIBE 6 P/update/delta q0",
    "SUBSCRIBE 7 P/update/accepted q0",
    "SUBSCRIBE 8 P/update/rejected q0",
    r#"PUBLISH 0 q0 P/update {"clientToken":"…","state":{"desired":{"p":1}}}"#,
    "UNSUBSCRIBE 10 P/update/accepted",
    "UNSUBSCRIBE 11 P/update/rejected",
    "SUBSCRIBE 12 P/update/accepted q0",
    "SUBSCRIBE 13 P/update/rejected q0",
    r#"PUBLISH 0 q0 P/update {"clientToken":"…","state":{"reported":{"p":1}}}"#,
    "UNSUBSCRIBE 15 P/update/accepted",
    "UNSUBSCRIBE 16 P/update/rejected",
    "SUBSCRIBE 17 P/get/accepted q0",
    "SUBSCRIBE 18 P/get/rejected q0",
    r#"PUBLISH 0 q0 P/get {"clientToken":"…"}"#,
    "UNSUBSCRIBE 20 P/get/accepted",
    "UNSUBSCRIBE 21 P/get/rejected",
    "SUBSCRIBE 22 P/delete/accepted q0",
    "SUBSCRIBE 23 P/delete/rejected q0",
    r#"PUBLISH 0 q0 P/delete {"clientToken":"…"}"#,
    "UNSUBSCRIBE 25 P/delete/accepted",
    "UNSUBSCRIBE 26 P/delete/rejected",
    "SUBSCRIBE 27 P/delete/accepted q0",
    "SUBSCRIBE 28 P/delete/rejected q0",
    r#"PUBLISH 0 q0 P/delete {"clientToken":"…"}"#,
    "UNSUBSCRIBE 30 P/delete/accepted",
    "UNSUBSCRIBE 31 P/delete/rejected",
    "UNSUBSCRIBE 32 P/update/delta",
    "DISCONNECT",
];

/// What it says in `v1_jobs.py`.
pub(crate) const JOBS: [&str; 15] = [
    "CONNECT jobs-client 600 clean ?SDK=Python&Version=1.6.2",
    "SUBSCRIBE 1 J/get/accepted q1",
    "SUBSCRIBE 2 J/get/rejected q1",
    "SUBSCRIBE 3 J/start-next/accepted q1",
    "SUBSCRIBE 4 J/start-next/rejected q1",
    "SUBSCRIBE 5 J/+/get/accepted q1",
    "SUBSCRIBE 6 J/+/get/rejected q1",
    "SUBSCRIBE 7 J/+/update/accepted q1",
    "SUBSCRIBE 8 J/+/update/rejected q1",
    "SUBSCRIBE 9 J/notify-next q1",
    r#"PUBLISH 10 q1 J/get {"clientToken":"…"}"#,
    r#"PUBLISH 11 q1 J/start-next {"clientToken":"…","statusDetails":{"by":"test"},"stepTimeoutInMinutes":5}"#,
    r#"PUBLISH 12 q1 J/job1/get {"clientToken":"…","includeJobDocument":true}"#,
    r#"PUBLISH 13 q1 J/job1/update {"clientToken":"…","executionNumber":"1","expectedVersion":"2","status":"SUCCEEDED"}"#,
    "DISCONNECT",
];

/// What the second SDK says in `v2_shadow.py`. It hangs up without a DISCONNECT.
pub(crate) const NAMED_SHADOW: [&str; 21] = [
    "CONNECT shadow-client 1200 clean ?SDK=IoTDeviceSDK/Python&Platform=Unix&\
     Metadata=(CRTVersion=0.36.1;IoTSDKVersion=1.31.0;IoTSDKFeature=F/5,G/A,I/A;IoTSDKMetricsVersion=1)",
    "SUBSCRIBE 1 P/name/config/update/delta q1",
    "SUBSCRIBE 2 P/name/config/get/+ q1",
    r#"PUBLISH 3 q1 P/name/config/get {"clientToken":"…"}"#,
    "UNSUBSCRIBE 4 P/name/config/get/+",
    "SUBSCRIBE 5 P/name/config/update/accepted q1",
    "SUBSCRIBE 6 P/name/config/update/rejected q1",
    r#"PUBLISH 7 q1 P/name/config/update {"clientToken":"…","state":{"desired":{"p":1}}}"#,
    "UNSUBSCRIBE 8 P/name/config/update/rejected",
    "UNSUBSCRIBE 9 P/name/config/update/accepted",
    "SUBSCRIBE 10 P/name/config/update/accepted q1",
    "SUBSCRIBE 11 P/name/config/update/rejected q1",
    r#"PUBLISH 12 q1 P/name/config/update {"clientToken":"…","state":{"reported":{"p":2}}}"#,
    "UNSUBSCRIBE 13 P/name/config/update/rejected",
    "UNSUBSCRIBE 14 P/name/config/update/accepted",
    "SUBSCRIBE 15 P/name/config/get/+ q1",
    r#"PUBLISH 16 q1 P/name/config/get {"clientToken":"…"}"#,
    "UNSUBSCRIBE 17 P/name/config/get/+",
    "SUBSCRIBE 18 P/name/config/delete/+ q1",
    r#"PUBLISH 19 q1 P/name/config/delete {"clientToken":"…"}"#,
    "UNSUBSCRIBE 20 P/name/config/delete/+",
];
