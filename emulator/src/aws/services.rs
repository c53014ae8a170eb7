//! AWS IoT Core's services, without a socket, a clock or a thread: a request goes in, messages come out.
//!
//! [`Services`] answers what devices publish below `$aws/` and what they ask over HTTPS: device shadows,
//! jobs, fleet provisioning, Device Defender's metrics, Greengrass discovery. The time is an argument, and
//! whatever is random comes of a seed. A test has a handle on the other side too: it sets what a shadow
//! should be, makes jobs and lets requests fail.
//!
//! ```
//! use std::time::SystemTime;
//! use paquebot_emulator::aws::services::{Requester, ServiceSettings, Services};
//! use serde_json::json;
//!
//! let mut services = Services::new(ServiceSettings::default());
//! let now = SystemTime::now();
//! let told = services.set_desired("Bot", None, &json!({"light": "on"}), now)?;
//! assert_eq!(told[0].topic.as_str(), "$aws/things/Bot/shadow/update/delta");
//!
//! let device = Requester::new("bot-1");
//! let report = br#"{"state":{"reported":{"light":"on"}}}"#;
//! let topic = "$aws/things/Bot/shadow/update";
//! let answers = services.handle_publish(&device, topic, report, now).unwrap_or_default();
//! assert!(answers.iter().all(|answer| !answer.topic.as_str().ends_with("/delta")));
//! assert_eq!(services.shadow("Bot", None).unwrap()["version"], 2);
//! # Ok::<(), paquebot_emulator::aws::services::ShadowError>(())
//! ```
//!
//! The topics and texts are those of Amazon's documents; what they leave open is in [`ServiceSettings`].

mod cbor;
mod defender;
mod discovery;
mod faults;
mod handle;
mod http;
mod jobs;
mod json;
mod message;
mod names;
mod provisioning;
mod settings;
mod shadow;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use paquebot_protocols::mqtt::{QoS, Topic};

use defender::{Defender, Report};
pub use discovery::{CoreConnectivity, GreengrassCore, GreengrassGroup};
use faults::ServiceFaults;
pub use faults::{Operation, ServiceFault};
pub use handle::ShadowError;
pub use http::{HttpRequest, HttpResponse};
pub use jobs::{JobError, JobExecution, JobStatus};
use jobs::{JobRequest, Jobs};
use message::{Message, Role};
pub(super) use names::is_thing_name;
use names::{Format, ServiceTopic, ShadowOperation};
pub use provisioning::{
    CertificateIssuer, DeviceCertificate, ProvisionedCertificate, ProvisioningRequest,
    ProvisioningTemplate, Registration, RegistrationRefusal,
};
use provisioning::{ProvisionRequest, Provisioning, ProvisioningOperation};
pub use settings::{
    DefenderSettings, JobSettings, ProvisioningSettings, ServiceSettings, ShadowSettings,
    UpdateMessage,
};
use shadow::{ShadowKey, ShadowRequest, Shadows};

/// Who publishes a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requester {
    /// The client identifier of the connection.
    pub client_id: String,
    /// Who that is: a certificate's identifier or a user; `None` when nobody checked.
    pub principal: Option<String>,
    /// How many other requests of this connection about shadows are not answered yet. The services answer
    /// at once, so that is for whoever delays their answers to say.
    pub requests_in_flight: usize,
}

impl Requester {
    /// A client that nobody checked and that waits for nothing.
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            ..Self::default()
        }
    }
}

/// For whom a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Everyone with a subscription that matches.
    Subscribers,
    /// Only the client that asked, and that one even without a subscription.
    Requester,
}

/// A message that a service publishes, without retain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The topic.
    pub topic: Topic,
    /// The payload.
    pub payload: Bytes,
    /// The quality of service that it is published with: 1. A subscription may lower it.
    pub qos: QoS,
    /// For whom it is.
    pub to: Audience,
}

/// The services of AWS IoT Core.
#[derive(Debug)]
pub struct Services {
    settings: ServiceSettings,
    things: BTreeSet<String>,
    shadows: Shadows,
    jobs: Jobs,
    provisioning: Provisioning,
    defender: Defender,
    discovery: BTreeMap<String, Vec<GreengrassGroup>>,
    faults: ServiceFaults,
}

/// A refusal that a test asked for.
#[derive(Debug, Clone)]
struct RejectFault {
    status: u16,
    code: String,
    message: String,
}

impl Services {
    /// Services without a thing, a shadow, a job or a template.
    #[must_use]
    pub fn new(settings: ServiceSettings) -> Self {
        Self {
            provisioning: Provisioning::new(settings.seed),
            settings,
            things: BTreeSet::new(),
            shadows: Shadows::default(),
            jobs: Jobs::default(),
            defender: Defender::default(),
            discovery: BTreeMap::new(),
            faults: ServiceFaults::default(),
        }
    }

