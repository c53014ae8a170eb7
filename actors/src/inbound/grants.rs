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

    pub(crate) fn answer(&mut self, filter: &TopicFilter, result: Result<QoS, SubscribeError>) {
        if !self.open.contains(filter) {
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
        self.granted.tell(Err(SubscribeError::Stopped));
    }
}

/// What the server has answered to a consumer, for all who want to know. The first answer stays.
#[derive(Debug, Clone, Default)]
pub(crate) struct Granted(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    answer: Option<Result<QoS, SubscribeError>>,
    waiting: Vec<Waker>,
}

impl Granted {
    /// Waits for the answer.
    pub(crate) async fn answer(&self) -> Result<QoS, SubscribeError> {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            if let Some(answer) = &state.answer {
                return Poll::Ready(answer.clone());
            }
            if !state
                .waiting
                .iter()
                .any(|waker| waker.will_wake(cx.waker()))
            {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn tell(&self, answer: Result<QoS, SubscribeError>) {
        let waiting = {
            let mut state = self.lock();
            state.answer.get_or_insert(answer);
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
