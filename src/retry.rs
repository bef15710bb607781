//! Background work that fails: it is retried and logged ever more rarely.
//!
//! Keeps true: work that keeps failing for the same reason costs ever fewer retries and lines in the log, so that the
//! first error is still in the log when somebody looks. While it fails, `cairnfs status` shows it. There is no clock
//! here; the caller passes the time.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Something that fails again and again, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecurringFailure {
    /// What it is that fails: `cycle`, `metadata backup`, `scrub`, `commit` or `deletion queue`.
    pub what: String,
    /// Why it failed the last time.
    pub error: String,
    /// How often it has failed since it last succeeded.
    pub failures: u64,
    /// When it failed for the first time, in seconds since 1970. For display only.
    pub since: i64,
    /// Seconds until the next automatic retry.
    pub retry_in: u64,
}

/// Decides how soon something is retried.
#[derive(Debug, Clone)]
pub struct Retry {
    what: &'static str,
    /// The wait after the first failure; it doubles with each.
    first: Duration,
    /// The longest wait.
    most: Duration,
    failing: Option<Failing>,
}

#[derive(Debug, Clone)]
struct Failing {
    error: String,
    failures: u64,
    since: i64,
    at: Instant,
}

impl Retry {
    /// Nothing has failed yet.
    pub const fn new(what: &'static str, first: Duration, most: Duration) -> Self {
        Self { what, first, most, failing: None }
    }

    /// True unless it is too soon after a failure, at `now`.
    pub fn may_try(&self, now: Instant) -> bool {
        self.wait(now).is_zero()
    }

    /// True if it failed the last time.
    pub fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Notes a failure; `wall` is for display. True if it is worth a line in the log: the first time, if the reason is
    /// a new one, and then each time that the number of failures has doubled.
    pub fn failed(&mut self, now: Instant, wall: i64, error: &str) -> bool {
        let before = self.failing.take();
        let (failures, since) = before.as_ref().map_or((1, wall), |last| (last.failures + 1, last.since));
        let says_other = before.is_none_or(|last| last.error != error);
        self.failing = Some(Failing { error: error.to_owned(), failures, since, at: now });
        says_other || failures.is_power_of_two()
    }

    /// Notes a success.
    pub fn succeeded(&mut self) {
        self.failing = None;
    }

    /// What to show while it fails.
    pub fn recurring_failure(&self, now: Instant) -> Option<RecurringFailure> {
        self.failing.as_ref().map(|last| RecurringFailure {
            what: self.what.to_owned(),
            error: last.error.clone(),
            failures: last.failures,
            since: last.since,
            retry_in: self.wait(now).as_secs(),
        })
    }

    /// How long it has to wait.
    fn wait(&self, now: Instant) -> Duration {
        let Some(last) = &self.failing else { return Duration::ZERO };
        let doublings = u32::try_from(last.failures - 1).unwrap_or(u32::MAX);
        let factor = 1u32.checked_shl(doublings).filter(|factor| *factor > 0).unwrap_or(u32::MAX);
        let wait = self.first.saturating_mul(factor).min(self.most);
        wait.saturating_sub(now.saturating_duration_since(last.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);

    /// Looks every five seconds for `time`, and fails whenever it may try. Tries, lines in the log.
    fn fails_for(time: Duration, error: impl Fn(u64) -> String) -> (u64, u64) {
        let (mut retry, mut now) = (Retry::new("cycle", MINUTE, DAY), Instant::now());
        let (end, mut tries, mut lines) = (now + time, 0, 0);
        while now < end {
            if retry.may_try(now) {
                tries += 1;
                lines += u64::from(retry.failed(now, 7, &error(tries)));
            }
            now += Duration::from_secs(5);
        }
        assert_eq!(retry.recurring_failure(now).map(|it| (it.failures, it.since)), Some((tries, 7)));
        (tries, lines)
    }

    #[test]
    fn what_fails_for_ever_is_tried_and_said_ever_more_rarely() {
        let same = |_| "no".to_owned();
        assert_eq!(fails_for(MINUTE, same), (1, 1));
        assert_eq!(fails_for(60 * MINUTE, same), (6, 3), "at 0, 1, 3, 7, 15 and 31 minutes");
        assert_eq!(fails_for(DAY, same), (11, 4));
        assert_eq!(fails_for(DAY * 30, same), (40, 6));
        assert_eq!(fails_for(DAY, |n| format!("{n}")), (11, 11), "another reason is said");
    }

    #[test]
    fn what_goes_well_again_begins_anew() {
        let (mut retry, begin) = (Retry::new("scrub", MINUTE, DAY), Instant::now());
        assert!(retry.may_try(begin) && retry.recurring_failure(begin).is_none());
        for _ in 0..100 {
            retry.failed(begin, 0, "no");
        }
        assert_eq!(retry.recurring_failure(begin).map(|it| it.retry_in), Some(86_400), "and no overflow");
        assert!(!retry.may_try(begin + DAY - MINUTE) && retry.may_try(begin + DAY));
        retry.succeeded();
        assert!(retry.may_try(begin) && !retry.is_failing());
        assert!(retry.failed(begin, 0, "no"));
        assert!(retry.may_try(begin + MINUTE));
    }
}
