//! Fleet provisioning, rule by rule.

use std::time::Duration;

use super::*;
use crate::aws::services::Audience;
use crate::aws::services::json::object_text;
use crate::aws::services::message::Role;

const START: SystemTime = SystemTime::UNIX_EPOCH;
const CREATE: ProvisioningOperation<'static> = ProvisioningOperation::CreateKeys;
const CREATE_FROM_REQUEST: ProvisioningOperation<'static> =
    ProvisioningOperation::CreateFromRequest;
const REGISTER: ProvisioningOperation<'static> =
    ProvisioningOperation::Register { template: "fleet" };

/// Signs without a key: what is tested here are the messages.
#[derive(Debug, Default)]
struct Numbered(u32);

impl CertificateIssuer for Numbered {
    fn issue(&mut self) -> Result<DeviceCertificate, TlsError> {
        self.0 += 1;
        Ok(DeviceCertificate {
            certificate_id: format!("id{}", self.0),
            certificate_pem: "certificate".to_owned(),
            private_key_pem: Some("key".to_owned()),
        })
    }

    fn sign(&mut self, request_pem: &str) -> Result<DeviceCertificate, TlsError> {
        if request_pem != "request" {
            return Err(TlsError::NoCertificate { what: "it" });
        }
        let certificate = self.issue()?;
        Ok(DeviceCertificate {
            private_key_pem: None,
            ..certificate
        })
    }
}

struct Service {
    provisioning: Provisioning,
    settings: ProvisioningSettings,
    now: SystemTime,
}

impl Service {
    fn new() -> Self {
        let mut provisioning = Provisioning::new(1);
        provisioning.set_issuer(Box::new(Numbered::default()));
        let configuration = BTreeMap::from([("region".to_owned(), "north".to_owned())]);
        let template = ProvisioningTemplate::named_after("SerialNumber", "thing-", configuration);
        provisioning.add_template("fleet".to_owned(), template);
        Self {
            provisioning,
            settings: ProvisioningSettings::default(),
            now: START,
        }
    }

    fn ask(&mut self, operation: ProvisioningOperation<'_>, payload: &str) -> Message {
        self.ask_in(Format::Json, operation, payload.as_bytes())
    }

    fn ask_in(
        &mut self,
        format: Format,
        operation: ProvisioningOperation<'_>,
        payload: &[u8],
    ) -> Message {
        let request = ProvisionRequest {
            operation,
            format,
            topic: "topic",
            payload,
        };
        let (message, thing) = self
            .provisioning
            .handle(&request, None, &self.settings, self.now);
        assert_eq!(message.to, Audience::Requester, "a key is for one device");
        assert_eq!(thing.is_some(), message.body.contains_key("thingName"));
        message
    }

    fn token(&mut self) -> String {
        let answer = self.ask(CREATE, "{}");
        let token = answer.body["certificateOwnershipToken"].as_str();
        token.unwrap().to_owned()
    }

