//! Credentials that are refused for minutes: few attempts, and in when they are mended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Version};
use paquebot::{BackoffConfig, Credentials, Fleet, Link};

use crate::arguments::Arguments;
use crate::course::{Findings, publish_next, wrong_end};
use crate::support::client::off_the_runtime;
use crate::support::fleet::{drain, silent, soon, start_in};
use crate::support::judge::{Judge, Sent};
use crate::support::mosquitto::Mosquitto;

pub(crate) async fn course(
    findings: &mut Findings,
    arguments: &Arguments,
    version: Version,
) -> Result<(), String> {
    let lasts = arguments.seconds("minutes", 10)? * 60;
    let count = arguments.number("links", 20)?;
    let setup = Mosquitto::setup().plain().user("purser", "right");
    let server = off_the_runtime(|| setup.start()).await.unwrap();
    // Listeners of one broker are one broker.
    let judge = Judge::start(&server.plain(), "judge", "course/#", 2).await;
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let group = fleet
        .group("course")
        .endpoint(format!("mqtt://127.0.0.1:{}", server.password_port()))
        .version(version)
        .dialect(silent())
        .credentials(Credentials::provider(move || {
            let is_mended = mended.load(Ordering::Relaxed);
            Credentials::password("purser", if is_mended { "right" } else { "wrong" })
        }))
        .build()
        .unwrap();
    let links: Vec<Link> = (0..count)
        .map(|n| start_in(&group, &format!("d{n}")))
        .collect();
    let (mut sent, mut receipts) = (Sent::default(), Vec::new());
    for link in &links {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            receipts.push((qos, publish_next(link, &mut sent, qos).await?));
        }
    }
    let began = Instant::now();
    tokio::time::sleep(lasts).await;
    let refused = server.log().matches("not authorised").count() as u64;
    findings.faults = refused;
    let each = refused as f64 / count as f64;
    let most = attempts_at_most(lasts);
    findings.figure("attempts_of_each", each);
    findings.figure("attempts_at_most", most);
    findings.figure("refused_for_seconds", began.elapsed().as_secs_f64());
    findings.expect(refused >= count, "everybody was refused");
    findings.expect(
        refused <= most * count,
        format!("{each} attempts of each link"),
    );
    is_mended.store(true, Ordering::Relaxed);
    for link in &links {
        link.reconnect();
    }
    // A link that waits because it was refused goes on waiting: whoever mends credentials may start it anew.
    let longest = BackoffConfig::default().refused_max + Duration::from_secs(10);
    for (qos, receipt) in receipts {
        match tokio::time::timeout(longest, receipt).await {
            Ok(outcome) => {
                findings.expect(!wrong_end(qos, &outcome), format!("{qos:?}: {outcome:?}"));
            }
            Err(_) => findings.expect(false, "not delivered after the credentials were mended"),
        }
    }
    let totals = soon("the fleet is drained", drain(&fleet)).await;
    let verdicts = judge.verdicts(&sent, Duration::from_secs(20)).await;
    findings.judge(totals, verdicts);
    Ok(())
}

/// The attempts that the documented delays allow in this time when chance makes each as short as it may be.
fn attempts_at_most(lasts: Duration) -> u64 {
    let config = BackoffConfig::default();
    let (mut attempts, mut at, mut delay) = (1, Duration::ZERO, config.refused_base);
    loop {
        at += delay / 2;
        if at > lasts {
            return attempts;
        }
        attempts += 1;
        delay = (delay * 2).min(config.refused_max);
    }
}
