//! One link that receives.

use std::hint::black_box;

use super::{calls, fleet, group};
use crate::contestant::{Endless, handled};
use crate::work::Work;

/// Messages that wait for the consumer at the most, as many as the source leaves unacknowledged.
const INBOX_MAX: usize = 1000;

/// Hands every message to a handler. QoS 0 messages wait for it too: the source counts what was written, so
/// a message that is dropped would look like a received one.
pub(crate) async fn run(work: &Work, qos: u8) -> Endless {
    let fleet = fleet()?;
    let group = group(&fleet, work, 0, |group| {
        group.inbox_max(INBOX_MAX).hold_qos0(true)
    })?;
    let link = group.device("paquebot")?.start()?;
    calls::receive(&link, qos, |topic, payload| {
        black_box((topic, payload));
        handled();
    })
    .await?;
    Err("the link ended".into())
}
