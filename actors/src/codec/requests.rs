//! Requests that go past the queue: now, or never.

use std::collections::HashMap;
use std::time::Instant;

use actix::Handler;
use paquebot_protocols::mqtt::QoS;
use paquebot_protocols::mqtt::session::{Event, Outgoing};
use tokio::sync::oneshot;

use super::Codec;
use crate::link::{Context, RequestUnsent};
use crate::message::PublishRequest;

/// The first token of requests. The queue's begin at 0 and do not get so far.
pub(super) const REQUESTS_FROM: u64 = 1 << 63;

type Told = Result<(), RequestUnsent>;

/// Those that the session has and has not written: none, mostly.
#[derive(Debug, Default)]
pub(super) struct Requests {
    last: u64,
    unwritten: HashMap<u64, oneshot::Sender<Told>>,
}

impl Codec {
    /// The session is done with a request: it is written, or never will be.
    pub(super) fn tell_request(&mut self, token: u64, event: &Event) {
        let told = match event {
            Event::Transmitted { .. } => Ok(()),
            Event::Expired { .. } => Err(RequestUnsent::Expired),
            Event::Rejected { code, .. } => Err(RequestUnsent::Refused(*code)),
            _ => Err(RequestUnsent::Disconnected),
        };
        let sent = self.requests().unwritten.remove(&token);
        if let Some(sent) = sent {
            let _ = sent.send(told);
        }
    }

    fn requests(&mut self) -> &mut Requests {
        let wanted = self.wanted.get_or_insert_default();
        wanted.requests.get_or_insert_default()
    }
}

impl Handler<PublishRequest> for Codec {
    type Result = ();

    fn handle(&mut self, request: PublishRequest, ctx: &mut Context<Self>) {
        if request.sent.is_closed() {
            // Whoever asked has given up.
            return;
        }
        if !self.session.is_online() {
            let _ = request.sent.send(Err(RequestUnsent::Offline));
            return;
        }
        let now = Instant::now();
        let requests = self.requests();
        requests.last += 1;
        let token = REQUESTS_FROM + requests.last;
        requests.unwritten.insert(token, request.sent);
        let topic = request.message.topic.clone();
        let outgoing = Outgoing {
            token,
            topic: request.message.topic,
            payload: request.message.payload,
            qos: QoS::AtMostOnce,
            retain: false,
            properties: request.message.properties,
            expires_at: request.expires_at,
        };
        if self.session.publish(now, outgoing).is_ok() {
            self.note_request_published(topic);
        } else if let Some(sent) = self.requests().unwritten.remove(&token) {
            // It is online, so it holds as much as it may that the server does not read.
            let _ = sent.send(Err(RequestUnsent::Congested));
        }
        self.advance(now, ctx);
    }
}
