//! How fast data is read if a rate or a period is set. Pure functions, without a clock.

use std::time::Duration;

/// How often the maintenance thread looks for work.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// The lowest rate of a scrub, in bytes a second: a small store is read within minutes, and then not until the next
/// pass is due.
const MIN_RATE: u64 = 1 << 20;
/// The highest rate, however short the period of a pass is.
const MAX_RATE: u64 = 64 << 20;

/// True if more was read than a limit of bytes a second allows.
pub(super) fn is_ahead(bytes: u64, limit: u64, elapsed: Duration) -> bool {
    u128::from(bytes) * 1_000_000 > u128::from(limit.max(1)) * elapsed.as_micros()
}

/// True if a pass is due: there is one in each `period`, and the last one began at `began`.
pub(super) fn pass_is_due(now: i64, began: i64, period: Duration) -> bool {
    let since = now.saturating_sub(began);
    // A clock that went back makes a pass come early, not late.
    since < 0 || since as u64 >= period.as_secs()
}

/// How much a pass over `bytes` reads at a time, so that it is finished after `period`.
pub(super) fn budget(bytes: u64, period: Duration) -> u64 {
    let rate = bytes.div_ceil(period.as_secs().max(1));
    rate.clamp(MIN_RATE, MAX_RATE) * POLL_INTERVAL.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOT: u64 = 16 << 20;
    const POLL: Duration = Duration::from_millis(50);
    const DAY: Duration = Duration::from_secs(86_400);

    /// Reads `total` bytes on a disk of 500 MB a second, waiting whenever `ahead` says so, as a check does. An error if
    /// at any moment there was more read than the limit and one lot; else how long it took.
    fn read(total: u64, limit: u64, ahead: fn(u64, u64, Duration) -> bool) -> Result<Duration, String> {
        let (mut clock, mut bytes) = (Duration::ZERO, 0);
        while bytes < total {
            clock += Duration::from_micros(LOT / 500);
            bytes += LOT;
            let allowed = limit as f64 * clock.as_secs_f64();
            if bytes as f64 > allowed + LOT as f64 {
                return Err(format!("{bytes} bytes after {clock:?}"));
            }
            while ahead(bytes, limit, clock) {
                clock += POLL;
            }
        }
        Ok(clock)
    }

    #[test]
    fn a_limit_is_kept_and_used() {
        for limit in [1 << 20, 50_000_000, 333 << 20] {
            let took = read(10 << 30, limit, is_ahead).unwrap().as_secs_f64();
            let least = (10u64 << 30) as f64 / limit as f64;
            assert!((least..least * 1.01 + 0.1).contains(&took), "{limit}: {took} s, at least {least} s");
        }
        assert_eq!(read(10 << 30, 10 << 30, is_ahead).unwrap(), Duration::from_micros(640 * (LOT / 500)));
        assert!(is_ahead(1, 0, Duration::from_micros(999_999)), "a limit of nothing counts as one byte");
        assert!(!is_ahead(u64::MAX, u64::MAX, Duration::from_secs(1)));
    }

    /// The simulated reader notices paces that are wrong.
    #[test]
    fn a_pace_that_is_wrong_is_noticed() {
        assert!(read(10 << 30, 1 << 20, |_, _, _| false).is_err(), "nobody waits");
        assert!(read(10 << 30, 1 << 20, |bytes, limit, at| is_ahead(bytes, 2 * limit, at)).is_err());
        let slow = read(1 << 30, 1 << 20, |bytes, limit, at| is_ahead(bytes, limit / 2, at)).unwrap();
        assert!(slow.as_secs() > 2000, "a reader that waits too long is seen by the time it takes");
    }

    /// Seconds that a whole pass takes, with one look every ten of them.
    fn pass(bytes: u64, period: Duration) -> u64 {
        bytes.div_ceil(budget(bytes, period)) * POLL_INTERVAL.as_secs()
    }

    #[test]
    fn a_pass_is_through_in_its_time_and_no_sooner_than_it_must() {
        for period in [DAY / 2, DAY, DAY * 30] {
            for bytes in [5 << 40, (20 << 40) + 1, 50_000_000_000_000] {
                let (took, most) = (pass(bytes, period), bytes / MAX_RATE);
                let due = period.as_secs().max(most);
                assert!(took <= due + POLL_INTERVAL.as_secs(), "{bytes} in {period:?} took {took} s");
                // Only the least rate makes it faster.
                let slowest = bytes / MIN_RATE;
                assert!(took * 100 >= due.min(slowest) * 99, "{bytes} in {period:?} took {took} s");
            }
        }
        assert_eq!(pass(100 << 20, DAY * 30), 100, "a small store is read in seconds");
        assert_eq!(budget(u64::MAX, Duration::ZERO), MAX_RATE * 10);
        assert_eq!(budget(0, DAY), MIN_RATE * 10);
    }

    #[test]
    fn a_pass_is_due_after_its_time_or_when_the_clock_went_back() {
        assert!(!pass_is_due(86_399, 0, DAY) && pass_is_due(86_400, 0, DAY));
        assert!(pass_is_due(5, 6, DAY));
        assert!(pass_is_due(i64::MAX, i64::MIN, DAY));
    }
}
