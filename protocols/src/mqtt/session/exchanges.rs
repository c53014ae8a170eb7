//! Packet identifiers and what each one is in use for.

use std::ops::Range;
use std::time::Instant;

use super::subscriptions::Removal;
use crate::mqtt::{PacketId, Publish, QoS, ReasonCode, TopicFilter};

/// The exchanges in flight, found by packet identifier.
///
/// A direct-mapped table: identifier `i` lives in slot `i mod length`, and identifiers are handed
/// out in turn, skipping one whose slot is taken. So an identifier in flight is never handed out
/// again `[MQTT-2.2.1-3]`, a look-up is one access, and nothing is hashed. The table doubles before
/// it is more than half full; two identifiers that differ modulo `n` differ modulo `2n`, so nothing
/// ever collides. With at most half of the slots taken, one lap of the cursor skips at most as many
/// slots as it hands out: constant time on average, whatever the order of acknowledgements. That
/// ends above 32,768 exchanges, where the table cannot grow any more; there only a window that is
/// nearly full *and* acknowledged out of order costs more.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    /// Empty, or a power of two up to 65,536 of them.
    slots: Vec<Option<Exchange>>,
    len: usize,
    /// The identifier handed out last.
    cursor: u16,
    next_order: u64,
}

/// A free identifier and its slot.
#[derive(Debug)]
pub(super) struct Vacancy {
    pub(super) id: PacketId,
    slot: usize,
}

/// One use of a packet identifier.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) id: PacketId,
    /// Ascends with each insertion: tells two uses of one identifier apart and keeps the original order.
    pub(super) order: u64,
    pub(super) kind: Kind,
}

/// What an identifier is in use for.
#[derive(Debug)]
pub(super) enum Kind {
    Publish(Delivery),
    Subscribe(Vec<TopicFilter>),
    Unsubscribe(Vec<Removal>),
}

/// An outgoing QoS 1 or 2 message.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) token: u64,
    pub(super) publish: Publish,
    pub(super) expires_at: Option<Instant>,
    pub(super) phase: Phase,
    /// It was in flight when the server lost the session.
    pub(super) session_lost: bool,
    /// It takes part in the send quota of the present connection.
    pub(super) on_wire: bool,
}

/// How far an outgoing message got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its PUBLISH was never written.
    Unsent,
    /// Its PUBLISH was written, in this connection or an earlier one.
    Sent,
    /// PUBREC came, with this code; the PUBLISH is not sent again `[MQTT-4.3.3-6]`.
    Released(ReasonCode),
}

const IDENTIFIERS: usize = u16::MAX as usize;
const SLOTS_MIN: usize = 4;
const SLOTS_MAX: usize = 1 << 16;
/// Up to this many slots are kept when nothing is in flight and the link is idle.
const SLOTS_KEPT_IDLE: usize = 8;

impl Exchanges {
    pub(super) fn is_full(&self) -> bool {
        self.len >= IDENTIFIERS
    }

    /// Takes the next free identifier for `kind`; `None` when all 65,535 are in flight.
    pub(super) fn insert(&mut self, kind: Kind) -> Option<(PacketId, u64)> {
        let vacancy = self.find_vacancy()?;
        Some((vacancy.id, self.fill(vacancy, kind)))
    }

    /// The next free identifier; `None` when all 65,535 are in flight. It is taken once it is filled.
    #[inline]
    pub(super) fn find_vacancy(&mut self) -> Option<Vacancy> {
        if self.is_full() {
            return None;
        }
        if (self.len + 1) * 2 > self.slots.len() {
            self.grow();
        }
        loop {
            self.cursor = self.cursor.wrapping_add(1);
            let Some(id) = PacketId::new(self.cursor) else {
                continue;
            };
            let slot = self.slot(id);
            if self.slots[slot].is_none() {
                return Some(Vacancy { id, slot });
            }
        }
    }

