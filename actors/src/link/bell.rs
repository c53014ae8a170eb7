//! What wakes a link's task, and for whom.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};

use crate::offline_queue::Intake;

/// Who has something to do. All reasons are in one place that a message touches anyway: a link whose turn comes
/// seldom finds its memory cold, and each place more costs it as much as the work itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rung(u8);

impl Rung {
    /// Something is in the intake.
    pub(crate) const INTAKE: Self = Self(1);
    /// The queue's mailbox, or a future of the queue's.
    pub(crate) const QUEUE: Self = Self(2);
    /// The codec's.
    pub(crate) const CODEC: Self = Self(4);
    /// The connection's, or its stream.
    pub(crate) const CONNECTION: Self = Self(8);
    const ALL: Self = Self(15);

    pub(crate) const fn is_for(self, who: Self) -> bool {
        self.0 & who.0 != 0
    }
}

/// Wakes the task once for all that ring before it looks.
#[derive(Debug)]
pub(crate) struct Bell {
    rung: AtomicU8,
    /// Known from the task's first turn on, which looks after everybody.
    task: OnceLock<Waker>,
}

impl Default for Bell {
    fn default() -> Self {
        Self {
            rung: AtomicU8::new(Rung::ALL.0),
            task: OnceLock::new(),
        }
    }
}

impl Bell {
    pub(crate) fn ring(&self, who: Rung) {
        let before = self.rung.fetch_or(who.0, Ordering::AcqRel);
        // A task that does not know yet of somebody else has been woken for it.
        if before == 0
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }

    /// Whether somebody rang whom the task does not know of yet.
    pub(crate) fn has_rung(&self, who: Rung) -> bool {
        Rung(self.rung.load(Ordering::Acquire)).is_for(who)
    }

    /// Who rang since the task looked last. To be called by the task, first thing in each turn.
    pub(crate) fn answer(&self, task: &Waker) -> Rung {
        self.task.get_or_init(|| task.clone());
        Rung(self.rung.swap(0, Ordering::AcqRel))
    }
}

/// A waker that rings for one.
pub(super) fn ringer(intake: &Arc<Intake>, who: Rung) -> Waker {
    Waker::from(Arc::new(Ringer {
        intake: Arc::clone(intake),
        who,
    }))
}

struct Ringer {
    intake: Arc<Intake>,
    who: Rung,
}

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.intake.bell.ring(self.who);
    }
}
