//! Subscriptions as desired state: what is wanted, what is in force, and what is to be asked for next.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Event, ServerLimits};
use crate::mqtt::{PacketId, ReasonCode, Subscription, TopicFilter, Version};

/// The desired subscriptions of a session.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// In the order of their filters: a tree has room for eleven from the first one on, and most sessions have one or
    /// two.
    #[expect(clippy::vec_box, reason = "with thousands, one more moves pointers")]
    desired: Vec<Box<Desired>>,
    next_order: u64,
    /// How many desired ones are not in force.
    waiting: usize,
    /// Filters to subscribe in this connection; one that is not [`State::Unsent`] any more is
    /// passed over.
    unsent: VecDeque<TopicFilter>,
    /// Filters to unsubscribe; they outlive the connection.
    removals: VecDeque<Removal>,
    /// Requests without an answer and their deadlines, oldest first.
    unanswered: VecDeque<(PacketId, Option<Instant>)>,
    /// This end does not read, so no answer can be seen.
    paused: bool,
    /// [`Transmit::Subscriptions`] is in the transmit queue.
    pub(super) is_queued: bool,
}

/// A filter to unsubscribe.
#[derive(Debug, Clone)]
pub(super) struct Removal {
    pub(super) filter: TopicFilter,
    /// The caller's name for it.
    pub(super) token: u64,
}

impl Removal {
    pub(super) fn answered(self, code: ReasonCode) -> Event {
        let Self { filter, token } = self;
        Event::Unsubscribed {
            filter,
            code,
            token,
        }
    }
}

#[derive(Debug)]
struct Desired {
    subscription: Subscription,
    order: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unsent,
    /// Stands in the SUBSCRIBE with this identifier; the last one counts.
    Asked(PacketId),
    InForce,
}

