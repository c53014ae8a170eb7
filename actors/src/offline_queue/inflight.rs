//! Messages in flight, by token.

use std::collections::VecDeque;
use std::time::Instant;

use paquebot_protocols::mqtt::QoS;

use crate::receipt::ReceiptSender;

/// A message handed to the codec and not yet ended.
pub(super) struct Inflight {
    pub(super) receipt: Option<ReceiptSender>,
    pub(super) size: usize,
    pub(super) qos: QoS,
    pub(super) sent_at: Instant,
}

/// Messages in flight by token. Tokens count up, so the front is the oldest; ends mostly come in order,
/// and a gap stays as an empty place until those before it have ended.
#[derive(Default)]
pub(super) struct InflightRing {
    slots: VecDeque<Option<Inflight>>,
    first: u64,
    pub(super) len: usize,
}

impl InflightRing {
    pub(super) fn push(&mut self, message: Inflight) -> u64 {
        self.slots.push_back(Some(message));
        self.len += 1;
        self.first + (self.slots.len() as u64) - 1
    }

    pub(super) fn remove(&mut self, token: u64) -> Option<Inflight> {
        let index = usize::try_from(token.checked_sub(self.first)?).ok()?;
        let removed = self.slots.get_mut(index)?.take()?;
        self.len -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        Some(removed)
    }

    pub(super) fn take_all(&mut self) -> Vec<Inflight> {
        self.first += self.slots.len() as u64;
        self.len = 0;
        std::mem::take(&mut self.slots)
            .into_iter()
            .flatten()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Inflight {
        Inflight {
            receipt: None,
            size: 1,
            qos: QoS::AtLeastOnce,
            sent_at: Instant::now(),
        }
    }

    #[test]
    fn the_ring_gives_each_token_back_once_and_forgets_ended_ones_from_the_front() {
        let mut ring = InflightRing::default();
        let tokens: Vec<u64> = (0..4).map(|_| ring.push(message())).collect();
        assert_eq!(tokens, [0, 1, 2, 3]);
        assert!(ring.remove(2).is_some());
        assert!(ring.remove(2).is_none());
        assert_eq!((ring.len, ring.slots.len()), (3, 4));
        assert!(ring.remove(0).is_some());
        assert!(ring.remove(1).is_some());
        assert_eq!((ring.len, ring.slots.len(), ring.first), (1, 1, 3));
        assert_eq!(ring.push(message()), 4);
        assert_eq!(ring.take_all().len(), 2);
        assert_eq!(ring.push(message()), 5);
        assert!(ring.remove(4).is_none());
    }
}
