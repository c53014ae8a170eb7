//! A network that inverts bits, which TCP's own sums let through now and then: links leave such a connection, and
//! come back.
//!
//! What a changed byte means cannot be told: a message may arrive with another number, and an acknowledgement may name
//! another message. So nothing is promised for it but that the link lives and every message has its one end.

use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Version};
use paquebot::{BackoffConfig, Fleet};
use paquebot_emulator::{Conditions, Proxy, Toward};

use crate::course::{Findings, QOS, at_once, group, publish_next};
use crate::support::fleet::{drain, online, soon, start};
use crate::support::judge::Sent;
use crate::support::mosquitto::Mosquitto;

/// Links publish and subscribe for so long while one byte in a hundred or so is spoiled.
pub(crate) async fn course(
    server: &Mosquitto,
    version: Version,
    lasts: Duration,
    seed: u64,
) -> Findings {
    let mut findings = Findings::new("garbled", seed);
    findings.figure("version", version.to_string());
    let proxy = Proxy::start(server.plain_address(), seed).await.unwrap();
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let builder = group(&fleet, proxy.port(), version)
        .keep_alive(Duration::from_secs(1))
        .connack_timeout(Duration::from_millis(500))
        // A garbled CONNECT or CONNACK may be a refusal or a session taken over, which are waited for longer.
        .backoff(BackoffConfig {
            refused_base: Duration::from_millis(20),
            refused_max: Duration::from_millis(100),
            taken_over_min: Duration::from_millis(20),
            ..at_once()
        });
    let link = start(builder, "garbled");
    let handler = link.subscribe_with("course/garbled/+", QoS::ExactlyOnce, |_| {});
    let guard = handler.await.unwrap();
    online(&link).await;
    for (toward, flips_per_byte) in [(Toward::Client, 0.01), (Toward::Server, 0.002)] {
        proxy.set(
            toward,
            Conditions {
                flips_per_byte,
                ..Conditions::default()
            },
        );
    }
    let mut sent = Sent::default();
    let mut receipts = Vec::new();
    let since = Instant::now();
    while since.elapsed() < lasts {
        for qos in QOS {
            receipts.push(
                soon("it is taken", publish_next(&link, &mut sent, qos))
                    .await
                    .unwrap(),
            );
        }
        let totals = fleet.totals();
        findings.expect(totals.is_balanced(), format!("{totals:?}"));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    proxy.heal();
    // A connection on which a length was garbled may wait for bytes that never come.
    proxy.cut(paquebot_emulator::Ending::Rst);
    for receipt in receipts {
        drop(soon("it ended", receipt).await);
    }
    drop(guard);
    findings.faults = proxy.counts().flips;
    findings.figure("connections", proxy.counts().connections);
    findings.totals = drain(&fleet).await;
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mosquitto;
    use crate::support::fleet::BOTH;
    use crate::support::mosquitto::Persistence;

    #[tokio::test]
    async fn a_link_lives_through_inverted_bits_and_every_message_has_one_end() {
        for version in BOTH {
            let Some(server) = mosquitto(Persistence::Off).await else {
                return;
            };
            let findings = course(&server, version, Duration::from_secs(2), 3).await;
            findings.assert_good();
            assert!(findings.faults > 20, "{findings:#?}");
        }
    }
}
