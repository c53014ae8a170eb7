//! The side of the services that devices do not see: what a cloud's console and applications do, for tests
//! and the program.

use std::time::SystemTime;

use serde_json::Value;

use super::discovery::GreengrassGroup;
use super::faults::{Operation, ServiceFault};
use super::jobs::{JobError, JobExecution};
use super::json::{Json, Object, object, object_text};
use super::message::Role;
use super::names::ShadowOperation;
use super::provisioning::{CertificateIssuer, ProvisionedCertificate, ProvisioningTemplate};
use super::shadow::{ShadowKey, ShadowRequest};
use super::{Publication, ServiceSettings, Services};

/// The shadow service refused a change of the console's side, as it would refuse a device's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the shadow service answered {code}: {message}")]
#[non_exhaustive]
pub struct ShadowError {
    /// The code, as a device would see it.
    pub code: u16,
    /// The text.
    pub message: String,
}

/// What the returned publications are: the events that devices get.
impl Services {
    /// What was set.
    #[must_use]
    pub fn settings(&self) -> &ServiceSettings {
        &self.settings
    }

    /// Adds a thing to the registry, which counts with [`ServiceSettings::things_must_exist`].
    pub fn add_thing(&mut self, thing: impl Into<String>) {
        self.things.insert(thing.into());
    }

    /// Removes a thing from the registry and ends its jobs. Its shadows stay, as AWS's do.
    pub fn delete_thing(&mut self, thing: &str, now: SystemTime) -> Vec<Publication> {
        self.things.remove(thing);
        let messages = self.jobs.remove_thing(thing, &self.settings.jobs, now);
        self.publish(messages, None)
    }

    /// The things of the registry: those added and those that fleet provisioning made.
    pub fn things(&self) -> impl Iterator<Item = &str> {
        self.things.iter().map(String::as_str)
    }

    /// Merges into what a shadow should be. `None` is the classic shadow.
    ///
    /// # Errors
    /// What the shadow service does not accept, as [`Services::update_shadow`].
    pub fn set_desired(
        &mut self,
        thing: &str,
        shadow: Option<&str>,
        desired: &Value,
        now: SystemTime,
    ) -> Result<Vec<Publication>, ShadowError> {
        let state = object([("desired", Some(Json::from(desired)))]);
        let document = object([("state", Some(state.into()))]);
        self.change(thing, shadow, ShadowOperation::Update, &document, now)
    }

    /// Updates a shadow as a device would, with a document `{"state": {…}, "version": …}`. It does not count
    /// towards the thing's rate, and meets no fault of [`Operation::ShadowUpdate`].
    ///
    /// # Errors
    /// What the shadow service does not accept: a malformed document, a version that is not the shadow's,
    /// too many levels or bytes.
    pub fn update_shadow(
        &mut self,
        thing: &str,
        shadow: Option<&str>,
        document: &Value,
        now: SystemTime,
    ) -> Result<Vec<Publication>, ShadowError> {
        let document = match Json::from(document) {
            Json::Object(document) => document,
            _ => Object::new(),
        };
        self.change(thing, shadow, ShadowOperation::Update, &document, now)
    }

    /// Deletes a shadow as a device would.
    ///
    /// # Errors
    /// A shadow that does not exist.
    pub fn delete_shadow(
        &mut self,
        thing: &str,
        shadow: Option<&str>,
        now: SystemTime,
    ) -> Result<Vec<Publication>, ShadowError> {
        let document = Object::new();
        self.change(thing, shadow, ShadowOperation::Delete, &document, now)
    }

    /// A shadow as `get` shows it, with `state`, `metadata` and `version`. A number that neither 64 bits nor
    /// an `f64` hold is rounded here; [`Services::shadow_text`] has it as it is.
    #[must_use]
    pub fn shadow(&self, thing: &str, shadow: Option<&str>) -> Option<Value> {
        let document = self.shadows.shadow(&ShadowKey::new(thing, shadow))?;
        Some(Json::Object(document).to_value())
    }

    /// The same as compact JSON, with every digit.
    #[must_use]
    pub fn shadow_text(&self, thing: &str, shadow: Option<&str>) -> Option<String> {
        let document = self.shadows.shadow(&ShadowKey::new(thing, shadow))?;
        Some(object_text(&document))
    }

