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
    unwritten: HashMap<u64, Unwritten>,
    /// No deadline of theirs is before this.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Unwritten {
    /// Its place among the link's requests.
    number: u64,
    expires_at: Option<Instant>,
    sent: oneshot::Sender<Told>,
}

impl Requests {
    fn add(&mut self, request: Unwritten) -> u64 {
        self.last += 1;
        let token = REQUESTS_FROM + self.last;
        let deadlines = [self.deadline, request.expires_at];
        self.deadline = deadlines.into_iter().flatten().min();
        self.unwritten.insert(token, request);
        token
    }

    fn remove(&mut self, token: u64) -> Option<Unwritten> {
        let request = self.unwritten.remove(&token);
        if self.unwritten.is_empty() {
            self.deadline = None;
        }
        request
    }

    /// Tells those whose deadline has come. The session still has them, and writes none of them from now on.
    fn expire(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        let is_over =
            |request: &Unwritten| request.expires_at.is_some_and(|deadline| deadline <= now);
        for (_, request) in self.unwritten.extract_if(|_, request| is_over(request)) {
            let _ = request.sent.send(Err(RequestUnsent::Expired));
        }
        let deadlines = self.unwritten.values().map(|request| request.expires_at);
        self.deadline = deadlines.flatten().min();
    }
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
        if let Some(request) = self.requests().remove(token) {
            if told.is_ok() {
                self.link.requests.note_written(request.number);
            }
            let _ = request.sent.send(told);
        }
    }

    /// When the next request that waits for the server to read is over.
    pub(super) fn request_deadline(&self) -> Option<Instant> {
        self.wanted.as_deref()?.requests.as_deref()?.deadline
    }

    pub(super) fn expire_requests(&mut self, now: Instant) {
        if self.request_deadline().is_some() {
            self.requests().expire(now);
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
        let token = self.requests().add(Unwritten {
            number: request.number,
            expires_at: request.expires_at,
            sent: request.sent,
        });
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
        } else if let Some(request) = self.requests().remove(token) {
            // It is online, so it holds as much as it may that the server does not read.
            let _ = request.sent.send(Err(RequestUnsent::Congested));
        }
        self.advance(now, ctx);
    }
}
