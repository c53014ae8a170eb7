//! How the answers of a consumer's filters add up, and who waits for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use paquebot_protocols::mqtt::{QoS, TopicFilter};

use crate::message::SubscribeError;

/// What a consumer was granted: the lowest QoS, once every filter has its answer.
#[derive(Debug)]
pub(crate) struct Grants {
    granted: Granted,
    open: Vec<TopicFilter>,
    lowest: QoS,
}

impl Grants {
    pub(crate) fn new() -> Self {
        Self {
            granted: Granted::default(),
            open: Vec::new(),
            lowest: QoS::ExactlyOnce,
        }
    }

    /// Where the answer is to be heard.
    pub(crate) fn granted(&self) -> Granted {
        self.granted.clone()
    }

    pub(crate) fn expect(&mut self, filters: &[TopicFilter]) {
        self.open = filters.to_vec();
        if self.open.is_empty() {
            self.granted.tell(Ok(self.lowest));
        }
    }

    /// The server has answered for one of the consumer's filters, for the first time or on a later connection.
    pub(crate) fn answer(&mut self, filter: &TopicFilter, result: Result<QoS, SubscribeError>) {
        if !self.open.contains(filter) {
            if let Err(error) = result {
                self.granted.refuse(error);
            }
            return;
        }
        // A filter that was named twice has one answer.
        self.open.retain(|open| open != filter);
        match result {
            Ok(qos) => {
                self.lowest = self.lowest.min(qos);
                if self.open.is_empty() {
                    self.granted.tell(Ok(self.lowest));
                }
            }
            Err(error) => self.granted.tell(Err(error)),
        }
    }
}

impl Drop for Grants {
    /// No answer comes any more.
    fn drop(&mut self) {
        self.granted.end();
    }
}

/// What the server has answered to a consumer, for all who want to know. The first answer stays, unless the server takes
/// back what it granted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Granted(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    answer: Option<Result<QoS, SubscribeError>>,
    /// Nothing is told any more.
    is_over: bool,
    waiting: Vec<Waker>,
}

impl State {
    fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }
}

impl Granted {
    /// Waits for the answer.
    pub(crate) async fn answer(&self) -> Result<QoS, SubscribeError> {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            if let Some(answer) = &state.answer {
                return Poll::Ready(answer.clone());
            }
            state.wait(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Waits until the server has refused what it granted before; `None` when it did not to the end.
    pub(crate) async fn refused(&self) -> Option<SubscribeError> {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            match &state.answer {
                _ if state.is_over => Poll::Ready(None),
                Some(Err(error)) => Poll::Ready(Some(error.clone())),
                _ => {
                    state.wait(cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    pub(crate) fn tell(&self, answer: Result<QoS, SubscribeError>) {
        self.set(|state| {
            state.answer.get_or_insert(answer);
        });
    }

    /// The server does not send any more what it granted. An earlier refusal stays.
    pub(crate) fn refuse(&self, error: SubscribeError) {
        self.set(|state| {
            if !matches!(state.answer, Some(Err(_))) {
                state.answer = Some(Err(error));
            }
        });
    }

    fn end(&self) {
        self.set(|state| {
            state.is_over = true;
            state.answer.get_or_insert(Err(SubscribeError::Stopped));
        });
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        let waiting = {
            let mut state = self.lock();
            change(&mut state);
            std::mem::take(&mut state.waiting)
        };
        // Not under the lock: a waker may do anything.
        for waker in waiting {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use paquebot_protocols::mqtt::ReasonCode;

    use super::*;

    #[test]
    fn a_refusal_after_the_grant_is_told_to_all_who_ask_and_wait() {
        let filter = TopicFilter::new("a/b").unwrap();
        let mut grants = Grants::new();
        grants.expect(std::slice::from_ref(&filter));
        let granted = grants.granted();
        grants.answer(&filter, Ok(QoS::AtLeastOnce));
        assert_eq!(granted.answer().now_or_never(), Some(Ok(QoS::AtLeastOnce)));
        let mut refused = Box::pin(granted.refused());
        assert_eq!((&mut refused).now_or_never(), None);
        let error = SubscribeError::Refused {
            filter: filter.clone(),
            code: ReasonCode::UNSPECIFIED_ERROR,
        };
        grants.answer(&filter, Err(error.clone()));
        assert_eq!(refused.now_or_never(), Some(Some(error.clone())));
        assert_eq!(granted.answer().now_or_never(), Some(Err(error.clone())));
        // What ends later is not the reason.
        drop(grants);
        assert_eq!(granted.refused().now_or_never(), Some(None));
        assert_eq!(granted.answer().now_or_never(), Some(Err(error)));
    }
}
