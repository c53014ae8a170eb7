//! The harness proves itself: what it starts is there, lets in whom it should and nobody else,
//! forgets and remembers as told, and is gone afterwards. Both ends here are foreign programs.

use std::path::Path;
use std::time::Duration;

#[path = "support/support.rs"]
mod support;

use support::certs::Authority;
use support::client::{Endpoint, Subscriber, publish, publish_soon, try_publish};
use support::judge::{Judge, Sent, Verdict};
use support::mosquitto::{Mosquitto, Persistence};
use support::nats::Nats;
use support::wait;

/// Long enough for a message that should not come to come all the same.
const QUIET: Duration = Duration::from_millis(300);

fn one_message_goes_through(sender: &Endpoint, receiver: &Endpoint) {
    let mut subscriber = Subscriber::start(receiver, &["-t", "harbour/+", "-q", "1"]);
    publish(sender, &["-t", "harbour/tide", "-m", "4.2 m", "-q", "1"]);
    let message = subscriber.receive();
    assert_eq!(
        (message.topic.as_str(), message.text()),
        ("harbour/tide", "4.2 m")
    );
    assert_eq!((message.qos, message.retain), (1, false));
}

fn is_refused(endpoint: &Endpoint, reason: &str) {
    let ended = try_publish(endpoint, &["-t", "harbour/tide", "-m", "no", "-q", "1"]);
    assert!(!ended.status.success(), "was let in: {}", ended.output);
    assert!(
        ended.output.contains(reason),
        "{:?} does not say {reason:?}",
        ended.output
    );
}

#[test]
fn mosquitto_passes_a_message_over_plain_tcp() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    one_message_goes_through(&broker.plain(), &broker.plain());
}

#[test]
fn a_payload_of_any_bytes_and_mqtt_5_properties_arrive_unchanged() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let every_byte: Vec<u8> = (0..=255).collect();
    let file = folder.path().join("payload");
    std::fs::write(&file, &every_byte).expect("writing the payload");

    let arguments = ["-t", "harbour/log book", "-q", "2", "-V", "5"];
    let mut subscriber = Subscriber::start(&broker.plain(), &arguments);
    let mut arguments = arguments.to_vec();
    let path = file.to_string_lossy();
    arguments.extend(["-f", &*path]);
    arguments.extend(["-D", "publish", "response-topic", "answers/7"]);
    arguments.extend(["-D", "publish", "correlation-data", "voyage-7"]);
    publish(&broker.plain(), &arguments);

    let message = subscriber.receive();
    assert_eq!(message.payload, every_byte);
    assert_eq!(
        (message.topic.as_str(), message.qos),
        ("harbour/log book", 2)
    );
    assert_eq!(message.response_topic, "answers/7");
    assert_eq!(message.correlation_data, "voyage-7");
}

#[test]
fn mosquitto_lets_in_whoever_has_the_password_and_nobody_else() {
    let Some(broker) = Mosquitto::setup()
        .user("purser", "rum")
        .user("pilot", "chart")
        .start()
    else {
        return;
    };
    let endpoint = broker.password();
    one_message_goes_through(
        &endpoint.clone().user("purser", "rum"),
        &endpoint.clone().user("pilot", "chart"),
    );
    is_refused(&endpoint.clone().user("purser", "chart"), "not authorised");
    is_refused(&endpoint, "not authorised");
}

#[test]
fn mosquitto_serves_tls_to_those_who_trust_its_authority() {
    let authority = Authority::new("harness CA");
    let stranger = Authority::new("somebody else's CA");
    let Some(broker) = Mosquitto::setup().plain().tls(&authority.server()).start() else {
        return;
    };
    let trusting = broker.tls().trusting(&authority);
    one_message_goes_through(&trusting, &broker.plain());
    one_message_goes_through(&broker.plain(), &trusting.host("localhost"));
    is_refused(&broker.tls().trusting(&stranger), "TLS");
}

