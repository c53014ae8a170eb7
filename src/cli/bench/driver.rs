//! A driver: one thread that works many links, without a task or a timer per message.
//!
//! It is the executor of its stations' futures. A station is turned when one of its messages is due or one of
//! its futures woke it; between turns the thread is parked until the next due time, which the system keeps
//! to some 50 µs, where a runtime's timer wheel is a millisecond coarse.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::schedule::Schedule;
use super::tally::{Live, Reading, Tally};

/// The longest a driver sleeps, so that deadlines of stations are looked at.
const NAP_MAX: Duration = Duration::from_millis(500);

/// What works one link.
pub(super) trait Station: Send {
    /// Does all that can be done now without waiting; futures that are not ready wake it by `context`.
    fn turn(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>) -> Progress;

    /// Adds what is only known at the end.
    fn finish(&mut self, _tally: &mut Tally) {}
}

/// What a station needs to know in its turn, and where it counts.
pub(super) struct Turn<'a> {
    pub(super) now: Instant,
    /// Nothing new is to be sent.
    pub(super) is_closing: bool,
    pub(super) tally: &'a mut Tally,
    pub(super) live: &'a mut Reading,
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is more to send.
    Sending,
    /// Everything is sent, and something is still to come back.
    Waiting,
    /// Nothing is left to do: no more turns.
    Done,
}

/// Orders; each includes those before it. 0 is none.
const CLOSE: u8 = 1;
const LEAVE: u8 = 2;

/// Tells a group of drivers what to do, and what they are at.
#[derive(Debug, Default)]
pub(super) struct Control {
    order: AtomicU8,
    drivers: Mutex<Vec<(Thread, Arc<Live>)>>,
}

impl Control {
    /// Nothing new is sent from now on; drivers end when all is answered.
    pub(super) fn close(&self) {
        self.order.fetch_max(CLOSE, Ordering::Release);
        self.wake();
    }

    /// Drivers end now.
    pub(super) fn leave(&self) {
        self.order.fetch_max(LEAVE, Ordering::Release);
        self.wake();
    }

    /// The sums over the drivers.
    pub(super) fn reading(&self) -> Reading {
        let drivers = self.drivers();
        let readings = drivers.iter().map(|(_, live)| live.read());
        readings.fold(Reading::default(), |sum, next| sum + next)
    }

    fn wake(&self) {
        for (thread, _) in self.drivers().iter() {
            thread.unpark();
        }
    }

    fn drivers(&self) -> MutexGuard<'_, Vec<(Thread, Arc<Live>)>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stations with the numbers of their links.
pub(super) type Stations<S> = Vec<(u32, S)>;

/// Starts a driver; its result comes when all its stations are done or [`Control::leave`] is called.
pub(super) fn start<S: Station + 'static>(
    name: &str,
    stations: Stations<S>,
    schedule: Schedule,
    tally: Tally,
    control: &Arc<Control>,
) -> std::io::Result<JoinHandle<Tally>> {
    let live = Arc::new(Live::default());
    live.store(Reading {
        sending: stations.len() as u64,
        ..Reading::default()
    });
    let driver_control = Arc::clone(control);
    let driver_live = Arc::clone(&live);
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || Driver::new(stations, schedule, tally, driver_control, driver_live).run())?;
    control.drivers().push((thread.thread().clone(), live));
    Ok(thread)
}

struct Driver<S> {
    slots: Vec<Slot<S>>,
    schedule: Schedule,
    /// The next message that is due: its slot, and its number among that link's messages.
    next_slot: usize,
    next_number: u64,
    woken: Arc<Woken>,
    taken: Vec<u32>,
    open: usize,
    is_closing: bool,
    tally: Tally,
    reading: Reading,
    control: Arc<Control>,
    live: Arc<Live>,
}

struct Slot<S> {
    /// The number of the link in the run.
    index: u32,
    station: S,
    progress: Progress,
    call: Arc<Call>,
    waker: Waker,
}

impl<S: Station> Driver<S> {
    fn new(
        stations: Stations<S>,
        schedule: Schedule,
        tally: Tally,
        control: Arc<Control>,
        live: Arc<Live>,
    ) -> Self {
        let woken = Arc::new(Woken {
            slots: Mutex::default(),
            driver: std::thread::current(),
        });
        let slots: Vec<_> = (0..)
            .zip(stations)
            .map(|(slot, (index, station))| {
                let call = Arc::new(Call {
                    slot,
                    is_waiting: AtomicBool::new(false),
                    woken: Arc::clone(&woken),
                });
                Slot {
                    index,
                    station,
                    progress: Progress::Sending,
                    waker: Waker::from(Arc::clone(&call)),
                    call,
                }
            })
            .collect();
        Self {
            open: slots.len(),
            reading: Reading {
                sending: slots.len() as u64,
                ..Reading::default()
            },
            slots,
            schedule,
            next_slot: 0,
            next_number: 0,
            woken,
            taken: Vec::new(),
            is_closing: false,
            tally,
            control,
            live,
        }
    }

