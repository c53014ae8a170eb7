//! A server on a thread of its own.

use std::ops::Deref;
use std::thread::JoinHandle;

use crate::broker::Broker;

/// A server on its own thread; use it as the [`Broker`] it is. Dropping it stops the server and waits for
/// the thread, which blocks for a moment.
#[derive(Debug)]
pub struct BrokerThread {
    broker: Broker,
    thread: Option<JoinHandle<()>>,
}

impl BrokerThread {
    pub(crate) const fn new(broker: Broker, thread: JoinHandle<()>) -> Self {
        Self {
            broker,
            thread: Some(thread),
        }
    }

    /// Stops the server and waits for its thread: clients are sent a DISCONNECT where their version has one.
    pub fn stop(self) {
        drop(self);
    }
}

impl Deref for BrokerThread {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        &self.broker
    }
}

impl Drop for BrokerThread {
    fn drop(&mut self) {
        self.broker.begin_stop();
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}