    /// A message that a client published below `$aws/`, and what it causes, in order. `None` when no
    /// service takes requests on the topic; real AWS may then close the connection.
    pub fn handle_publish(
        &mut self,
        from: &Requester,
        topic: &str,
        payload: &[u8],
        now: SystemTime,
    ) -> Option<Vec<Publication>> {
        let publications = match ServiceTopic::parse(topic)? {
            ServiceTopic::Shadow {
                thing,
                shadow,
                operation,
            } => {
                let fault = self.faults.take(http::shadow_fault(operation));
                let messages = self.request_shadow(
                    from,
                    thing,
                    shadow,
                    operation,
                    payload,
                    fault.as_ref(),
                    now,
                );
                self.publish(messages, fault.as_ref())
            }
            ServiceTopic::Jobs { thing, operation } => {
                let request = JobRequest {
                    thing,
                    operation,
                    topic,
                    payload,
                };
                let (messages, fault) = self.request_job(&request, now);
                self.publish(messages, fault.as_ref())
            }
            ServiceTopic::CreateCertificate {
                from_request,
                format,
            } => {
                let operation = if from_request {
                    ProvisioningOperation::CreateFromRequest
                } else {
                    ProvisioningOperation::CreateKeys
                };
                self.provision(operation, format, topic, payload, now)
            }
            ServiceTopic::Provision { template, format } => {
                let operation = ProvisioningOperation::Register { template };
                self.provision(operation, format, topic, payload, now)
            }
            ServiceTopic::Metrics { thing, format } => {
                let fault = self.faults.take(Operation::DefenderMetrics);
                let report = Report {
                    thing,
                    format,
                    topic,
                    payload,
                };
                let settings = &self.settings.defender;
                let reject = reject(fault.as_ref());
                let answer = self.defender.handle(&report, reject, settings, now);
                self.publish(vec![answer], fault.as_ref())
            }
        };
        Some(publications)
    }

    /// When [`Services::handle_deadline`] has something to do; `None` while nothing waits.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        let deadlines = [self.jobs.deadline(), self.provisioning.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Ends the steps of jobs and the ownership tokens whose time is over. Early is harmless.
    pub fn handle_deadline(&mut self, now: SystemTime) -> Vec<Publication> {
        self.provisioning.handle_deadline(now);
        let messages = self.jobs.handle_deadline(&self.settings.jobs, now);
        self.publish(messages, None)
    }

    /// How long the answer to a request on a topic is to be held back, for a client that waits for so many
    /// others.
    pub(crate) fn answer_delay(&self, topic: &str, requests_in_flight: usize) -> Duration {
        let settings = &self.settings.shadow;
        let is_held = requests_in_flight < settings.requests_in_flight_max
            && matches!(
                ServiceTopic::parse(topic),
                Some(ServiceTopic::Shadow { .. })
            );
        if is_held {
            settings.answer_delay
        } else {
            Duration::ZERO
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "they are the request's own, and two callers name them in this order"
    )]
    fn request_shadow(
        &mut self,
        from: &Requester,
        thing: &str,
        shadow: Option<&str>,
        operation: ShadowOperation,
        payload: &[u8],
        fault: Option<&ServiceFault>,
        now: SystemTime,
    ) -> Vec<Message> {
        let request = ShadowRequest {
            key: ShadowKey::new(thing, shadow),
            operation,
            payload,
            in_flight: Some(from.requests_in_flight),
            thing_is_known: self.is_known(thing),
        };
        let settings = &self.settings.shadow;
        self.shadows.handle(&request, reject(fault), settings, now)
    }

    fn request_job(
        &mut self,
        request: &JobRequest<'_>,
        now: SystemTime,
    ) -> (Vec<Message>, Option<ServiceFault>) {
        let fault = self.faults.take(jobs::operation_of(request.operation));
        let reject = reject(fault.as_ref()).or_else(|| {
            let unknown = RejectFault {
                status: 404,
                code: "ResourceNotFound".to_owned(),
                message: "The thing does not exist".to_owned(),
            };
            (!self.is_known(request.thing)).then_some(unknown)
        });
        let settings = &self.settings.jobs;
        let messages = self.jobs.handle(request, reject, settings, now);
        (messages, fault)
    }

    fn provision(
        &mut self,
        operation: ProvisioningOperation<'_>,
        format: Format,
        topic: &str,
        payload: &[u8],
        now: SystemTime,
    ) -> Vec<Publication> {
        let fault = self.faults.take(match operation {
            ProvisioningOperation::CreateKeys => Operation::CreateKeysAndCertificate,
            ProvisioningOperation::CreateFromRequest => Operation::CreateCertificateFromCsr,
            ProvisioningOperation::Register { .. } => Operation::RegisterThing,
        });
        let request = ProvisionRequest {
            operation,
            format,
            topic,
            payload,
        };
        let settings = &self.settings.provisioning;
        let reject = reject(fault.as_ref());
        let (answer, thing) = self.provisioning.handle(&request, reject, settings, now);
        self.things.extend(thing);
        self.publish(vec![answer], fault.as_ref())
    }

    fn is_known(&self, thing: &str) -> bool {
        !self.settings.things_must_exist || self.things.contains(thing)
    }

    fn take_reject(&mut self, operation: Operation) -> Option<RejectFault> {
        reject(self.faults.take(operation).as_ref())
    }

    /// Messages as they are published: answers with the fault that the request met, events with their own.
    fn publish(
        &mut self,
        messages: Vec<Message>,
        fault: Option<&ServiceFault>,
    ) -> Vec<Publication> {
        let mut publications = Vec::new();
        for message in messages {
            if message.role == Role::Event {
                let fault = self.faults.take(message.operation);
                message.publish(fault.as_ref(), &mut publications);
            } else {
                message.publish(fault, &mut publications);
            }
        }
        publications
    }
}

fn reject(fault: Option<&ServiceFault>) -> Option<RejectFault> {
    match fault {
        Some(ServiceFault::Reject {
            status,
            code,
            message,
        }) => Some(RejectFault {
            status: *status,
            code: code.clone(),
            message: message.clone(),
        }),
        _ => None,
    }
}

/// Whole seconds since 1970, as all of AWS IoT's documents count.
fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
