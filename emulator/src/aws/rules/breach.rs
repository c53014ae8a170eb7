//! The rules one by one: what is against something, in the words of the log. Without anything it is `None`.

use super::AwsSettings;
use crate::aws::permissions::{Action, Refusal};
use crate::remarks::{Explanation, Quoted};

/// Patterns of a policy that a line names.
const PATTERNS_MAX: usize = 5;

pub(crate) fn client_id(client_id: &str, settings: &AwsSettings) -> Option<Explanation> {
    let max = settings.client_id_bytes_max;
    if client_id.len() > max {
        let text = format!(
            "its client identifier has {} bytes, of at most {max}",
            client_id.len()
        );
        return Some(Explanation::new("AWS quota: size of a client ID", text));
    }
    client_id.starts_with('$').then(|| {
        Explanation::new(
            "AWS: client IDs that begin with $ are reserved",
            "its client identifier begins with $",
        )
    })
}

/// The quotas of a topic or a topic filter.
pub(crate) fn topic(text: &str, settings: &AwsSettings) -> Option<Explanation> {
    let counted = without_rule(text);
    let (bytes, levels) = (counted.len(), counted.split('/').count());
    let (bytes_max, levels_max) = (settings.topic_bytes_max, settings.topic_levels_max);
    if bytes > bytes_max {
        let text = format!("{} has {bytes} bytes, of at most {bytes_max}", Quoted(text));
        return Some(Explanation::new("AWS quota: size of a topic", text));
    }
    (levels > levels_max).then(|| {
        let text = format!(
            "{} has {levels} levels, of at most {levels_max} (that is {} slashes)",
            Quoted(text),
            levels_max.saturating_sub(1)
        );
        Explanation::new("AWS quota: slashes in a topic or topic filter", text)
    })
}

pub(crate) fn payload(topic: &str, bytes: usize, settings: &AwsSettings) -> Option<Explanation> {
    let max = settings.payload_bytes_max;
    (bytes > max).then(|| {
        let text = format!(
            "a message to {} has a payload of {bytes} bytes, of at most {max}",
            Quoted(topic)
        );
        Explanation::new("AWS quota: payload of a message", text)
    })
}

pub(crate) fn quality_of_service(topic: &str) -> Explanation {
    let text = format!("it was published to {} with QoS 2", Quoted(topic));
    Explanation::new("AWS: QoS 0 and 1 only, QoS 2 gets no answer", text)
}

pub(crate) fn reserved_topic(topic: &str) -> Explanation {
    let text = format!("it publishes to {}, which no service takes", Quoted(topic));
    Explanation::new("AWS: reserved topics under $aws/", text)
}

pub(crate) fn filters(count: usize, settings: &AwsSettings) -> Option<Explanation> {
    let max = settings.filters_per_subscribe_max;
    (count > max).then(|| {
        let text = format!("a SUBSCRIBE has {count} filters, of at most {max}");
        Explanation::new("AWS quota: subscriptions in one SUBSCRIBE", text)
    })
}

pub(crate) fn subscriptions(settings: &AwsSettings) -> Explanation {
    let text = format!(
        "it has {} subscriptions already, which is the most",
        settings.subscriptions_max
    );
    Explanation::new("AWS quota: subscriptions of a connection", text)
}

/// What a policy refuses, and by which pattern or for want of one.
pub(crate) fn permission(action: Action<'_>, client_id: &str, refusal: &Refusal) -> Explanation {
    let (rule, wanted) = match action {
        Action::Connect => (
            "IoT policy: iot:Connect",
            format!("to connect as {}", Quoted(client_id)),
        ),
        Action::Publish(topic) => (
            "IoT policy: iot:Publish",
            format!("to publish to {}", Quoted(topic)),
        ),
        Action::Subscribe(filter) => (
            "IoT policy: iot:Subscribe",
            format!("to subscribe to {}", Quoted(filter)),
        ),
    };
    let allowed = match refusal {
        Refusal::Denied(pattern) => {
            let text = format!("its policy denies {wanted}, by {}", Quoted(pattern));
            return Explanation::new(rule, text);
        }
        Refusal::Unnamed(allowed) => allowed,
    };
    let more = match allowed.len().saturating_sub(PATTERNS_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<String> = allowed
        .iter()
        .take(PATTERNS_MAX)
        .map(|pattern| Quoted(pattern).to_string())
        .collect();
    let named = match named.as_slice() {
        [] => "nothing".to_owned(),
        named => named.join(", "),
    };
    Explanation::new(
        rule,
        format!("its policy does not allow {wanted}, it allows {named}{more}"),
    )
}

/// The part of a topic that its limits count: Basic Ingest names a rule in front of it.
fn without_rule(topic: &str) -> &str {
    topic
        .strip_prefix("$aws/rules/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(topic, |(_, counted)| counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_fit_up_to_the_limit() {
        let settings = AwsSettings::default();
        let fits = |text: &str| topic(text, &settings).is_none();
        let bytes = |count| "t".repeat(count);
        assert!(fits(&bytes(256)));
        assert!(!fits(&bytes(257)));
        assert!(fits("1/2/3/4/5/6/7/8"));
        assert!(!fits("1/2/3/4/5/6/7/8/9"));
        assert!(fits("$aws/rules/some_rule/1/2/3/4/5/6/7/8"));
        assert!(!fits("$aws/rules/some_rule/1/2/3/4/5/6/7/8/9"));
        assert!(fits(&format!("$aws/rules/some_rule/{}", bytes(256))));
    }

    #[test]
    fn a_denial_names_what_is_allowed_in_its_place() {
        let allowed: Vec<String> = (0..7).map(|number| format!("t/{number}")).collect();
        let text = |allowed: &[String]| {
            let refusal = Refusal::Unnamed(allowed.to_vec());
            permission(Action::Publish("x"), "a", &refusal).text
        };
        assert_eq!(
            text(&allowed),
            "its policy does not allow to publish to \"x\", it allows \"t/0\", \"t/1\", \"t/2\", \"t/3\", \
             \"t/4\" and 2 more"
        );
        assert!(text(&[]).ends_with("it allows nothing"));
        let denied = Refusal::Denied("secret/*".to_owned());
        assert_eq!(
            permission(Action::Publish("secret/a"), "a", &denied).text,
            "its policy denies to publish to \"secret/a\", by \"secret/*\""
        );
    }
}