    fn register(&mut self, token: &str) -> Message {
        let parameters = r#""parameters":{"SerialNumber":"7"}"#;
        let payload = format!(r#"{{"certificateOwnershipToken":"{token}",{parameters}}}"#);
        self.ask(REGISTER, &payload)
    }
}

fn refusal(message: &Message) -> (u64, String) {
    assert_eq!(message.topic, "topic/rejected", "{message:?}");
    let status = message.body["statusCode"]
        .as_number()
        .unwrap()
        .as_u64()
        .unwrap();
    assert_eq!(message.role, Role::Rejected(u16::try_from(status).unwrap()));
    assert!(message.body["errorMessage"].as_str().is_some());
    (
        status,
        message.body["errorCode"].as_str().unwrap().to_owned(),
    )
}

#[test]
fn a_device_gets_a_key_pair_and_becomes_a_thing_with_its_token() {
    let mut service = Service::new();
    let answer = service.ask(CREATE, "");
    assert_eq!(answer.topic, "topic/accepted");
    assert_eq!(answer.body["certificateId"], "id1".into());
    assert_eq!(answer.body["certificatePem"], "certificate".into());
    assert_eq!(answer.body["privateKey"], "key".into());
    let token = answer.body["certificateOwnershipToken"].as_str().unwrap();
    let answer = service.register(token);
    let expected = r#"{"deviceConfiguration":{"region":"north"},"thingName":"thing-7"}"#;
    assert_eq!(object_text(&answer.body), expected);
    let certificate = &service.provisioning.certificates()[0];
    assert_eq!(certificate.certificate_id, "id1");
    assert_eq!(certificate.thing.as_deref(), Some("thing-7"));
}

#[test]
fn a_device_with_its_own_key_gets_a_certificate_and_no_key() {
    let mut service = Service::new();
    let answer = service.ask(
        CREATE_FROM_REQUEST,
        r#"{"certificateSigningRequest":"request"}"#,
    );
    let keys: Vec<_> = answer.body.keys().map(String::as_str).collect();
    let expected = [
        "certificateId",
        "certificateOwnershipToken",
        "certificatePem",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn all_of_it_works_in_cbor() {
    let mut service = Service::new();
    let answer = service.ask_in(Format::Cbor, CREATE, &[]);
    let body = cbor::decode(&answer.payload(None)).unwrap();
    let token = body.as_object().unwrap()["certificateOwnershipToken"].clone();
    let parameters = object([("SerialNumber", Some("8".into()))]);
    let request = object([
        ("certificateOwnershipToken", Some(token)),
        ("parameters", Some(parameters.into())),
    ]);
    let request = cbor::encode(&request.into());
    let answer = service.ask_in(Format::Cbor, REGISTER, &request);
    let body = cbor::decode(&answer.payload(None)).unwrap();
    assert_eq!(body.as_object().unwrap()["thingName"], "thing-8".into());
    let answer = service.ask_in(Format::Cbor, REGISTER, b"{}");
    assert_eq!(refusal(&answer), (400, "InvalidPayload".to_owned()));
    assert!(cbor::decode(&answer.payload(None)).is_some());
}

#[test]
fn each_malformed_request_is_refused_with_its_code() {
    let mut service = Service::new();
    let token = service.token();
    let with_token = |rest: &str| format!(r#"{{"certificateOwnershipToken":"{token}"{rest}}}"#);
    for (operation, payload, code) in [
        (CREATE, "{", "InvalidPayload"),
        (CREATE, "[]", "InvalidPayload"),
        (CREATE_FROM_REQUEST, "{}", "InvalidRequest"),
        (
            CREATE_FROM_REQUEST,
            r#"{"certificateSigningRequest":""}"#,
            "InvalidRequest",
        ),
        (
            CREATE_FROM_REQUEST,
            r#"{"certificateSigningRequest":5}"#,
            "InvalidRequest",
        ),
        (
            CREATE_FROM_REQUEST,
            r#"{"certificateSigningRequest":"x"}"#,
            "InvalidCertificateSigningRequest",
        ),
        (REGISTER, "{}", "InvalidCertificateOwnershipToken"),
        (
            REGISTER,
            r#"{"certificateOwnershipToken":"x"}"#,
            "InvalidCertificateOwnershipToken",
        ),
        (
            REGISTER,
            &with_token(r#","parameters":[]"#),
            "InvalidRequest",
        ),
        (
            REGISTER,
            &with_token(r#","parameters":{"SerialNumber":1}"#),
            "InvalidRequest",
        ),
        (REGISTER, &with_token(""), "InvalidParameters"),
        (
            REGISTER,
            &with_token(r#","parameters":{"SerialNumber":"a b"}"#),
            "InvalidParameters",
        ),
    ] {
        let answer = service.ask(operation, payload);
        assert_eq!(refusal(&answer), (400, code.to_owned()), "{payload}");
    }
    let unknown = ProvisioningOperation::Register { template: "none" };
    let answer = service.ask(unknown, &with_token(""));
    assert_eq!(refusal(&answer), (404, "ResourceNotFound".to_owned()));
}

#[test]
fn a_hook_decides_about_each_device() {
    let mut service = Service::new();
    let template = ProvisioningTemplate::with_hook(|request| {
        if request.parameters.contains_key("Known") {
            Ok(Registration {
                thing_name: request.certificate_id.clone(),
                ..Registration::default()
            })
        } else {
            Err(RegistrationRefusal::NotAllowed)
        }
    });
    service
        .provisioning
        .add_template("fleet".to_owned(), template);
    let token = service.token();
    let answer = service.register(&token);
    assert_eq!(refusal(&answer), (403, "AccessDenied".to_owned()));
    let payload =
        format!(r#"{{"certificateOwnershipToken":"{token}","parameters":{{"Known":""}}}}"#);
    let answer = service.ask(REGISTER, &payload);
    assert_eq!(answer.body["thingName"], "id1".into());
}

#[test]
fn a_token_lives_an_hour_and_its_unused_certificate_no_longer() {
    let mut service = Service::new();
    let token = service.token();
    assert_eq!(
        service.provisioning.deadline(),
        Some(START + Duration::from_hours(1))
    );
    service.now = START + Duration::from_secs(3599);
    assert!(service.register(&token).role == Role::Accepted);
    let unused = service.token();
    service.now = START + Duration::from_hours(1);
    let gone = (400, "InvalidCertificateOwnershipToken".to_owned());
    assert_eq!(refusal(&service.register(&token)), gone);
    service
        .provisioning
        .handle_deadline(service.now + Duration::from_hours(1));
    assert_eq!(refusal(&service.register(&unused)), gone);
    let certificates = service.provisioning.certificates();
    let ids: Vec<_> = certificates
        .iter()
        .map(|one| one.certificate_id.as_str())
        .collect();
    assert_eq!(ids, ["id1"], "the one that became a thing stays");
    assert_eq!(service.provisioning.deadline(), None);
}

#[test]
fn a_token_can_be_used_again_unless_that_is_set_otherwise() {
    let mut service = Service::new();
    let token = service.token();
    assert_eq!(service.register(&token).role, Role::Accepted);
    assert_eq!(service.register(&token).role, Role::Accepted);
    service.settings.tokens_can_be_reused = false;
    assert_eq!(service.register(&token).role, Role::Accepted);
    assert_eq!(service.register(&token).role, Role::Rejected(400));
}

#[test]
fn an_authority_that_nobody_set_is_made_when_it_is_needed() {
    let mut service = Service::new();
    service.provisioning.issuer = None;
    let answer = service.ask(CREATE, "");
    let key = answer.body["privateKey"].as_str().unwrap();
    let certificate = answer.body["certificatePem"].as_str().unwrap();
    crate::ServerTls::from_pem(certificate, key).unwrap();
}
