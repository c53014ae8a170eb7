//! The CommandRouter actor: hands what came in to its consumers, keeps commands' deadlines.
//!
//! A consumer takes messages on the link's thread, with a handler, or through a channel. A QoS 1 or 2 message
//! that a channel has no room for stays here, unacknowledged; past a byte limit the link stops reading, so the
//! server keeps the rest. A QoS 0 message without room is dropped and counted, unless the link holds those too.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, ActorContext, Addr, Context, Handler, SpawnHandle};
use paquebot_protocols::model::CommandReply;
use paquebot_protocols::mqtt::{QoS, ReasonCode, TopicFilter};

use crate::codec::Codec;
use crate::inbound::{AckDesk, Delivery, OpenCommand};
use crate::link::{FailureGuard, LinkContext};
use crate::message::{
    AddConsumer, Deliver, DropFilters, FilterAnswered, Shutdown, SubscribeError, Unsubscribe,
};

mod answers;
mod commands;
mod memory;
mod outlets;
mod record;
mod routing;
mod unclaimed;

use memory::CommandMemory;
pub(crate) use memory::answer_interrupted;
use outlets::Outlet;
pub(crate) use outlets::{Consumer, Sink, Takes};
pub(crate) use record::{CommandId, CommandRecord, RecordedCommand};
use unclaimed::Unclaimed;

/// The actor.
pub(crate) struct CommandRouter {
    link: Arc<LinkContext>,
    codec: Addr<Codec>,
    outlets: Vec<Outlet>,
    /// How many of them take what the dialect reads in a message. Without one nothing is read.
    typed: usize,
    /// The outlets that one message goes to; kept for its memory.
    wanted: Vec<usize>,
    answers: HashMap<TopicFilter, Result<QoS, ReasonCode>>,
    desk: Arc<AckDesk>,
    unclaimed: Unclaimed,
    parked_bytes: usize,
    reading_paused: bool,
    /// By deadline, each with what it is answered then.
    open: BTreeMap<(Instant, u64), (OpenCommand, CommandReply)>,
    opened: u64,
    deadline_timer: Option<(Instant, SpawnHandle)>,
    memory: CommandMemory,
    /// Commands that are being recorded, each with its consumer.
    recording: HashMap<CommandId, (u64, Box<Delivery>)>,
    _guard: FailureGuard,
}

impl CommandRouter {
    pub(crate) fn new(link: Arc<LinkContext>, codec: Addr<Codec>, guard: FailureGuard) -> Self {
        Self {
            memory: CommandMemory::of(&link),
            recording: HashMap::new(),
            link,
            outlets: Vec::new(),
            typed: 0,
            wanted: Vec::new(),
            answers: HashMap::new(),
            desk: AckDesk::new(codec.clone()),
            codec,
            unclaimed: Unclaimed::default(),
            parked_bytes: 0,
            reading_paused: false,
            open: BTreeMap::new(),
            opened: 0,
            deadline_timer: None,
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
            if let Some(result) = self.answers.get(filter) {
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
            outlet
                .consumer
                .grants
                .answer(&filter, refused(&filter, result));
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
        let consumer = message.consumer;
        if let Some(filters) = self.remove_outlet(consumer) {
            // The codec knows which of them someone else has asked for.
            self.codec.do_send(DropFilters { consumer, filters });
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
