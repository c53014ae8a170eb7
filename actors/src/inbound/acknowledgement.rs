//! How consumers on any thread say that they are done with a message.

use std::sync::{Arc, Mutex, PoisonError};

use paquebot_protocols::mqtt::session::InboundId;

use crate::link::LinkContext;
use crate::message::AcknowledgeGathered;

/// Where the acknowledgements of a link's consumers gather until the codec takes them, all at once.
#[derive(Debug)]
pub(crate) struct AckDesk {
    gathered: Mutex<Vec<InboundId>>,
    link: Arc<LinkContext>,
}

impl AckDesk {
    pub(crate) fn new(link: &Arc<LinkContext>) -> Arc<Self> {
        Arc::new(Self {
            gathered: Mutex::default(),
            link: Arc::clone(link),
        })
    }

    /// What has gathered; the next one rings again.
    pub(crate) fn take(&self) -> Vec<InboundId> {
        std::mem::take(&mut self.gathered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(self: &Arc<Self>, id: InboundId) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.push(id);
        let is_first = gathered.len() == 1;
        drop(gathered);
        // Those behind the first are taken along with it.
        if is_first {
            self.link
                .codec
                .do_send(AcknowledgeGathered(Arc::clone(self)));
        }
    }
}

/// Acknowledges an inbound message when it is dropped.
#[derive(Debug)]
pub(crate) struct AcknowledgeOnDrop {
    id: InboundId,
    desk: Arc<AckDesk>,
}

impl AcknowledgeOnDrop {
    pub(crate) fn new(id: InboundId, desk: &Arc<AckDesk>) -> Self {
        let desk = Arc::clone(desk);
        Self { id, desk }
    }
}

impl Drop for AcknowledgeOnDrop {
    fn drop(&mut self) {
        self.desk.put(self.id);
    }
}

/// A consumer's part in the acknowledgement of a message: held for its drop.
#[derive(Debug)]
pub(crate) enum Acknowledgement {
    /// Nobody else got the message.
    Sole { _held: AcknowledgeOnDrop },
    /// The last one to drop it acknowledges.
    Shared { _held: Arc<AcknowledgeOnDrop> },
}

impl Acknowledgement {
    /// One part for each of `holders`.
    pub(crate) fn divide(
        whole: AcknowledgeOnDrop,
        holders: usize,
    ) -> impl FnMut() -> Option<Acknowledgement> {
        let (mut sole, shared) = if holders == 1 {
            (Some(whole), None)
        } else {
            (None, Some(Arc::new(whole)))
        };
        move || match &shared {
            Some(whole) => Some(Self::Shared {
                _held: Arc::clone(whole),
            }),
            None => sole.take().map(|whole| Self::Sole { _held: whole }),
        }
    }
}
