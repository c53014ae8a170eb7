//! Greengrass discovery: which cores of its groups a thing may connect to, where, and whose certificates to trust there.
//!
//! `GET /greengrass/discover/thing/{thing}` over HTTPS with the thing's certificate, on port 8443, or on 443 with the
//! application protocol `x-amzn-http-ca`.
//!
//! Source: AWS IoT Greengrass Developer Guide, *Greengrass discovery RESTful API*.

use serde_json::{Map, Value};

use super::THING_NAME_BYTES_MAX;
use super::shadow::check_name;
use crate::dialect::DialectError;

/// The application protocol on port 443.
pub const ALPN: &str = "x-amzn-http-ca";

/// The port that needs no application protocol.
pub const PORT: u16 = 8443;

/// A group that the thing is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GreengrassGroup {
    /// Its identifier.
    pub id: String,
    /// Its cores.
    pub cores: Vec<GreengrassCore>,
    /// The authorities that sign the cores' certificates, in PEM.
    pub authorities: Vec<String>,
}

impl GreengrassGroup {
    /// The authorities as one file has them.
    #[must_use]
    pub fn authorities_pem(&self) -> String {
        let mut all = String::new();
        for authority in &self.authorities {
            all.push_str(authority.trim_end());
            all.push('\n');
        }
        all
    }
}

/// A core of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GreengrassCore {
    /// The ARN of the core's thing.
    pub thing_arn: String,
    /// Where it may be reached; the first that answers will do.
    pub connectivity: Vec<GreengrassConnectivity>,
}

/// Where a core may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GreengrassConnectivity {
    /// A name of the entry.
    pub id: String,
    /// Host name or address.
    pub host: String,
    /// MQTT with TLS.
    pub port: u16,
    /// What the operator says about it.
    pub metadata: String,
}

impl GreengrassConnectivity {
    /// The endpoint of a group's links: `mqtts://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') && !host.starts_with('[') {
            return format!("mqtts://[{host}]:{port}");
        }
        format!("mqtts://{host}:{port}")
    }
}

/// The path to ask for.
///
/// # Errors
/// The name is none of a thing.
pub fn path(thing: &str) -> Result<String, DialectError> {
    check_name("thing name", thing, THING_NAME_BYTES_MAX)?;
    // A colon may stand in a path as it is (RFC 3986).
    Ok(format!("/greengrass/discover/thing/{thing}"))
}

/// The groups in an answer.
///
/// # Errors
/// What is wrong with it.
pub fn read(body: &[u8]) -> Result<Vec<GreengrassGroup>, String> {
    let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    list(body.as_object(), "GGGroups")?
        .iter()
        .map(group)
        .collect()
}

fn group(value: &Value) -> Result<GreengrassGroup, String> {
    let fields = value.as_object();
    let authorities = list(fields, "CAs")?.iter();
    let authorities = authorities.map(|ca| ca.as_str().map(str::to_owned).ok_or("a CA is no text"));
    Ok(GreengrassGroup {
        id: text(fields, "GGGroupId"),
        cores: list(fields, "Cores")?
            .iter()
            .map(core)
            .collect::<Result<_, _>>()?,
        authorities: authorities.collect::<Result<_, _>>()?,
    })
}

fn core(value: &Value) -> Result<GreengrassCore, String> {
    let fields = value.as_object();
    let connectivity = list(fields, "Connectivity")?.iter();
    Ok(GreengrassCore {
        thing_arn: text(fields, "thingArn"),
        connectivity: connectivity.map(place).collect::<Result<_, _>>()?,
    })
}

fn place(value: &Value) -> Result<GreengrassConnectivity, String> {
    let fields = value.as_object();
    let host = text(fields, "HostAddress");
    if host.is_empty() {
        return Err("a core's HostAddress is missing".into());
    }
    let port = match fields.and_then(|fields| fields.get("PortNumber")) {
        Some(Value::String(text)) => text.parse().ok(),
        other => other
            .and_then(Value::as_u64)
            .and_then(|port| port.try_into().ok()),
    };
    Ok(GreengrassConnectivity {
        id: text(fields, "Id"),
        host,
        port: port.ok_or("a core's PortNumber is none")?,
        metadata: text(fields, "Metadata"),
    })
}

fn list<'a>(fields: Option<&'a Map<String, Value>>, key: &str) -> Result<&'a [Value], String> {
    let list = fields
        .and_then(|fields| fields.get(key))
        .and_then(Value::as_array);
    list.map(Vec::as_slice)
        .ok_or_else(|| format!("{key} is missing"))
}

fn text(fields: Option<&Map<String, Value>>, key: &str) -> String {
    let text = fields
        .and_then(|fields| fields.get(key))
        .and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn groups_cores_and_authorities_are_read() {
        let body = json!({"GGGroups": [{
            "GGGroupId": "g", "CAs": ["-----BEGIN CERTIFICATE-----"],
            "Cores": [{"thingArn": "arn", "Connectivity": [
                {"Id": "AUTOIP_1", "HostAddress": "192.0.2.1", "PortNumber": 8883, "Metadata": "m"},
                {"HostAddress": "core.example", "PortNumber": "443"}
            ]}]
        }]});
        let groups = read(body.to_string().as_bytes()).unwrap();
        assert_eq!(groups[0].id, "g");
        assert_eq!(groups[0].authorities.len(), 1);
        let places = &groups[0].cores[0].connectivity;
        assert_eq!(
            (places[0].host.as_str(), places[0].port),
            ("192.0.2.1", 8883)
        );
        assert_eq!(places[1].url(), "mqtts://core.example:443");
        let v6 = GreengrassConnectivity {
            host: "fe80::1".into(),
            ..places[0].clone()
        };
        assert_eq!(v6.url(), "mqtts://[fe80::1]:8883");
        assert_eq!(groups[0].authorities_pem(), "-----BEGIN CERTIFICATE-----\n");
    }

    #[test]
    fn an_answer_that_is_none_says_what_is_wrong() {
        for body in [
            json!({}),
            json!([]),
            json!({"GGGroups": [1]}),
            json!({"GGGroups": [{"CAs": [1], "Cores": []}]}),
            json!({"GGGroups": [{"CAs": [], "Cores": [{"Connectivity": [{"PortNumber": 1}]}]}]}),
            json!({"GGGroups": [{"CAs": [], "Cores": [
                {"Connectivity": [{"HostAddress": "h", "PortNumber": 65536}]}
            ]}]}),
        ] {
            assert!(read(body.to_string().as_bytes()).is_err(), "{body}");
        }
        assert!(read(b"<html>").is_err());
        assert_eq!(read(br#"{"GGGroups":[]}"#), Ok(Vec::new()));
    }

    #[test]
    fn a_path_names_one_thing() {
        assert_eq!(path("a:b").unwrap(), "/greengrass/discover/thing/a:b");
        assert!(path("../x").is_err() && path("").is_err());
    }
}
