//! A scripted session, cut at each of its bytes, either way, in order and by a reset.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use paquebot::Fleet;
use paquebot::mqtt::{QoS, Version};
use paquebot_emulator::{Ending, Plan, Proxy, Toward};

use crate::course::{Findings, QOS, group, publish_next, wrong_end};
use crate::support::fleet::{drain, soon, start};
use crate::support::judge::{Judge, Sent, Verdict};
use crate::support::mosquitto::Mosquitto;

/// Sessions at once.
const AT_ONCE: usize = 12;

/// What one session sent, what it got back by its own subscription, and what was wrong with it.
struct Session {
    sent: Sent,
    inbound: [Verdict; 3],
    wrong: Vec<String>,
    bytes: [u64; 2],
}

/// One session of the script behind a proxy with this plan: it subscribes to its own messages, sends one of each
/// quality of service after the other, then one of each at once, and waits until it has got them all back.
async fn session(
    fleet: &Fleet,
    server: &Mosquitto,
    version: Version,
    n: u64,
    plan: Plan,
) -> Session {
    let proxy = Proxy::start(server.plain_address(), n).await.unwrap();
    proxy.plan(plan);
    let name = format!("c{version}-{n:06}");
    let link = start(group(fleet, proxy.port(), version), &name);
    let got: Arc<Mutex<BTreeMap<u8, Vec<u64>>>> = Arc::default();
    let (came, mut coming) = tokio::sync::watch::channel(());
    let book = Arc::clone(&got);
    let guard = link
        .subscribe_with(
            &format!("course/{name}/+"),
            QoS::ExactlyOnce,
            move |message| {
                let number = std::str::from_utf8(message.payload()).unwrap().parse();
                let mut book = book.lock().unwrap();
                book.entry(message.qos() as u8)
                    .or_default()
                    .push(number.unwrap());
                came.send_replace(());
            },
        )
        .await
        .unwrap();
    let mut sent = Sent::default();
    let mut wrong = Vec::new();
    for qos in QOS {
        let receipt = publish_next(&link, &mut sent, qos).await.unwrap();
        let outcome = soon("it ended", receipt).await;
        if wrong_end(qos, &outcome) {
            wrong.push(format!("{qos:?}: {outcome:?}"));
        }
    }
    let mut receipts = Vec::new();
    for qos in QOS {
        receipts.push((qos, publish_next(&link, &mut sent, qos).await.unwrap()));
    }
    for (qos, receipt) in receipts {
        let outcome = soon("it ended", receipt).await;
        if wrong_end(qos, &outcome) {
            wrong.push(format!("{qos:?}: {outcome:?}"));
        }
    }
    let all_are_back = async {
        loop {
            let counts = {
                let got = got.lock().unwrap();
                [1, 2].map(|qos| {
                    let mut numbers = got.get(&qos).cloned().unwrap_or_default();
                    numbers.sort_unstable();
                    numbers.dedup();
                    numbers.len()
                })
            };
            if counts == [2, 2] {
                return;
            }
            coming.changed().await.unwrap();
        }
    };
    if tokio::time::timeout(Duration::from_secs(15), all_are_back)
        .await
        .is_err()
    {
        wrong.push("not all came back".to_owned());
    }
    soon("the link is drained", link.drain(Duration::from_secs(10))).await;
    drop(guard);
    let mut inbound = [Verdict::default(); 3];
    for qos in 0..3_u8 {
        let numbers = got.lock().unwrap().remove(&qos).unwrap_or_default();
        inbound[usize::from(qos)].add(&numbers, 2);
    }
    let counts = proxy.counts();
    Session {
        sent,
        inbound,
        wrong,
        bytes: [counts.bytes_to_server, counts.bytes_to_client],
    }
}

/// Cuts the session at each `stride`-th byte, and judges what reached the broker's subscribers and what came back.
pub(crate) async fn course(server: &Mosquitto, version: Version, stride: u64) -> Findings {
    let mut findings = Findings::new("cuts", 0);
    let judge = Judge::start(&server.plain(), "judge", "course/#", 2).await;
    let fleet = Fleet::builder().start().unwrap();
    let whole = session(&fleet, server, version, 0, Plan::new()).await;
    let mut cases = Vec::new();
    for (toward, bytes) in [Toward::Server, Toward::Client]
        .into_iter()
        .zip(whole.bytes)
    {
        for ending in [Ending::Fin, Ending::Rst] {
            for byte in (0..bytes).step_by(usize::try_from(stride).unwrap()) {
                cases.push((toward, byte, ending));
            }
        }
    }
    findings.faults = cases.len() as u64;
    findings.figure("version", version.to_string());
    findings.figure("bytes_to_server", whole.bytes[0]);
    findings.figure("bytes_to_client", whole.bytes[1]);
    let mut sent = whole.sent;
    let sessions = futures_util::stream::iter(cases.into_iter().enumerate())
        .map(|(n, (toward, byte, ending))| {
            let plan = Plan::new().cut_at(toward, byte, ending);
            let fleet = &fleet;
            async move {
                let done = session(fleet, server, version, n as u64 + 1, plan).await;
                (done, format!("{toward:?} {ending:?} at {byte}"))
            }
        })
        .buffer_unordered(AT_ONCE);
    let mut sessions = std::pin::pin!(sessions);
    while let Some((session, case)) = sessions.next().await {
        sent.extend(session.sent);
        let [at_most, at_least, exactly] = &session.inbound;
        let holds = at_most.holds_at_most_once()
            && at_least.holds_at_least_once()
            && exactly.holds_exactly_once();
        findings.expect(holds, format!("{case}: {:?}", session.inbound));
        for wrong in session.wrong {
            findings.expect(false, format!("{case}: {wrong}"));
        }
    }
    let totals = drain(&fleet).await;
    let verdicts = judge.verdicts(&sent, Duration::from_secs(10)).await;
    findings.judge(totals, verdicts);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mosquitto;
    use crate::support::mosquitto::Persistence;

    #[tokio::test]
    async fn a_session_of_mqtt_3_cut_at_any_byte_keeps_every_promise() {
        if let Some(server) = mosquitto(Persistence::Off).await {
            course(&server, Version::V311, 1).await.assert_good();
        }
    }

    #[tokio::test]
    async fn a_session_of_mqtt_5_cut_at_any_byte_keeps_every_promise() {
        if let Some(server) = mosquitto(Persistence::Off).await {
            course(&server, Version::V5, 1).await.assert_good();
        }
    }
}
