//! What of the services can be set otherwise: everything that Amazon's documents leave open, and its quotas.

use std::time::Duration;

/// How the services behave where AWS's documents disagree or say nothing, and its quotas.
///
/// The defaults are what is most likely true of AWS today.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ServiceSettings {
    /// The seed of tokens, so that two runs of a test see the same. Default 0.
    pub seed: u64,
    /// Whether the services know only things that were added by
    /// [`Services::add_thing`](super::Services::add_thing) or by fleet provisioning, and refuse others with
    /// 404 `Thing not found`. Default `false`: a name is enough, as it is for AWS's shadows.
    pub things_must_exist: bool,
    /// The shadow service.
    pub shadow: ShadowSettings,
    /// The jobs service.
    pub jobs: JobSettings,
    /// Fleet provisioning.
    pub provisioning: ProvisioningSettings,
    /// Device Defender.
    pub defender: DefenderSettings,
}

/// A message that an accepted shadow update causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateMessage {
    /// On `update/delta`, when desired and reported differ.
    Delta,
    /// On `update/documents`.
    Documents,
    /// On `update/accepted`.
    Accepted,
}

/// The shadow service where it can be set.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShadowSettings {
    /// How deep a section may be. A value directly below `desired` is at level 1, and each object or array
    /// that has something in it adds a level. Default 6, as the refusal's message says; AWS's page of quotas
    /// said 5 in 2019 and says 8 today.
    pub nesting_levels_max: usize,
    /// Bytes of desired and reported as compact JSON, without metadata. Default 8,192; AWS raises it to
    /// 30,720 on request.
    pub document_bytes_max: usize,
    /// The version that an update may name of a shadow that does not exist. Default 1; `None` accepts any.
    pub version_of_a_missing_shadow: Option<u64>,
    /// How long a deleted shadow's version is remembered. Default 48 h.
    pub tombstone_lifetime: Duration,
    /// The first version of a shadow that is made again after that. Default 1; AWS's guide says 0.
    pub version_after_tombstone: u64,
    /// The order of an update's messages, which AWS does not promise. Default delta, documents, accepted.
    /// What is not listed is not sent.
    pub update_messages: Vec<UpdateMessage>,
    /// Requests on the shadows of one thing in any second; more are refused with 429. Default 20, the
    /// quota; `None` for no limit.
    pub requests_per_second_max: Option<u32>,
    /// Requests of one connection that wait for their answer; more are refused with 429. Default 10.
    pub requests_in_flight_max: usize,
    /// How long the answer to a request takes over MQTT, and what the request causes; a refusal for too many
    /// requests comes at once. Default 0, with which no two requests are ever under way together.
    pub answer_delay: Duration,
    /// Whether a request by HTTP is announced on `update/accepted` and `delete/accepted` too. Default
    /// `true`; delta and documents are announced in any case.
    pub http_accepted_is_published: bool,
}

impl Default for ShadowSettings {
    fn default() -> Self {
        Self {
            nesting_levels_max: 6,
            document_bytes_max: 8 * 1024,
            version_of_a_missing_shadow: Some(1),
            tombstone_lifetime: Duration::from_hours(48),
            version_after_tombstone: 1,
            update_messages: vec![
                UpdateMessage::Delta,
                UpdateMessage::Documents,
                UpdateMessage::Accepted,
            ],
            requests_per_second_max: Some(20),
            requests_in_flight_max: 10,
            answer_delay: Duration::ZERO,
            http_accepted_is_published: true,
        }
    }
}

/// The jobs service where it can be set.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobSettings {
    /// How many executions `notify` lists at most. Default 10.
    pub notify_listed_max: usize,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            notify_listed_max: 10,
        }
    }
}

/// Fleet provisioning where it can be set.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProvisioningSettings {
    /// How long a certificate ownership token can be used. Default 1 h.
    pub token_lifetime: Duration,
    /// Whether a token can be used again until it ends, so that a device may repeat a request whose answer
    /// got lost. Default `true`.
    pub tokens_can_be_reused: bool,
}

impl Default for ProvisioningSettings {
    fn default() -> Self {
        Self {
            token_lifetime: Duration::from_hours(1),
            tokens_can_be_reused: true,
        }
    }
}

/// Device Defender where it can be set.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DefenderSettings {
    /// The least time between two reports of a thing; an earlier one is refused as `Throttled`. Default
    /// 5 min; `None` accepts any.
    pub report_interval_min: Option<Duration>,
}

impl Default for DefenderSettings {
    fn default() -> Self {
        Self {
            report_interval_min: Some(Duration::from_mins(5)),
        }
    }
}
