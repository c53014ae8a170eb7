//! Fleet provisioning: how a device without a certificate of its own becomes a thing with one.
//!
//! The device connects with a *claim* certificate that many share, gets a certificate ([`ProvisioningRequest::CreateKeys`]
//! or, when its private key is not to leave it, [`ProvisioningRequest::CreateFromRequest`]) and a token, and has a template
//! register it with the token ([`ProvisioningRequest::Register`]). The format, `json` or `cbor`, is the last level of the
//! topic, and the answer is on that topic with `/accepted` or `/rejected` behind it:
//!
//! | topic | request | answer |
//! |---|---|---|
//! | `$aws/certificates/create/{format}` | | `certificateId`, `certificatePem`, `privateKey`, `certificateOwnershipToken` |
//! | `$aws/certificates/create-from-csr/{format}` | `certificateSigningRequest` | the same without `privateKey` |
//! | `$aws/provisioning-templates/{template}/provision/{format}` | `certificateOwnershipToken`, `parameters` | `thingName`, `deviceConfiguration` |
//!
//! Answers have no token that names the request: one of a kind at a time.
//!
//! Source: AWS IoT Developer Guide, *Device provisioning MQTT API*.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::cbor;
use super::shadow::{check_name, invalid};
use crate::dialect::{DialectError, Rendered};
use crate::mqtt::{QoS, Subscription, Topic, TopicFilter};

/// Longest name of a provisioning template, in bytes.
pub const TEMPLATE_NAME_BYTES_MAX: usize = 36;

/// How requests and answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PayloadFormat {
    /// JSON.
    #[default]
    Json,
    /// CBOR (RFC 8949).
    Cbor,
}

impl PayloadFormat {
    /// As topics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Cbor => "cbor",
        }
    }

    pub(super) fn write(self, body: &Value) -> Bytes {
        match self {
            Self::Json => body.to_string().into(),
            Self::Cbor => cbor::encode(body).into(),
        }
    }

    pub(super) fn read(self, payload: &[u8]) -> Result<Map<String, Value>, String> {
        let body = match self {
            Self::Json => serde_json::from_slice(payload).map_err(|error| error.to_string())?,
            Self::Cbor => cbor::decode(payload)?,
        };
        match body {
            Value::Object(body) => Ok(body),
            _ => Err("it is no object".into()),
        }
    }
}

/// What a device asks for.
#[derive(Debug, Clone)]
pub enum ProvisioningRequest {
    /// A private key and a certificate, both made by AWS.
    CreateKeys,
    /// A certificate for a key of the device's own.
    CreateFromRequest {
        /// The certificate signing request, in PEM.
        signing_request: String,
    },
    /// To be a thing.
    Register {
        /// The template's name.
        template: String,
        /// What the certificate came with.
        ownership_token: SecretString,
        /// What the template asks for.
        parameters: BTreeMap<String, String>,
    },
}

/// A certificate that is active once a template has registered its device: within an hour, or not at all.
#[derive(Debug, Clone)]
pub struct CreatedCertificate {
    /// Its identifier.
    pub certificate_id: String,
    /// The certificate, in PEM.
    pub certificate_pem: String,
    /// Its private key in PEM, when AWS made it.
    pub private_key: Option<SecretString>,
    /// What [`ProvisioningRequest::Register`] wants to see.
    pub ownership_token: SecretString,
}

/// A device that is a thing now.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisteredThing {
    /// The thing's name.
    pub thing_name: String,
    /// What the template tells the device.
    pub device_configuration: Map<String, Value>,
}

/// Why the service refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fleet provisioning answered {code} ({}): {message}", status.unwrap_or_default())]
#[non_exhaustive]
pub struct ProvisioningRejection {
    /// `statusCode`: 400, 403, 404, 429, 500 …
    pub status: Option<u16>,
    /// `errorCode`: `InvalidCertificateOwnershipToken`, `InvalidParameters`, `AccessDenied` …
    pub code: String,
    /// `errorMessage`.
    pub message: String,
}

/// What a request got.
#[derive(Debug, Clone)]
pub enum ProvisioningAnswer {
    /// A certificate.
    Created(CreatedCertificate),
    /// A thing.
    Registered(RegisteredThing),
    /// A refusal.
    Rejected(ProvisioningRejection),
    /// It makes no sense.
    Unreadable(String),
}