    /// The names of a thing's named shadows, in order.
    pub fn named_shadows(&self, thing: &str) -> impl Iterator<Item = &str> {
        self.shadows.named(thing)
    }

    /// Queues a job for things.
    ///
    /// # Errors
    /// An identifier that is none or that is taken, a name that is none of a thing, or a thing that is not in the
    /// registry where [`things_must_exist`](super::ServiceSettings::things_must_exist).
    pub fn create_job(
        &mut self,
        job_id: &str,
        document: &Value,
        things: &[&str],
        now: SystemTime,
    ) -> Result<Vec<Publication>, JobError> {
        if let Some(unknown) = things.iter().find(|thing| !self.is_known(thing)) {
            return Err(JobError::UnknownThing((*unknown).to_owned()));
        }
        let document = Json::from(document);
        let settings = &self.settings.jobs;
        let messages = self.jobs.create(job_id, &document, things, settings, now)?;
        Ok(self.publish(messages, None))
    }

    /// Cancels a job: the executions that are queued, and with `force` those in progress too.
    ///
    /// # Errors
    /// A job that does not exist.
    pub fn cancel_job(
        &mut self,
        job_id: &str,
        force: bool,
        now: SystemTime,
    ) -> Result<Vec<Publication>, JobError> {
        let messages = self.jobs.cancel(job_id, force, &self.settings.jobs, now)?;
        Ok(self.publish(messages, None))
    }

    /// A thing's executions in the order of their creation, the finished ones among them.
    #[must_use]
    pub fn job_executions(&self, thing: &str) -> Vec<JobExecution> {
        self.jobs.of_thing(thing)
    }

    /// Every thing's executions, by thing.
    #[must_use]
    pub fn all_job_executions(&self) -> Vec<JobExecution> {
        self.jobs.all()
    }

    /// Who signs new certificates. Without one, an authority is made when the first is asked for, whom
    /// nobody trusts.
    pub fn set_issuer(&mut self, issuer: Box<dyn CertificateIssuer>) {
        self.provisioning.set_issuer(issuer);
    }

    /// Adds a provisioning template, in the place of one of the same name.
    pub fn add_template(&mut self, name: impl Into<String>, template: ProvisioningTemplate) {
        self.provisioning.add_template(name.into(), template);
    }

    /// The certificates that fleet provisioning gave out and that a thing took or still can take.
    #[must_use]
    pub fn provisioned_certificates(&self) -> &[ProvisionedCertificate] {
        self.provisioning.certificates()
    }

    /// Sets what Greengrass discovery answers a thing. Without groups set it answers 404.
    pub fn set_discovery(&mut self, thing: impl Into<String>, groups: Vec<GreengrassGroup>) {
        self.discovery.insert(thing.into(), groups);
    }

    /// The last report of Device Defender's metrics that was accepted of a thing.
    #[must_use]
    pub fn last_metrics_report(&self, thing: &str) -> Option<Value> {
        self.defender.last(thing).map(Json::to_value)
    }

    /// Lets the next `times` requests or events of a kind fail. Faults of one kind are met in the order they
    /// were injected, one a request; what comes by this handle meets only faults of events.
    pub fn inject(&mut self, operation: Operation, fault: ServiceFault, times: u32) {
        self.faults.inject(operation, fault, times);
    }

    /// Forgets the faults that were not met.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    fn change(
        &mut self,
        thing: &str,
        shadow: Option<&str>,
        operation: ShadowOperation,
        document: &Object,
        now: SystemTime,
    ) -> Result<Vec<Publication>, ShadowError> {
        let payload = object_text(document);
        let request = ShadowRequest {
            key: ShadowKey::new(thing, shadow),
            operation,
            payload: payload.as_bytes(),
            in_flight: None,
            thing_is_known: self.is_known(thing),
        };
        let settings = &self.settings.shadow;
        let messages = self.shadows.handle(&request, None, settings, now);
        let refused = messages.iter().find_map(|message| match message.role {
            Role::Rejected(code) => Some((code, message.body.get("message"))),
            _ => None,
        });
        if let Some((code, message)) = refused {
            let message = message
                .and_then(Json::as_str)
                .unwrap_or_default()
                .to_owned();
            return Err(ShadowError { code, message });
        }
        Ok(self.publish(messages, None))
    }
}
