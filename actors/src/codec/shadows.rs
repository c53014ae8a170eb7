//! Documents of state: their actors.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use actix::{Actor as _, Addr, Handler};
use paquebot_protocols::dialect::state::DocumentId;

use super::Codec;
use crate::link::Context;
use crate::message::{OpenShadow, ShadowOffline, ShadowOnline, Shutdown};
use crate::shadow::{Lease, SHADOWS_MAX, Shadow, ShadowError};

/// The actors of the documents in use.
#[derive(Debug, Default)]
pub(super) struct Shadows(HashMap<DocumentId, (Addr<Shadow>, Weak<Lease>)>);

impl Codec {
    pub(super) fn tell_shadows_online(&self) {
        self.each_shadow(|shadow| shadow.do_send(ShadowOnline));
    }

    pub(super) fn tell_shadows_offline(&self) {
        self.each_shadow(|shadow| shadow.do_send(ShadowOffline));
    }

    pub(super) fn stop_shadows(&self) {
        self.each_shadow(|shadow| shadow.do_send(Shutdown));
    }

    fn each_shadow(&self, tell: impl Fn(&Addr<Shadow>)) {
        let wanted = self.wanted.as_deref();
        if let Some(shadows) = wanted.and_then(|wanted| wanted.shadows.as_deref()) {
            shadows.0.values().for_each(|(shadow, _)| tell(shadow));
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
        let shadows = &mut wanted.shadows.get_or_insert_default().0;
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
        let shadow = Shadow::new(link, message.0.clone(), is_online).start();
        let lease = Arc::new(Lease(shadow.clone()));
        shadows.insert(message.0, (shadow, Arc::downgrade(&lease)));
        Ok(lease)
    }
}
