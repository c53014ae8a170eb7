//! A server that reads nothing for long: what the process holds does not grow.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use paquebot::mqtt::{QoS, Version};
use paquebot::{Fleet, Overflow};
use paquebot_emulator::{Conditions, Proxy, Toward};

use crate::arguments::Arguments;
use crate::course::{Findings, group, publish_next};
use crate::support::fleet::{online, soon, start};
use crate::support::judge::Sent;
use crate::support::mosquitto::Persistence;

/// How much resident memory may grow once the queue is full, in KiB.
const GROWTH_MAX_KIB: i64 = 5 * 1024;

pub(crate) async fn course(
    findings: &mut Findings,
    arguments: &Arguments,
    version: Version,
) -> Result<(), String> {
    let lasts = arguments.seconds("seconds", 600)?;
    let server = crate::mosquitto(Persistence::Off).await.unwrap();
    let proxy = Proxy::start(server.plain_address(), findings.seed)
        .await
        .unwrap();
    let fleet = Fleet::builder().workers(1).start().unwrap();
    // Without a keep alive nothing ends the connection: the worst that a server that reads nothing can do.
    let builder = group(&fleet, proxy.port(), version)
        .keep_alive(Duration::ZERO)
        .queue_messages_max(1_000)
        .overflow(Overflow::DropOldest);
    let link = start(builder, "memory");
    online(&link).await;
    let all_but_nothing = Conditions {
        bytes_per_second: NonZeroU64::new(1),
        ..Conditions::default()
    };
    proxy.set(Toward::Server, all_but_nothing);
    findings.faults = 1;
    let mut sent = Sent::default();
    let (began, mut settled, mut most) = (Instant::now(), None, 0);
    while began.elapsed() < lasts {
        for _ in 0..20 {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                drop(soon("it is taken", publish_next(&link, &mut sent, qos)).await?);
            }
        }
        // A tenth of the time is for buffers to fill.
        let resident = resident_kib();
        if began.elapsed() > lasts / 10 {
            let base = *settled.get_or_insert(resident);
            most = most.max(resident - base);
        }
        let totals = fleet.totals();
        findings.expect(totals.is_balanced(), format!("{totals:?}"));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    findings.figure("resident_kib", settled);
    findings.figure("grown_by_kib", most);
    findings.figure("published", sent.count(0) + sent.count(1));
    findings.expect(most <= GROWTH_MAX_KIB, format!("grew by {most} KiB"));
    let totals = fleet.totals();
    findings.figure("disconnects", totals.disconnects);
    findings.totals = soon("it is drained", fleet.drain(Duration::from_secs(1))).await;
    findings.expect(findings.totals.is_balanced(), "the equation");
    Ok(())
}

fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok())
        .unwrap_or(0)
}
