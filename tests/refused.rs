//! Servers that refuse CONNECT: the link says with which code and what to do, asks again as seldom as the
//! reason calls for, and leaves the other links alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use paquebot::dialect::plain::Plain;
use paquebot::dialect::{
    Capabilities, ConnectSpec, Dialect, DialectError, Inbound, Interest, LinkIdentity, Outbound,
    Rendered,
};
use paquebot::mqtt::session::{CloseReason, Incoming};
use paquebot::mqtt::{ReasonCode, Subscription, Version};
use paquebot::{
    BackoffConfig, Credentials, DeviceId, Failure, Jitter, LinkEvent, LinkState, Platform,
    Telemetry,
};
use paquebot_emulator::Target;

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, broker, broker_with, disconnected, drain, event, fleet, group, metric, online,
    online_again, quick, retrying, silent, soon, start, start_in, url,
};
use support::mosquitto::Mosquitto;

/// The defaults, without chance.
fn exact() -> BackoffConfig {
    BackoffConfig {
        jitter: Jitter::None,
        ..BackoffConfig::default()
    }
}

const SLOW: Duration = Duration::from_secs(15);
const ORDINARY: Duration = Duration::from_secs(1);

#[tokio::test]
async fn each_refusal_has_its_code_its_advice_its_delay_and_its_series() {
    // Code, the delay it calls for, the return code of MQTT 3.1.1, a word of the advice, the series.
    let rows = [
        (
            ReasonCode::BAD_USER_NAME_OR_PASSWORD,
            SLOW,
            4,
            "password",
            "bad_credentials",
        ),
        (
            ReasonCode::NOT_AUTHORIZED,
            SLOW,
            5,
            "allow",
            "not_authorized",
        ),
        (
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            SLOW,
            2,
            "client identifier",
            "client_id",
        ),
        (
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            SLOW,
            1,
            "version",
            "version",
        ),
        (
            ReasonCode::SERVER_UNAVAILABLE,
            ORDINARY,
            3,
            "tries again",
            "unavailable",
        ),
    ];
    for version in BOTH {
        for (code, delay, return_code, advice, series) in rows {
            let broker = broker().await;
            let fleet = fleet();
            let group = group(&fleet, &url(&broker), version).backoff(exact());
            let group = group.build().unwrap();
            let neighbour = start_in(&group, "neighbour");
            online(&neighbour).await;
            let mut calm = neighbour.events();
            let refusal = broker.faults().refuse_connects(Target::client("d1"), code);
            let (link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
            let reason = disconnected(&mut events).await;
            let CloseReason::Refused {
                code: said,
                wire_code,
                ..
            } = &reason
            else {
                panic!("{reason:?}");
            };
            assert_eq!(*said, code);
            let wire = if version == Version::V311 {
                return_code
            } else {
                code.0
            };
            assert_eq!(*wire_code, wire, "{version} {code}");
            assert!(reason.to_string().contains(advice), "{version}: {reason}");
            assert_eq!(retrying(&mut events).await, delay, "{version} {code}");
            assert_eq!(link.state(), LinkState::Backoff);
            assert_eq!(
                metric(&fleet, "paquebot_connect_attempts_total", &[series]),
                1.0
            );

            let receipt = neighbour.device().send(&Telemetry::new("x")).await.unwrap();
            assert!(soon("it is delivered", receipt).await.is_delivered());
            assert_eq!(neighbour.state(), LinkState::Online);
            refusal.lift();
            drain(&fleet).await;
            while let Some(event) = soon("its events end", calm.next()).await {
                // The state is told before the event, so that `Online` may still come.
                let is_expected = matches!(
                    event,
                    LinkEvent::Disconnected {
                        reason: CloseReason::Local
                    } | LinkEvent::Stopped
                        | LinkEvent::Online
                );
                assert!(is_expected, "{event:?}");
            }
        }
    }
}

#[tokio::test]
async fn refusals_in_a_row_are_further_and_further_apart() {
    let broker = broker().await;
    let fleet = fleet();
    let backoff = BackoffConfig {
        refused_base: Duration::from_millis(10),
        refused_max: Duration::from_millis(50),
        ..exact()
    };
    let builder = group(&fleet, &url(&broker), Version::V5).backoff(backoff);
    let code = ReasonCode::NOT_AUTHORIZED;
    let refusal = broker.faults().refuse_next_connects(Target::All, 5, code);
    let group = builder.build().unwrap();
    let (link, mut events) = group.device("d1").unwrap().start_with_events().unwrap();
    for expected in [10, 20, 40, 50, 50] {
        let delay = retrying(&mut events).await;
        assert_eq!(delay, Duration::from_millis(expected));
    }
    online_again(&mut events).await;
    assert_eq!(broker.stats().connects_refused, 5);
    drop(refusal);
    let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
    assert!(soon("it is delivered", receipt).await.is_delivered());
    drain(&fleet).await;
}

#[tokio::test]
async fn credentials_that_are_mended_let_the_link_in_at_its_next_attempt() {
    let table = paquebot_emulator::AccessTable::new().user("pilot", "chart");
    let broker = broker_with(table).await;
    let fleet = fleet();
    let backoff = BackoffConfig {
        refused_base: Duration::from_millis(20),
        ..exact()
    };
    let mended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let state = mended.clone();
    let credentials = Credentials::provider(move || {
        let is_mended = state.load(std::sync::atomic::Ordering::Relaxed);
        Credentials::password("pilot", if is_mended { "chart" } else { "rum" })
    });
    let builder = group(&fleet, &url(&broker), Version::V5).backoff(backoff);
    let link = start(builder.credentials(credentials), "d1");
    let mut events = link.events();
    let reason = disconnected(&mut events).await;
    let code = ReasonCode::BAD_USER_NAME_OR_PASSWORD;
    assert!(matches!(reason, CloseReason::Refused { code: said, .. } if said == code));
    assert!(
        !format!("{reason:?} {reason}").contains("rum"),
        "{reason:?}"
    );
    mended.store(true, std::sync::atomic::Ordering::Relaxed);
    online(&link).await;
    drain(&fleet).await;
}

#[tokio::test]
async fn a_session_that_is_taken_over_is_not_fought_for() {
    let broker = broker().await;
    let fleet = fleet();
    let group = group(&fleet, &url(&broker), Version::V5);
    let group = group.backoff(exact()).build().unwrap();
    let first = start_in(&group, "d1");
    online(&first).await;
    let mut events = first.events();
    let second = group.device("d2").unwrap().client_id("d1").start().unwrap();
    online(&second).await;
    let reason = disconnected(&mut events).await;
    assert!(
        matches!(reason, CloseReason::ServerDisconnect { code, .. } if code == ReasonCode::SESSION_TAKEN_OVER),
        "{reason:?}"
    );
    assert!(retrying(&mut events).await >= Duration::from_secs(5));
    assert_eq!(second.state(), LinkState::Online);
    drain(&fleet).await;
}

#[tokio::test]
async fn mosquitto_refuses_a_wrong_password_and_takes_the_right_one() {
    let setup = || Mosquitto::setup().user("pilot", "chart").start();
    let Some(mosquitto) = tokio::task::spawn_blocking(setup).await.unwrap() else {
        return;
    };
    let url = format!("mqtt://127.0.0.1:{}", mosquitto.password_port());
    for version in BOTH {
        let fleet = fleet();
        let group = |credentials| {
            let group = group(&fleet, &url, version).backoff(exact());
            group.credentials(credentials).build().unwrap()
        };
        let good = start_in(&group(Credentials::password("pilot", "chart")), "good");
        online(&good).await;
        for bad in [
            Credentials::password("pilot", "rum"),
            Credentials::password("purser", "chart"),
            Credentials::username("pilot"),
            Credentials::default(),
        ] {
            let (link, mut events) = group(bad.clone())
                .device("bad")
                .unwrap()
                .start_with_events()
                .unwrap();
            let reason = event(&mut events, "Disconnected", |event| match event {
                LinkEvent::Disconnected { reason } => Some(reason.clone()),
                _ => None,
            })
            .await;
            // Mosquitto says "not authorised" for a wrong password as well.
            assert!(
                matches!(
                    reason,
                    CloseReason::Refused {
                        code: ReasonCode::NOT_AUTHORIZED,
                        ..
                    }
                ),
                "{version} {bad:?}: {reason:?}"
            );
            assert_eq!(retrying(&mut events).await, SLOW);
            soon("the link stops", link.stop()).await;
        }
        let receipt = good.device().send(&Telemetry::new("x")).await.unwrap();
        assert!(soon("it is delivered", receipt).await.is_delivered());
        drain(&fleet).await;
    }
}

/// Speaks no language, and has nothing to say to CONNECT before it is let.
#[derive(Debug)]
struct Unready {
    plain: Plain,
    is_ready: Arc<AtomicBool>,
}

impl Dialect for Unready {
    fn platform(&self) -> Platform {
        self.plain.platform()
    }

    fn capabilities(&self) -> &Capabilities {
        self.plain.capabilities()
    }

    fn connect(&self, link: &LinkIdentity, now: SystemTime) -> Result<ConnectSpec, DialectError> {
        if self.is_ready.load(Ordering::Relaxed) {
            return self.plain.connect(link, now);
        }
        Err(DialectError::Invalid {
            what: "token",
            problem: "there is no key to sign it with".into(),
        })
    }

    fn subscriptions(
        &self,
        link: &LinkIdentity,
        device: &DeviceId,
        interest: Interest,
    ) -> Result<Vec<Subscription>, DialectError> {
        self.plain.subscriptions(link, device, interest)
    }

    fn render(
        &self,
        link: &LinkIdentity,
        device: &DeviceId,
        outbound: &Outbound<'_>,
    ) -> Result<Option<Rendered>, DialectError> {
        self.plain.render(link, device, outbound)
    }

    fn classify(&self, link: &LinkIdentity, incoming: &Incoming) -> Result<Inbound, DialectError> {
        self.plain.classify(link, incoming)
    }
}

#[tokio::test]
async fn a_dialect_that_has_no_credentials_is_told_and_asked_again() {
    let broker = broker().await;
    let fleet = fleet();
    let is_ready = Arc::new(AtomicBool::new(false));
    let dialect = Unready {
        plain: silent(),
        is_ready: Arc::clone(&is_ready),
    };
    let often = BackoffConfig {
        refused_base: Duration::from_millis(20),
        ..quick()
    };
    let group = group(&fleet, &url(&broker), Version::V5)
        .dialect(dialect)
        .backoff(often);
    let link = group.build().unwrap().device("pump").unwrap();
    let (link, mut events) = link.start_with_events().unwrap();
    let error = event(&mut events, "ConnectFailed", |event| match event {
        LinkEvent::ConnectFailed { error } => Some(Arc::clone(error)),
        _ => None,
    })
    .await;
    assert_eq!(
        error.to_string(),
        "cannot make a CONNECT: token: there is no key to sign it with"
    );
    retrying(&mut events).await;
    let failures = fleet.metrics().failures().remove(0).1;
    let is_told = |failure: &Failure| failure.class == error.class();
    assert!(failures.iter().any(is_told));
    is_ready.store(true, Ordering::Relaxed);
    online(&link).await;
    soon("it stops", link.stop()).await;
    drain(&fleet).await;
}
