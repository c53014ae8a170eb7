//! Device Defender: what a device tells about its network connections and about what an operator asks of it.
//!
//! To `$aws/things/{thing}/defender/metrics/{format}`; the answer is on that topic with `/accepted` or `/rejected`
//! behind it and names the report by its `reportId`. One report in five minutes counts.
//!
//! Source: AWS IoT Device Defender Developer Guide, *Sending metrics from devices*.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::THING_NAME_BYTES_MAX;
use super::provisioning::PayloadFormat;
use super::shadow::{check_name, invalid};
use crate::dialect::{DialectError, Rendered};
use crate::mqtt::{QoS, Subscription, Topic, TopicFilter};

/// The version of the reports' shape.
const VERSION: &str = "1.0";

/// Most items of a custom metric that is a list.
pub const CUSTOM_LIST_MAX: usize = 1000;

/// What a device tells; what is `None` or empty is left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DefenderReport {
    /// TCP ports that are listened on.
    pub listening_tcp_ports: Option<Vec<ListeningPort>>,
    /// UDP ports that are listened on.
    pub listening_udp_ports: Option<Vec<ListeningPort>>,
    /// What went over the network since the last report.
    pub network: Option<NetworkStats>,
    /// TCP connections that are open.
    pub tcp_connections: Option<Vec<TcpConnection>>,
    /// What the operator asks for, by name.
    pub custom: BTreeMap<String, CustomMetric>,
}

/// A port that is listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListeningPort {
    /// The port.
    pub port: u16,
    /// The network interface, such as `eth0`.
    pub interface: Option<String>,
}

/// What went over the network since the last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetworkStats {
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Packets received.
    pub packets_in: u64,
    /// Packets sent.
    pub packets_out: u64,
}

/// An open TCP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpConnection {
    /// The other end.
    pub remote: SocketAddr,
    /// The port at this end.
    pub local_port: Option<u16>,
    /// The network interface, such as `eth0`.
    pub local_interface: Option<String>,
}

