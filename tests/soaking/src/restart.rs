//! The broker dies and comes back, again and again, under load.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use paquebot::mqtt::{QoS, Version};
use paquebot::{Fleet, Link, LinkEvent, Outcome};
use paquebot_emulator::{Admission, Ending, Proxy};

use crate::arguments::Arguments;
use crate::course::{Findings, at_once, group, publish_next, wrong_end};
use crate::support::client::off_the_runtime;
use crate::support::fleet::{drain, online, soon, start_in};
use crate::support::judge::{Judge, Sent};
use crate::support::mosquitto::{Mosquitto, Persistence};

const LINKS: usize = 4;

/// How long links may take to be online after the broker is there.
const BACK_WITHIN: Duration = Duration::from_secs(5);

pub(crate) async fn course(
    all: &mut Findings,
    arguments: &Arguments,
    versions: &[Version],
) -> Result<(), String> {
    let runs = arguments.number("runs", 50)?;
    let rate = arguments.number("rate", 2_000)?.max(1);
    let kinds = match arguments.text("persistence") {
        None => vec![Persistence::On, Persistence::Off],
        Some("on") => vec![Persistence::On],
        Some("off") => vec![Persistence::Off],
        Some(other) => return Err(format!("--persistence {other}: take on or off")),
    };
    let mut rng = fastrand::Rng::with_seed(all.seed);
    for version in versions {
        for persistence in &kinds {
            let findings = one(*version, *persistence, runs, rate, &mut rng).await;
            all.merge(findings);
        }
    }
    Ok(())
}

/// With persistence the broker is stopped in order and remembers; without it is killed and knows nothing afterwards.
///
/// A broker that is killed takes messages along that it has acknowledged, unless somebody had them from it before. So
/// links reach it only while the judge is subscribed, which then has what was acknowledged.
async fn one(
    version: Version,
    persistence: Persistence,
    runs: u64,
    rate: u64,
    rng: &mut fastrand::Rng,
) -> Findings {
    let mut findings = Findings::new("restart", 0);
    findings.figure("version", version.to_string());
    findings.figure("persistence", persistence == Persistence::On);
    let mut server = crate::mosquitto(persistence).await.unwrap();
    let judge = Judge::start(&server.plain(), "judge", "course/#", 1).await;
    // Mosquitto 2.0 sends again after a restart what a subscriber of QoS 1 had confirmed, but hands on at QoS 0 just
    // what it takes.
    let counter = Judge::start(&server.plain(), "counter", "course/+/2", 0).await;
    let proxy = Proxy::start(server.plain_address(), 1).await.unwrap();
    let fleet = Fleet::builder().start().unwrap();
    let group = group(&fleet, proxy.port(), version)
        .backoff(at_once())
        .build()
        .unwrap();
    let links: Vec<Link> = (0..LINKS)
        .map(|n| start_in(&group, &format!("d{n}")))
        .collect();
    for link in &links {
        online(link).await;
    }
    let mut load = Load {
        links: &links,
        sent: Sent::default(),
        open: FuturesUnordered::new(),
        rate,
        session_lost: 0,
        wrong: Vec::new(),
    };
    let mut slowest = Duration::ZERO;
    for _ in 0..runs {
        load.publish_for(Duration::from_millis(rng.u64(100..500)))
            .await;
        if persistence == Persistence::Off {
            proxy.admit(Admission::Refuse);
        }
        server = end(server, persistence).await;
        // Links learn of it as of any broken connection; the proxy's own half would else stay.
        proxy.cut(Ending::Rst);
        load.publish_for(Duration::from_millis(rng.u64(0..300)))
            .await;
        let mut watched: Vec<_> = links.iter().map(Link::events).collect();
        server = off_the_runtime(move || {
            server.restart();
            server
        })
        .await;
        if persistence == Persistence::Off {
            judge.hears(&server.plain(), "course/probe/2").await;
            counter.hears(&server.plain(), "course/probe/2").await;
        }
        let up = Instant::now();
        proxy.admit(Admission::Carry);
        for (events, link) in watched.iter_mut().zip(&links) {
            let back = async {
                while link.state() != paquebot::LinkState::Online {
                    match events.next().await {
                        Some(LinkEvent::Online) | None => return,
                        Some(_) => {}
                    }
                }
            };
            if tokio::time::timeout(BACK_WITHIN, back).await.is_err() {
                findings.expect(
                    false,
                    format!("{} is not back in {BACK_WITHIN:?}", link.id()),
                );
            }
        }
        slowest = slowest.max(up.elapsed());
        findings.faults += 1;
    }
    load.finish().await;
    findings.figure("back_within_seconds", slowest.as_secs_f64());
    findings.figure("flagged_session_lost", load.session_lost);
    let (sent, wrong, flagged) = (load.sent, load.wrong, load.session_lost);
    findings.expect(wrong.is_empty(), format!("wrong ends: {wrong:?}"));
    let totals = drain(&fleet).await;
    let mut verdicts = judge.verdicts(&sent, Duration::from_secs(30)).await;
    let counted = counter.verdicts(&sent, Duration::from_secs(1)).await;
    verdicts[2].doubled = counted[2].doubled;
    if persistence == Persistence::Off {
        // Where the server lost its half of the session, exactly once cannot be had: each such message is flagged.
        findings.figure("doubled_qos2_of_lost_sessions", verdicts[2].doubled);
        findings.expect(
            verdicts[2].doubled <= flagged,
            format!("{} doubled, {flagged} flagged", verdicts[2].doubled),
        );
        verdicts[2].doubled = 0;
    }
    findings.judge(totals, verdicts);
    drop(server);
    findings
}

async fn end(mut server: Mosquitto, persistence: Persistence) -> Mosquitto {
    off_the_runtime(move || {
        match persistence {
            Persistence::On => server.stop(),
            Persistence::Off => server.kill(),
        }
        server
    })
    .await
}

type Open = std::pin::Pin<Box<dyn Future<Output = (QoS, Outcome)> + Send>>;

/// What publishes at a rate, and looks at every outcome.
struct Load<'a> {
    links: &'a [Link],
    sent: Sent,
    open: FuturesUnordered<Open>,
    rate: u64,
    session_lost: u64,
    wrong: Vec<String>,
}

impl Load<'_> {
    async fn publish_for(&mut self, lasts: Duration) {
        let began = Instant::now();
        let step = Duration::from_millis(5);
        let mut due = began;
        while began.elapsed() < lasts {
            for n in 0..(self.rate / 200).max(1) {
                let link = &self.links[usize::try_from(n).unwrap() % self.links.len()];
                for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    let receipt = publish_next(link, &mut self.sent, qos);
                    let receipt = soon("it is taken", receipt).await.unwrap();
                    self.open
                        .push(Box::pin(async move { (qos, receipt.await) }));
                }
            }
            due += step * 2;
            while let Ok(Some((qos, outcome))) =
                tokio::time::timeout_at(due.into(), self.open.next()).await
            {
                self.look_at(qos, &outcome);
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }

    fn look_at(&mut self, qos: QoS, outcome: &Outcome) {
        if let Outcome::Delivered {
            session_lost: true, ..
        } = outcome
        {
            self.session_lost += 1;
        }
        if wrong_end(qos, outcome) {
            self.wrong.push(format!("{qos:?}: {outcome:?}"));
        }
    }

    async fn finish(&mut self) {
        while let Some((qos, outcome)) = soon("all have ended", self.open.next()).await {
            self.look_at(qos, &outcome);
        }
    }
}
