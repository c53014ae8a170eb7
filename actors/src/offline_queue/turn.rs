//! What one turn of the queue has to hand on, to count, to give back and to tell.

use std::cell::RefCell;

use paquebot_protocols::mqtt::QoS;
use paquebot_protocols::mqtt::session::Outgoing;

use super::StoredId;
use super::ending::Endings;
use super::tally::Tally;

/// Collected during a turn and dealt with at its end.
#[derive(Default)]
pub(super) struct Turn {
    /// For the codec.
    pub(super) batch: Vec<Outgoing>,
    pub(super) batch_bytes: usize,
    /// Those of its QoS 2 messages that the store has: token and id.
    pub(super) batch_stored: Vec<(u64, StoredId)>,
    pub(super) tally: Tally,
    /// Room for callers.
    pub(super) freed_messages: usize,
    pub(super) freed_bytes: usize,
    /// Room that all links of the fleet share.
    pub(super) freed_fleet_messages: usize,
    pub(super) freed_fleet_bytes: usize,
    pub(super) endings: Endings,
    /// Messages whose records are to be removed.
    pub(super) removed: Vec<(StoredId, QoS)>,
}

/// The turn under way. Links have their turns one after the other, so those of a thread share one, which is
/// still in the processor's cache when the next link begins; an idle link owns none.
#[derive(Default)]
pub(super) struct CurrentTurn(Option<Box<Turn>>);

thread_local! {
    /// Those of links whose turn is over; more than one when a turn ends within another.
    #[expect(clippy::vec_box, reason = "a queue takes the box, not what is in it")]
    static SPARE: RefCell<Vec<Box<Turn>>> = const { RefCell::new(Vec::new()) };
}

/// Turns that a thread keeps.
const SPARE_MAX: usize = 4;

impl CurrentTurn {
    // Called several times for each message.
    #[inline(always)]
    pub(super) fn get(&mut self) -> &mut Turn {
        self.0.get_or_insert_with(begin)
    }

    /// The turn, if there was something in it.
    pub(super) fn take(&mut self) -> Option<Box<Turn>> {
        self.0.take()
    }
}

#[cold]
fn begin() -> Box<Turn> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

impl Turn {
    /// Back to the thread, with nothing left in it.
    pub(super) fn end(mut self: Box<Self>) {
        // Of a link that has ended; the next one's turn must not begin with it.
        self.batch.clear();
        self.batch_stored.clear();
        self.batch_bytes = 0;
        // While a thread ends it has no spare ones any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(self);
            }
        });
    }
}
