//! One link that receives.

use std::hint::black_box;

use super::{calls, fleet, group};
use crate::client::Client;
use crate::contestant::{Endless, handled};
use crate::work::Work;

/// Messages that wait for the stream's consumer at the most, as many as the source leaves unacknowledged.
const INBOX_MAX: usize = 1000;

/// Hands every message to a handler, or takes it from a stream. There QoS 0 messages wait for room too: the source counts what was written, so
/// a message that is dropped would look like a received one.
pub(crate) async fn run(work: &Work, qos: u8) -> Endless {
    let fleet = fleet()?;
    let group = group(&fleet, work, 0, |group| {
        group.inbox_max(INBOX_MAX).hold_qos0(true)
    })?;
    let link = group.device("paquebot")?.start()?;
    if work.client == Client::PaquebotOwned {
        calls::receive(&link, qos, handle).await?;
        return Err("the link ended".into());
    }
    let _guard = calls::receive_with(&link, qos, handle).await?;
    std::future::pending().await
}

fn handle(topic: &str, payload: &[u8]) {
    black_box((topic, payload));
    handled();
}
