//! The names of things, shadows, jobs and templates, and the topics under which they have services.

/// Bytes of a thing's name.
const THING_BYTES_MAX: usize = 128;

/// Bytes of a shadow's name, a job's and a template's.
const OTHER_BYTES_MAX: usize = 64;

/// Whether AWS would accept a name for a thing.
pub(crate) fn is_thing_name(name: &str) -> bool {
    is_name(name, THING_BYTES_MAX)
}

/// Whether AWS would accept a name for a shadow.
pub(crate) fn is_shadow_name(name: &str) -> bool {
    is_name(name, OTHER_BYTES_MAX)
}

/// Whether AWS would accept an identifier for a job.
pub(crate) fn is_job_id(name: &str) -> bool {
    is_name(name, OTHER_BYTES_MAX) && !name.contains(':')
}

fn is_name(name: &str, bytes_max: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-');
    (1..=bytes_max).contains(&name.len()) && name.bytes().all(allowed)
}

/// How a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Cbor,
}

impl Format {
    fn of(segment: &str) -> Option<Self> {
        match segment {
            "json" => Some(Self::Json),
            "cbor" => Some(Self::Cbor),
            _ => None,
        }
    }
}

/// What is asked of a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShadowOperation {
    Get,
    Update,
    Delete,
}

/// What is asked of the jobs service. An identifier is the topic's segment as it stands, `$next` included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobOperation<'a> {
    GetPending,
    StartNext,
    Describe {
        job_id: &'a str,
    },
    Update {
        job_id: &'a str,
    },
    /// A topic below `jobs` that is none of these.
    Unknown,
}

/// A topic that a service takes requests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceTopic<'a> {
    Shadow {
        thing: &'a str,
        /// `None` for the classic shadow.
        shadow: Option<&'a str>,
        operation: ShadowOperation,
    },
    Jobs {
        thing: &'a str,
        operation: JobOperation<'a>,
    },
    CreateCertificate {
        from_request: bool,
        format: Format,
    },
    Provision {
        template: &'a str,
        format: Format,
    },
    Metrics {
        thing: &'a str,
        format: Format,
    },
}

impl<'a> ServiceTopic<'a> {
    /// The service behind a topic; `None` where there is none, as on the topics that services answer on.
    pub(crate) fn parse(topic: &'a str) -> Option<Self> {
        let segments: Vec<&str> = topic.strip_prefix("$aws/")?.split('/').collect();
        match *segments.as_slice() {
            ["things", thing, "shadow", operation] => Some(Self::Shadow {
                thing,
                shadow: None,
                operation: shadow_operation(operation)?,
            }),
            ["things", thing, "shadow", "name", shadow, operation] => Some(Self::Shadow {
                thing,
                shadow: Some(shadow),
                operation: shadow_operation(operation)?,
            }),
            ["things", thing, "jobs", ref rest @ ..] => Some(Self::Jobs {
                thing,
                operation: job_operation(rest)?,
            }),
            ["things", thing, "defender", "metrics", format] => Some(Self::Metrics {
                thing,
                format: Format::of(format)?,
            }),
            ["certificates", "create", format] => Some(Self::CreateCertificate {
                from_request: false,
                format: Format::of(format)?,
            }),
            ["certificates", "create-from-csr", format] => Some(Self::CreateCertificate {
                from_request: true,
                format: Format::of(format)?,
            }),
            ["provisioning-templates", template, "provision", format] => Some(Self::Provision {
                template,
                format: Format::of(format)?,
            }),
            _ => None,
        }
    }
}

fn shadow_operation(segment: &str) -> Option<ShadowOperation> {
    match segment {
        "get" => Some(ShadowOperation::Get),
        "update" => Some(ShadowOperation::Update),
        "delete" => Some(ShadowOperation::Delete),
        _ => None,
    }
}

fn job_operation<'a>(segments: &[&'a str]) -> Option<JobOperation<'a>> {
    match *segments {
        ["get"] => Some(JobOperation::GetPending),
        ["start-next"] => Some(JobOperation::StartNext),
        // What the service says itself on, even when a client does.
        [] | ["notify" | "notify-next"] | [.., "accepted" | "rejected"] => None,
        [job_id, "get"] => Some(JobOperation::Describe { job_id }),
        [job_id, "update"] => Some(JobOperation::Update { job_id }),
        _ => Some(JobOperation::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_topic_of_every_service_is_known() {
        let shadow = |shadow, operation| ServiceTopic::Shadow {
            thing: "Bot",
            shadow,
            operation,
        };
        let jobs = |operation| ServiceTopic::Jobs {
            thing: "Bot",
            operation,
        };
        for (topic, expected) in [
            (
                "$aws/things/Bot/shadow/get",
                shadow(None, ShadowOperation::Get),
            ),
            (
                "$aws/things/Bot/shadow/update",
                shadow(None, ShadowOperation::Update),
            ),
            (
                "$aws/things/Bot/shadow/name/lamp/delete",
                shadow(Some("lamp"), ShadowOperation::Delete),
            ),
            ("$aws/things/Bot/jobs/get", jobs(JobOperation::GetPending)),
            (
                "$aws/things/Bot/jobs/start-next",
                jobs(JobOperation::StartNext),
            ),
            (
                "$aws/things/Bot/jobs/$next/get",
                jobs(JobOperation::Describe { job_id: "$next" }),
            ),
            (
                "$aws/things/Bot/jobs/job1/update",
                jobs(JobOperation::Update { job_id: "job1" }),
            ),
            ("$aws/things/Bot/jobs/job1/run", jobs(JobOperation::Unknown)),
            (
                "$aws/certificates/create/json",
                ServiceTopic::CreateCertificate {
                    from_request: false,
                    format: Format::Json,
                },
            ),
            (
                "$aws/certificates/create-from-csr/cbor",
                ServiceTopic::CreateCertificate {
                    from_request: true,
                    format: Format::Cbor,
                },
            ),
            (
                "$aws/provisioning-templates/t/provision/json",
                ServiceTopic::Provision {
                    template: "t",
                    format: Format::Json,
                },
            ),
            (
                "$aws/things/Bot/defender/metrics/cbor",
                ServiceTopic::Metrics {
                    thing: "Bot",
                    format: Format::Cbor,
                },
            ),
        ] {
            assert_eq!(ServiceTopic::parse(topic), Some(expected), "{topic}");
        }
    }

    #[test]
    fn a_topic_that_no_service_takes_is_nobodys() {
        for topic in [
            "things/Bot/shadow/get",
            "$aws/things/Bot/shadow",
            "$aws/things/Bot/shadow/get/accepted",
            "$aws/things/Bot/shadow/update/delta",
            "$aws/things/Bot/shadow/name/get",
            "$aws/things/Bot/jobs",
            "$aws/things/Bot/jobs/notify",
            "$aws/things/Bot/jobs/job1/update/rejected",
            "$aws/certificates/create/xml",
            "$aws/rules/r/a",
        ] {
            assert_eq!(ServiceTopic::parse(topic), None, "{topic}");
        }
    }

    #[test]
    fn names_have_their_bytes_and_characters() {
        for name in ["a", "A:b_c-9", &"t".repeat(128)] {
            assert!(is_thing_name(name), "{name}");
        }
        for name in ["", "a b", "ä", "a/b", "a.b", "a+", &"t".repeat(129)] {
            assert!(!is_thing_name(name), "{name}");
        }
        assert!(is_shadow_name(&"s".repeat(64)));
        assert!(!is_shadow_name(&"s".repeat(65)));
    }
}
