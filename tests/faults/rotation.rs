//! A server whose certificate changes while links publish.

use std::time::Duration;

use paquebot::mqtt::{QoS, Version};
use paquebot::{Fleet, LinkEvent};

use crate::course::{Findings, at_once, broker, publish_next};
use crate::support::certs::{Authority, Identity};
use crate::support::client::off_the_runtime;
use crate::support::fleet::{drain, event, metric, online_again, silent, start, until};
use crate::support::judge::{Judge, Sent};
use crate::support::mosquitto::{Mosquitto, Persistence};

async fn present(mut server: Mosquitto, identity: Identity) -> Mosquitto {
    off_the_runtime(move || {
        server.stop();
        server.replace_tls(&identity);
        server.restart();
        server
    })
    .await
}

/// A good certificate, another good one, a bad one, and a good one again, while one link publishes. `None` when there is
/// no server to be had.
pub(crate) async fn course(version: Version) -> Option<Findings> {
    let mut findings = Findings::new("rotation", 0);
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let setup = broker(Persistence::On).tls(&ours.server());
    let mut server = off_the_runtime(|| setup.start()).await?;
    // Mosquitto sends again after a restart what its subscribers had confirmed, so doubles are not its to judge.
    let judge = Judge::start(&server.plain(), "judge", "course/#", 1).await;
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let builder = fleet
        .group("course")
        .endpoint(format!("mqtts://localhost:{}", server.tls_port()))
        .ca_file(ours.certificate())
        .version(version)
        .dialect(silent())
        .backoff(at_once());
    let link = start(builder, "rotated");
    let mut events = link.events();
    online_again(&mut events).await;
    let (mut sent, mut receipts) = (Sent::default(), Vec::new());
    for (identity, is_good) in [
        (ours.server(), true),
        (others.server(), false),
        (ours.server(), true),
    ] {
        let publish = async |sent: &mut Sent, receipts: &mut Vec<_>| {
            for _ in 0..50 {
                for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    let receipt = publish_next(&link, sent, qos).await.unwrap();
                    receipts.push((qos, receipt));
                }
            }
        };
        publish(&mut sent, &mut receipts).await;
        server = present(server, identity).await;
        publish(&mut sent, &mut receipts).await;
        if is_good {
            online_again(&mut events).await;
        } else {
            let refusal = event(&mut events, "a refused certificate", |event| match event {
                // While the server was down there were other errors.
                LinkEvent::ConnectFailed { error } => {
                    let text = error.to_string();
                    text.contains("certificate").then_some(text)
                }
                _ => None,
            });
            findings.figure("refusal", refusal.await);
        }
        findings.faults += 1;
    }
    findings.expect_ends(receipts).await;
    let totals = drain(&fleet).await;
    let mut verdicts = judge.verdicts(&sent, Duration::from_secs(20)).await;
    verdicts[2].doubled = 0;
    findings.judge(totals, verdicts);
    Some(findings)
}

/// The file of the authorities that a link trusts is spoiled, then replaced, while the server's authority changes.
/// `None` when there is no server to be had.
pub(crate) async fn own_course(version: Version) -> Option<()> {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let setup = broker(Persistence::On).tls(&first.server());
    let server = off_the_runtime(|| setup.start()).await?;
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    std::fs::copy(first.certificate(), &trusted).unwrap();
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let builder = fleet
        .group("course")
        .endpoint(format!("mqtts://localhost:{}", server.tls_port()))
        .ca_file(&trusted)
        .version(version)
        .dialect(silent())
        .backoff(at_once());
    let link = start(builder, "rotated");
    let mut events = link.events();
    online_again(&mut events).await;
    let before = reloads(&fleet, "failed");
    std::fs::write(&trusted, "spoiled").unwrap();
    until("the spoiled file was looked at", || {
        link.reconnect();
        reloads(&fleet, "failed") > before
    })
    .await;
    online_again(&mut events).await;
    let server = present(server, second.server()).await;
    let refused = event(&mut events, "a refused certificate", |event| match event {
        LinkEvent::ConnectFailed { error } => {
            error.to_string().contains("certificate").then_some(())
        }
        _ => None,
    });
    refused.await;
    std::fs::copy(second.certificate(), &trusted).unwrap();
    online_again(&mut events).await;
    drain(&fleet).await;
    drop(server);
    Some(())
}

fn reloads(fleet: &Fleet, result: &str) -> f64 {
    metric(fleet, "paquebot_certificate_reloads_total", &[result])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_spoiled_file_of_our_own_leaves_the_one_before_in_force_and_a_new_one_is_used_at_once()
     {
        own_course(Version::V5).await;
    }

    #[tokio::test]
    async fn nothing_is_lost_while_a_server_changes_its_certificate_or_shows_a_bad_one() {
        if let Some(findings) = course(Version::V5).await {
            findings.assert_good();
        }
    }
}