#[test]
fn each_bad_server_certificate_keeps_clients_away_and_the_wrong_host_only_by_its_name() {
    let authority = Authority::new("harness CA");
    for (bad, only_the_name_is_bad) in [
        (authority.server_for_wrong_host(), true),
        (authority.expired_server(), false),
        (authority.not_yet_valid_server(), false),
        (Authority::new("somebody else's CA").server(), false),
    ] {
        let Some(broker) = Mosquitto::setup().plain().tls(&bad).start() else {
            return;
        };
        let endpoint = broker.tls().trusting(&authority);
        is_refused(&endpoint, "TLS");
        // `--insecure` leaves out the check of the host name and no other.
        let nameless = try_publish(
            &endpoint,
            &["--insecure", "-t", "tide", "-m", "?", "-q", "1"],
        );
        assert_eq!(
            nameless.status.success(),
            only_the_name_is_bad,
            "{}",
            nameless.output
        );
        // The broker itself is well: only the certificate keeps the clients away.
        one_message_goes_through(&broker.plain(), &broker.plain());
    }
}

#[test]
fn mosquitto_takes_a_client_certificate_as_the_user_and_refuses_its_absence() {
    let authority = Authority::new("harness CA");
    let stranger = Authority::new("somebody else's CA");
    let Some(broker) = Mosquitto::setup()
        .mutual_tls(&authority.server(), &authority)
        .start()
    else {
        return;
    };
    let endpoint = broker.mutual_tls().trusting(&authority);
    let known = endpoint.clone().identity(&authority.client("barge-12"));
    one_message_goes_through(&known, &known);
    assert!(
        broker.log().contains("u'barge-12'"),
        "the common name is not the user name"
    );

    for refused in [
        endpoint.clone(),
        endpoint.clone().identity(&stranger.client("barge-12")),
        endpoint.identity(&authority.expired_client("barge-12")),
    ] {
        let ended = try_publish(&refused, &["-t", "harbour/tide", "-m", "no", "-q", "1"]);
        assert!(!ended.status.success(), "was let in: {}", ended.output);
    }
}

/// Leaves a retained message and one that waits for a session that is away.
fn leave_messages(endpoint: &Endpoint) {
    let session = ["-i", "harness-away", "-c", "-t", "waiting", "-q", "1"];
    drop(Subscriber::start(endpoint, &session));
    publish(
        endpoint,
        &["-t", "waiting", "-m", "for the one who is away", "-q", "1"],
    );
    publish(
        endpoint,
        &["-t", "kept", "-m", "for anybody", "-q", "1", "-r"],
    );
}

/// Whether the two messages are still there.
fn messages_left(endpoint: &Endpoint, patience: Duration) -> (bool, bool) {
    let retained = Subscriber::start(endpoint, &["-t", "kept", "-q", "1"]).receive_within(patience);
    if let Some(message) = &retained {
        assert_eq!((message.text(), message.retain), ("for anybody", true));
    }
    let session = ["-i", "harness-away", "-c", "-t", "waiting", "-q", "1"];
    let queued = Subscriber::start_unready(endpoint, &session).receive_within(patience);
    if let Some(message) = &queued {
        assert_eq!(
            (message.text(), message.qos),
            ("for the one who is away", 1)
        );
    }
    (retained.is_some(), queued.is_some())
}

#[test]
fn mosquitto_with_persistence_remembers_over_a_restart() {
    let Some(mut broker) = Mosquitto::setup()
        .plain()
        .persistence(Persistence::On)
        .start()
    else {
        return;
    };
    let endpoint = broker.plain();
    leave_messages(&endpoint);
    broker.restart();
    assert_eq!(
        messages_left(&endpoint, Duration::from_secs(10)),
        (true, true)
    );
}

