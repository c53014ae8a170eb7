//! A worker: one OS thread with an arbiter on it, home to many links.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::{ArbiterHandle, System};
use async_channel::{Receiver, Sender};
use prometheus::Histogram;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::event::LinkEvent;
use crate::link::{LinkHandle, LinkSpec, PreparedLink};
use crate::timers;

/// How often the worker's pulse is measured.
const PULSE: Duration = Duration::from_millis(500);

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The system gave no thread.
    #[error("cannot start a worker thread: {0}; check the limits on threads and memory")]
    Thread(std::io::Error),
    /// The thread could not set up its event loop.
    #[error("cannot set up a worker's event loop: {0}; check the limit on open files")]
    Runtime(String),
}

/// A running worker. Independent of any runtime the caller has.
#[derive(Debug)]
pub struct Worker {
    arbiter: ArbiterHandle,
    /// Links that are to live here.
    starting: UnboundedSender<PreparedLink>,
    stop: Sender<()>,
    /// Closed when the thread is about to end.
    finished: Receiver<()>,
    thread: Option<JoinHandle<()>>,
    pulse: Arc<Pulse>,
}

/// When the event loop last turned.
#[derive(Debug)]
struct Pulse {
    started: Instant,
    last_ms: AtomicU64,
}

impl Worker {
    /// Starts the thread. `lag` gets how late the worker's timer fires, in seconds.
    ///
    /// # Errors
    /// The system gave no thread or no event loop.
    pub fn start(name: String, lag: Histogram) -> Result<Self, WorkerError> {
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let (finishing, finished) = async_channel::bounded::<()>(1);
        let (started, starting) = std::sync::mpsc::sync_channel(1);
        let pulse = Arc::new(Pulse {
            started: Instant::now(),
            last_ms: AtomicU64::new(0),
        });
        let (starting_links, links) = mpsc::unbounded_channel();
        let beat = Arc::clone(&pulse);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                // Dropped last: whoever waits for the end sees it when everything else is gone.
                let _finishing = finishing;
                let runtime = match tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .thread_keep_alive(Duration::from_secs(1))
                    .build()
                {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = started.send(Err(error.to_string()));
                        return;
                    }
                };
                let runtime = Arc::new(runtime);
                let system = System::with_tokio_rt(|| Arc::clone(&runtime));
                let _ = started.send(Ok(System::current().arbiter().clone()));
                system.block_on(async move {
                    actix::spawn(measure_lag(lag, beat));
                    actix::spawn(timers::run());
                    actix::spawn(start_links(links));
                    // Also ends when the worker itself is dropped.
                    let _ = stopped.recv().await;
                });
                // Ends the links before the runtime that they run on.
                drop(system);
                // A look-up of a name cannot be cancelled and may hang for long: nobody waits for it.
                if let Some(runtime) = Arc::into_inner(runtime) {
                    runtime.shutdown_background();
                }
            })
            .map_err(WorkerError::Thread)?;
        match starting.recv() {
            Ok(Ok(arbiter)) => Ok(Self {
                arbiter,
                starting: starting_links,
                stop,
                finished,
                thread: Some(thread),
                pulse,
            }),
            Ok(Err(problem)) => Err(WorkerError::Runtime(problem)),
            Err(_) => Err(WorkerError::Runtime("the thread ended at once".into())),
        }
    }

    /// Starts a link on this worker. Does not wait for anything.
    pub fn start_link(&self, spec: LinkSpec) -> LinkHandle {
        let (prepared, handle) = PreparedLink::new(spec, self.arbiter.clone());
        self.give(prepared);
        handle
    }

    /// The same with the link's events from its first one on, which a listener that is added to the
    /// running link may miss.
    pub fn start_link_with_events(&self, spec: LinkSpec) -> (LinkHandle, Receiver<LinkEvent>) {
        let (prepared, handle) = PreparedLink::new(spec, self.arbiter.clone());
        let events = handle.events();
        self.give(prepared);
        (handle, events)
    }

    /// Without the thread the link ends here and now.
    fn give(&self, link: PreparedLink) {
        let _ = self.starting.send(link);
    }

    /// How long ago the event loop turned; it does so twice a second at least.
    #[must_use]
    pub fn last_pulse(&self) -> Duration {
        let last = Duration::from_millis(self.pulse.last_ms.load(Ordering::Relaxed));
        self.pulse.started.elapsed().saturating_sub(last)
    }

    /// Ends the thread and waits for it, on any executor. Links that still run are cut off; stop them
    /// before.
    pub async fn join(mut self) {
        self.stop.close();
        let _ = self.finished.recv().await;
        if let Some(thread) = self.thread.take() {
            // The thread has nothing left to do, so this does not block.
            let _ = thread.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.close();
    }
}

/// Gives each link its task. Through the arbiter's own queue each would be a boxed function in a task of its own first.
async fn start_links(mut links: UnboundedReceiver<PreparedLink>) {
    while let Some(link) = links.recv().await {
        link.start();
    }
}

async fn measure_lag(lag: Histogram, pulse: Arc<Pulse>) {
    loop {
        let now = pulse.started.elapsed().as_millis();
        pulse
            .last_ms
            .store(now.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        let due = Instant::now() + PULSE;
        tokio::time::sleep_until(due.into()).await;
        lag.observe(due.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    #[test]
    fn a_look_up_that_hangs_does_not_hold_up_the_end_of_its_worker() {
        let lag = Histogram::with_opts(HistogramOpts::new("lag", "lag")).unwrap();
        let worker = Worker::start("worker-with-a-look-up".into(), lag).unwrap();
        let (begun, beginning) = std::sync::mpsc::channel();
        let (let_go, hanging) = std::sync::mpsc::channel::<()>();
        worker.arbiter.spawn_fn(move || {
            // Where tokio looks names up.
            tokio::task::spawn_blocking(move || {
                begun.send(()).unwrap();
                let _ = hanging.recv();
            });
        });
        beginning.recv().unwrap();
        actix::System::new().block_on(worker.join());
        drop(let_go);
    }
}
