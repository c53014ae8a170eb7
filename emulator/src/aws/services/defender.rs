//! Device Defender's metrics: "Sending metrics from devices" of the AWS IoT Device Defender developer guide.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::faults::Operation;
use super::json::{Json, Number, Object, object};
use super::message::Message;
use super::names::{Format, is_thing_name};
use super::settings::DefenderSettings;
use super::{RejectFault, cbor, seconds};

/// A report of a device.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) thing: &'a str,
    pub(crate) format: Format,
    /// The topic it came on.
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
}

/// What became of the reports of things.
#[derive(Debug, Default)]
pub(crate) struct Defender {
    /// When a thing's last report was accepted.
    accepted: BTreeMap<String, SystemTime>,
    /// A thing's last accepted report.
    last: BTreeMap<String, Json>,
}

struct Refusal {
    status: u16,
    code: String,
    message: String,
}

impl Defender {
    pub(crate) fn handle(
        &mut self,
        report: &Report<'_>,
        reject: Option<RejectFault>,
        settings: &DefenderSettings,
        now: SystemTime,
    ) -> Message {
        let document = match report.format {
            Format::Json => Json::parse(report.payload).ok(),
            Format::Cbor => cbor::decode(report.payload),
        };
        let report_id = document.as_ref().and_then(report_id).cloned();
        let outcome = match reject {
            Some(RejectFault {
                status,
                code,
                message,
            }) => Err(Refusal {
                status,
                code,
                message,
            }),
            None => self.accept(report.thing, document, settings, now),
        };
        let body = |status: &str, details: Option<Object>| {
            object([
                ("thingName", Some(report.thing.into())),
                ("reportId", report_id.map(Json::Number)),
                ("status", Some(status.into())),
                ("statusDetails", details.map(Json::Object)),
                ("timestamp", Some(seconds(now).into())),
            ])
        };
        let operation = Operation::DefenderMetrics;
        let message = match outcome {
            Ok(()) => Message::accepted(operation, report.topic, body("ACCEPTED", None)),
            Err(refusal) => {
                let details = object([
                    ("ErrorCode", Some(refusal.code.into())),
                    ("ErrorMessage", Some(refusal.message.into())),
                ]);
                let body = body("REJECTED", Some(details));
                Message::rejected(operation, report.topic, refusal.status, body)
            }
        };
        message.in_format(report.format)
    }

    /// The last report of a thing that was accepted.
    pub(crate) fn last(&self, thing: &str) -> Option<&Json> {
        self.last.get(thing)
    }

    fn accept(
        &mut self,
        thing: &str,
        document: Option<Json>,
        settings: &DefenderSettings,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let invalid = |message: &str| Refusal {
            status: 400,
            code: "InvalidPayload".to_owned(),
            message: message.to_owned(),
        };
        if !is_thing_name(thing) {
            return Err(invalid("The name of the thing is not valid"));
        }
        let Some(Json::Object(fields)) = &document else {
            return Err(invalid("The report could not be read"));
        };
        check(fields).map_err(invalid)?;
        let is_early = settings.report_interval_min.is_some_and(|interval| {
            let last = self.accepted.get(thing);
            last.is_some_and(|last| now.duration_since(*last).is_ok_and(|age| age < interval))
        });
        if is_early {
            return Err(Refusal {
                status: 429,
                code: "Throttled".to_owned(),
                message: "The thing reports too often".to_owned(),
            });
        }
        self.accepted.insert(thing.to_owned(), now);
        self.last
            .extend(document.map(|document| (thing.to_owned(), document)));
        Ok(())
    }
}

/// A field by its long name or its short one.
fn field<'a>(fields: &'a Object, long: &str, short: &str) -> Option<&'a Json> {
    fields.get(long).or_else(|| fields.get(short))
}

fn report_id(document: &Json) -> Option<&Number> {
    let header = field(document.as_object()?, "header", "hed")?.as_object()?;
    field(header, "report_id", "rid")?.as_number()
}

