//! When a cycle starts by itself.
//!
//! Safety does not depend on anything here (I10): a cycle may start at any moment, or never. The clock is the monotonic
//! one, so setting the system time has no effect.

use std::time::{Duration, Instant};

/// If this many bytes were deleted, or if the disk is nearly full, a cycle starts at once. If fewer were deleted, it
/// starts when two looks in a row find the same number.
const DELETED_LIMIT: u64 = 4 << 30;

/// What a look at the store found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    /// Bytes that files stopped referring to since the last whole cycle began.
    pub deleted: u64,
    /// The host's disk is nearly full.
    pub short: bool,
}

/// The last cycle that was tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    /// When it ended; at first, when the store was opened.
    pub at: Instant,
    /// It came to its end, so all present garbage was deleted since. False at first: a crash may have left bytes that
    /// nothing counts.
    pub whole: bool,
}

/// Decides when a cycle is due.
#[derive(Debug)]
pub(super) struct Starter {
    /// Soon after deletes.
    auto: bool,
    /// This long after the last cycle, if there may be garbage.
    interval: Option<Duration>,
    /// What the look before this one found.
    deleted_before: u64,
}

impl Starter {
    pub fn new(auto: bool, interval: Option<Duration>) -> Self {
        Self { auto, interval, deleted_before: 0 }
    }

    /// Looks at the store at `now`.
    pub fn is_due(&mut self, now: Instant, last: Last, look: Look) -> bool {
        let some = look.deleted > 0;
        let settled = some && look.deleted == self.deleted_before;
        self.deleted_before = look.deleted;
        let soon = settled || (some && look.short) || look.deleted >= DELETED_LIMIT;
        let waited = self.interval.is_some_and(|interval| now.duration_since(last.at) >= interval);
        (self.auto && soon) || (waited && (some || !last.whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn deleted(bytes: u64) -> Look {
        Look { deleted: bytes, short: false }
    }

    #[test]
    fn a_cycle_starts_when_deletes_have_settled_or_are_many() {
        let now = Instant::now();
        let last = Last { at: now, whole: true };
        let mut starter = Starter::new(true, None);
        let mut looks = |look| starter.is_due(now, last, look);
        assert!(!looks(deleted(0)));
        assert!(!looks(deleted(5)), "it may go on");
        assert!(!looks(deleted(6)), "it goes on");
        assert!(looks(deleted(6)), "it has settled");
        assert!(!looks(deleted(0)), "a cycle has run");
        assert!(looks(deleted(DELETED_LIMIT)), "enough at once");
        assert!(looks(Look { deleted: 7, short: true }), "the disk is nearly full");
        assert!(!looks(Look { deleted: 0, short: true }), "nothing to gain");
    }

    #[test]
    fn what_was_deleted_before_the_store_was_opened_counts() {
        let now = Instant::now();
        let mut starter = Starter::new(true, None);
        let last = Last { at: now, whole: false };
        assert!(!starter.is_due(now, last, deleted(5)));
        assert!(starter.is_due(now, last, deleted(5)));
    }

    #[test]
    fn an_interval_starts_a_cycle_if_there_may_be_garbage() {
        let begin = Instant::now();
        let mut starter = Starter::new(false, Some(HOUR));
        let opened = Last { at: begin, whole: false };
        assert!(!starter.is_due(begin, opened, deleted(5)), "not yet");
        assert!(!starter.is_due(begin, opened, deleted(5)), "and not because it has settled");
        assert!(starter.is_due(begin + HOUR, opened, deleted(0)), "nobody knows what a crash left");
        let whole = Last { at: begin + HOUR, whole: true };
        assert!(!starter.is_due(begin + 3 * HOUR, whole, deleted(0)), "nothing can have become garbage");
        assert!(!starter.is_due(begin + HOUR, whole, deleted(5)), "too soon");
        assert!(starter.is_due(begin + 2 * HOUR, whole, deleted(5)));
        let failed = Last { at: begin + 2 * HOUR, whole: false };
        assert!(!starter.is_due(begin + 2 * HOUR, failed, deleted(5)), "not at once again");
        assert!(starter.is_due(begin + 3 * HOUR, failed, deleted(0)));
    }

    #[test]
    fn without_either_no_cycle_starts_by_itself() {
        let begin = Instant::now();
        let mut starter = Starter::new(false, None);
        let last = Last { at: begin, whole: false };
        for look in [deleted(5), deleted(5), deleted(DELETED_LIMIT), Look { deleted: 5, short: true }] {
            assert!(!starter.is_due(begin + 1000 * HOUR, last, look));
        }
    }
}