impl ProvisioningRequest {
    /// Where the request goes; its answers are on the topics below.
    ///
    /// # Errors
    /// The name is none of a template.
    pub fn topic(&self, format: PayloadFormat) -> Result<String, DialectError> {
        let format = format.name();
        Ok(match self {
            Self::CreateKeys => format!("$aws/certificates/create/{format}"),
            Self::CreateFromRequest { .. } => {
                format!("$aws/certificates/create-from-csr/{format}")
            }
            Self::Register { template, .. } => {
                check_name("template name", template, TEMPLATE_NAME_BYTES_MAX)?;
                format!("$aws/provisioning-templates/{template}/provision/{format}")
            }
        })
    }

    /// The topics that the answers come on.
    ///
    /// # Errors
    /// The name is none of a template.
    pub fn reply_filters(&self, format: PayloadFormat) -> Result<Vec<Subscription>, DialectError> {
        let topic = self.topic(format)?;
        let filter = |end: &str| {
            TopicFilter::new(format!("{topic}/{end}"))
                .map(|filter| Subscription::new(filter, QoS::AtLeastOnce))
                .map_err(|error| invalid("topic filter", error.to_string()))
        };
        Ok(vec![filter("accepted")?, filter("rejected")?])
    }

    /// Topic and payload. At QoS 0: a request that is sent again would make another certificate.
    ///
    /// # Errors
    /// The name is none of a template.
    pub fn render(&self, format: PayloadFormat) -> Result<Rendered, DialectError> {
        let body = match self {
            Self::CreateKeys => json!({}),
            Self::CreateFromRequest { signing_request } => {
                json!({"certificateSigningRequest": signing_request})
            }
            Self::Register {
                ownership_token,
                parameters,
                ..
            } => json!({
                "certificateOwnershipToken": ownership_token.expose_secret(),
                "parameters": parameters,
            }),
        };
        let topic = Topic::new(self.topic(format)?);
        let topic = topic.map_err(|error| invalid("topic", error.to_string()))?;
        Ok(Rendered::new(topic, format.write(&body), QoS::AtMostOnce))
    }

    /// The answer in a message; `None` when its topic is none of an answer to this request.
    #[must_use]
    pub fn read(
        &self,
        format: PayloadFormat,
        topic: &str,
        payload: &[u8],
    ) -> Option<ProvisioningAnswer> {
        let answer = match topic.strip_prefix(&self.topic(format).ok()?)? {
            "/accepted" => format.read(payload).and_then(|body| self.accepted(&body)),
            "/rejected" => format.read(payload).map(|body| rejected(&body)),
            _ => return None,
        };
        Some(answer.unwrap_or_else(ProvisioningAnswer::Unreadable))
    }

    fn accepted(&self, body: &Map<String, Value>) -> Result<ProvisioningAnswer, String> {
        if let Self::Register { .. } = self {
            let configuration = body.get("deviceConfiguration").and_then(Value::as_object);
            return Ok(ProvisioningAnswer::Registered(RegisteredThing {
                thing_name: text(body, "thingName")?,
                device_configuration: configuration.cloned().unwrap_or_default(),
            }));
        }
        let has_key = matches!(self, Self::CreateKeys);
        let private_key = has_key.then(|| text(body, "privateKey")).transpose()?;
        Ok(ProvisioningAnswer::Created(CreatedCertificate {
            certificate_id: text(body, "certificateId")?,
            certificate_pem: text(body, "certificatePem")?,
            private_key: private_key.map(SecretString::from),
            ownership_token: text(body, "certificateOwnershipToken")?.into(),
        }))
    }
}

/// What the answer lacks is named; what it has may be a secret.
fn text(body: &Map<String, Value>, key: &str) -> Result<String, String> {
    match body.get(key).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("it has no {key}")),
    }
}

fn rejected(body: &Map<String, Value>) -> ProvisioningAnswer {
    let status = match body.get("statusCode") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(number) => number.as_u64().and_then(|number| number.try_into().ok()),
        None => None,
    };
    let text = |key| text(body, key).unwrap_or_default();
    ProvisioningAnswer::Rejected(ProvisioningRejection {
        status,
        code: text("errorCode"),
        message: text("errorMessage"),
    })
}

