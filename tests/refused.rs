//! Servers that refuse CONNECT: the link says with which code and what to do, asks again as seldom as the
//! reason calls for, and leaves the other links alone.

use std::time::Duration;

use paquebot::mqtt::session::CloseReason;
use paquebot::mqtt::{ReasonCode, Version};
use paquebot::{BackoffConfig, Credentials, Jitter, LinkEvent, LinkState, Telemetry};
use paquebot_emulator::Target;

#[path = "support/support.rs"]
mod support;

use support::fleet::{
    BOTH, broker, broker_with, disconnected, drain, event, fleet, group, metric, online,
    online_again, retrying, soon, start, start_in, url,
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