#[test]
fn mosquitto_without_persistence_forgets_at_a_restart() {
    let Some(mut broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    leave_messages(&endpoint);
    broker.restart();
    assert_eq!(messages_left(&endpoint, QUIET), (false, false));
}

#[test]
fn a_killed_mosquitto_is_unreachable_until_it_is_restarted_on_the_same_port() {
    let Some(mut broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let endpoint = broker.plain();
    broker.kill();
    is_refused(&endpoint, "Connection refused");
    broker.restart();
    one_message_goes_through(&endpoint, &broker.plain());
}

#[test]
fn a_frozen_mosquitto_answers_once_it_is_thawed() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let mut subscriber = Subscriber::start(&broker.plain(), &["-t", "harbour/#"]);
    broker.freeze();
    let endpoint = broker.plain();
    let publisher = std::thread::spawn(move || {
        publish(&endpoint, &["-t", "harbour/tide", "-m", "late", "-q", "1"]);
    });
    assert_eq!(subscriber.receive_within(QUIET), None);
    broker.thaw();
    assert_eq!(subscriber.receive().text(), "late");
    publisher.join().expect("the publisher succeeds");
}

#[test]
fn several_brokers_at_once_have_ports_of_their_own() {
    let brokers: Vec<_> = (0..6)
        .map_while(|_| Mosquitto::setup().plain().user("purser", "rum").start())
        .collect();
    let mut ports: Vec<_> = brokers
        .iter()
        .flat_map(|broker| [broker.plain_port(), broker.password_port()])
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 2 * brokers.len());
}

#[test]
fn nats_passes_a_message_over_plain_tcp_and_over_tls() {
    let authority = Authority::new("harness CA");
    let Some(plain) = Nats::setup().start() else {
        return;
    };
    one_message_goes_through(&plain.mqtt(), &plain.mqtt());
    let Some(tls) = Nats::setup().tls(&authority.server()).start() else {
        return;
    };
    let trusting = tls.mqtt().trusting(&authority);
    one_message_goes_through(&trusting, &trusting);
    is_refused(
        &tls.mqtt().trusting(&Authority::new("somebody else's CA")),
        "TLS",
    );
}

#[test]
fn nats_lets_in_whoever_has_the_password_and_nobody_else() {
    let Some(broker) = Nats::setup().user("purser", "rum").start() else {
        return;
    };
    let known = broker.mqtt().user("purser", "rum");
    one_message_goes_through(&known, &known);
    is_refused(&broker.mqtt().user("purser", "chart"), "Connection Refused");
}

#[test]
fn nats_with_persistence_remembers_over_a_restart_and_a_kill() {
    let Some(mut broker) = Nats::setup().persistence(Persistence::On).start() else {
        return;
    };
    let endpoint = broker.mqtt();
    leave_messages(&endpoint);
    broker.restart();
    assert_eq!(
        messages_left(&endpoint, Duration::from_secs(10)),
        (true, true)
    );
    leave_messages(&endpoint);
    broker.kill();
    broker.restart();
    assert_eq!(
        messages_left(&endpoint, Duration::from_secs(10)),
        (true, true)
    );
}

#[test]
fn nats_without_persistence_forgets_at_a_restart() {
    let Some(mut broker) = Nats::setup().start() else {
        return;
    };
    let endpoint = broker.mqtt();
    leave_messages(&endpoint);
    broker.restart();
    assert_eq!(messages_left(&endpoint, QUIET), (false, false));
}

#[test]
fn a_subscriber_that_ends_by_itself_says_how() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let satisfied = Subscriber::start(&broker.plain(), &["-t", "once", "-C", "1", "-q", "1"]);
    publish(&broker.plain(), &["-t", "once", "-m", "enough", "-q", "1"]);
    assert!(satisfied.wait().status.success());
    let mut refused = Subscriber::start_unready(&broker.plain(), &["-t", "#/wrong"]);
    assert_eq!(refused.receive_within(Duration::from_secs(20)), None);
    let ended = refused.wait();
    assert!(!ended.status.success(), "{}", ended.output);
}