impl fmt::Display for PayloadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [PayloadFormat; 2] = [PayloadFormat::Json, PayloadFormat::Cbor];

    fn register() -> ProvisioningRequest {
        ProvisioningRequest::Register {
            template: "fleet".into(),
            ownership_token: "token".to_owned().into(),
            parameters: [("SerialNumber".to_owned(), "1".to_owned())].into(),
        }
    }

    fn read(
        request: &ProvisioningRequest,
        format: PayloadFormat,
        end: &str,
        body: &Value,
    ) -> ProvisioningAnswer {
        let topic = format!("{}/{end}", request.topic(format).unwrap());
        request.read(format, &topic, &format.write(body)).unwrap()
    }

    #[test]
    fn requests_say_what_the_guide_says() {
        for format in BOTH {
            let sent = |request: &ProvisioningRequest| {
                let rendered = request.render(format).unwrap();
                (
                    rendered.topic.as_str().to_owned(),
                    Value::Object(format.read(&rendered.payload).unwrap()),
                )
            };
            let topic = format!("$aws/certificates/create/{format}");
            assert_eq!(sent(&ProvisioningRequest::CreateKeys), (topic, json!({})));
            let signing_request = "-----BEGIN".to_owned();
            let body = json!({"certificateSigningRequest": signing_request});
            let topic = format!("$aws/certificates/create-from-csr/{format}");
            let request = ProvisioningRequest::CreateFromRequest { signing_request };
            assert_eq!(sent(&request), (topic, body));
            let topic = format!("$aws/provisioning-templates/fleet/provision/{format}");
            let body = json!({
                "certificateOwnershipToken": "token", "parameters": {"SerialNumber": "1"}
            });
            assert_eq!(sent(&register()), (topic, body));
        }
    }

    #[test]
    fn a_certificate_comes_with_its_key_and_shows_neither_key_nor_token() {
        for format in BOTH {
            let body = json!({
                "certificateId": "id", "certificatePem": "pem", "privateKey": "s3cret",
                "certificateOwnershipToken": "t0ken"
            });
            let answer = read(&ProvisioningRequest::CreateKeys, format, "accepted", &body);
            let shown = format!("{answer:?}");
            assert!(
                !shown.contains("s3cret") && !shown.contains("t0ken"),
                "{shown}"
            );
            let ProvisioningAnswer::Created(created) = answer else {
                panic!("{shown}");
            };
            assert_eq!(created.private_key.unwrap().expose_secret(), "s3cret");
            assert_eq!(created.ownership_token.expose_secret(), "t0ken");
        }
    }

    #[test]
    fn a_key_that_should_be_there_and_is_not_is_named() {
        let body = json!({
            "certificateId": "id", "certificatePem": "pem", "certificateOwnershipToken": "t"
        });
        let keys = ProvisioningRequest::CreateKeys;
        let answer = read(&keys, PayloadFormat::Json, "accepted", &body);
        assert!(
            matches!(&answer, ProvisioningAnswer::Unreadable(problem) if problem == "it has no privateKey"),
            "{answer:?}"
        );
        let csr = ProvisioningRequest::CreateFromRequest {
            signing_request: String::new(),
        };
        let answer = read(&csr, PayloadFormat::Json, "accepted", &body);
        assert!(matches!(answer, ProvisioningAnswer::Created(_)));
    }

    #[test]
    fn a_thing_comes_with_its_configuration() {
        let body = json!({"thingName": "t", "deviceConfiguration": {"url": "https://x"}});
        let answer = read(&register(), PayloadFormat::Cbor, "accepted", &body);
        let ProvisioningAnswer::Registered(thing) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(thing.thing_name, "t");
        assert_eq!(thing.device_configuration["url"], "https://x");
    }

    #[test]
    fn a_refusal_has_status_code_and_message() {
        let body =
            json!({"statusCode": 400, "errorCode": "InvalidParameters", "errorMessage": "m"});
        let answer = read(&register(), PayloadFormat::Json, "rejected", &body);
        let ProvisioningAnswer::Rejected(refusal) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(refusal.status, Some(400));
        assert_eq!(
            refusal.to_string(),
            "fleet provisioning answered InvalidParameters (400): m"
        );
        let body = json!({"statusCode": "500"});
        let answer = read(&register(), PayloadFormat::Json, "rejected", &body);
        assert!(
            matches!(answer, ProvisioningAnswer::Rejected(refusal) if refusal.status == Some(500))
        );
    }

    #[test]
    fn topics_of_others_and_names_of_none_are_refused() {
        let json = PayloadFormat::Json;
        let keys = ProvisioningRequest::CreateKeys;
        assert!(
            keys.read(json, "$aws/certificates/create/cbor/accepted", b"{}")
                .is_none()
        );
        assert!(
            keys.read(json, "$aws/certificates/create/json", b"{}")
                .is_none()
        );
        for template in ["", "a/b", "+", &"x".repeat(37)] {
            let request = ProvisioningRequest::Register {
                template: template.to_owned(),
                ownership_token: String::new().into(),
                parameters: BTreeMap::new(),
            };
            assert!(request.render(json).is_err(), "{template}");
        }
    }
}
