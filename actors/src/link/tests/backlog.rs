//! More small messages than the session takes, before a server that does not read.

use tokio::sync::oneshot;

use super::*;

/// `t` without a payload.
const PUBLISH: [u8; 5] = [0x30, 3, 0, 1, b't'];

/// Between the link and its server.
const PIPE_BYTES: usize = 4_096;

/// More than the connection takes before what comes has to stay in the session.
const FIRST: usize = 60_000;

/// More than the session takes besides, and few enough that only their number keeps them.
const SECOND: usize = 2 * UNSENT_QOS0_MAX;

async fn wait_for_a_server_that_does_not_read(requests: usize) {
    let outbox = OutboxConfig {
        messages_max: FIRST + SECOND,
        ..OutboxConfig::default()
    };
    let mut rig = Rig::online(outbox, PIPE_BYTES).await;
    let messages = |count| vec![message(QoS::AtMostOnce, Bytes::new()); count];
    let first = rig.link.publish_batch(messages(FIRST)).await.unwrap();
    rig.settle().await;
    // They have room of the session's that the queue does not know of.
    let mut asked = Vec::new();
    for _ in 0..requests {
        let (sent, hears) = oneshot::channel();
        asked.push(hears);
        rig.link.codec().do_send(PublishRequest {
            message: message(QoS::AtMostOnce, Bytes::new()),
            expires_at: None,
            sent,
        });
    }
    rig.settle().await;
    let second = rig.link.publish_batch(messages(SECOND)).await.unwrap();
    rig.settle().await;
    assert!(rig.metrics.totals().is_balanced());

    let packets = FIRST + requests + SECOND;
    let mut read = vec![0; packets * PUBLISH.len()];
    rig.server.read_exact(&mut read).await.unwrap();
    assert!(read.chunks(PUBLISH.len()).all(|packet| packet == PUBLISH));
    for (receipt, count) in [(first, FIRST), (second, SECOND)] {
        let outcome = receipt.await;
        assert!(outcome.is_delivered());
        assert_eq!(outcome.delivered, count);
    }
    rig.settle().await;
    let totals = rig.metrics.totals();
    assert!(totals.is_balanced());
    assert_eq!((totals.held, totals.dropped), (0, 0));
    // One whenever the server made room, and some for what was handed over.
    let turns_max = 4 * read.len() / PIPE_BYTES + packets / 64;
    assert!(rig.turns.get() < turns_max, "{} turns", rig.turns.get());
}

#[actix::test]
async fn more_small_messages_than_the_session_takes_wait_for_a_server_that_does_not_read() {
    wait_for_a_server_that_does_not_read(0).await;
}

#[actix::test]
async fn messages_that_the_session_gave_back_wait_until_it_has_room_again() {
    wait_for_a_server_that_does_not_read(57_000).await;
}
