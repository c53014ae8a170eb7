//! A server in a network of its own, which is cut off: no packet gets through, no connection is told.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use paquebot::mqtt::Version;
use paquebot::mqtt::session::CloseReason;
use paquebot::{ConnectTimeouts, Fleet, Link, LinkEvent};

use crate::course::{Findings, QOS, at_once, broker, publish_next};
use crate::support::client::off_the_runtime;
use crate::support::fleet::{drain, event, online, silent, soon, start_in};
use crate::support::judge::{Judge, Sent};
use crate::support::mosquitto::Persistence;
use crate::support::network::{Network, Way, namespaces};

/// Measures of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measures {
    pub(crate) version: Version,
    pub(crate) links: usize,
    pub(crate) keep_alive: Duration,
    /// How long nothing gets through.
    pub(crate) lasts: Duration,
    /// The ways that are closed.
    pub(crate) closed: &'static [Way],
}

/// Links publish through a partition. `None` when this machine makes no networks, or no server is to be had.
pub(crate) async fn course(measures: Measures) -> Option<Findings> {
    namespaces()?;
    let setup = broker(Persistence::Off).apart();
    let server = off_the_runtime(|| setup.start()).await?;
    let network = Network::join(server.id());
    let mut findings = Findings::new("partition", 0);
    findings.faults = 1;
    findings.figure(
        "closed",
        format!("{:?} {}", measures.closed, measures.version),
    );
    let endpoint = server.plain().beside(server.id());
    let judge = Judge::start(&endpoint, "judge", "course/#", 2).await;
    let address = SocketAddr::from((network.server(), server.plain_port()));
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let group = fleet
        .group("course")
        .endpoint(format!("mqtt://{address}"))
        .version(measures.version)
        .dialect(silent())
        .backoff(at_once())
        .keep_alive(measures.keep_alive)
        .connack_timeout(measures.keep_alive)
        .connect_timeouts(ConnectTimeouts {
            tcp: measures.keep_alive,
            ..ConnectTimeouts::default()
        })
        .build()
        .unwrap();
    let links: Vec<Link> = (0..measures.links)
        .map(|n| start_in(&group, &format!("d{n}")))
        .collect();
    let mut watched = Vec::new();
    for link in &links {
        online(link).await;
        watched.push(link.events());
    }
    let (mut sent, mut receipts) = (Sent::default(), Vec::new());
    let publish = async |sent: &mut Sent, receipts: &mut Vec<_>| {
        for link in &links {
            for qos in QOS {
                receipts.push((qos, publish_next(link, sent, qos).await.unwrap()));
            }
        }
    };
    for _ in 0..20 {
        publish(&mut sent, &mut receipts).await;
    }
    for way in measures.closed {
        network.sever(*way);
    }
    let since = Instant::now();
    let finding = tokio::spawn(async move {
        let mut latest = Duration::ZERO;
        for events in &mut watched {
            let reason = event(events, "Disconnected", |event| match event {
                LinkEvent::Disconnected { reason } => Some(reason.clone()),
                _ => None,
            });
            let reason = reason.await;
            assert_eq!(reason, CloseReason::KeepAliveTimeout);
            latest = latest.max(since.elapsed());
        }
        latest
    });
    while since.elapsed() < measures.lasts {
        publish(&mut sent, &mut receipts).await;
        tokio::time::sleep(measures.keep_alive / 20).await;
    }
    let found = soon("the partition is found", finding).await.unwrap();
    findings.figure("found_after_seconds", found.as_secs_f64());
    for way in measures.closed {
        network.mend(*way);
    }
    let healed = Instant::now();
    for link in &links {
        online(link).await;
    }
    findings.figure("online_after_seconds", healed.elapsed().as_secs_f64());
    findings.expect_ends(receipts).await;
    let totals = drain(&fleet).await;
    let verdicts = judge.verdicts(&sent, Duration::from_secs(20)).await;
    findings.judge(totals, verdicts);
    drop(server);
    Some(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn nothing_is_lost_with(closed: &'static [Way]) {
        let measures = Measures {
            version: Version::V5,
            links: 5,
            keep_alive: Duration::from_secs(1),
            lasts: Duration::from_secs(3),
            closed,
        };
        if let Some(findings) = course(measures).await {
            findings.assert_good();
        }
    }

    #[tokio::test]
    async fn nothing_is_lost_in_a_partition_both_ways() {
        nothing_is_lost_with(&[Way::ToServer, Way::ToClient]).await;
    }

    #[tokio::test]
    async fn nothing_is_lost_in_a_partition_of_the_way_to_the_server() {
        nothing_is_lost_with(&[Way::ToServer]).await;
    }

    #[tokio::test]
    async fn nothing_is_lost_in_a_partition_of_the_way_from_the_server() {
        nothing_is_lost_with(&[Way::ToClient]).await;
    }
}
