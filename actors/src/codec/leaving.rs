//! Who waits for the server's answers to filters that were given up.

use std::collections::{BTreeMap, BTreeSet};

use paquebot_protocols::mqtt::{ReasonCode, TopicFilter};

use crate::message::{UnsubscribeAnswer, UnsubscribeAnswers, Unsubscribed};

/// In the order of asking. The session bounds how many filters wait, and answers at once what is too much.
#[derive(Debug, Default)]
pub(super) struct Leaving(Vec<Waiting>);

#[derive(Debug)]
struct Waiting {
    filters: Vec<TopicFilter>,
    answers: BTreeMap<TopicFilter, UnsubscribeAnswer>,
    open: BTreeSet<TopicFilter>,
    told: UnsubscribeAnswers,
}

impl Leaving {
    /// Somebody is to be told what becomes of `filters`; the server is asked about those that are `gone`.
    pub(super) fn expect(
        &mut self,
        filters: Vec<TopicFilter>,
        gone: &[TopicFilter],
        told: UnsubscribeAnswers,
    ) {
        self.0.push(Waiting {
            filters,
            answers: BTreeMap::new(),
            open: gone.iter().cloned().collect(),
            told,
        });
        self.tell_complete();
    }

    /// A filter has its answer: for who asked first and has none.
    pub(super) fn answer(&mut self, filter: &TopicFilter, code: ReasonCode) {
        for waiting in &mut self.0 {
            if let Some(filter) = waiting.open.take(filter) {
                let answer = UnsubscribeAnswer::Answered(code);
                waiting.answers.insert(filter, answer);
                self.tell_complete();
                return;
            }
        }
    }

    fn tell_complete(&mut self) {
        for waiting in self.0.extract_if(.., |waiting| waiting.open.is_empty()) {
            let answers = waiting.filters.into_iter().map(|filter| {
                let answer = waiting.answers.get(&filter);
                let answer = *answer.unwrap_or(&UnsubscribeAnswer::InUse);
                Unsubscribed { filter, answer }
            });
            // Who asked may not wait any more.
            let _ = waiting.told.send(answers.collect());
        }
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn each_who_asked_is_told_once_in_the_order_of_the_filters_and_of_asking() {
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
        leaving.expect(filters, &[filter("a"), filter("b")], told);
        let (told, mut second) = oneshot::channel();
        leaving.expect(vec![filter("b")], &[filter("b")], told);

        leaving.answer(&filter("b"), ReasonCode::SUCCESS);
        leaving.answer(&filter("other"), ReasonCode::SUCCESS);
        assert!(first.try_recv().is_err());
        leaving.answer(&filter("b"), ReasonCode::NO_SUBSCRIPTION_EXISTED);
        assert_eq!(second.try_recv().unwrap(), [answered("b", none)]);
        leaving.answer(&filter("a"), ReasonCode::SUCCESS);
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