/// The value of a metric that an operator made.
#[derive(Debug, Clone, PartialEq)]
pub enum CustomMetric {
    /// A number.
    Number(f64),
    /// Numbers.
    NumberList(Vec<f64>),
    /// Texts.
    StringList(Vec<String>),
    /// Addresses, also of networks.
    IpList(Vec<String>),
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefenderReply {
    /// Which report.
    pub report_id: Option<u64>,
    /// Whether it was taken.
    pub answer: Result<(), DefenderRejection>,
}

/// Why a report was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Device Defender answered {code}: {message}")]
#[non_exhaustive]
pub struct DefenderRejection {
    /// The kind: `InvalidPayload`, `Throttled` …
    pub code: String,
    /// The service's words.
    pub message: String,
}

/// The topics that the answers come on.
///
/// # Errors
/// The name is none of a thing.
pub fn reply_filters(
    thing: &str,
    format: PayloadFormat,
) -> Result<Vec<Subscription>, DialectError> {
    let topic = topic(thing, format)?;
    let filter = |end: &str| {
        TopicFilter::new(format!("{topic}/{end}"))
            .map(|filter| Subscription::new(filter, QoS::AtMostOnce))
            .map_err(|error| invalid("topic filter", error.to_string()))
    };
    Ok(vec![filter("accepted")?, filter("rejected")?])
}

/// Topic and payload of a report. `id` has to be greater than that of the report before.
///
/// # Errors
/// The name is none of a thing; a custom metric has too many items or a number that is none.
pub fn render(
    thing: &str,
    format: PayloadFormat,
    report: &DefenderReport,
    id: u64,
) -> Result<Rendered, DialectError> {
    let topic = Topic::new(topic(thing, format)?);
    let mut body = Map::new();
    body.insert(
        "header".into(),
        json!({"report_id": id, "version": VERSION}),
    );
    body.insert("metrics".into(), Value::Object(metrics(report)));
    if !report.custom.is_empty() {
        let custom = report.custom.iter();
        let custom =
            custom.map(|(name, value)| Ok((name.clone(), json!([measured(name, value)?]))));
        let custom: Result<Map<_, _>, DialectError> = custom.collect();
        body.insert("custom_metrics".into(), Value::Object(custom?));
    }
    let topic = topic.map_err(|error| invalid("topic", error.to_string()))?;
    let payload = format.write(&Value::Object(body));
    Ok(Rendered::new(topic, payload, QoS::AtMostOnce))
}

/// The answer in a message; `None` when its topic is none of an answer to this thing.
#[must_use]
pub fn read(
    thing: &str,
    format: PayloadFormat,
    topic_of_answer: &str,
    payload: &[u8],
) -> Option<DefenderReply> {
    let is_accepted = match topic_of_answer.strip_prefix(&topic(thing, format).ok()?)? {
        "/accepted" => true,
        "/rejected" => false,
        _ => return None,
    };
    let body = format.read(payload).unwrap_or_default();
    let report_id = match body.get("reportId") {
        Some(Value::String(text)) => text.parse().ok(),
        other => other.and_then(Value::as_u64),
    };
    let answer = if is_accepted {
        Ok(())
    } else {
        let details = body.get("statusDetails");
        let text = |key| {
            let text = details.and_then(|details| details.get(key));
            text.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        Err(DefenderRejection {
            code: text("ErrorCode"),
            message: text("ErrorMessage"),
        })
    };
    Some(DefenderReply { report_id, answer })
}

fn topic(thing: &str, format: PayloadFormat) -> Result<String, DialectError> {
    check_name("thing name", thing, THING_NAME_BYTES_MAX)?;
    Ok(format!("$aws/things/{thing}/defender/metrics/{format}"))
}

fn metrics(report: &DefenderReport) -> Map<String, Value> {
    let mut metrics = Map::new();
    for (name, ports) in [
        ("listening_tcp_ports", &report.listening_tcp_ports),
        ("listening_udp_ports", &report.listening_udp_ports),
    ] {
        if let Some(ports) = ports {
            let list: Vec<Value> = ports.iter().map(listening).collect();
            metrics.insert(name.into(), json!({"ports": list, "total": ports.len()}));
        }
    }
    if let Some(network) = &report.network {
        let stats = json!({
            "bytes_in": network.bytes_in,
            "bytes_out": network.bytes_out,
            "packets_in": network.packets_in,
            "packets_out": network.packets_out,
        });
        metrics.insert("network_stats".into(), stats);
    }
    if let Some(connections) = &report.tcp_connections {
        let list: Vec<Value> = connections.iter().map(connection).collect();
        let total = connections.len();
        let established = json!({"connections": list, "total": total});
        metrics.insert(
            "tcp_connections".into(),
            json!({"established_connections": established}),
        );
    }
    metrics
}

fn listening(port: &ListeningPort) -> Value {
    let mut entry = json!({"port": port.port});
    if let Some(interface) = &port.interface {
        entry["interface"] = interface.as_str().into();
    }
    entry
}

fn connection(connection: &TcpConnection) -> Value {
    let mut entry = json!({"remote_addr": connection.remote.to_string()});
    if let Some(port) = connection.local_port {
        entry["local_port"] = port.into();
    }
    if let Some(interface) = &connection.local_interface {
        entry["local_interface"] = interface.as_str().into();
    }
    entry
}

fn measured(name: &str, metric: &CustomMetric) -> Result<Value, DialectError> {
    let (value, items, is_finite) = match metric {
        CustomMetric::Number(number) => (json!({"number": number}), 1, number.is_finite()),
        CustomMetric::NumberList(list) => (
            json!({"number_list": list}),
            list.len(),
            list.iter().all(|number| number.is_finite()),
        ),
        CustomMetric::StringList(list) => (json!({"string_list": list}), list.len(), true),
        CustomMetric::IpList(list) => (json!({"ip_list": list}), list.len(), true),
    };
    if items > CUSTOM_LIST_MAX {
        let problem = format!("{name:?} has {items} items; AWS IoT takes {CUSTOM_LIST_MAX}");
        return Err(invalid("custom metric", problem));
    }
    if !is_finite {
        return Err(invalid(
            "custom metric",
            format!("{name:?} has a number that is none"),
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(report: &DefenderReport) -> Value {
        let rendered = render("Bot", PayloadFormat::Json, report, 7).unwrap();
        assert_eq!(
            rendered.topic.as_str(),
            "$aws/things/Bot/defender/metrics/json"
        );
        serde_json::from_slice(&rendered.payload).unwrap()
    }

    #[test]
    fn a_report_has_what_the_guide_shows() {
        let report = DefenderReport {
            listening_tcp_ports: Some(vec![ListeningPort {
                port: 24800,
                interface: Some("eth0".into()),
            }]),
            listening_udp_ports: None,
            network: Some(NetworkStats {
                bytes_in: 1,
                bytes_out: 2,
                packets_in: 3,
                packets_out: 4,
            }),
            tcp_connections: Some(vec![TcpConnection {
                remote: ([192, 0, 2, 1], 8883).into(),
                local_port: Some(40000),
                local_interface: None,
            }]),
            custom: [
                ("heat".to_owned(), CustomMetric::Number(21.5)),
                (
                    "users".to_owned(),
                    CustomMetric::StringList(vec!["a".into()]),
                ),
            ]
            .into(),
        };
        assert_eq!(
            body(&report),
            json!({
                "header": {"report_id": 7, "version": "1.0"},
                "metrics": {
                    "listening_tcp_ports": {
                        "ports": [{"interface": "eth0", "port": 24800}], "total": 1
                    },
                    "network_stats": {
                        "bytes_in": 1, "bytes_out": 2, "packets_in": 3, "packets_out": 4
                    },
                    "tcp_connections": {"established_connections": {
                        "connections": [{"remote_addr": "192.0.2.1:8883", "local_port": 40000}],
                        "total": 1
                    }}
                },
                "custom_metrics": {"heat": [{"number": 21.5}], "users": [{"string_list": ["a"]}]}
            })
        );
        let nothing = json!({"header": {"report_id": 7, "version": "1.0"}, "metrics": {}});
        assert_eq!(body(&DefenderReport::default()), nothing);
    }

    #[test]
    fn what_the_service_would_refuse_is_not_sent() {
        let with = |metric| DefenderReport {
            custom: [("m".to_owned(), metric)].into(),
            ..DefenderReport::default()
        };
        let is_taken = |metric| render("Bot", PayloadFormat::Cbor, &with(metric), 1).is_ok();
        assert!(is_taken(CustomMetric::NumberList(vec![
            1.0;
            CUSTOM_LIST_MAX
        ])));
        assert!(!is_taken(CustomMetric::NumberList(vec![
            1.0;
            CUSTOM_LIST_MAX + 1
        ])));
        assert!(!is_taken(CustomMetric::Number(f64::NAN)));
        assert!(render("a b", PayloadFormat::Json, &DefenderReport::default(), 1).is_err());
    }

    #[test]
    fn answers_name_their_report() {
        let format = PayloadFormat::Json;
        let topic = "$aws/things/Bot/defender/metrics/json";
        let accepted = br#"{"thingName":"Bot","reportId":7,"status":"ACCEPTED"}"#;
        let reply = read("Bot", format, &format!("{topic}/accepted"), accepted).unwrap();
        assert_eq!((reply.report_id, reply.answer), (Some(7), Ok(())));
        let rejected =
            br#"{"reportId":"8","statusDetails":{"ErrorCode":"Throttled","ErrorMessage":"m"}}"#;
        let reply = read("Bot", format, &format!("{topic}/rejected"), rejected).unwrap();
        assert_eq!(reply.report_id, Some(8));
        assert_eq!(
            reply.answer.unwrap_err().to_string(),
            "Device Defender answered Throttled: m"
        );
        assert_eq!(read("Bot", format, topic, b"{}"), None);
        let reply = read("Bot", format, &format!("{topic}/accepted"), b"nonsense").unwrap();
        assert_eq!(reply.report_id, None);
    }
}
