//! Requests to AWS's services over a link, and the answers that find them.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use paquebot_actors::{HandlerGuard, LinkEvent, LinkState, RequestUnsent, SubscribeError};
use paquebot_protocols::dialect::{DialectError, Rendered};
use paquebot_protocols::mqtt::{self, ReasonCode};
use tokio::sync::oneshot;

use crate::link::Link;
use crate::streams::Events;

/// Requests of one handle that wait for their answers at once; a further one is refused.
pub const REQUESTS_MAX: usize = 10;

/// When a request without an answer ends, unless the handle is told otherwise.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Why a request got no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The link is not online, and requests never wait for it.
    #[error("the link is not online; wait with Link::online and ask again")]
    Offline,
    /// The connection broke before the answer: the service may have done what was asked.
    #[error("the connection broke before the answer")]
    Disconnected,
    /// No answer came in time: the service may have done what was asked.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// As many requests as may wait for their answers.
    #[error("{REQUESTS_MAX} requests wait for their answers; wait for one of them")]
    Busy,
    /// The link is stopped.
    #[error("the link is stopped")]
    Stopped,
    /// The topics of the answers cannot be subscribed to.
    #[error("the answers cannot be subscribed to: {0}")]
    Subscribe(Arc<SubscribeError>),
    /// The server reads too slowly for the request to leave; nothing was sent.
    #[error("the server does not read what is sent to it; ask again later")]
    Congested,
    /// The server does not take such a message; nothing was sent.
    #[error("the server does not take the request: {0}")]
    Refused(ReasonCode),
    /// A name or value that AWS IoT does not take; nothing was sent.
    #[error(transparent)]
    Invalid(#[from] DialectError),
    /// The answer makes no sense.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

impl RequestError {
    /// Whether the same may go well later: there was no connection, no answer or no room.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Offline | Self::Disconnected | Self::TimedOut(_) | Self::Busy | Self::Congested
        )
    }
}

/// Which request a message answers, and the answer; `None` for what is none.
type Read<A> = dyn Fn(&str, &[u8]) -> Option<(String, A)> + Send + Sync;

/// Requests whose answers `A` are found by a key.
///
/// Everything runs on the link's own thread, so that callers need no runtime. The subscriptions to the answers are made
/// with the first request that needs them and kept.
pub(crate) struct Requests<A>(Arc<Inner<A>>);

struct Inner<A> {
    link: Link,
    read: Box<Read<A>>,
    /// The sender is taken when the answer comes; the place is free again when its request ends.
    waiting: Mutex<Places<A>>,
    /// By the first of their filters. Held while one is made: a second request waits for the same SUBACK.
    guards: tokio::sync::Mutex<HashMap<String, HandlerGuard>>,
}

type Places<A> = HashMap<String, Option<oneshot::Sender<A>>>;

/// A request that is ready to go.
pub(crate) struct Call {
    pub(crate) key: String,
    pub(crate) replies: Vec<mqtt::Subscription>,
    pub(crate) message: Rendered,
    pub(crate) deadline: Duration,
}

impl<A> Clone for Requests<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A> fmt::Debug for Requests<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl<A: Send + 'static> Requests<A> {
    pub(crate) fn new(
        link: Link,
        read: impl Fn(&str, &[u8]) -> Option<(String, A)> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            link,
            read: Box::new(read),
            waiting: Mutex::default(),
            guards: tokio::sync::Mutex::default(),
        }))
    }

    pub(crate) fn link(&self) -> &Link {
        &self.0.link
    }

    /// Sends a request and waits for its answer. When the future is dropped the request is given up.
    pub(crate) async fn ask(&self, call: Call) -> Result<A, RequestError> {
        let (mut done, result) = oneshot::channel();
        let inner = Arc::clone(&self.0);
        let now = Instant::now();
        let work = move |link: Link| async move {
            let allowed = call.deadline;
            let deadline = now.checked_add(allowed).unwrap_or(now + DEADLINE_MAX);
            let result = tokio::select! {
                biased;
                () = done.closed() => return,
                result = inner.ask(&link, call, deadline) => result,
                () = tokio::time::sleep_until(deadline.into()) => Err(RequestError::TimedOut(allowed)),
            };
            let _ = done.send(result);
        };
        if self.0.link.spawn(work).is_err() {
            return Err(RequestError::Stopped);
        }
        // A worker that ends drops what runs on it.
        result.await.unwrap_or(Err(RequestError::Stopped))
    }
}

