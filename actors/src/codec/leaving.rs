//! Who waits for the server's answers to filters that were given up.

use std::collections::{BTreeMap, BTreeSet};

use paquebot_protocols::mqtt::{ReasonCode, TopicFilter};

use crate::message::{UnsubscribeAnswer, UnsubscribeAnswers, Unsubscribed};

/// The token of a filter whose answer nobody waits for, as when a stream was dropped.
pub(super) const NOBODY: u64 = 0;

/// In the order of asking. The session bounds how many filters wait, and answers at once what is too much.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    waiting: Vec<Waiting>,
    last_token: u64,
}

#[derive(Debug)]
struct Waiting {
    token: u64,
    filters: Vec<TopicFilter>,
    answers: BTreeMap<TopicFilter, UnsubscribeAnswer>,
    open: BTreeSet<TopicFilter>,
    told: UnsubscribeAnswers,
}

impl Leaving {
    /// Somebody is to be told what becomes of `filters`; the server is asked about those that are `gone`, with this token:
    /// several may ask for one filter, and each is told the answer to its own packet.
    pub(super) fn expect(
        &mut self,
        filters: Vec<TopicFilter>,
        gone: &[TopicFilter],
        told: UnsubscribeAnswers,
    ) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        self.waiting.push(Waiting {
            token,
            filters,
            answers: BTreeMap::new(),
            open: gone.iter().cloned().collect(),
            told,
        });
        self.tell_complete();
        token
    }

    /// A filter has its answer, for who asked with this token.
    pub(super) fn answer(&mut self, token: u64, filter: &TopicFilter, code: ReasonCode) {
        let mut waiting = self.waiting.iter_mut();
        if let Some(waiting) = waiting.find(|waiting| waiting.token == token)
            && let Some(filter) = waiting.open.take(filter)
        {
            let answer = UnsubscribeAnswer::Answered(code);
            waiting.answers.insert(filter, answer);
            self.tell_complete();
        }
    }

    fn tell_complete(&mut self) {
        let complete = self
            .waiting
            .extract_if(.., |waiting| waiting.open.is_empty());
        for waiting in complete {
            let answers = waiting.filters.into_iter().map(|filter| {
                let answer = waiting.answers.get(&filter);
                let answer = *answer.unwrap_or(&UnsubscribeAnswer::InUse);
                Unsubscribed { filter, answer }
            });
            // Who asked may not wait any more.
            let _ = waiting.told.send(answers.collect());
        }
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn each_who_asked_is_told_once_what_was_answered_to_its_own_request() {
        let filter = |name: &str| TopicFilter::new(name.to_owned()).unwrap();
        let answered = |name: &str, answer| Unsubscribed {
            filter: filter(name),
            answer,
        };
        let (kept, success) = (
            UnsubscribeAnswer::InUse,
            UnsubscribeAnswer::Answered(ReasonCode::SUCCESS),
        );
        let none = UnsubscribeAnswer::Answered(ReasonCode::NO_SUBSCRIPTION_EXISTED);
        let mut leaving = Leaving::default();
        let (told, mut first) = oneshot::channel();
        let filters = vec![filter("b"), filter("kept"), filter("a"), filter("b")];
        let one = leaving.expect(filters, &[filter("a"), filter("b")], told);
        let (told, mut second) = oneshot::channel();
        let other = leaving.expect(vec![filter("b")], &[filter("b")], told);

        // The answer to a stream that was dropped before them.
        leaving.answer(NOBODY, &filter("b"), ReasonCode::SUCCESS);
        assert!(first.try_recv().is_err() && second.try_recv().is_err());
        leaving.answer(other, &filter("b"), ReasonCode::NO_SUBSCRIPTION_EXISTED);
        assert_eq!(second.try_recv().unwrap(), [answered("b", none)]);
        leaving.answer(one, &filter("b"), ReasonCode::SUCCESS);
        leaving.answer(one, &filter("other"), ReasonCode::SUCCESS);
        assert!(first.try_recv().is_err());
        leaving.answer(one, &filter("a"), ReasonCode::SUCCESS);
        assert_eq!(
            first.try_recv().unwrap(),
            [
                answered("b", success),
                answered("kept", kept),
                answered("a", success),
                answered("b", success)
            ]
        );

        let (told, mut nothing) = oneshot::channel();
        leaving.expect(Vec::new(), &[], told);
        assert_eq!(nothing.try_recv().unwrap(), []);
    }
}
