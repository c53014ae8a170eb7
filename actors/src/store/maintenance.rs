//! What the store does between commits: gives space back, notices that a disk works again, syncs what is old.

use std::io;

use super::compaction::STEP_BYTES;
use super::log::Log;

/// Whether there is something to do that no commit asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Nothing.
    None,
    /// Something that can wait a moment.
    Soon,
    /// Something that is due.
    Now,
}

impl Log {
    pub(super) fn work(&self) -> Work {
        if self.has_surplus() && !self.is_stuck {
            return Work::Now;
        }
        let is_full = self.shared.index().statistics.is_full;
        let waits = is_full || self.is_stuck || self.has_removals() || self.is_to_shed();
        if waits || !self.unsynced.is_empty() {
            Work::Soon
        } else {
            Work::None
        }
    }

    /// Does what is due after so many bytes of commits: moves about twice as much, so that old segments go as fast as new
    /// ones come. `is_idle` says that no commits have come for a while, `is_time` that what failed may be tried again.
    pub(super) fn maintain(&mut self, bytes: usize, is_idle: bool, is_time: bool) {
        if self.is_stuck && !is_time {
            return;
        }
        let result = self.try_maintain(bytes, is_idle, is_time);
        let was_stuck = std::mem::replace(&mut self.is_stuck, result.is_err());
        if let Err(error) = result
            && !was_stuck
        {
            let directory = self.shared.directory.display();
            tracing::warn!(%directory, %error, "the store cannot tidy up: it keeps trying");
        }
    }

    fn try_maintain(&mut self, bytes: usize, is_idle: bool, is_time: bool) -> io::Result<()> {
        if is_time && self.shared.index().statistics.is_full {
            self.take_reserve();
        }
        if is_time {
            self.record_removals()?;
        }
        let steps = 1 + 2 * bytes / STEP_BYTES;
        for _ in 0..steps {
            if !self.has_surplus() {
                break;
            }
            self.compact()?;
        }
        // A full store waits for no pause: callers who try again and again would keep it full for ever.
        let is_full = self.shared.index().statistics.is_full;
        if (is_idle || is_full) && is_time && self.is_to_shed() {
            self.begin_segment()?;
        }
        if is_idle && is_time {
            self.sync()?;
        }
        Ok(())
    }

    /// The last that is done before the store is closed. What fails stays as it is, and is recovered.
    pub(super) fn finish(&mut self) {
        let result = self.record_removals().and_then(|()| self.sync());
        self.shared.index().statistics.is_failing |= result.is_err();
    }
}
