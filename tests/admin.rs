//! The admin listener: metrics, liveness, readiness.
#![cfg(feature = "admin")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by panicking"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use paquebot::admin::{Admin, AdminError};
use paquebot::{Fleet, Telemetry};
use paquebot_emulator::Broker;

const LIMIT: Duration = Duration::from_secs(10);

/// Status and body of a GET.
fn get(address: SocketAddr, path: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

/// The value of a series, labels and all.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|r| r.starts_with(' '))
    });
    let line = line.unwrap_or_else(|| panic!("no series {series} in\n{metrics}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn the_metrics_show_each_term_of_the_equation_and_no_device() {
    let broker = Broker::builder()
        .tcp(([127, 0, 0, 1], 0))
        .start_on_thread()
        .unwrap();
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let admin = Admin::start(([127, 0, 0, 1], 0).into(), fleet.clone()).unwrap();
    assert_eq!(get(admin.address(), "/readyz", "localhost").0, 503);
    let url = format!("mqtt://{}", broker.tcp_address().unwrap());
    let group = fleet.group("lab").endpoint(url).build().unwrap();
    let link = group.device("secret-device-name").unwrap().start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for _ in 0..5 {
            let receipt = link
                .device()
                .send(&Telemetry::new(&b"x"[..]))
                .await
                .unwrap();
            assert!(
                tokio::time::timeout(LIMIT, receipt)
                    .await
                    .unwrap()
                    .is_delivered()
            );
        }
    });
    assert_eq!(
        get(admin.address(), "/livez", "127.0.0.1:1"),
        (200, "ok\n".into())
    );
    assert_eq!(
        get(admin.address(), "/readyz", "[::1]"),
        (200, "1 of 1 links online\n".into())
    );
    let (status, metrics) = get(admin.address(), "/metrics", "localhost");
    assert_eq!(status, 200);
    let group = r#"{group="lab",platform="mqtt"}"#;
    let accepted = value(
        &metrics,
        &format!("paquebot_messages_accepted_total{group}"),
    );
    let outcome = |name: &str| {
        value(
            &metrics,
            &format!(
                r#"paquebot_message_outcomes_total{{group="lab",outcome="{name}",platform="mqtt"}}"#
            ),
        )
    };
    let held = value(&metrics, &format!("paquebot_messages_held{group}"));
    assert!(accepted >= 5.0);
    let ended = ["delivered", "rejected", "expired", "dropped"]
        .map(outcome)
        .iter()
        .sum::<f64>();
    assert_eq!(accepted, ended + held);
    assert_eq!(
        value(
            &metrics,
            r#"paquebot_devices{group="lab",platform="mqtt",state="connected"}"#
        ),
        1.0
    );
    assert!(metrics.contains("process_open_fds"), "{metrics}");
    assert!(!metrics.contains("secret-device-name"), "{metrics}");
    runtime.block_on(fleet.drain(LIMIT));
    assert_eq!(get(admin.address(), "/readyz", "localhost").0, 503);
}

#[test]
fn a_page_of_another_host_is_not_answered_and_other_addresses_are_not_listened_on() {
    let fleet = Fleet::builder().workers(1).start().unwrap();
    let admin = Admin::start(([127, 0, 0, 1], 0).into(), fleet.clone()).unwrap();
    assert_eq!(get(admin.address(), "/metrics", "evil.example").0, 403);
    assert_eq!(get(admin.address(), "/nothing", "localhost").0, 404);
    let taken = Admin::start(admin.address(), fleet.clone())
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(taken, AdminError::Bind { .. }), "{taken}");
    let remote = Admin::start(([0, 0, 0, 0], 0).into(), fleet)
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(remote, AdminError::NotLoopback(_)), "{remote}");
}
