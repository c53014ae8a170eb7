//! Documents of state: their actors.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use actix::{Actor as _, Addr, Handler};
use paquebot_protocols::dialect::state::{DocumentId, StateDialect};
use paquebot_protocols::mqtt::Topic;

use super::Codec;
use crate::link::Context;
use crate::message::{OpenShadow, ShadowOffline, ShadowOnline, Shutdown};
use crate::shadow::{Lease, SHADOWS_MAX, Shadow, ShadowError, Turns};

/// The actors of the documents in use, and what they share.
#[derive(Debug, Default)]
pub(super) struct Shadows {
    documents: HashMap<DocumentId, (Addr<Shadow>, Weak<Lease>)>,
    /// `None` before the first document.
    turns: Option<Arc<Turns>>,
    /// Where the link published last on this connection, if that was a request.
    last_request: Option<Topic>,
}

impl Codec {
    pub(super) fn tell_shadows_online(&mut self) {
        if let Some(shadows) = self.shadows() {
            shadows.last_request = None;
        }
        self.each_shadow(|shadow| shadow.do_send(ShadowOnline));
    }

    /// `is_blamed`: the server closed the connection without a word while nothing but requests was under way.
    pub(super) fn tell_shadows_offline(&mut self, is_blamed: bool) {
        let last_request = self
            .shadows()
            .and_then(|shadows| shadows.last_request.take());
        self.each_shadow(|shadow| {
            let last_request = last_request.clone();
            shadow.do_send(ShadowOffline {
                is_blamed,
                last_request,
            });
        });
    }

    /// A message that is no request was published.
    pub(super) fn note_other_published(&mut self) {
        if let Some(shadows) = self.shadows() {
            shadows.last_request = None;
        }
    }

    /// A request was published.
    pub(super) fn note_request_published(&mut self, topic: Topic) {
        if let Some(shadows) = self.shadows() {
            shadows.last_request = Some(topic);
        }
    }

    fn shadows(&mut self) -> Option<&mut Shadows> {
        self.wanted.as_deref_mut()?.shadows.as_deref_mut()
    }

    pub(super) fn stop_shadows(&self) {
        self.each_shadow(|shadow| shadow.do_send(Shutdown));
    }

    fn each_shadow(&self, tell: impl Fn(&Addr<Shadow>)) {
        let wanted = self.wanted.as_deref();
        if let Some(shadows) = wanted.and_then(|wanted| wanted.shadows.as_deref()) {
            let documents = shadows.documents.values();
            documents.for_each(|(shadow, _)| tell(shadow));
        }
    }
}

impl Handler<OpenShadow> for Codec {
    type Result = Result<Arc<Lease>, ShadowError>;

    fn handle(&mut self, message: OpenShadow, _: &mut Context<Self>) -> Self::Result {
        if self.leaving {
            return Err(ShadowError::Stopped);
        }
        let is_online = self.session.is_online();
        let link = Arc::clone(&self.link);
        let wanted = self.wanted.get_or_insert_default();
        let shadows = wanted.shadows.get_or_insert_default();
        let turns = shadows.turns.get_or_insert_with(|| {
            let rules = link.profile.dialect.state().map(StateDialect::rules);
            Arc::new(Turns::new(rules.unwrap_or_default().requests_max))
        });
        let turns = Arc::clone(turns);
        let shadows = &mut shadows.documents;
        if let Some((_, lease)) = shadows.get(&message.0)
            && let Some(lease) = lease.upgrade()
        {
            return Ok(lease);
        }
        if shadows.len() >= SHADOWS_MAX {
            shadows.retain(|_, (_, lease)| lease.strong_count() > 0);
        }
        if shadows.len() >= SHADOWS_MAX {
            return Err(ShadowError::TooMany);
        }
        let shadow = Shadow::new(link, message.0.clone(), turns, is_online).start();
        let lease = Arc::new(Lease(shadow.clone()));
        shadows.insert(message.0, (shadow, Arc::downgrade(&lease)));
        Ok(lease)
    }
}
