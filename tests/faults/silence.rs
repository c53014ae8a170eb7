//! Networks that fall silent: nothing comes, nothing goes, and nobody is told.

use std::time::{Duration, Instant};

use paquebot::mqtt::Version;
use paquebot::mqtt::session::CloseReason;
use paquebot::{Fleet, LinkEvent};
use paquebot_emulator::{Admission, Conditions, Ending, Proxy, Toward};

use crate::course::{Findings, QOS, group, publish_next};
use crate::support::fleet::{drain, event, online, start};
use crate::support::judge::{Judge, Sent};
use crate::support::mosquitto::Mosquitto;

/// How the network falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Both ways, for new connections too; what was on its way arrives late.
    BothWays,
    /// What the link sends gets nowhere.
    TowardServer,
    /// What the server sends gets nowhere.
    TowardClient,
    /// The server is gone and the link is not told; new connections are accepted and lead nowhere.
    HalfOpen,
}

/// One link publishes through a silence of three keep alives.
pub(crate) async fn course(
    server: &Mosquitto,
    version: Version,
    silence: Silence,
    keep_alive: Duration,
) -> Findings {
    let mut findings = Findings::new("silence", 0);
    findings.faults = 1;
    findings.figure("silence", format!("{silence:?} {version}"));
    let judge = Judge::start(&server.plain(), "judge", "course/#", 2).await;
    let proxy = Proxy::start(server.plain_address(), 1).await.unwrap();
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let builder = group(&fleet, proxy.port(), version)
        .keep_alive(keep_alive)
        .connack_timeout(keep_alive);
    let link = start(builder, "silent");
    online(&link).await;
    let mut events = link.events();
    let mut sent = Sent::default();
    let mut receipts = Vec::new();
    for _ in 0..20 {
        for qos in QOS {
            receipts.push((qos, publish_next(&link, &mut sent, qos).await.unwrap()));
        }
    }
    match silence {
        Silence::BothWays => proxy.stall(),
        Silence::TowardServer => proxy.set(Toward::Server, stalled()),
        Silence::TowardClient => proxy.set(Toward::Client, stalled()),
        Silence::HalfOpen => {
            proxy.admit(Admission::Hold);
            proxy.cut(Ending::HalfOpen);
        }
    }
    let since = Instant::now();
    let mut found = None;
    while since.elapsed() < keep_alive * 3 {
        for qos in QOS {
            receipts.push((qos, publish_next(&link, &mut sent, qos).await.unwrap()));
        }
        let lost = event(&mut events, "Disconnected", |event| match event {
            LinkEvent::Disconnected { reason } => Some(reason.clone()),
            _ => None,
        });
        if found.is_none()
            && let Ok(reason) = tokio::time::timeout(keep_alive / 50, lost).await
        {
            found = Some((since.elapsed(), reason));
        }
        tokio::time::sleep(keep_alive / 50).await;
    }
    match found {
        None => findings.expect(false, "the silence was never found"),
        Some((after, reason)) => {
            findings.figure("found_after_seconds", after.as_secs_f64());
            findings.expect(
                reason == CloseReason::KeepAliveTimeout,
                format!("found as {reason:?}"),
            );
        }
    }
    proxy.heal();
    findings.expect_ends(receipts).await;
    let totals = drain(&fleet).await;
    let verdicts = judge.verdicts(&sent, Duration::from_secs(20)).await;
    findings.judge(totals, verdicts);
    findings
}

fn stalled() -> Conditions {
    Conditions {
        stalled: true,
        ..Conditions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mosquitto;
    use crate::support::fleet::BOTH;
    use crate::support::mosquitto::Persistence;

    async fn nothing_is_lost_in(silence: Silence) {
        let course = async |version| {
            if let Some(server) = mosquitto(Persistence::Off).await {
                let findings = course(&server, version, silence, Duration::from_secs(1)).await;
                findings.assert_good();
            }
        };
        // It is waited for most of the time.
        futures_util::future::join_all(BOTH.map(course)).await;
    }

    #[tokio::test]
    async fn nothing_is_lost_in_a_black_hole_of_three_keep_alives() {
        nothing_is_lost_in(Silence::BothWays).await;
    }

    #[tokio::test]
    async fn nothing_is_lost_while_only_the_way_to_the_server_is_closed() {
        nothing_is_lost_in(Silence::TowardServer).await;
    }

    #[tokio::test]
    async fn nothing_is_lost_while_only_the_way_from_the_server_is_closed() {
        nothing_is_lost_in(Silence::TowardClient).await;
    }

    #[tokio::test]
    async fn nothing_is_lost_on_a_connection_that_is_half_open() {
        nothing_is_lost_in(Silence::HalfOpen).await;
    }
}
