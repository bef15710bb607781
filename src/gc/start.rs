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
pub(super) struct Sample {
    /// Bytes that files stopped referring to since the last whole cycle began.
    pub deleted: u64,
    /// The host's disk is nearly full.
    pub short: bool,
}

/// The last cycle that was tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastCycle {
    /// When it ended; at first, when the store was opened.
    pub at: Instant,
    /// It came to its end, so all present garbage was deleted since. False at first: a crash may have left bytes that
    /// nothing counts.
    pub whole: bool,
}

/// Decides when a cycle is due.
#[derive(Debug)]
pub(super) struct StartPolicy {
    /// Soon after deletes.
    auto: bool,
    /// This long after the last cycle, if there may be garbage.
    interval: Option<Duration>,
    /// What the look before this one found.
    deleted_before: u64,
}

impl StartPolicy {
    pub fn new(auto: bool, interval: Option<Duration>) -> Self {
        Self { auto, interval, deleted_before: 0 }
    }

    /// Looks at the store at `now`.
    pub fn is_due(&mut self, now: Instant, last: LastCycle, look: Sample) -> bool {
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

    fn deleted(bytes: u64) -> Sample {
        Sample { deleted: bytes, short: false }
    }

    #[test]
    fn a_cycle_starts_when_deletes_have_settled_or_are_many() {
        let now = Instant::now();
        let last = LastCycle { at: now, whole: true };
        let mut policy = StartPolicy::new(true, None);
        let mut looks = |look| policy.is_due(now, last, look);
        assert!(!looks(deleted(0)));
        assert!(!looks(deleted(5)), "it may go on");
        assert!(!looks(deleted(6)), "it goes on");
        assert!(looks(deleted(6)), "it has settled");
        assert!(!looks(deleted(0)), "a cycle has run");
        assert!(looks(deleted(DELETED_LIMIT)), "enough at once");
        assert!(looks(Sample { deleted: 7, short: true }), "the disk is nearly full");
        assert!(!looks(Sample { deleted: 0, short: true }), "nothing to gain");
    }

    #[test]
    fn what_was_deleted_before_the_store_was_opened_counts() {
        let now = Instant::now();
        let mut policy = StartPolicy::new(true, None);
        let last = LastCycle { at: now, whole: false };
        assert!(!policy.is_due(now, last, deleted(5)));
        assert!(policy.is_due(now, last, deleted(5)));
    }

    #[test]
    fn an_interval_starts_a_cycle_if_there_may_be_garbage() {
        let begin = Instant::now();
        let mut policy = StartPolicy::new(false, Some(HOUR));
        let opened = LastCycle { at: begin, whole: false };
        assert!(!policy.is_due(begin, opened, deleted(5)), "not yet");
        assert!(!policy.is_due(begin, opened, deleted(5)), "and not because it has settled");
        assert!(policy.is_due(begin + HOUR, opened, deleted(0)), "nobody knows what a crash left");
        let whole = LastCycle { at: begin + HOUR, whole: true };
        assert!(!policy.is_due(begin + 3 * HOUR, whole, deleted(0)), "nothing can have become garbage");
        assert!(!policy.is_due(begin + HOUR, whole, deleted(5)), "too soon");
        assert!(policy.is_due(begin + 2 * HOUR, whole, deleted(5)));
        let failed = LastCycle { at: begin + 2 * HOUR, whole: false };
        assert!(!policy.is_due(begin + 2 * HOUR, failed, deleted(5)), "not at once again");
        assert!(policy.is_due(begin + 3 * HOUR, failed, deleted(0)));
    }

    #[test]
    fn without_either_no_cycle_starts_by_itself() {
        let begin = Instant::now();
        let mut policy = StartPolicy::new(false, None);
        let last = LastCycle { at: begin, whole: false };
        for look in [deleted(5), deleted(5), deleted(DELETED_LIMIT), Sample { deleted: 5, short: true }] {
            assert!(!policy.is_due(begin + 1000 * HOUR, last, look));
        }
    }
}