    fn run(mut self) -> Tally {
        std::thread::sleep(
            self.schedule
                .start
                .saturating_duration_since(Instant::now()),
        );
        self.turn_all();
        let mut all_turned_at = Instant::now();
        let mut end_seen = false;
        while self.open > 0 {
            let order = self.control.order.load(Ordering::Acquire);
            if order == LEAVE {
                break;
            }
            let now = Instant::now();
            let closes = order == CLOSE && !self.is_closing;
            let ends = self.schedule.is_over(now) && !end_seen;
            if closes || ends || now >= all_turned_at + NAP_MAX {
                self.is_closing |= closes;
                end_seen |= ends;
                all_turned_at = now;
                self.turn_all();
            }
            let is_over = end_seen || self.is_closing || self.reading.sending == 0;
            let was_due = !is_over && self.turn_due(now);
            let was_woken = self.turn_woken();
            self.live.store(self.reading);
            if !was_due && !was_woken {
                let nap_ends = all_turned_at + NAP_MAX;
                self.sleep(if is_over {
                    nap_ends
                } else {
                    self.next_time(nap_ends)
                });
            }
        }
        for slot in &mut self.slots {
            slot.station.finish(&mut self.tally);
        }
        self.live.store(self.reading);
        self.tally
    }

    fn turn_all(&mut self) {
        for slot in 0..self.slots.len() {
            self.turn(slot);
        }
    }

    /// Turns the stations whose messages have become due.
    fn turn_due(&mut self, now: Instant) -> bool {
        let mut turned = 0;
        // A station in arrears sends all that is due in one turn, so each is turned once.
        while turned < self.slots.len() && self.next_due().is_some_and(|due| due <= now) {
            self.turn(self.next_slot);
            turned += 1;
            self.next_slot += 1;
            if self.next_slot == self.slots.len() {
                self.next_slot = 0;
                self.next_number += 1;
            }
        }
        if turned == self.slots.len() {
            self.skip_arrears(now);
        }
        turned > 0
    }

    /// Goes to the first message that is due later than `now`: those before it were sent just now.
    fn skip_arrears(&mut self, now: Instant) {
        let Some(rate) = self.schedule.rate else {
            return;
        };
        let passed = now.saturating_duration_since(self.schedule.start);
        let rounds = passed.as_secs_f64() * rate / f64::from(self.schedule.links);
        // One round before, since the stations of this round may not all be due yet.
        self.next_number = self.next_number.max((rounds as u64).saturating_sub(1));
    }

    fn next_due(&self) -> Option<Instant> {
        let slot = self.slots.get(self.next_slot)?;
        self.schedule.due(slot.index, self.next_number)
    }

    fn turn_woken(&mut self) -> bool {
        let mut taken = std::mem::take(&mut self.taken);
        std::mem::swap(&mut taken, &mut self.woken.slots());
        let was_woken = !taken.is_empty();
        for slot in taken.drain(..) {
            let slot = slot as usize;
            self.slots[slot]
                .call
                .is_waiting
                .store(false, Ordering::Release);
            self.turn(slot);
        }
        self.taken = taken;
        was_woken
    }

    fn turn(&mut self, slot: usize) {
        let slot = &mut self.slots[slot];
        if slot.progress == Progress::Done {
            return;
        }
        let mut turn = Turn {
            now: Instant::now(),
            is_closing: self.is_closing,
            tally: &mut self.tally,
            live: &mut self.reading,
        };
        let mut context = Context::from_waker(&slot.waker);
        let progress = slot.station.turn(&mut turn, &mut context);
        if slot.progress == Progress::Sending && progress != Progress::Sending {
            self.reading.sending -= 1;
        }
        if progress == Progress::Done {
            self.open -= 1;
        }
        slot.progress = progress;
    }

    /// When something is to be done at the latest.
    fn next_time(&self, latest: Instant) -> Instant {
        let end = self.schedule.end.unwrap_or(latest);
        let due = self.next_due().unwrap_or(latest);
        latest.min(end).min(due)
    }

    fn sleep(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::park_timeout(left);
        }
    }
}

/// The slots that were woken since the driver last looked.
struct Woken {
    slots: Mutex<Vec<u32>>,
    driver: Thread,
}

impl Woken {
    fn slots(&self) -> MutexGuard<'_, Vec<u32>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes one slot.
struct Call {
    slot: u32,
    is_waiting: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_waiting.swap(true, Ordering::AcqRel) {
            self.woken.slots().push(self.slot);
            self.woken.driver.unpark();
        }
    }
}
