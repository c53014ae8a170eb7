//! The CommandRouter actor: hands what came in to its consumers, keeps commands' deadlines.
//!
//! A consumer takes messages on the link's thread, with a handler, or through a channel. A QoS 1 or 2 message
//! that a channel has no room for stays here, unacknowledged; past a byte limit the link stops reading, so the
//! server keeps the rest. A QoS 0 message without room is dropped and counted, unless the link holds those too.

use std::sync::Arc;

use actix::{Actor, ActorContext, Context, Handler};
use paquebot_protocols::mqtt::{QoS, ReasonCode, TopicFilter};

use crate::inbound::AckDesk;
use crate::link::{FailureGuard, LinkContext};
use crate::message::{
    AddConsumer, Deliver, DropFilters, FilterAnswered, Shutdown, SubscribeError, Unsubscribe,
};
use crate::small_map::SmallMap;

mod answers;
mod commands;
mod memory;
mod outlets;
mod record;
mod routing;
mod unclaimed;

use commands::Commands;
pub(crate) use memory::answer_interrupted;
use outlets::Outlet;
pub(crate) use outlets::{Consumer, Sink, Takes};
pub(crate) use record::{CommandId, CommandRecord, RecordedCommand};
use unclaimed::Unclaimed;

/// The actor.
pub(crate) struct CommandRouter {
    link: Arc<LinkContext>,
    outlets: Vec<Outlet>,
    /// How many of them take what the dialect reads in a message. Without one nothing is read.
    typed: usize,
    /// The outlets that one message goes to; kept for its memory.
    wanted: Vec<usize>,
    answers: SmallMap<TopicFilter, Result<QoS, ReasonCode>>,
    desk: Arc<AckDesk>,
    unclaimed: Unclaimed,
    parked_bytes: usize,
    reading_paused: bool,
    /// `None` until the first command comes, which on most links is long after they were told to expect one.
    commands: Option<Box<Commands>>,
    _guard: FailureGuard,
}

impl CommandRouter {
    pub(crate) fn new(link: Arc<LinkContext>, guard: FailureGuard) -> Self {
        Self {
            desk: AckDesk::new(&link),
            link,
            outlets: Vec::new(),
            typed: 0,
            wanted: Vec::new(),
            answers: SmallMap::default(),
            unclaimed: Unclaimed::default(),
            parked_bytes: 0,
            reading_paused: false,
            commands: None,
            _guard: guard,
        }
    }
}

fn refused(filter: &TopicFilter, result: Result<QoS, ReasonCode>) -> Result<QoS, SubscribeError> {
    result.map_err(|code| SubscribeError::Refused {
        filter: filter.clone(),
        code,
    })
}

impl Actor for CommandRouter {
    type Context = Context<Self>;
}

impl Handler<Deliver> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: Deliver, ctx: &mut Self::Context) {
        self.route_block(message.0, ctx);
    }
}

impl Handler<AddConsumer> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: AddConsumer, ctx: &mut Self::Context) {
        let AddConsumer(mut consumer, filters) = message;
        consumer.grants.expect(&filters);
        for filter in &filters {
            if !consumer.doubts
                && let Some(result) = self.answers.get(filter)
            {
                consumer.grants.answer(filter, refused(filter, *result));
            }
        }
        self.typed += usize::from(consumer.takes != Takes::Raw);
        if self.outlets.is_empty() {
            // Most links with a consumer have one and never a second.
            self.outlets.reserve_exact(1);
        }
        self.outlets.push(Outlet::new(consumer, filters));
        self.route_unclaimed(ctx);
    }
}

impl Handler<FilterAnswered> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: FilterAnswered, _: &mut Self::Context) {
        let FilterAnswered { filter, result } = message;
        for outlet in &mut self.outlets {
            if !outlet.filters.contains(&filter) {
                continue;
            }
            outlet
                .consumer
                .grants
                .answer(&filter, refused(&filter, result));
            match result {
                Ok(_) => outlet.grant(&filter),
                Err(_) => outlet.refuse(&filter),
            }
        }
        match result {
            Ok(_) => self.answers.insert(filter, result),
            // A refused filter is not desired any more; who asks again gets a fresh answer.
            Err(_) => self.answers.remove(&filter),
        };
    }
}

impl Handler<Unsubscribe> for CommandRouter {
    type Result = ();

    fn handle(&mut self, message: Unsubscribe, _: &mut Self::Context) {
        let Unsubscribe { consumer, told } = message;
        if let Some(filters) = self.remove_outlet(consumer) {
            // The codec knows which of them someone else has asked for.
            self.link.codec.do_send(DropFilters {
                consumer,
                filters,
                told,
            });
        }
    }
}

impl Handler<Shutdown> for CommandRouter {
    type Result = ();

    fn handle(&mut self, _: Shutdown, ctx: &mut Self::Context) {
        self.outlets.clear();
        ctx.stop();
    }
}
