//! Fleet provisioning: from a claim certificate that many share to a thing with a certificate of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use paquebot_actors::check_identity;
use paquebot_protocols::dialect::DialectError;
use paquebot_protocols::dialect::aws::provisioning::{
    CreatedCertificate, ProvisioningAnswer, ProvisioningRequest, RegisteredThing,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::requests::{Call, REQUEST_DEADLINE, RequestError, Requests};
use crate::group::{Group, GroupBuilder, GroupError, LinkBuilder};
use crate::link::Link;

mod files;
mod turn;

use turn::Turn;

pub use files::{IdentityError, IdentityFiles};
pub use paquebot_protocols::dialect::aws::provisioning::{PayloadFormat, ProvisioningRejection};

/// Why a device is not provisioned.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisioningError {
    /// No answer came.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The service refused.
    #[error(transparent)]
    Rejected(#[from] ProvisioningRejection),
    /// Another device is provisioned over the link.
    #[error("another device is provisioned over the claim link; wait for it, or use another link")]
    ClaimBusy,
    /// The certificate is for another key, such as the late answer to an earlier try.
    #[error("the certificate that came is for another key ({0}); try again")]
    OtherKey(String),
    /// The files cannot be written.
    #[error(transparent)]
    Files(#[from] IdentityError),
    /// No key or no signing request could be made.
    #[error("the certificate signing request cannot be made: {0}")]
    SigningRequest(String),
}

impl From<DialectError> for ProvisioningError {
    fn from(error: DialectError) -> Self {
        Self::Request(error.into())
    }
}

/// Who makes the private key.
#[derive(Debug, Clone)]
enum KeySource {
    Aws,
    Own {
        signing_request: String,
        key: SecretString,
    },
}

/// How devices become things: the template, what it asks for, who makes the key.
///
/// Over a link that is let in with a claim certificate, this gets a certificate, has the template register the device,
/// and writes certificate and key to files; what comes out starts the thing's own link:
///
/// ```no_run
/// use paquebot::{Fleet, aws};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # let host = "abc123-ats.iot.eu-central-1.amazonaws.com";
/// let fleet = Fleet::builder().start()?;
/// let claims = fleet
///     .group("claims")
///     .aws(aws::Connection::mutual_tls(host))
///     .client_certificate("claim.pem", "claim.key")
///     .build()?;
/// let claim = claims.device("new-1")?.start()?;
/// claim.online().await?;
/// let files = aws::IdentityFiles::new("pump-1.pem", "pump-1.key");
/// let provisioned = aws::Provisioning::with_template("pumps")
///     .parameter("SerialNumber", "1")
///     .provision(&claim, files)
///     .await?;
/// claim.stop().await;
///
/// let things = fleet.group("things").aws(aws::Connection::mutual_tls(host));
/// let link = provisioned.link(&provisioned.group(things).build()?)?.start()?;
/// # Ok(())
/// # }
/// ```
///
/// Nothing is asked again by itself: each try makes another certificate. A certificate that no template took is gone
/// after an hour.
#[derive(Debug, Clone)]
#[must_use = "nothing happens until `provision`"]
pub struct Provisioning {
    template: String,
    parameters: BTreeMap<String, String>,
    format: PayloadFormat,
    deadline: Duration,
    keys: KeySource,
}

/// A device that is a thing, with files to prove it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Provisioned {
    /// The thing's name.
    pub thing_name: String,
    /// What the template tells the device.
    pub device_configuration: Map<String, Value>,
    /// The certificate's identifier.
    pub certificate_id: String,
    /// Where its certificate and its key are.
    pub files: IdentityFiles,
}

impl Provisioning {
    /// By the template of this name.
    pub fn with_template(name: impl Into<String>) -> Self {
        Self {
            template: name.into(),
            parameters: BTreeMap::new(),
            format: PayloadFormat::Json,
            deadline: REQUEST_DEADLINE,
            keys: KeySource::Aws,
        }
    }

    /// Something that the template asks for. Default: nothing.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.insert(name.into(), value.into());
        self
    }

    /// How requests and answers are written. Default: JSON.
    pub const fn format(mut self, format: PayloadFormat) -> Self {
        self.format = format;
        self
    }

    /// When each of the two requests ends without an answer. Default: [`REQUEST_DEADLINE`](super::REQUEST_DEADLINE).
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// A key of the device's own, which stays here, and the certificate signing request for it, both in PEM. Default: AWS
    /// makes the key and sends it.
    pub fn signing_request(
        mut self,
        request: impl Into<String>,
        key: impl Into<SecretString>,
    ) -> Self {
        self.keys = KeySource::Own {
            signing_request: request.into(),
            key: key.into(),
        };
        self
    }

    /// The same with a key that is made now (ECDSA on P-256) and a request in this name.
    ///
    /// # Errors
    /// The name cannot stand in a certificate, or there is no key.
    #[cfg(feature = "aws-csr")]
    pub fn own_key(self, common_name: &str) -> Result<Self, ProvisioningError> {
        let failed = |error: rcgen::Error| ProvisioningError::SigningRequest(error.to_string());
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, common_name);
        let request = parameters.serialize_request(&key).map_err(failed)?;
        let request = request.pem().map_err(failed)?;
        Ok(self.signing_request(request, key.serialize_pem()))
    }

    /// Does it over a link that is online, and writes the files. Whether they may be written is looked at first, before
    /// a certificate is asked for. One device at a time over one link: a further one is
    /// [`ProvisioningError::ClaimBusy`].
    ///
    /// # Errors
    /// See [`ProvisioningError`]. What the service had made by then is gone after an hour.
    pub async fn provision(
        &self,
        claim: &Link,
        files: IdentityFiles,
    ) -> Result<Provisioned, ProvisioningError> {
        files.check()?;
        let Some(_turn) = Turn::take(claim) else {
            return Err(ProvisioningError::ClaimBusy);
        };
        let request = match &self.keys {
            KeySource::Aws => ProvisioningRequest::CreateKeys,
            KeySource::Own {
                signing_request, ..
            } => ProvisioningRequest::CreateFromRequest {
                signing_request: signing_request.clone(),
            },
        };
        let created = match self.ask(claim, request).await? {
            ProvisioningAnswer::Created(created) => created,
            other => return Err(unexpected(other)),
        };
        let CreatedCertificate {
            certificate_id,
            certificate_pem,
            private_key,
            ownership_token,
        } = created;
        let key = match (&self.keys, private_key) {
            (KeySource::Own { key, .. }, _) => key.clone(),
            (KeySource::Aws, Some(key)) => key,
            (KeySource::Aws, None) => {
                return Err(RequestError::Unreadable("it has no key".into()).into());
            }
        };
        check_identity(certificate_pem.as_bytes(), key.expose_secret().as_bytes())
            .map_err(ProvisioningError::OtherKey)?;
        let request = ProvisioningRequest::Register {
            template: self.template.clone(),
            ownership_token,
            parameters: self.parameters.clone(),
        };
        let RegisteredThing {
            thing_name,
            device_configuration,
        } = match self.ask(claim, request).await? {
            ProvisioningAnswer::Registered(thing) => thing,
            other => return Err(unexpected(other)),
        };
        files.write(&certificate_pem, &key)?;
        Ok(Provisioned {
            thing_name,
            device_configuration,
            certificate_id,
            files,
        })
    }

    async fn ask(
        &self,
        claim: &Link,
        request: ProvisioningRequest,
    ) -> Result<ProvisioningAnswer, ProvisioningError> {
        let format = self.format;
        let (replies, message) = (request.reply_filters(format)?, request.render(format)?);
        let request = Arc::new(request);
        let requests = Requests::new(claim.clone(), move |topic, payload| {
            let answer = request.read(format, topic, payload)?;
            Some((String::new(), answer))
        });
        let call = Call {
            key: String::new(),
            replies,
            message,
            deadline: self.deadline,
        };
        Ok(requests.ask(call).await?)
    }
}

fn unexpected(answer: ProvisioningAnswer) -> ProvisioningError {
    match answer {
        ProvisioningAnswer::Rejected(rejection) => rejection.into(),
        ProvisioningAnswer::Unreadable(problem) => RequestError::Unreadable(problem).into(),
        _ => RequestError::Unreadable("it is to another kind of request".into()).into(),
    }
}

impl Provisioned {
    /// A group whose links connect as this thing: with its certificate. The rest is as it was.
    pub fn group(&self, group: GroupBuilder) -> GroupBuilder {
        group.client_certificate(self.files.certificate(), self.files.key())
    }

    /// The thing's link in a group of many things, with its certificate.
    ///
    /// # Errors
    /// The files cannot be used, the name is none of a device, or the group's endpoint has no TLS.
    pub fn link(&self, group: &Group) -> Result<LinkBuilder, GroupError> {
        group
            .device(self.thing_name.clone())?
            .client_certificate(self.files.certificate(), self.files.key())
    }
}
