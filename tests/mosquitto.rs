//! A fleet on a real Mosquitto, over TCP, TLS and WebSocket, in both versions, judged by mosquitto's own clients.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use paquebot::mqtt::{QoS, Version};
use paquebot::{CommandReply, CommandStatus, Fleet, Link, StatePatch, Telemetry};
use paquebot_emulator::{Ending, Proxy};

#[path = "support/support.rs"]
mod support;

use support::certs::Authority;
use support::client::{Endpoint, Received, Referee, off_the_runtime, publish_soon};
use support::fleet::{LIMIT, drain, fleet, group, online, soon, start, start_in, until};
use support::mosquitto::Mosquitto;

const DEVICES: usize = 200;
const PER_QOS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Over {
    Tcp,
    Tls,
    WebSocket,
    WebSocketTls,
}

/// A broker with all listeners that drops nothing for being many.
struct Port {
    broker: Mosquitto,
    authority: Authority,
}

impl Port {
    async fn open() -> Option<Self> {
        let authority = Authority::new("paquebot test CA");
        let setup = Mosquitto::setup()
            .plain()
            .tls(&authority.server())
            .websocket()
            .websocket_tls(&authority.server())
            .line("max_inflight_messages 0")
            .line("max_queued_messages 0");
        let broker = off_the_runtime(|| setup.start()).await?;
        Some(Self { broker, authority })
    }

    fn group(&self, fleet: &Fleet, over: Over, version: Version) -> paquebot::Group {
        self.group_at(fleet, over, version, self.number(over))
    }

    fn number(&self, over: Over) -> u16 {
        match over {
            Over::Tcp => self.broker.plain_port(),
            Over::Tls => self.broker.tls_port(),
            Over::WebSocket => self.broker.websocket_port(),
            Over::WebSocketTls => self.broker.websocket_tls_port(),
        }
    }

    fn group_at(&self, fleet: &Fleet, over: Over, version: Version, port: u16) -> paquebot::Group {
        let (scheme, is_encrypted) = match over {
            Over::Tcp => ("mqtt", false),
            Over::Tls => ("mqtts", true),
            Over::WebSocket => ("ws", false),
            Over::WebSocketTls => ("wss", true),
        };
        let mut builder = group(fleet, &format!("{scheme}://127.0.0.1:{port}"), version);
        if is_encrypted {
            builder = builder.ca_file(self.authority.certificate());
        }
        builder.build().unwrap()
    }

    /// Where the referee listens: always without encryption, so that it shares nothing with us.
    fn referee(&self) -> Endpoint {
        self.broker.plain()
    }
}

