//! Who unsubscribes learns what became of each filter.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use futures_util::FutureExt as _;
use paquebot::mqtt::{QoS, ReasonCode, Subscription, TopicFilter, Version};
use paquebot::{Link, SubscribeError, UnsubscribeAnswer, Unsubscribed};
use paquebot_emulator::{Ack, Broker, Target};

#[path = "support/support.rs"]
mod support;

use support::fleet::{BOTH, broker, drain, fleet, group, online, soon, start, until, url};

const GONE: UnsubscribeAnswer = UnsubscribeAnswer::Answered(ReasonCode::SUCCESS);

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text.to_owned()).unwrap()
}

fn unsubscribed(text: &str, answer: UnsubscribeAnswer) -> Unsubscribed {
    let filter = filter(text);
    Unsubscribed { filter, answer }
}

/// What a filter is answered that the session has not: MQTT 3.1.1 knows success alone.
fn unknown(version: Version) -> UnsubscribeAnswer {
    match version {
        Version::V311 => GONE,
        Version::V5 => UnsubscribeAnswer::Answered(ReasonCode::NO_SUBSCRIPTION_EXISTED),
    }
}

async fn subscribed(link: &Link, filters: &[&str]) -> paquebot::Subscription {
    let wanted = filters
        .iter()
        .map(|text| Subscription::new(filter(text), QoS::AtLeastOnce));
    let subscription = link.subscribe_all(wanted.collect(), None).await.unwrap();
    soon("it is subscribed", subscription.ready())
        .await
        .unwrap();
    subscription
}

fn held(broker: &Broker) -> Vec<String> {
    let client = broker.client("d1").unwrap();
    let filters = client.subscriptions.into_iter().map(|(filter, _)| filter);
    let mut filters: Vec<_> = filters.collect();
    filters.sort();
    filters
}

#[tokio::test]
async fn a_stream_that_unsubscribes_is_told_what_became_of_each_filter() {
    for version in BOTH {
        let broker = broker().await;
        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        let stream = subscribed(&link, &["a", "b", "a"]).await;
        let other = subscribed(&link, &["b"]).await;
        let answers = soon("it is answered", stream.unsubscribe()).await.unwrap();
        let kept = unsubscribed("b", UnsubscribeAnswer::InUse);
        let expected = [unsubscribed("a", GONE), kept, unsubscribed("a", GONE)];
        assert_eq!(answers, expected);
        assert!(answers[0].answer.is_gone() && !answers[1].answer.is_gone());
        assert_eq!(held(&broker), ["b"]);
        let answers = soon("it is answered", other.unsubscribe()).await.unwrap();
        assert_eq!(answers, [unsubscribed("b", GONE)]);
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn a_handler_that_unsubscribes_is_told_too() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V5), "d1");
    let handler = link.subscribe_with("a", QoS::AtLeastOnce, |_| {}).await;
    let handler = handler.unwrap();
    soon("it is subscribed", handler.ready()).await.unwrap();
    let answers = soon("it is answered", handler.unsubscribe()).await.unwrap();
    assert_eq!(answers, [unsubscribed("a", GONE)]);
    assert!(held(&broker).is_empty());
    drain(&fleet).await;
}

#[tokio::test]
async fn filters_of_an_earlier_process_are_taken_out_of_its_session() {
    for version in BOTH {
        let broker = broker().await;
        let earlier = fleet();
        let link = start(group(&earlier, &url(&broker), version), "d1");
        let stream = subscribed(&link, &["a", "b", "c"]).await;
        drain(&earlier).await;
        drop(stream);
        assert_eq!(held(&broker), ["a", "b", "c"]);

        let fleet = fleet();
        let link = start(group(&fleet, &url(&broker), version), "d1");
        let stream = subscribed(&link, &["c"]).await;
        let filters = ["b", "c", "none", "b"].map(filter).to_vec();
        let answers = soon("it is answered", link.unsubscribe_all(filters)).await;
        let expected = [
            unsubscribed("b", GONE),
            unsubscribed("c", UnsubscribeAnswer::InUse),
            unsubscribed("none", unknown(version)),
            unsubscribed("b", GONE),
        ];
        assert_eq!(answers.unwrap(), expected);
        let answer = soon("it is answered", link.unsubscribe("a")).await.unwrap();
        assert_eq!(answer, GONE);
        assert_eq!(held(&broker), ["c"]);
        assert!(matches!(
            link.unsubscribe("a/#/b").await,
            Err(SubscribeError::Dialect(_))
        ));
        drop(stream);
        drain(&fleet).await;
    }
}

#[tokio::test]
async fn the_answer_to_a_stream_that_was_dropped_is_nobody_elses() {
    let broker = broker().await;
    let fleet = fleet();
    let link = start(group(&fleet, &url(&broker), Version::V5), "d1");
    let stream = subscribed(&link, &["a"]).await;
    let faults = broker.faults();
    let withheld = faults.withhold(Target::All, &[Ack::UnsubAck]);
    drop(stream);
    until("the server unsubscribes", || held(&broker).is_empty()).await;
    let mut answer = Box::pin(link.unsubscribe("a"));
    assert!((&mut answer).now_or_never().is_none());
    // The server had the filter when it read the first packet, and has it no more when it reads the second.
    withheld.lift();
    let answer = soon("it is answered", answer).await.unwrap();
    assert_eq!(answer, unknown(Version::V5));
    drain(&fleet).await;
}

#[tokio::test]
async fn an_answer_waits_for_the_connection_and_comes_over_the_next_one() {
    for version in BOTH {
        for is_kept in [true, false] {
            let broker = broker().await;
            let fleet = fleet();
            let link = start(group(&fleet, &url(&broker), version), "d1");
            let stream = subscribed(&link, &["a"]).await;
            online(&link).await;
            let faults = broker.faults();
            if is_kept {
                faults.restart_keeping_sessions(Duration::ZERO);
            } else {
                faults.restart_losing_sessions(Duration::ZERO);
            }
            let answers = soon("it is answered", stream.unsubscribe()).await.unwrap();
            // A session that is lost has lost the filter too.
            assert!(answers[0].answer.is_gone(), "{version} {answers:?}");
            online(&link).await;
            assert!(held(&broker).is_empty());
            drain(&fleet).await;
        }
    }
}

#[tokio::test]
async fn who_waits_for_an_answer_is_told_that_the_link_has_stopped() {
    let fleet = fleet();
    let nobody = group(&fleet, "mqtt://127.0.0.1:1", Version::V5);
    let link = start(nobody, "d1");
    let stream = link.subscribe("a", QoS::AtLeastOnce).await.unwrap();
    let mut answer = Box::pin(stream.unsubscribe());
    assert!((&mut answer).now_or_never().is_none());
    soon("it stops", link.stop()).await;
    let stopped = soon("it ends", answer).await;
    assert_eq!(stopped, Err(SubscribeError::Stopped));
    let late = soon("it ends", link.unsubscribe("a")).await;
    assert_eq!(late, Err(SubscribeError::Stopped));
}