impl Subscriptions {
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || !self.removals.is_empty()
    }

    pub(super) fn are_in_force(&self) -> bool {
        self.waiting == 0
    }

    /// The deadline of the oldest request without an answer.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let oldest = self.unanswered.front().filter(|_| !self.paused)?;
        oldest.1
    }

    /// While this end does not read, no answer can be late; afterwards each has until `deadline` again.
    pub(super) fn set_paused(&mut self, paused: bool, deadline: Option<Instant>) {
        if self.paused && !paused {
            for (_, due) in &mut self.unanswered {
                *due = deadline;
            }
        }
        self.paused = paused;
    }

    /// Gives the subscription back when `maximum` are desired already.
    pub(super) fn want(
        &mut self,
        subscription: Subscription,
        maximum: usize,
        is_connected: bool,
    ) -> Result<(), Subscription> {
        let filter = subscription.filter.clone();
        let place = self.place(&filter);
        if let Ok(place) = place {
            let known = &mut self.desired[place];
            known.subscription = subscription;
            if known.state == State::Unsent {
                return Ok(());
            }
            self.waiting += usize::from(known.state == State::InForce);
            known.state = State::Unsent;
        } else {
            if self.desired.len() >= maximum {
                return Err(subscription);
            }
            let order = self.next_order;
            self.next_order += 1;
            let state = State::Unsent;
            let desired = Desired {
                subscription,
                order,
                state,
            };
            let (Ok(place) | Err(place)) = place;
            if self.desired.is_empty() {
                self.desired.reserve_exact(1);
            }
            self.desired.insert(place, Box::new(desired));
            self.waiting += 1;
        }
        // Without a connection the next CONNACK collects them.
        if is_connected {
            self.unsent.push_back(filter);
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, filter: &TopicFilter) {
        if let Ok(place) = self.place(filter) {
            let forgotten = self.desired.remove(place);
            self.waiting -= usize::from(forgotten.state != State::InForce);
        }
    }

    fn place(&self, filter: &TopicFilter) -> Result<usize, usize> {
        let desired = &self.desired;
        desired.binary_search_by(|desired| desired.subscription.filter.cmp(filter))
    }

    fn desired_mut(&mut self, filter: &TopicFilter) -> Option<&mut Desired> {
        let place = self.place(filter).ok()?;
        Some(&mut self.desired[place])
    }

    /// Takes a filter out and notes that the server is to be told; gives it back when `maximum`
    /// removals wait already.
    pub(super) fn unwant(&mut self, removal: Removal, maximum: usize) -> Result<(), Removal> {
        self.forget(&removal.filter);
        if self.removals.len() >= maximum {
            return Err(removal);
        }
        self.removals.push_back(removal);
        Ok(())
    }

    /// The server lost the session and these filters with it.
    pub(super) fn take_removals(&mut self) -> VecDeque<Removal> {
        std::mem::take(&mut self.removals)
    }

    /// Removals that were sent and not answered come before those that wait.
    pub(super) fn repeat_removals(&mut self, removals: Vec<Removal>) {
        for removal in removals.into_iter().rev() {
            self.removals.push_front(removal);
        }
    }

    /// A connection ends; gives the requests that will not be answered.
    pub(super) fn end_connection(&mut self) -> impl Iterator<Item = PacketId> + use<> {
        self.unsent = VecDeque::new();
        self.paused = false;
        std::mem::take(&mut self.unanswered)
            .into_iter()
            .map(|(id, _)| id)
    }

    /// A connection begins: everything is to be asked for that the server does not hold for certain.
    pub(super) fn begin_connection(&mut self, keeps_confirmed: bool) {
        let mut unsent: Vec<_> = self
            .desired
            .iter_mut()
            .filter(|desired| !keeps_confirmed || desired.state != State::InForce)
            .map(|desired| {
                desired.state = State::Unsent;
                (desired.order, desired.subscription.filter.clone())
            })
            .collect();
        unsent.sort_unstable_by_key(|(order, _)| *order);
        self.waiting = unsent.len();
        self.unsent = unsent.into_iter().map(|(_, filter)| filter).collect();
    }

    /// The next batch of filters to ask for, and the events of those that the server said it does
    /// not take.
    pub(super) fn next_batch(
        &mut self,
        limits: &ServerLimits,
        version: Version,
        filters_max: usize,
        events: &mut VecDeque<Event>,
    ) -> Vec<Subscription> {
        let mut room = room(limits.maximum_packet_size);
        let mut batch = Vec::new();
        while batch.len() < filters_max.max(1)
            && let Some(filter) = self.unsent.front()
        {
            let place = self.place(filter).ok();
            let desired = place.map(|place| &self.desired[place]);
            let Some(desired) = desired.filter(|desired| desired.state == State::Unsent) else {
                self.unsent.pop_front();
                continue;
            };
            let length = filter.as_str().len() + FILTER_OVERHEAD;
            if length > room && !batch.is_empty() {
                break;
            }
            let subscription = desired.subscription.clone();
            self.unsent.pop_front();
            let refusal = if length > room {
                Some(ReasonCode::PACKET_TOO_LARGE)
            } else {
                refusal(&subscription, limits, version)
            };
            match refusal {
                Some(code) => {
                    self.forget(&subscription.filter);
                    events.push_back(Event::Subscribed {
                        filter: subscription.filter,
                        code,
                        reason_string: None,
                    });
                }
                None => {
                    room -= length;
                    batch.push(subscription);
                }
            }
        }
        if self.unsent.is_empty() {
            self.unsent = VecDeque::new();
        }
        batch
    }

    /// The next batch of filters to unsubscribe.
    pub(super) fn next_removals(
        &mut self,
        limits: &ServerLimits,
        version: Version,
        filters_max: usize,
        events: &mut VecDeque<Event>,
    ) -> Vec<Removal> {
        let mut room = room(limits.maximum_packet_size);
        let mut batch = Vec::new();
        while batch.len() < filters_max.max(1)
            && let Some(removal) = self.removals.front()
        {
            let length = removal.filter.as_str().len() + FILTER_OVERHEAD;
            if length > room && !batch.is_empty() {
                break;
            }
            let Some(removal) = self.removals.pop_front() else {
                break;
            };
            let code = if !is_writable(&removal.filter, version) {
                ReasonCode::TOPIC_FILTER_INVALID
            } else if length > room {
                ReasonCode::PACKET_TOO_LARGE
            } else {
                room -= length;
                batch.push(removal);
                continue;
            };
            events.push_back(removal.answered(code));
        }
        batch
    }

    pub(super) fn asked(
        &mut self,
        id: PacketId,
        deadline: Option<Instant>,
        filters: &[TopicFilter],
    ) {
        self.unanswered.push_back((id, deadline));
        for filter in filters {
            if let Some(desired) = self.desired_mut(filter) {
                desired.state = State::Asked(id);
            }
        }
    }

    pub(super) fn answered(&mut self, id: PacketId) {
        // Servers answer in order, so it is nearly always the first one.
        if let Some(position) = self.unanswered.iter().position(|(asked, _)| *asked == id) {
            self.unanswered.remove(position);
        }
        if self.unanswered.is_empty() {
            self.unanswered = VecDeque::new();
        }
    }

    /// The answer to one filter; `false` when a later request has taken its place.
    pub(super) fn settle(&mut self, filter: &TopicFilter, id: PacketId, code: ReasonCode) -> bool {
        let desired = self.desired_mut(filter);
        let Some(desired) = desired.filter(|desired| desired.state == State::Asked(id)) else {
            return false;
        };
        if code.is_error() {
            self.forget(filter);
        } else {
            desired.state = State::InForce;
            self.waiting -= 1;
        }
        true
    }
}

/// Length prefix and options byte of a filter.
const FILTER_OVERHEAD: usize = 3;
/// Fixed header, packet identifier and empty properties at their longest.
const PACKET_OVERHEAD: usize = 8;

fn room(maximum_packet_size: Option<u32>) -> usize {
    // 268,435,455 bytes are what a packet can have at all (§1.5.5).
    let maximum = maximum_packet_size.map_or(268_435_455, |size| {
        usize::try_from(size).unwrap_or(usize::MAX)
    });
    maximum.saturating_sub(PACKET_OVERHEAD)
}

/// Whether the filter can be written at all: only MQTT 5 has rules for `$share/`.
fn is_writable(filter: &TopicFilter, version: Version) -> bool {
    version == Version::V311 || filter.check_shared().is_ok()
}

/// The code a server would have to answer with, from what it announced. A filter that cannot be
/// written must not take the others of its packet with it.
fn refusal(
    subscription: &Subscription,
    limits: &ServerLimits,
    version: Version,
) -> Option<ReasonCode> {
    let filter = &subscription.filter;
    if !is_writable(filter, version) {
        return Some(ReasonCode::TOPIC_FILTER_INVALID);
    }
    let is_shared = version == Version::V5 && filter.shared().is_some();
    if is_shared && !limits.shared_subscriptions {
        return Some(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
    }
    if is_shared && subscription.no_local {
        // The server would have to close the connection [MQTT-3.8.3-4].
        return Some(ReasonCode::PROTOCOL_ERROR);
    }
    if !limits.wildcard_subscriptions && filter.has_wildcards() {
        return Some(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED);
    }
    None
}
