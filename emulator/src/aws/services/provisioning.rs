//! Fleet provisioning: "Device provisioning MQTT API" of the AWS IoT Core developer guide.

mod certificates;
mod template;

use std::collections::BTreeMap;
use std::time::SystemTime;

pub use certificates::{CertificateIssuer, DeviceCertificate};
pub use template::{ProvisioningRequest, ProvisioningTemplate, Registration, RegistrationRefusal};

use super::faults::Operation;
use super::json::{Json, Object, object};
use super::message::Message;
use super::names::{Format, is_thing_name};
use super::settings::ProvisioningSettings;
use super::{RejectFault, cbor};
use crate::tls::{CertificateAuthority, TlsError};

/// How many characters an ownership token has; AWS's have some hundred.
const TOKEN_CHARACTERS: usize = 128;

/// What a device asks for before it is a thing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ProvisioningOperation<'a> {
    CreateKeys,
    CreateFromRequest,
    Register { template: &'a str },
}

/// A certificate that fleet provisioning made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProvisionedCertificate {
    /// Its identifier.
    pub certificate_id: String,
    /// The thing it belongs to; `None` while no template took it.
    pub thing: Option<String>,
}

/// A request of a device.
#[derive(Debug)]
pub(crate) struct ProvisionRequest<'a> {
    pub(crate) operation: ProvisioningOperation<'a>,
    pub(crate) format: Format,
    /// The topic it came on.
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
}

#[derive(Debug)]
struct Refusal {
    status: u16,
    code: String,
    message: String,
}

impl Refusal {
    fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidRequest", message)
    }
}

#[derive(Debug)]
struct Ownership {
    certificate_id: String,
    ends: SystemTime,
}

/// Templates, tokens and the certificates that were given out.
#[derive(Debug)]
pub(crate) struct Provisioning {
    /// `None` until the first certificate is asked for, since an authority's key takes time to make.
    issuer: Option<Box<dyn CertificateIssuer>>,
    templates: BTreeMap<String, ProvisioningTemplate>,
    tokens: BTreeMap<String, Ownership>,
    /// When the first of the tokens ends, or earlier.
    first_end: Option<SystemTime>,
    certificates: Vec<ProvisionedCertificate>,
    random: fastrand::Rng,
}

impl Provisioning {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            issuer: None,
            templates: BTreeMap::new(),
            tokens: BTreeMap::new(),
            first_end: None,
            certificates: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    pub(crate) fn set_issuer(&mut self, issuer: Box<dyn CertificateIssuer>) {
        self.issuer = Some(issuer);
    }

    pub(crate) fn add_template(&mut self, name: String, template: ProvisioningTemplate) {
        self.templates.insert(name, template);
    }

    pub(crate) fn certificates(&self) -> &[ProvisionedCertificate] {
        &self.certificates
    }

    /// When the next token ends.
    pub(crate) fn deadline(&self) -> Option<SystemTime> {
        self.first_end
    }

    /// Forgets the tokens that ended, and the certificates that nobody used by then.
    pub(crate) fn handle_deadline(&mut self, now: SystemTime) {
        if self.first_end.is_none_or(|end| now < end) {
            return;
        }
        let ended = self.tokens.extract_if(.., |_, token| token.ends <= now);
        for (_, token) in ended {
            self.certificates.retain(|certificate| {
                certificate.thing.is_some() || certificate.certificate_id != token.certificate_id
            });
        }
        self.first_end = self.tokens.values().map(|token| token.ends).min();
    }

