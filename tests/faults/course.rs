//! What the courses of all faults have in common: the broker, the settings of links, and what comes of a run.

use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Version};
use paquebot::{
    BackoffConfig, Fleet, GroupBuilder, Jitter, Link, Outcome, Publish, Receipt, Totals,
};
use serde_json::{Value, json};

use crate::support::fleet::{silent, soon};
use crate::support::judge::{Sent, Verdict};
use crate::support::mosquitto::{Mosquitto, Persistence, Setup};

pub(crate) const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// A broker that keeps whatever it is given, on a plain listener.
pub(crate) fn broker(persistence: Persistence) -> Setup {
    Mosquitto::setup()
        .plain()
        .persistence(persistence)
        .line("set_tcp_nodelay true")
        .line("queue_qos0_messages true")
        .line("max_inflight_messages 0")
        .line("max_queued_messages 0")
}

/// Delays short enough for thousands of breaks.
pub(crate) fn at_once() -> BackoffConfig {
    BackoffConfig {
        base: Duration::from_millis(2),
        max: Duration::from_millis(20),
        jitter: Jitter::Full,
        ..BackoffConfig::default()
    }
}

/// A group that says only what the course sends.
pub(crate) fn group(fleet: &Fleet, port: u16, version: Version) -> GroupBuilder {
    fleet
        .group("course")
        .endpoint(format!("mqtt://127.0.0.1:{port}"))
        .version(version)
        .dialect(silent())
        .backoff(at_once())
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) name: &'static str,
    pub(crate) seed: u64,
    pub(crate) began: Instant,
    /// How often the fault was done.
    pub(crate) faults: u64,
    pub(crate) totals: Totals,
    pub(crate) verdicts: [Verdict; 3],
    /// What else was measured.
    pub(crate) figures: serde_json::Map<String, Value>,
    /// What broke a promise, in words.
    pub(crate) broken: Vec<String>,
}

impl Findings {
    pub(crate) fn new(name: &'static str, seed: u64) -> Self {
        Self {
            name,
            seed,
            began: Instant::now(),
            faults: 0,
            totals: Totals::default(),
            verdicts: [Verdict::default(); 3],
            figures: serde_json::Map::new(),
            broken: Vec::new(),
        }
    }

    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Notes what was promised and is not so.
    pub(crate) fn expect(&mut self, holds: bool, promise: impl Into<String>) {
        if !holds {
            self.broken.push(promise.into());
        }
    }

    /// Judges what every run promises: the equation, and each quality of service.
    pub(crate) fn judge(&mut self, totals: Totals, verdicts: [Verdict; 3]) {
        self.expect(
            totals.is_balanced(),
            "accepted + recovered = delivered + rejected + expired + dropped + merged + kept + held",
        );
        self.expect(
            (totals.held, totals.kept) == (0, 0),
            "nothing is held or kept at the end",
        );
        self.expect(
            verdicts[0].holds_at_most_once(),
            "QoS 0: none twice, in order",
        );
        self.expect(
            verdicts[1].holds_at_least_once(),
            "QoS 1: none lost, in order",
        );
        self.expect(
            verdicts[2].holds_exactly_once(),
            "QoS 2: none lost, none twice, in order",
        );
        self.totals = totals;
        self.verdicts = verdicts;
    }

    /// Waits for messages to end, each as it may.
    pub(crate) async fn expect_ends(&mut self, receipts: Vec<(QoS, Receipt)>) {
        for (qos, receipt) in receipts {
            let outcome = soon("it ended", receipt).await;
            self.expect(!wrong_end(qos, &outcome), format!("{qos:?}: {outcome:?}"));
        }
    }

    /// Whether every promise was kept.
    pub(crate) fn is_good(&self) -> bool {
        self.broken.is_empty()
    }

    #[track_caller]
    pub(crate) fn assert_good(&self) {
        assert!(self.is_good(), "{:#}", self.to_json());
    }

    /// One line.
    pub(crate) fn to_json(&self) -> Value {
        let verdict = |verdict: &Verdict| {
            json!({
                "sent": verdict.sent,
                "received": verdict.received,
                "lost": verdict.lost,
                "doubled": verdict.doubled,
                "disordered": verdict.disordered,
                "foreign": verdict.foreign,
            })
        };
        let totals = &self.totals;
        json!({
            "run": self.name,
            "seed": self.seed,
            "faults": self.faults,
            "seconds": (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            "equation": {
                "accepted": totals.accepted,
                "recovered": totals.recovered,
                "delivered": totals.delivered,
                "rejected": totals.rejected,
                "expired": totals.expired,
                "dropped": totals.dropped,
                "merged": totals.merged,
                "kept": totals.kept,
                "held": totals.held,
                "balanced": totals.is_balanced(),
            },
            "qos0": verdict(&self.verdicts[0]),
            "qos1": verdict(&self.verdicts[1]),
            "qos2": verdict(&self.verdicts[2]),
            "figures": self.figures,
            "broken": self.broken,
            "verdict": if self.is_good() { "pass" } else { "fail" },
        })
    }
}

/// Publishes the next number on the topic of its link and quality of service.
pub(crate) async fn publish_next(
    link: &Link,
    sent: &mut Sent,
    qos: QoS,
) -> Result<Receipt, String> {
    let topic = format!("course/{}/{}", link.id(), qos as u8);
    let number = sent.next(&topic, qos as u8);
    let message = Publish::new(topic, number.to_string()).map_err(|error| error.to_string())?;
    let accepted = link.publish(message.with_qos(qos)).await;
    accepted.map_err(|error| error.to_string())
}

/// Looks at the outcome of a message: QoS 1 and 2 have to be delivered, QoS 0 delivered or dropped.
pub(crate) fn wrong_end(qos: QoS, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Delivered { .. } => false,
        Outcome::Dropped(paquebot::DropReason::ConnectionLost) => qos != QoS::AtMostOnce,
        _ => true,
    }
}
