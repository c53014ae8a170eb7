//! One link that publishes as fast as it goes.

use std::collections::VecDeque;

use paquebot::Link;

use super::calls::{self, Messages};
use super::{beside, fleet, group};
use crate::client::Client;
use crate::contestant::Endless;
use crate::work::{Publish, Work};

/// Messages of a batch.
const BATCH_LEN: usize = 256;

/// Messages that wait behind the window, as many as in the channel that paquebot is held against.
const QUEUED_MAX: usize = 1024;

/// Publishes with the calls that the contestant stands for.
pub(crate) async fn run(work: &Work, task: Publish) -> Endless {
    let fleet = fleet()?;
    let group = group(&fleet, work, 0, |group| group.inflight_max(task.window))?;
    let link = group.device("paquebot")?.start()?;
    link.online().await?;
    let messages = Messages::new(task.qos, task.payload_len)?;
    let outstanding_max = QUEUED_MAX + usize::from(task.window);
    let client = work.client;
    beside(&link, async move |link| match client {
        Client::PaquebotDetached => detached(&link, &messages).await,
        Client::PaquebotBatch => batches(&link, &messages, outstanding_max).await,
        _ => receipts(&link, &messages, outstanding_max).await,
    })
    .await
}

async fn detached(link: &Link, messages: &Messages) -> Endless {
    loop {
        calls::publish_detached(link, messages.next()).await?;
    }
}

/// Several batches are under way, so that the window stays full while the oldest ends.
async fn batches(link: &Link, messages: &Messages, outstanding_max: usize) -> Endless {
    let mut outstanding = VecDeque::new();
    loop {
        outstanding.push_back(calls::publish_batch(link, messages, BATCH_LEN).await?);
        if outstanding.len() * BATCH_LEN >= outstanding_max
            && let Some(oldest) = outstanding.pop_front()
        {
            calls::settled(oldest).await?;
        }
    }
}

async fn receipts(link: &Link, messages: &Messages, outstanding_max: usize) -> Endless {
    let mut outstanding = VecDeque::with_capacity(outstanding_max);
    loop {
        outstanding.push_back(calls::publish(link, messages.next()).await?);
        if outstanding.len() >= outstanding_max
            && let Some(oldest) = outstanding.pop_front()
        {
            calls::delivered(oldest).await?;
        }
    }
}
