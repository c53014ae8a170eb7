//! Pauses in which the event loop looks at the sockets of all links of a thread before a busy one goes on.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

/// A pause of one kind of work of a link; off at first. A mailbox message, such as the outcomes of what was just
/// sent, does not end it.
#[derive(Default)]
pub(crate) struct Pause(Option<Arc<State>>);

struct State {
    is_over: AtomicBool,
    task: Waker,
}

impl Pause {
    /// Begins a pause; `task` is woken at its end.
    pub(crate) fn begin(&mut self, task: &Waker) {
        let state = Arc::new(State {
            is_over: AtomicBool::new(false),
            task: task.clone(),
        });
        let waker = Waker::from(Arc::clone(&state));
        // Waking the task at once would give it dozens of turns before the event loop looks at a socket.
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
        self.0 = Some(state);
    }

    /// Whether the work has to wait. What a pause needed is freed when it is over.
    pub(crate) fn is_on(&mut self) -> bool {
        let is_over = |state: &mut Arc<State>| state.is_over.load(Ordering::Acquire);
        self.0.take_if(is_over);
        self.0.is_some()
    }
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}