/// The latest deadline.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

impl<A: Send + 'static> Inner<A> {
    async fn ask(
        self: &Arc<Self>,
        link: &Link,
        call: Call,
        deadline: Instant,
    ) -> Result<A, RequestError> {
        // Listened to before the state is looked at: no end of the connection is missed.
        let mut events = link.events();
        match link.state() {
            LinkState::Online => {}
            LinkState::Stopped | LinkState::Failed => return Err(RequestError::Stopped),
            _ => return Err(RequestError::Offline),
        }
        let allowed = call.deadline;
        let mut connection_ends = pin!(end_of_connection(link, &mut events));
        let (_place, mut answer) = Waiting::enter(self, call.key)?;
        // The end of the connection goes first: a request that is told as failed must not leave on the next one.
        tokio::select! {
            biased;
            error = &mut connection_ends => return Err(error),
            result = self.subscribe(link, call.replies) => result?,
        }
        let in_flight = tokio::select! {
            biased;
            error = &mut connection_ends => return Err(error),
            result = link.request(call.message, deadline) => {
                result.map_err(|unsent| not_sent(unsent, allowed))?
            }
        };
        tokio::select! {
            biased;
            answer = &mut answer => {
                in_flight.answered();
                answer.map_err(|_| RequestError::Stopped)
            }
            error = &mut connection_ends => Err(error),
        }
    }

    /// Waits for the server's word on the topics of the answers, and for nothing when it has given it before.
    async fn subscribe(
        self: &Arc<Self>,
        link: &Link,
        replies: Vec<mqtt::Subscription>,
    ) -> Result<(), RequestError> {
        let Some(name) = replies.first().map(|first| first.filter.to_string()) else {
            return Ok(());
        };
        let mut guards = self.guards.lock().await;
        if !guards.contains_key(&name) {
            // The link has the handler, and the handle has the guard: a strong reference would keep both for ever.
            let inner = Arc::downgrade(self);
            let handler = move |message: &crate::MessageRef<'_>| {
                if let Some(inner) = inner.upgrade() {
                    inner.handle(message.topic(), message.payload());
                }
            };
            let guard = link.subscribe_all_with(replies, handler).await;
            guards.insert(name.clone(), guard.map_err(not_subscribed)?);
        }
        if let Some(guard) = guards.get(&name)
            && let Err(error) = guard.ready().await
        {
            // The next request asks again.
            guards.remove(&name);
            return Err(not_subscribed(error));
        }
        Ok(())
    }

    fn handle(&self, topic: &str, payload: &[u8]) {
        let Some((key, answer)) = (self.read)(topic, payload) else {
            return;
        };
        let asked = self.waiting().get_mut(&key).and_then(Option::take);
        match asked {
            Some(asked) => drop(asked.send(answer)),
            None => tracing::debug!(topic, "an answer that nobody waits for"),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Places<A>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_subscribed(error: SubscribeError) -> RequestError {
    match error {
        SubscribeError::Stopped => RequestError::Stopped,
        error => RequestError::Subscribe(Arc::new(error)),
    }
}

fn not_sent(unsent: RequestUnsent, allowed: Duration) -> RequestError {
    match unsent {
        RequestUnsent::Offline => RequestError::Offline,
        RequestUnsent::Expired => RequestError::TimedOut(allowed),
        RequestUnsent::Congested => RequestError::Congested,
        RequestUnsent::Refused(code) => RequestError::Refused(code),
        RequestUnsent::Dialect(error) => RequestError::Invalid(error),
        RequestUnsent::Stopped => RequestError::Stopped,
        // What else there may be has not left either.
        _ => RequestError::Disconnected,
    }
}

/// Ends with the connection that there is.
async fn end_of_connection(link: &Link, events: &mut Events) -> RequestError {
    while let Some(event) = events.next().await {
        let may_have_ended = match event {
            LinkEvent::Disconnected { .. } => true,
            // It may have been among what was missed.
            LinkEvent::Lagged => link.state() != LinkState::Online,
            _ => false,
        };
        if may_have_ended {
            return RequestError::Disconnected;
        }
    }
    RequestError::Stopped
}

/// A place among the requests that wait; given up when it is dropped.
struct Waiting<A> {
    inner: Arc<Inner<A>>,
    key: String,
}

impl<A: Send + 'static> Waiting<A> {
    fn enter(
        inner: &Arc<Inner<A>>,
        key: String,
    ) -> Result<(Self, oneshot::Receiver<A>), RequestError> {
        let (sender, answer) = oneshot::channel();
        let mut waiting = inner.waiting();
        // Where answers name no request, a second one of the kind could get the first one's.
        if waiting.len() >= REQUESTS_MAX || waiting.contains_key(&key) {
            return Err(RequestError::Busy);
        }
        waiting.insert(key.clone(), Some(sender));
        drop(waiting);
        let inner = Arc::clone(inner);
        Ok((Self { inner, key }, answer))
    }
}

impl<A> Drop for Waiting<A> {
    fn drop(&mut self) {
        let waiting = self.inner.waiting.lock();
        let _ = waiting
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

/// Waits on the link's own thread, so that the caller needs no timer. `false` when the link's thread is gone.
pub(crate) async fn pause(link: &Link, duration: Duration) -> bool {
    let (done, is_over) = oneshot::channel::<()>();
    let wait = move |_| async move {
        tokio::time::sleep(duration).await;
        let _ = done.send(());
    };
    link.spawn(wait).is_ok() && is_over.await.is_ok()
}

/// A text that no other request of this process or another has, of 32 characters.
pub(crate) fn token() -> String {
    format!("{:032x}", fastrand::u128(..))
}

#[cfg(test)]
mod tests {
    use paquebot_emulator::{Broker, Target};
    use paquebot_protocols::dialect::Aws;
    use paquebot_protocols::mqtt::{QoS, Topic};

    use super::*;
    use crate::{Fleet, Publish};

    #[tokio::test]
    async fn a_request_that_the_server_does_not_read_ends_at_its_deadline_and_never_leaves() {
        let broker = Broker::builder().start().await.unwrap();
        let pipe = broker.clone();
        let fleet = Fleet::builder().workers(1).start().unwrap();
        let group = fleet.group("things").dialect(Aws::default());
        // No buffers of the system's are in between.
        let group = group.pipe(Arc::new(move || Ok(pipe.connect_pipe())));
        let group = group.build().unwrap();
        let link = group.device("Bot").unwrap().start().unwrap();
        link.online().await.unwrap();
        let mut watch = broker.watch(mqtt::TopicFilter::new("a/#").unwrap());
        let stall = broker.faults().stall_reading(Target::client("Bot"));
        // Twice what a link gives to a connection that does not take it.
        for _ in 0..6 {
            let large = Publish::new("a/large", vec![0; 100_000]).unwrap();
            let large = large.with_qos(QoS::AtMostOnce);
            link.publish_detached(large).await.unwrap();
        }
        let request = Rendered::new(Topic::new("a/request").unwrap(), "", QoS::AtMostOnce);
        let deadline = Instant::now() + Duration::from_millis(200);
        let asked = tokio::time::timeout(Duration::from_secs(15), link.request(request, deadline));
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(error, RequestUnsent::Expired);
        assert!(Instant::now() >= deadline);
        assert_eq!(link.requests_in_flight(), 0);
        stall.lift();
        let last = Publish::new("a/last", "").unwrap();
        link.publish_detached(last).await.unwrap();
        loop {
            let message = tokio::time::timeout(Duration::from_secs(15), watch.recv());
            let topic = message.await.unwrap().unwrap().topic;
            assert_ne!(topic.as_str(), "a/request");
            if topic.as_str() == "a/last" {
                break;
            }
        }
    }
}
