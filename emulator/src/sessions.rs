//! The table of sessions.

use std::collections::HashMap;

use bytestring::ByteString;

use crate::session::Session;

/// Names one session for as long as it lives; a key of an ended session finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionKey {
    slot: u32,
    generation: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_client: HashMap<ByteString, SessionKey>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    session: Option<Box<Session>>,
}

impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(crate) fn find(&self, client_id: &str) -> Option<SessionKey> {
        self.by_client.get(client_id).copied()
    }

    pub(crate) fn get(&self, key: SessionKey) -> Option<&Session> {
        let slot = self.slots.get(key.slot as usize)?;
        if slot.generation == key.generation {
            slot.session.as_deref()
        } else {
            None
        }
    }

    pub(crate) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation == key.generation {
            slot.session.as_deref_mut()
        } else {
            None
        }
    }

    /// Adds a session; one of the same client must have been removed before.
    pub(crate) fn insert(&mut self, session: Session) -> SessionKey {
        let client_id = session.client_id.clone();
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let slot = &mut self.slots[index as usize];
        slot.session = Some(Box::new(session));
        let key = SessionKey {
            slot: index,
            generation: slot.generation,
        };
        self.by_client.insert(client_id, key);
        key
    }

    pub(crate) fn remove(&mut self, key: SessionKey) -> Option<Session> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let session = slot.session.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.slot);
        self.by_client.remove(&session.client_id);
        Some(*session)
    }

    pub(crate) fn keys(&self) -> Vec<SessionKey> {
        self.by_client.values().copied().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().filter_map(|slot| slot.session.as_deref())
    }
}
