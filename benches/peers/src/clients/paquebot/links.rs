//! Many links.

use std::collections::VecDeque;

use paquebot::{Fleet, Group, Link, Receipt};

use super::calls::{self, Messages};
use super::{beside, fleet, group};
use crate::Failure;
use crate::contestant::Endless;
use crate::links::{CONNECTS_MAX, Connecting};
use crate::work::Work;

/// Connects and leaves the links alone.
pub(crate) async fn idle(work: &Work, links: usize) -> Endless {
    let fleet = fleet()?;
    let connecting = Connecting::start()?;
    let groups = groups(&fleet, work)?;
    let first = start_nth(&groups, 0)?;
    first.online().await?;
    // Beside the links, as in the other clients: here all threads share a core, and waiting from another one would
    // cost each link a switch to it and back. The rate counts from the first accept: the others are made after it, so
    // that their making counts as it does in the other clients, which make each behind the gate.
    beside(&first.clone(), async move |_| {
        let mut all = vec![first];
        for index in 1..links {
            all.push(start_nth(&groups, index)?);
            if index % CONNECTS_MAX == 0 {
                tokio::task::yield_now().await;
            }
        }
        let links = all;
        all_online(&links).await?;
        connecting.report(links.len()).await?;
        std::future::pending().await
    })
    .await
}

/// Sends one message on each link in turn, at QoS 0.
pub(crate) async fn turns(work: &Work, links: usize, outstanding: usize) -> Endless {
    let fleet = fleet()?;
    let links = connect_all(&fleet, work, links).await?;
    let first = links.first().ok_or("no links to send on")?.clone();
    // All links are on one thread, so the caller is beside each of them.
    beside(&first, async move |_| {
        let messages = Messages::new(0, 64)?;
        let mut turns = Turns::new(outstanding);
        loop {
            for link in &links {
                turns.take(link, &messages).await?;
            }
        }
    })
    .await
}

/// Messages under way on several links. Each has to be written before its link gets the next one, so that
/// no link gathers several into one write: that is what the row asks.
#[derive(Debug)]
pub(crate) struct Turns {
    max: usize,
    receipts: VecDeque<Receipt>,
}

impl Turns {
    /// At most `max` messages at once, no more than there are links.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            receipts: VecDeque::with_capacity(max),
        }
    }

    /// Sends one message on the link whose turn it is.
    pub(crate) async fn take(&mut self, link: &Link, messages: &Messages) -> Result<(), Failure> {
        if self.receipts.len() >= self.max
            && let Some(oldest) = self.receipts.pop_front()
        {
            calls::delivered(oldest).await?;
        }
        let receipt = calls::publish(link, messages.next()).await?;
        self.receipts.push_back(receipt);
        Ok(())
    }
}

async fn connect_all(fleet: &Fleet, work: &Work, count: usize) -> Result<Vec<Link>, Failure> {
    let links = start_all(fleet, work, count)?;
    all_online(&links).await?;
    Ok(links)
}

fn start_all(fleet: &Fleet, work: &Work, count: usize) -> Result<Vec<Link>, Failure> {
    let groups = groups(fleet, work)?;
    (0..count).map(|index| start_nth(&groups, index)).collect()
}

/// One group an address of the peer.
fn groups(fleet: &Fleet, work: &Work) -> Result<Vec<Group>, Failure> {
    let addresses = 0..work.addresses.len();
    let groups = addresses.map(|index| group(fleet, work, index, |group| group));
    groups.collect()
}

fn start_nth(groups: &[Group], index: usize) -> Result<Link, Failure> {
    let group = &groups[index % groups.len()];
    Ok(group.device(format!("paquebot-{index}"))?.start()?)
}

async fn all_online(links: &[Link]) -> Result<(), Failure> {
    for link in links {
        link.online().await?;
    }
    Ok(())
}
