//! What is desired of the devices, and the states that come of it.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{SelectAll, Stream, StreamExt as _};
use paquebot::fleet_file::GroupPlan;
use paquebot::{DesiredStates, StatePatch};
use serde_json::{Map, Value};

/// The changes that are desired of one actor, each with the actor's number.
struct ActorStates {
    actor: u32,
    states: DesiredStates,
}

impl Stream for ActorStates {
    type Item = (u32, StatePatch);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let actor = self.actor;
        let next = Pin::new(&mut self.states).poll_next(cx);
        next.map(|patch| patch.map(|patch| (actor, patch)))
    }
}

/// The states of all actors that take over what is desired.
#[derive(Default)]
pub(super) struct States {
    desired: SelectAll<ActorStates>,
    /// Of the actors of whom anything was ever desired.
    documents: HashMap<u32, Map<String, Value>>,
}

impl States {
    pub(super) fn add(&mut self, actor: u32, states: DesiredStates) {
        self.desired.push(ActorStates { actor, states });
    }

    /// The next change; `None` while nobody takes any.
    pub(super) async fn next(&mut self) -> Option<(u32, StatePatch)> {
        self.desired.next().await
    }

    /// Takes a change over; what the actor has to report then.
    ///
    /// # Errors
    /// The change is no JSON object.
    pub(super) fn apply(
        &mut self,
        actor: u32,
        plan: &GroupPlan,
        patch: &StatePatch,
    ) -> Result<StatePatch, serde_json::Error> {
        let first = || plan.model.reported.clone().unwrap_or_default();
        let document = self.documents.entry(actor).or_insert_with(first);
        patch.apply_to(document)?;
        StatePatch::json(document)
    }
}