/// Every device sends a numbered series at each QoS, all at once.
async fn publish_series(links: &[Link]) {
    let mut senders = tokio::task::JoinSet::new();
    for link in links {
        let device = link.device();
        senders.spawn(async move {
            let mut receipts = Vec::new();
            for n in 0..PER_QOS {
                for (q, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
                    .into_iter()
                    .enumerate()
                {
                    let telemetry = Telemetry::new(format!("{q}:{n}")).with_qos(qos);
                    receipts.push(device.send(&telemetry).await.unwrap());
                }
            }
            for receipt in receipts {
                assert!(soon("it is delivered", receipt).await.is_delivered());
            }
        });
    }
    while let Some(result) = senders.join_next().await {
        result.unwrap();
    }
}

/// Each series arrived in its order: at QoS 2 each message once, at QoS 1 at least once.
fn judge(received: &[Received], devices: usize) {
    let mut series: HashMap<(String, usize), Vec<usize>> = HashMap::new();
    for message in received {
        let device = message.topic.split('/').nth(1).unwrap();
        let (qos, n) = message.text().split_once(':').unwrap();
        let qos: usize = qos.parse().unwrap();
        assert_eq!(usize::from(message.qos), qos, "{message:?}");
        series
            .entry((device.to_owned(), qos))
            .or_default()
            .push(n.parse().unwrap());
    }
    for device in 0..devices {
        let device = format!("d{device}");
        for qos in 0..3 {
            let numbers = series.remove(&(device.clone(), qos)).unwrap_or_default();
            let mut firsts = numbers.clone();
            let mut seen = Vec::new();
            firsts.retain(|n| {
                !seen.contains(n) && {
                    seen.push(*n);
                    true
                }
            });
            assert!(firsts.is_sorted(), "{device} QoS {qos}: {numbers:?}");
            let whole: Vec<usize> = (0..PER_QOS).collect();
            match qos {
                0 => assert_eq!(numbers, firsts, "{device} QoS 0: one twice"),
                1 => assert_eq!(firsts, whole, "{device} QoS 1"),
                _ => assert_eq!(numbers, whole, "{device} QoS 2"),
            }
        }
    }
    assert!(series.is_empty(), "from nowhere: {series:?}");
}

async fn a_fleet_sends_its_telemetry(over: Over, version: Version) {
    let Some(port) = Port::open().await else {
        return;
    };
    let fleet = fleet();
    let group = port.group(&fleet, over, version);
    let telemetry =
        Referee::start(&port.referee(), &["-t", "devices/+/telemetry", "-q", "2"]).await;
    let links: Vec<Link> = (0..DEVICES)
        .map(|n| start_in(&group, &format!("d{n}")))
        .collect();
    for link in &links {
        online(link).await;
    }
    let acknowledged = DEVICES * PER_QOS * 2;
    let referee = telemetry.collect(move |all| {
        all.len() >= acknowledged && all.iter().filter(|m| m.qos > 0).count() >= acknowledged
    });
    let (received, ()) = tokio::join!(referee, publish_series(&links));
    judge(&received, DEVICES);
    let totals = drain(&fleet).await;
    // The series, and `online` and `offline` of each.
    let expected = (DEVICES * (PER_QOS * 3 + 2)) as u64;
    assert_eq!((totals.accepted, totals.delivered), (expected, expected));
    assert_eq!(totals.disconnects, 0, "{totals:?}");
}

#[tokio::test]
async fn a_fleet_sends_its_telemetry_over_tcp_in_mqtt_3() {
    a_fleet_sends_its_telemetry(Over::Tcp, Version::V311).await;
}

#[tokio::test]
async fn a_fleet_sends_its_telemetry_over_tcp_in_mqtt_5() {
    a_fleet_sends_its_telemetry(Over::Tcp, Version::V5).await;
}

#[tokio::test]
async fn a_fleet_sends_its_telemetry_over_tls_in_mqtt_3() {
    a_fleet_sends_its_telemetry(Over::Tls, Version::V311).await;
}

#[tokio::test]
async fn a_fleet_sends_its_telemetry_over_tls_in_mqtt_5() {
    a_fleet_sends_its_telemetry(Over::Tls, Version::V5).await;
}

#[tokio::test]
async fn a_fleet_sends_its_telemetry_over_websocket_in_mqtt_3() {
    a_fleet_sends_its_telemetry(Over::WebSocket, Version::V311).await;
}

#[tokio::test]
async fn a_fleet_sends_its_telemetry_over_websocket_in_mqtt_5() {
    a_fleet_sends_its_telemetry(Over::WebSocket, Version::V5).await;
}

#[tokio::test]
async fn a_fleet_sends_its_telemetry_over_websocket_and_tls_in_mqtt_3() {
    a_fleet_sends_its_telemetry(Over::WebSocketTls, Version::V311).await;
}

#[tokio::test]
async fn a_fleet_sends_its_telemetry_over_websocket_and_tls_in_mqtt_5() {
    a_fleet_sends_its_telemetry(Over::WebSocketTls, Version::V5).await;
}

/// Starts a device that answers `echo` with what it got and knows no other command.
async fn echoing(group: &paquebot::Group, device: &str) -> Link {
    let link = start_in(group, device);
    let commands = link.device().commands().await.unwrap();
    soon("commands come", commands.ready()).await.unwrap();
    tokio::spawn(commands.serve(4, async |command| match &*command.name {
        "echo" => CommandReply::ok(command.payload),
        "fail" => CommandReply::failed("no"),
        _ => CommandReply::with_status(CommandStatus::Unknown),
    }));
    link
}

#[tokio::test]
async fn commands_of_mosquitto_pub_are_answered_on_the_reply_topic() {
    let Some(port) = Port::open().await else {
        return;
    };
    for (over, version) in [
        (Over::Tcp, Version::V311),
        (Over::Tcp, Version::V5),
        (Over::Tls, Version::V311),
        (Over::Tls, Version::V5),
        (Over::WebSocket, Version::V311),
        (Over::WebSocketTls, Version::V5),
    ] {
        let fleet = fleet();
        let _link = echoing(&port.group(&fleet, over, version), "pump").await;
        let mut referee = Referee::start(
            &port.referee(),
            &["-t", "devices/pump/replies/#", "-q", "1"],
        )
        .await;
        for (name, request, status, answer) in [
            ("echo", "/r1", "ok", "hello"),
            ("echo", "", "ok", "hello"),
            ("fail", "/r2", "failed", "no"),
            ("fly", "/r3", "unknown", ""),
        ] {
            let topic = format!("devices/pump/commands/{name}{request}");
            let arguments = &["-t", &topic, "-m", "hello", "-q", "1"];
            publish_soon(&port.referee(), arguments).await;
            let reply = referee.receive().await;
            assert_eq!(
                reply.topic,
                format!("devices/pump/replies/{name}/{status}{request}")
            );
            assert_eq!(reply.text(), answer, "{over:?} {version}");
        }
        assert_eq!(drain(&fleet).await.commands_answered, 4);
    }
}

#[tokio::test]
async fn in_mqtt_5_the_answer_goes_to_the_response_topic_with_the_correlation_data() {
    let Some(port) = Port::open().await else {
        return;
    };
    let fleet = fleet();
    let _link = echoing(&port.group(&fleet, Over::Tls, Version::V5), "pump").await;
    let mut referee =
        Referee::start(&port.referee(), &["-t", "office/#", "-q", "1", "-V", "5"]).await;
    let arguments = &[
        "-t",
        "devices/pump/commands/echo/r1",
        "-m",
        "hello",
        "-q",
        "1",
        "-V",
        "5",
        "-D",
        "publish",
        "response-topic",
        "office/answers",
        "-D",
        "publish",
        "correlation-data",
        "voyage-7",
    ];
    publish_soon(&port.referee(), arguments).await;
    let reply = referee.receive().await;
    assert_eq!(
        (reply.topic.as_str(), reply.text()),
        ("office/answers", "hello")
    );
    assert_eq!(reply.correlation_data, "voyage-7");
    drain(&fleet).await;
}

#[tokio::test]
async fn commands_at_every_qos_are_started_once_each() {
    let Some(port) = Port::open().await else {
        return;
    };
    for version in support::fleet::BOTH {
        let fleet = fleet();
        let link = start_in(&port.group(&fleet, Over::Tcp, version), "pump");
        let commands = link.device().commands().await.unwrap();
        soon("commands come", commands.ready()).await.unwrap();
        let (told, mut started) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(commands.serve(1, move |command| {
            let told = told.clone();
            async move {
                told.send(command.payload.clone()).unwrap();
                CommandReply::ok("")
            }
        }));
        for qos in ["0", "1", "2"] {
            let topic = format!("devices/pump/commands/go/{qos}");
            publish_soon(&port.referee(), &["-t", &topic, "-m", qos, "-q", qos]).await;
            assert_eq!(
                *soon("it starts", started.recv()).await.unwrap(),
                *qos.as_bytes()
            );
        }
        assert_eq!(drain(&fleet).await.commands_answered, 3);
        assert!(started.try_recv().is_err());
    }
}

#[tokio::test]
async fn reported_state_and_retained_telemetry_wait_for_late_subscribers() {
    let Some(port) = Port::open().await else {
        return;
    };
    for version in support::fleet::BOTH {
        let fleet = fleet();
        let link = start_in(&port.group(&fleet, Over::Tls, version), "pump");
        let mut desired = link.device().desired_states().await.unwrap();
        soon("states come", desired.ready()).await.unwrap();
        let patch = StatePatch::json(&HashMap::from([("rpm", 900)])).unwrap();
        let receipt = link.device().report(&patch).await.unwrap();
        assert!(soon("it is delivered", receipt).await.is_delivered());
        let telemetry = Telemetry::new("3 bar").with_retain(true);
        let receipt = link.device().send(&telemetry).await.unwrap();
        assert!(soon("it is delivered", receipt).await.is_delivered());

        let mut late = Referee::start(&port.referee(), &["-t", "devices/#", "-q", "1"]).await;
        let mut kept = HashMap::new();
        while kept.len() < 3 {
            let message = late.receive().await;
            assert!(message.retain, "{message:?}");
            kept.insert(message.topic.clone(), message.text().to_owned());
        }
        assert_eq!(kept["devices/pump/state/reported"], r#"{"rpm":900}"#);
        assert_eq!(kept["devices/pump/telemetry"], "3 bar");
        assert_eq!(kept["devices/pump/status"], "online");

        let arguments = &[
            "-t",
            "devices/pump/state/desired",
            "-m",
            r#"{"rpm":0}"#,
            "-q",
            "1",
        ];
        publish_soon(&port.referee(), arguments).await;
        let patch = soon("a state comes", desired.next()).await.unwrap();
        assert_eq!(&*patch.document, br#"{"rpm":0}"#);
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn the_status_is_online_while_the_link_is_and_offline_by_the_will_or_by_the_farewell() {
    let Some(port) = Port::open().await else {
        return;
    };
    for (over, version) in [
        (Over::Tcp, Version::V311),
        (Over::Tls, Version::V5),
        (Over::WebSocket, Version::V5),
        (Over::WebSocketTls, Version::V311),
    ] {
        let device = format!("d-{version}-{over:?}");
        let topic = format!("devices/{device}/status");
        let mut referee = Referee::start(&port.referee(), &["-t", &topic, "-q", "1"]).await;
        let mut next = async || referee.receive().await.text().to_owned();
        let proxy = Proxy::start(([127, 0, 0, 1], port.number(over)).into(), 1)
            .await
            .unwrap();
        let fleet = fleet();
        let link = start_in(&port.group_at(&fleet, over, version, proxy.port()), &device);
        assert_eq!(next().await, "online");
        online(&link).await;
        // The connection is cut without DISCONNECT: the will, then online again.
        proxy.cut(Ending::Fin);
        assert_eq!(next().await, "offline");
        assert_eq!(next().await, "online");
        // What is not acknowledged would be sent again.
        until("it is acknowledged", || fleet.totals().held == 0).await;
        // A reconnect on purpose is no failure: no will.
        link.reconnect();
        assert_eq!(next().await, "online");
        until("it is acknowledged", || fleet.totals().held == 0).await;
        soon("the link is drained", link.drain(LIMIT)).await;
        assert_eq!(next().await, "offline");
        let totals = drain(&fleet).await;
        assert_eq!(
            (totals.disconnects, totals.reconnects),
            (1, 2),
            "{totals:?}"
        );
    }
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_offline_behind() {
    let Some(port) = Port::open().await else {
        return;
    };
    let fleet = fleet();
    let group = port.group(&fleet, Over::Tcp, Version::V5);
    let links: Vec<Link> = (0..20)
        .map(|n| start_in(&group, &format!("d{n}")))
        .collect();
    for link in &links {
        online(link).await;
        let receipt = link.device().send(&Telemetry::new("x")).await.unwrap();
        // The announcement went before it.
        assert!(soon("it is delivered", receipt).await.is_delivered());
    }
    let referee = Referee::start(&port.referee(), &["-t", "devices/+/status", "-q", "1"]).await;
    // A fleet that is dropped closes its sockets as the kernel does for a dead process.
    drop((links, group, fleet));
    let began = Instant::now();
    let received = referee
        .collect(|all| {
            all.iter()
                .filter(|m| m.text() == "offline" && !m.retain)
                .count()
                >= 20
        })
        .await;
    assert!(
        received.iter().all(|m| m.retain == (m.text() == "online")),
        "{received:?}"
    );
    assert!(began.elapsed() < LIMIT);
}

#[tokio::test]
async fn a_session_that_resends_more_than_the_receive_maximum_of_today_does_not_close_each_connection()
 {
    const COUNT: usize = 40;
    let Some(port) = Port::open().await else {
        return;
    };
    let link_with = |fleet: &Fleet, receive_maximum: u16| {
        let builder = group(
            fleet,
            &format!("mqtt://127.0.0.1:{}", port.broker.plain_port()),
            Version::V5,
        );
        start(
            builder.clean_start(false).receive_maximum(receive_maximum),
            "heavy",
        )
    };
    let before = fleet();
    let link = link_with(&before, 30);
    let mut subscription = link.subscribe("heavy/+", QoS::ExactlyOnce).await.unwrap();
    soon("it is subscribed", subscription.ready())
        .await
        .unwrap();
    for n in 0..COUNT {
        let (topic, qos) = (format!("heavy/{n}"), (n % 2 + 1).to_string());
        let arguments = ["-t", &*topic, "-m", "x", "-q", &*qos];
        publish_soon(&port.referee(), &arguments).await;
    }
    let mut unanswered = Vec::new();
    while unanswered.len() < 30 {
        unanswered.push(soon("a message comes", subscription.next()).await.unwrap());
    }
    // As a process that is killed: what it holds is never acknowledged.
    drop((link, before));

    let after = fleet();
    let link = link_with(&after, 5);
    let mut again = link.subscribe("heavy/+", QoS::ExactlyOnce).await.unwrap();
    let mut missing: HashSet<String> = (0..COUNT).map(|n| format!("heavy/{n}")).collect();
    while !missing.is_empty() {
        let message = soon("the rest comes", again.next()).await.unwrap();
        missing.remove(message.topic().as_str());
    }
    assert_eq!(drain(&after).await.disconnects, 0);
    drop((unanswered, subscription));
}
