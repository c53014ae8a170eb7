//! Many breaks at random bytes while links publish.

use std::time::Duration;

use paquebot::Fleet;
use paquebot::mqtt::Version;
use paquebot_emulator::{Ending, Plan, Proxy, Toward};

use crate::course::{Findings, QOS, group, publish_next, wrong_end};
use crate::support::fleet::{drain, soon, start};
use crate::support::judge::{Judge, Sent};
use crate::support::mosquitto::Mosquitto;

/// Measures of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measures {
    pub(crate) version: Version,
    /// Breaks to be met.
    pub(crate) breaks: u64,
    /// At least so many messages, and as many more as it takes to meet all breaks.
    pub(crate) messages: u64,
    /// The most bytes that a connection carries before it breaks.
    pub(crate) bytes_max: u64,
    pub(crate) seed: u64,
}

/// One link publishes at each quality of service in turn while its connection breaks again and again.
pub(crate) async fn course(server: &Mosquitto, measures: Measures) -> Findings {
    let mut findings = Findings::new("breaks", measures.seed);
    findings.figure("version", measures.version.to_string());
    let judge = Judge::start(&server.plain(), "judge", "course/#", 2).await;
    let proxy = Proxy::start(server.plain_address(), measures.seed)
        .await
        .unwrap();
    let mut rng = fastrand::Rng::with_seed(measures.seed);
    for _ in 0..measures.breaks {
        let toward = [Toward::Server, Toward::Client][rng.usize(..2)];
        let ending = [Ending::Fin, Ending::Rst][rng.usize(..2)];
        // Small ones too: they hit the handshake and what is sent again.
        let byte = if rng.u8(..4) == 0 {
            rng.u64(0..200)
        } else {
            rng.u64(0..measures.bytes_max)
        };
        proxy.plan(Plan::new().cut_at(toward, byte, ending));
    }
    let fleet = Fleet::builder().workers(1).start().unwrap();
    // A short queue: what is published is on its way soon, so that breaks and messages meet.
    let builder = group(&fleet, proxy.port(), measures.version).queue_messages_max(500);
    let link = start(builder, "breaks");
    let mut sent = Sent::default();
    let mut receipts = Vec::new();
    let mut count = 0;
    while count < measures.messages || proxy.planned() > 0 {
        let qos = QOS[rng.usize(..3)];
        let receipt = publish_next(&link, &mut sent, qos);
        let receipt = soon("it is taken", receipt).await.unwrap();
        receipts.push((qos, receipt));
        count += 1;
        if count % 20 == 0 {
            // The proxy and the judge's clock share this thread.
            tokio::task::yield_now().await;
        }
    }
    let (mut session_lost, mut wrong) = (0_u64, Vec::new());
    for (qos, receipt) in receipts {
        let outcome = soon("it ended", receipt).await;
        if wrong_end(qos, &outcome) {
            wrong.push(format!("{qos:?}: {outcome:?}"));
        }
        session_lost += u64::from(matches!(
            outcome,
            paquebot::Outcome::Delivered {
                session_lost: true,
                ..
            }
        ));
    }
    findings.expect(wrong.is_empty(), format!("wrong ends: {wrong:?}"));
    let totals = drain(&fleet).await;
    let verdicts = judge.verdicts(&sent, Duration::from_secs(20)).await;
    findings.faults = proxy.counts().cuts;
    findings.figure("connections", proxy.counts().connections);
    findings.figure("flagged_session_lost", session_lost);
    findings.judge(totals, verdicts);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mosquitto;
    use crate::support::fleet::BOTH;
    use crate::support::mosquitto::Persistence;

    #[tokio::test]
    async fn ten_thousand_messages_survive_a_hundred_breaks_at_random_bytes() {
        for version in BOTH {
            let Some(server) = mosquitto(Persistence::Off).await else {
                return;
            };
            let measures = Measures {
                version,
                breaks: 100,
                messages: 10_000,
                bytes_max: 2_500,
                seed: 4,
            };
            let findings = course(&server, measures).await;
            findings.assert_good();
            assert!(findings.faults >= 90, "{findings:#?}");
        }
    }
}