    /// Gives the place of the exchange in the order.
    #[inline]
    pub(super) fn fill(&mut self, vacancy: Vacancy, kind: Kind) -> u64 {
        let Vacancy { id, slot } = vacancy;
        let order = self.next_order;
        self.next_order += 1;
        self.len += 1;
        let place = &mut self.slots[slot];
        // As it is; said so, it is not searched for something to drop while what goes in waits elsewhere.
        if place.is_none() {
            *place = Some(Exchange { id, order, kind });
        }
        order
    }

    /// The places in the order of so many exchanges.
    pub(super) fn reserve_orders(&mut self, count: usize) -> Range<u64> {
        let first = self.next_order;
        self.next_order += count as u64;
        first..self.next_order
    }

    /// Takes an identifier that is free, as another table handed it out. The next ones follow it.
    pub(super) fn insert_at(&mut self, id: PacketId, order: u64, kind: Kind) {
        // A table of the greatest length has a slot for each identifier.
        while (self.len + 1) * 2 > self.slots.len() || self.slots[self.slot(id)].is_some() {
            let length = self.slots.len();
            self.grow();
            if self.slots.len() == length {
                break;
            }
        }
        let slot = self.slot(id);
        self.cursor = id.value();
        let before = self.slots[slot].replace(Exchange { id, order, kind });
        self.len += usize::from(before.is_none());
    }

