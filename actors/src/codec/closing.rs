//! What the end of a connection says about what was under way on it.

use std::time::Duration;

use paquebot_protocols::dialect::{Closing, ClosingStage, LikelyCause};
use paquebot_protocols::mqtt::Topic;
use paquebot_protocols::mqtt::session::CloseReason;

use super::Codec;
use crate::event::LinkState;

/// A message at which the server may have closed connections, and how often in a row.
#[derive(Debug)]
pub(super) struct Suspect {
    topic: Topic,
    times: u32,
}

/// What is likely behind the end of a connection.
#[derive(Debug)]
pub(super) struct Explanation {
    pub(super) cause: Option<LikelyCause>,
    /// The topic of the message that is behind it, where that is known.
    pub(super) topic: Option<Topic>,
    /// The server ended it without a word while nothing but requests about documents was under way.
    pub(super) blames_requests: bool,
}

impl Codec {
    /// What the platform's dialect makes of the end of the connection.
    pub(super) fn explain(&mut self, reason: &CloseReason) -> Explanation {
        let stage = if self.connected_at.is_none() {
            ClosingStage::Connecting
        } else if self.link.events.current() == LinkState::Online {
            ClosingStage::Online
        } else {
            ClosingStage::Subscribing
        };
        let is_silent = *reason == CloseReason::TransportClosed
            && stage == ClosingStage::Online
            && self.link.profile.dialect.closes_silently();
        let inflight = self.session.inflight_len();
        let (requests, request) = self.link.requests.unanswered();
        let unanswered = inflight + requests;
        self.has_answers |= self.link.requests.take_answered();
        if std::mem::take(&mut self.has_answers) {
            self.fruitless = 0;
        } else if stage == ClosingStage::Online && unanswered > 0 {
            self.fruitless = self.fruitless.saturating_add(1);
        }
        let mut topic = None;
        let mut repeated = 0;
        if is_silent {
            topic = match (inflight, requests) {
                (0, _) => request,
                (_, 0) => self.session.oldest_unacknowledged().cloned(),
                // It is one of the two.
                _ => None,
            };
            repeated = self.suspect(topic.as_ref());
        }
        let lasted = self
            .connected_at
            .map_or(Duration::ZERO, |since| since.elapsed());
        self.brief = if is_silent && unanswered == 0 && lasted < Closing::BRIEF {
            self.brief.saturating_add(1)
        } else {
            0
        };
        let cause = self.link.profile.dialect.explain_closing(&Closing {
            reason,
            stage,
            lasted,
            unanswered,
            fruitless: self.fruitless.max(repeated),
            brief: self.brief,
        });
        Explanation {
            topic: topic.filter(|_| cause == Some(LikelyCause::PublishNotAllowed)),
            cause,
            blames_requests: is_silent && inflight == 0 && requests > 0,
        }
    }

    /// How many connections in a row ended while this was the first message without an answer.
    fn suspect(&mut self, topic: Option<&Topic>) -> u32 {
        let Some(topic) = topic else {
            self.suspect = None;
            return 0;
        };
        match &mut self.suspect {
            Some(suspect) if suspect.topic == *topic => {
                suspect.times = suspect.times.saturating_add(1);
                suspect.times
            }
            suspect => {
                let topic = topic.clone();
                *suspect = Some(Box::new(Suspect { topic, times: 1 }));
                1
            }
        }
    }
}