    /// Carries a request out; the name of the thing that it made comes with the answer.
    pub(crate) fn handle(
        &mut self,
        request: &ProvisionRequest<'_>,
        reject: Option<RejectFault>,
        settings: &ProvisioningSettings,
        now: SystemTime,
    ) -> (Message, Option<String>) {
        self.handle_deadline(now);
        let operation = match request.operation {
            ProvisioningOperation::CreateKeys => Operation::CreateKeysAndCertificate,
            ProvisioningOperation::CreateFromRequest => Operation::CreateCertificateFromCsr,
            ProvisioningOperation::Register { .. } => Operation::RegisterThing,
        };
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
            None => self.carry_out(request, settings, now),
        };
        let (message, thing) = match outcome {
            Ok((body, thing)) => (Message::accepted(operation, request.topic, body), thing),
            Err(refusal) => {
                let Refusal {
                    status,
                    code,
                    message,
                } = refusal;
                let body = object([
                    ("statusCode", Some(u64::from(status).into())),
                    ("errorCode", Some(code.into())),
                    ("errorMessage", Some(message.into())),
                ]);
                (
                    Message::rejected(operation, request.topic, status, body),
                    None,
                )
            }
        };
        // Other devices listen on the same topics, and a private key is not for them.
        (message.in_format(request.format).for_requester(), thing)
    }

    fn carry_out(
        &mut self,
        request: &ProvisionRequest<'_>,
        settings: &ProvisioningSettings,
        now: SystemTime,
    ) -> Result<(Object, Option<String>), Refusal> {
        let fields = fields(request)?;
        let certificate = match request.operation {
            ProvisioningOperation::Register { template } => {
                let (body, thing) = self.register(template, &fields, settings)?;
                return Ok((body, Some(thing)));
            }
            ProvisioningOperation::CreateKeys => self.issuer().and_then(|issuer| issuer.issue()),
            ProvisioningOperation::CreateFromRequest => {
                let pem = text(&fields, "certificateSigningRequest")?;
                let pem = pem.ok_or_else(|| {
                    Refusal::invalid("Certificate signing request cannot be empty.")
                })?;
                let issuer = self.issuer().map_err(|error| internal(&error))?;
                let certificate = issuer.sign(pem);
                Ok(certificate.map_err(|_| {
                    Refusal::new(
                        400,
                        "InvalidCertificateSigningRequest",
                        "Certificate signing request is invalid.",
                    )
                })?)
            }
        };
        let certificate = certificate.map_err(|error| internal(&error))?;
        let token = self.own(&certificate, settings, now);
        let body = object([
            ("certificateId", Some(certificate.certificate_id.into())),
            ("certificatePem", Some(certificate.certificate_pem.into())),
            ("privateKey", certificate.private_key_pem.map(Json::from)),
            ("certificateOwnershipToken", Some(token.into())),
        ]);
        Ok((body, None))
    }

    /// Remembers a new certificate, and makes the token that proves whose it is.
    fn own(
        &mut self,
        certificate: &DeviceCertificate,
        settings: &ProvisioningSettings,
        now: SystemTime,
    ) -> String {
        let token: String = std::iter::repeat_with(|| self.random.alphanumeric())
            .take(TOKEN_CHARACTERS)
            .collect();
        let ownership = Ownership {
            certificate_id: certificate.certificate_id.clone(),
            ends: now.checked_add(settings.token_lifetime).unwrap_or(now),
        };
        let first_end = self
            .first_end
            .map_or(ownership.ends, |end| end.min(ownership.ends));
        self.first_end = Some(first_end);
        self.tokens.insert(token.clone(), ownership);
        self.certificates.push(ProvisionedCertificate {
            certificate_id: certificate.certificate_id.clone(),
            thing: None,
        });
        token
    }

    fn register(
        &mut self,
        template: &str,
        fields: &Object,
        settings: &ProvisioningSettings,
    ) -> Result<(Object, String), Refusal> {
        let bad_token = |message| Refusal::new(400, "InvalidCertificateOwnershipToken", message);
        let token = text(fields, "certificateOwnershipToken")?;
        let token =
            token.ok_or_else(|| bad_token("Certificate ownership token cannot be empty."))?;
        let parameters = parameters(fields)?;
        let ownership = self.tokens.get(token);
        let ownership =
            ownership.ok_or_else(|| bad_token("Certificate ownership token is not valid."))?;
        let request = ProvisioningRequest {
            parameters,
            certificate_id: ownership.certificate_id.clone(),
        };
        let template = self.templates.get_mut(template);
        let template = template.ok_or_else(|| {
            Refusal::new(
                404,
                "ResourceNotFound",
                "The provisioning template does not exist.",
            )
        })?;
        let registration = template
            .register(&request)
            .map_err(|refusal| match refusal {
                RegistrationRefusal::BadParameter(message) => {
                    Refusal::new(400, "InvalidParameters", message)
                }
                RegistrationRefusal::NotAllowed => {
                    Refusal::new(403, "AccessDenied", "The hook did not allow the device.")
                }
            })?;
        if !is_thing_name(&registration.thing_name) {
            let message = "The parameters do not make a name of a thing.";
            return Err(Refusal::new(400, "InvalidParameters", message));
        }
        if !settings.tokens_can_be_reused {
            self.tokens.remove(token);
        }
        for certificate in &mut self.certificates {
            if certificate.certificate_id == request.certificate_id {
                certificate.thing = Some(registration.thing_name.clone());
            }
        }
        let configuration = registration.device_configuration.into_iter();
        let configuration: Object = configuration
            .map(|(key, value)| (key, Json::from(value)))
            .collect();
        let body = object([
            ("deviceConfiguration", Some(configuration.into())),
            ("thingName", Some(registration.thing_name.clone().into())),
        ]);
        Ok((body, registration.thing_name))
    }

    fn issuer(&mut self) -> Result<&mut Box<dyn CertificateIssuer>, TlsError> {
        if self.issuer.is_none() {
            self.issuer = Some(Box::new(CertificateAuthority::generate()?));
        }
        self.issuer.as_mut().ok_or(TlsError::NoCertificate {
            what: "the authority",
        })
    }
}

fn internal(error: &TlsError) -> Refusal {
    Refusal::new(500, "InternalError", error.to_string())
}

/// The fields of a request; one without bytes has none.
fn fields(request: &ProvisionRequest<'_>) -> Result<Object, Refusal> {
    if request.payload.is_empty() {
        return Ok(Object::new());
    }
    let value = match request.format {
        Format::Json => Json::parse(request.payload).ok(),
        Format::Cbor => cbor::decode(request.payload),
    };
    match value {
        Some(Json::Object(fields)) => Ok(fields),
        _ => Err(Refusal::new(
            400,
            "InvalidPayload",
            "The payload could not be read.",
        )),
    }
}

/// A field of text; an empty one is as good as none.
fn text<'a>(fields: &'a Object, key: &str) -> Result<Option<&'a str>, Refusal> {
    match fields.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(Refusal::invalid(format!("{key} must be a string."))),
    }
}

fn parameters(fields: &Object) -> Result<BTreeMap<String, String>, Refusal> {
    let invalid = || Refusal::invalid("parameters must be an object of strings.");
    match fields.get("parameters") {
        None | Some(Json::Null) => Ok(BTreeMap::new()),
        Some(Json::Object(parameters)) => parameters
            .iter()
            .map(|(key, value)| {
                let value = value.as_str().ok_or_else(invalid)?;
                Ok((key.clone(), value.to_owned()))
            })
            .collect(),
        Some(_) => Err(invalid()),
    }
}

#[cfg(test)]
mod tests;