fn check(fields: &Object) -> Result<(), &'static str> {
    let header = field(fields, "header", "hed").and_then(Json::as_object);
    let header = header.ok_or("header must be an object")?;
    let id = field(header, "report_id", "rid").and_then(Json::as_number);
    if id.and_then(Number::as_u64).is_none() {
        return Err("header.report_id must be a whole number of at least 0");
    }
    let version = field(header, "version", "v").and_then(Json::as_str);
    if !version.is_some_and(is_version) {
        return Err("header.version must be a string as \"1.0\"");
    }
    let metrics = field(fields, "metrics", "met");
    let custom = field(fields, "custom_metrics", "cmet");
    if metrics.is_none() && custom.is_none() {
        return Err("metrics or custom_metrics is required");
    }
    if metrics.is_some_and(|metrics| metrics.as_object().is_none()) {
        return Err("metrics must be an object");
    }
    if custom.is_some_and(|custom| custom.as_object().is_none()) {
        return Err("custom_metrics must be an object");
    }
    Ok(())
}

fn is_version(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.')
        .is_some_and(|(major, minor)| is_number(major) && is_number(minor))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::aws::services::json::object_text;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn report(defender: &mut Defender, payload: &[u8], format: Format, now: SystemTime) -> Message {
        let report = Report {
            thing: "Bot",
            format,
            topic: "$aws/things/Bot/defender/metrics/json",
            payload,
        };
        defender.handle(&report, None, &DefenderSettings::default(), now)
    }

    #[test]
    fn a_report_is_accepted_in_json_and_cbor_with_long_names_and_short_ones() {
        for text in [
            r#"{"header":{"report_id":7,"version":"1.0"},"metrics":{}}"#,
            r#"{"hed":{"rid":7,"v":"1.0"},"met":{"up":{"p":1}},"cmet":{}}"#,
        ] {
            let answer = report(
                &mut Defender::default(),
                text.as_bytes(),
                Format::Json,
                START,
            );
            assert_eq!(
                answer.topic,
                "$aws/things/Bot/defender/metrics/json/accepted"
            );
            let expected = r#"{"reportId":7,"status":"ACCEPTED","thingName":"Bot","timestamp":0}"#;
            assert_eq!(object_text(&answer.body), expected);
            let bytes = cbor::encode(&Json::parse(text.as_bytes()).unwrap());
            let answer = report(&mut Defender::default(), &bytes, Format::Cbor, START);
            assert_eq!(object_text(&answer.body), expected);
        }
    }

    #[test]
    fn a_report_that_is_not_one_is_refused_and_says_why() {
        for (payload, message) in [
            ("{", "The report could not be read"),
            ("{}", "header must be an object"),
            (
                r#"{"header":{"version":"1.0"},"metrics":{}}"#,
                "header.report_id must be a whole number of at least 0",
            ),
            (
                r#"{"header":{"report_id":1.5,"version":"1.0"},"metrics":{}}"#,
                "header.report_id must be a whole number of at least 0",
            ),
            (
                r#"{"header":{"report_id":1,"version":"1"},"metrics":{}}"#,
                "header.version must be a string as \"1.0\"",
            ),
            (
                r#"{"header":{"report_id":1,"version":"1.0"}}"#,
                "metrics or custom_metrics is required",
            ),
            (
                r#"{"header":{"report_id":1,"version":"1.0"},"metrics":[]}"#,
                "metrics must be an object",
            ),
            (
                r#"{"header":{"report_id":1,"version":"1.0"},"custom_metrics":1}"#,
                "custom_metrics must be an object",
            ),
        ] {
            let mut defender = Defender::default();
            let answer = report(&mut defender, payload.as_bytes(), Format::Json, START);
            assert!(answer.topic.ends_with("/rejected"), "{payload}");
            let details = answer.body["statusDetails"].as_object().unwrap();
            assert_eq!(details["ErrorCode"], "InvalidPayload".into(), "{payload}");
            assert_eq!(details["ErrorMessage"], message.into(), "{payload}");
        }
    }

    #[test]
    fn a_second_report_within_five_minutes_is_throttled() {
        let mut defender = Defender::default();
        let payload = br#"{"header":{"report_id":1,"version":"1.0"},"metrics":{}}"#;
        let mut at = |seconds| {
            let now = START + Duration::from_secs(seconds);
            let answer = report(&mut defender, payload, Format::Json, now);
            answer
                .topic
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(
            [at(0), at(299), at(300)],
            ["accepted", "rejected", "accepted"]
        );
    }
}
