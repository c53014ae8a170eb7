//! The messages of one read on their way to the consumers.
//!
//! One block is one mailbox message, and one share of the bytes that were read: a plain message is a small entry
//! that says where its parts are. The same block comes back to the codec as the acknowledgement of what was
//! handed over, and its list of entries is used again for later blocks of the thread.

use std::cell::RefCell;

use bytes::Bytes;
use paquebot_protocols::mqtt::session::{InboundId, Incoming};
use paquebot_protocols::mqtt::{PacketId, Properties, PublishSpan, QoS};

/// Lists of entries that a thread keeps for its next blocks.
const SPARE_MAX: usize = 8;

/// The longest list that is kept: more than a read full of the smallest messages comes to.
const SPARE_ENTRIES_MAX: usize = 8 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<Entry>>> = const { RefCell::new(Vec::new()) };
}

/// Messages in order of arrival.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) bytes: Bytes,
    pub(crate) entries: Vec<Entry>,
    /// The messages that own their parts.
    apart: Vec<Incoming>,
    /// How many of each QoS.
    pub(crate) counts: [u64; 3],
    pub(crate) payload_bytes: u64,
}

/// One message of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    place: Place,
    /// It is to be acknowledged.
    pub(crate) id: Option<InboundId>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the block's bytes.
    Here(PublishSpan),
    /// Among those that own their parts: it has properties, or came in more than one read.
    Apart(u32),
}

impl Block {
    pub(crate) fn new(bytes: Bytes) -> Self {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        Self {
            bytes,
            entries: spare.unwrap_or_default(),
            apart: Vec::new(),
            counts: [0; 3],
            payload_bytes: 0,
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, span: PublishSpan, id: Option<InboundId>) {
        self.counts[span.qos() as usize] += 1;
        self.payload_bytes += span.payload_len() as u64;
        self.entries.push(Entry {
            place: Place::Here(span),
            id,
        });
    }

    pub(crate) fn push_apart(&mut self, incoming: Incoming) {
        self.counts[incoming.qos as usize] += 1;
        self.payload_bytes += incoming.payload.len() as u64;
        // A read has fewer packets than bytes, so there is no block that this does not fit.
        let index = u32::try_from(self.apart.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry {
            place: Place::Apart(index),
            id: incoming.id,
        });
        self.apart.push(incoming);
    }

    /// What is to be acknowledged.
    pub(crate) fn ids(&self) -> impl Iterator<Item = InboundId> {
        self.entries.iter().filter_map(|entry| entry.id)
    }

    /// The message of an entry.
    #[inline]
    pub(crate) fn message(&self, index: usize) -> Option<ReceivedRef<'_>> {
        let entry = self.entries.get(index)?;
        Some(ReceivedRef(match &entry.place {
            Place::Here(span) => Parts::Here {
                bytes: &self.bytes,
                span,
                id: entry.id,
            },
            Place::Apart(index) => Parts::Apart(self.apart.get(*index as usize)?),
        }))
    }

    /// It was routed: what is left is to acknowledge some of it, and the bytes may go.
    pub(crate) fn forget_messages(&mut self) {
        self.bytes = Bytes::new();
        self.apart = Vec::new();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        if entries.capacity() == 0 || entries.capacity() > SPARE_ENTRIES_MAX {
            return;
        }
        entries.clear();
        // While a thread ends it has no spares any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(entries);
            }
        });
    }
}

/// A received message that is borrowed from the bytes it was read into.
#[derive(Debug, Clone, Copy)]
pub struct ReceivedRef<'a>(Parts<'a>);

#[derive(Debug, Clone, Copy)]
enum Parts<'a> {
    Here {
        bytes: &'a Bytes,
        span: &'a PublishSpan,
        id: Option<InboundId>,
    },
    Apart(&'a Incoming),
}

static NO_PROPERTIES: Properties = Properties::EMPTY;

impl<'a> ReceivedRef<'a> {
    pub(crate) fn apart(incoming: &'a Incoming) -> Self {
        Self(Parts::Apart(incoming))
    }

    /// The topic's bytes, which are UTF-8.
    #[inline]
    pub(crate) fn topic_bytes(&self) -> &'a [u8] {
        match self.0 {
            Parts::Here { bytes, span, .. } => span.topic_bytes(bytes),
            Parts::Apart(incoming) => incoming.topic.as_str().as_bytes(),
        }
    }

    /// The topic.
    #[must_use]
    #[inline]
    pub fn topic(&self) -> &'a str {
        match self.0 {
            Parts::Here { bytes, span, .. } => span.topic(bytes),
            Parts::Apart(incoming) => incoming.topic.as_str(),
        }
    }

    /// The payload.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        match self.0 {
            Parts::Here { bytes, span, .. } => span.payload(bytes),
            Parts::Apart(incoming) => &incoming.payload,
        }
    }

    /// The quality of service it was delivered with.
    #[must_use]
    #[inline]
    pub fn qos(&self) -> QoS {
        match self.0 {
            Parts::Here { span, .. } => span.qos(),
            Parts::Apart(incoming) => incoming.qos,
        }
    }

    /// Retain flag.
    #[must_use]
    pub fn retain(&self) -> bool {
        match self.0 {
            Parts::Here { span, .. } => span.retain(),
            Parts::Apart(incoming) => incoming.retain,
        }
    }

    /// Duplicate flag.
    #[must_use]
    pub fn dup(&self) -> bool {
        match self.0 {
            Parts::Here { span, .. } => span.dup(),
            Parts::Apart(incoming) => incoming.dup,
        }
    }

    /// The packet identifier it came with; `None` at QoS 0.
    #[must_use]
    pub fn packet_id(&self) -> Option<PacketId> {
        match self.0 {
            Parts::Here { span, .. } => span.packet_id(),
            Parts::Apart(incoming) => incoming.id.map(|id| id.packet_id),
        }
    }

    /// MQTT 5 properties; empty on 3.1.1.
    #[must_use]
    pub fn properties(&self) -> &'a Properties {
        match self.0 {
            Parts::Here { .. } => &NO_PROPERTIES,
            Parts::Apart(incoming) => &incoming.properties,
        }
    }

    /// The same message with parts of its own. They share the bytes that were read.
    #[must_use]
    pub fn to_incoming(&self) -> Incoming {
        match self.0 {
            Parts::Here { bytes, span, id } => {
                let Some((topic, publish)) = span
                    .to_publish(bytes)
                    .and_then(|mut publish| Some((publish.topic.take()?, publish)))
                else {
                    unreachable!("a block's spans are of its own bytes");
                };
                Incoming {
                    topic,
                    payload: publish.payload,
                    qos: publish.qos,
                    retain: publish.retain,
                    dup: publish.dup,
                    properties: publish.properties,
                    id,
                }
            }
            Parts::Apart(incoming) => incoming.clone(),
        }
    }
}