#[cfg(target_os = "linux")]
#[test]
fn servers_and_clients_are_gone_when_their_handles_are() {
    let Some(broker) = Mosquitto::setup().plain().start() else {
        return;
    };
    let subscriber = Subscriber::start(&broker.plain(), &["-t", "#"]);
    let processes = [broker.id(), subscriber.id()].map(|id| format!("/proc/{id}"));
    assert!(processes.iter().all(|process| Path::new(process).exists()));
    drop(subscriber);
    drop(broker);
    wait::until("the processes are gone", Duration::from_secs(5), || {
        processes.iter().all(|process| !Path::new(process).exists())
    });
}

#[cfg(unix)]
#[test]
fn private_keys_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let authority = Authority::new("harness CA");
    for identity in [authority.server(), authority.client("barge-12")] {
        let mode = std::fs::metadata(&identity.key)
            .expect("the key's file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
#[should_panic(expected = "in vain until the tide turns")]
fn waiting_in_vain_says_for_what() {
    wait::until("the tide turns", Duration::from_millis(20), || false);
}

#[test]
fn the_judge_counts_what_is_lost_doubled_and_out_of_order() {
    let judged = |numbers: &[u64]| {
        let mut verdict = Verdict::default();
        verdict.add(numbers, 4);
        verdict
    };
    let good = Verdict {
        sent: 4,
        received: 4,
        ..Verdict::default()
    };
    assert_eq!(judged(&[0, 1, 2, 3]), good);
    assert!(good.holds_exactly_once());
    let lost = judged(&[0, 1, 3]);
    assert_eq!((lost.lost, lost.disordered), (1, 0));
    assert!(lost.holds_at_most_once() && !lost.holds_at_least_once());
    // What comes again may come in any place.
    let doubled = judged(&[0, 1, 2, 1, 2, 3]);
    assert_eq!((doubled.doubled, doubled.disordered), (2, 0));
    assert!(doubled.holds_at_least_once() && !doubled.holds_exactly_once());
    assert!(!doubled.holds_at_most_once());
    let disordered = judged(&[0, 2, 1, 3]);
    assert_eq!((disordered.lost, disordered.disordered), (0, 1));
    assert!(!disordered.holds_at_least_once() && !disordered.holds_at_most_once());
    let foreign = judged(&[0, 1, 2, 3, 4]);
    assert_eq!(foreign.foreign, 1);
    assert!(!foreign.holds_at_least_once());
}

#[tokio::test]
async fn the_judge_hears_what_foreign_clients_send_and_misses_what_nobody_sent() {
    let start = || Mosquitto::setup().plain().start();
    let Some(broker) = support::client::off_the_runtime(start).await else {
        return;
    };
    let judge = Judge::start(&broker.plain(), "judge", "log/#", 2).await;
    let mut sent = Sent::default();
    for (topic, qos) in [("log/a", 1), ("log/b", 2), ("log/a", 1)] {
        let number = sent.next(topic, qos).to_string();
        publish_soon(
            &broker.plain(),
            &["-t", topic, "-m", &number, "-q", &qos.to_string()],
        )
        .await;
    }
    sent.next("log/b", 2);
    let verdicts = judge.verdicts(&sent, Duration::from_secs(1)).await;
    assert!(verdicts[1].holds_exactly_once(), "{verdicts:?}");
    assert_eq!((verdicts[2].sent, verdicts[2].lost), (2, 1), "{verdicts:?}");
    publish_soon(&broker.plain(), &["-t", "log/b", "-m", "0", "-q", "2"]).await;
    publish_soon(&broker.plain(), &["-t", "log/b", "-m", "1", "-q", "2"]).await;
    let verdicts = judge.verdicts(&sent, Duration::from_secs(10)).await;
    assert_eq!(
        (verdicts[2].lost, verdicts[2].doubled),
        (0, 1),
        "{verdicts:?}"
    );
}