    pub(super) fn get_mut(&mut self, id: PacketId) -> Option<&mut Exchange> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = self.slot(id);
        self.slots[slot]
            .as_mut()
            .filter(|exchange| exchange.id == id)
    }

    pub(super) fn remove(&mut self, id: PacketId) -> Option<Exchange> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = self.slot(id);
        let removed = self.slots[slot].take_if(|exchange| exchange.id == id);
        self.len -= usize::from(removed.is_some());
        self.release_small();
        removed
    }

    /// Ends a QoS 1 message that a PUBACK ends in the ordinary way. Gives its token, and whether it was on the wire.
    /// [`Exchanges::release_small`] is for the caller, once for all.
    #[inline]
    pub(super) fn end_acknowledged(&mut self, id: PacketId) -> Option<(u64, bool)> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = self.slot(id);
        let place = &mut self.slots[slot];
        let ended = match place {
            Some(Exchange {
                id: taken,
                kind: Kind::Publish(delivery),
                ..
            }) if *taken == id
                && delivery.publish.qos == QoS::AtLeastOnce
                && delivery.phase == Phase::Sent
                && !delivery.session_lost =>
            {
                (delivery.token, delivery.on_wire)
            }
            _ => return None,
        };
        *place = None;
        self.len -= 1;
        Some(ended)
    }

    /// Every exchange, in no order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Exchange> {
        self.slots.iter_mut().flatten()
    }

    /// Whether a SUBSCRIBE or UNSUBSCRIBE waits for its answer.
    pub(super) fn has_requests(&self) -> bool {
        let mut exchanges = self.slots.iter().flatten();
        exchanges.any(|exchange| !matches!(exchange.kind, Kind::Publish(_)))
    }

    /// The publish that was sent first of those that the server has not taken, with its identifier.
    pub(super) fn oldest_sent(&self) -> Option<(PacketId, &Publish)> {
        let sent = self.slots.iter().flatten().filter_map(|exchange| {
            let Kind::Publish(delivery) = &exchange.kind else {
                return None;
            };
            let is_sent = delivery.phase == Phase::Sent;
            is_sent.then_some((exchange.order, exchange.id, &delivery.publish))
        });
        let (_, id, publish) = sent.min_by_key(|(order, ..)| *order)?;
        Some((id, publish))
    }

    /// Takes everything out, in the order it was put in. The identifiers go on where they were.
    pub(super) fn drain(&mut self) -> Vec<Exchange> {
        self.len = 0;
        let mut all: Vec<_> = std::mem::take(&mut self.slots)
            .into_iter()
            .flatten()
            .collect();
        all.sort_unstable_by_key(|exchange| exchange.order);
        all
    }

    /// One exchange now and then: nothing is held in between.
    pub(super) fn release_small(&mut self) {
        if self.len == 0 && self.slots.len() <= SLOTS_MIN {
            self.slots = Vec::new();
        }
    }

    /// Gives memory back after a burst.
    pub(super) fn shrink_idle(&mut self) {
        if self.len == 0 && self.slots.len() > SLOTS_KEPT_IDLE {
            self.slots = Vec::new();
        }
    }

    fn slot(&self, id: PacketId) -> usize {
        usize::from(id.value()) & (self.slots.len() - 1)
    }

    fn grow(&mut self) {
        let length = (self.slots.len() * 2).clamp(SLOTS_MIN, SLOTS_MAX);
        if length == self.slots.len() {
            return;
        }
        let mut grown = Vec::new();
        grown.resize_with(length, || None);
        let old = std::mem::replace(&mut self.slots, grown);
        for exchange in old.into_iter().flatten() {
            let slot = self.slot(exchange.id);
            self.slots[slot] = Some(exchange);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(exchanges: &mut Exchanges) -> Option<PacketId> {
        exchanges
            .insert(Kind::Subscribe(Vec::new()))
            .map(|(id, _)| id)
    }

    #[test]
    fn all_65535_identifiers_are_handed_out_once_and_then_none() {
        let mut exchanges = Exchanges::default();
        let mut seen = vec![false; 65_536];
        for _ in 0..65_535 {
            let id = insert(&mut exchanges).unwrap();
            assert!(!std::mem::replace(&mut seen[usize::from(id.value())], true));
        }
        assert!(exchanges.is_full());
        assert_eq!(insert(&mut exchanges), None);
        let freed = PacketId::new(40_000).unwrap();
        assert!(exchanges.remove(freed).is_some());
        assert_eq!(insert(&mut exchanges), Some(freed));
    }

    #[test]
    fn a_taken_identifier_is_skipped_on_each_lap() {
        let mut exchanges = Exchanges::default();
        let first = insert(&mut exchanges).unwrap();
        for _ in 0..200_000 {
            let id = insert(&mut exchanges).unwrap();
            assert_ne!(id, first);
            assert!(exchanges.remove(id).is_some());
        }
        assert_eq!(exchanges.len, 1);
        assert!(exchanges.slots.len() <= SLOTS_MIN);
    }

    #[test]
    fn identifiers_of_another_table_are_taken_and_not_handed_out_again() {
        let mut exchanges = Exchanges::default();
        // 1, 5, 9 and 32,769 share a slot in small tables.
        let taken = [32_769, 9, 5, 1, 65_535, 2].map(|id| PacketId::new(id).unwrap());
        for (order, id) in exchanges.reserve_orders(taken.len()).zip(taken) {
            exchanges.insert_at(id, order, Kind::Subscribe(Vec::new()));
            assert_eq!(exchanges.get_mut(id).unwrap().id, id);
        }
        assert_eq!(insert(&mut exchanges), PacketId::new(3));
        for _ in 0..65_535 - 7 {
            assert!(!taken.contains(&insert(&mut exchanges).unwrap()));
        }
        assert!(exchanges.is_full());
        let drained: Vec<_> = exchanges.drain().iter().take(6).map(|e| e.id).collect();
        assert_eq!(drained, taken);
    }

    #[test]
    fn growing_keeps_every_exchange_and_its_order() {
        let mut exchanges = Exchanges::default();
        let ids: Vec<_> = (0..1_000)
            .map(|_| insert(&mut exchanges).unwrap())
            .collect();
        for id in ids.iter().step_by(2) {
            assert_eq!(exchanges.remove(*id).unwrap().id, *id);
            assert!(exchanges.remove(*id).is_none());
        }
        let left: Vec<_> = exchanges.drain().iter().map(|e| e.id).collect();
        let expected: Vec<_> = ids.iter().skip(1).step_by(2).copied().collect();
        assert_eq!(left, expected);
        assert_eq!(exchanges.len, 0);
    }
}
