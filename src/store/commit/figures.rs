//! The log in numbers, for the status: read without waiting for a commit.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::meta::rows::Timestamp;
use crate::sync::{AtomicU64, Ordering};

/// What `cairnfs status` shows about the log of commits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Bytes of the commits in it, which are not in the database.
    pub bytes: u64,
    /// Bytes that it takes on the host.
    pub bytes_on_disk: u64,
    /// Bytes of commits after which it is folded into the database.
    pub bytes_until_fold: u64,
    /// Folds since the store was opened.
    pub folds: u64,
    /// When the last of them ended, in seconds since 1970; 0 if there was none.
    pub last_fold: i64,
    /// How long it took, in microseconds.
    pub last_fold_us: u64,
}

/// Where the queue notes what it does. Nothing is decided by it.
#[derive(Debug, Default)]
pub(super) struct Figures {
    bytes: AtomicU64,
    left: AtomicU64,
    folds: AtomicU64,
    last_fold: AtomicU64,
    last_fold_us: AtomicU64,
}

impl Figures {
    /// Notes how many bytes are in the log, and how many fit.
    pub fn note(&self, (bytes, left): (u64, u64)) {
        // Relaxed: they are for display.
        self.bytes.store(bytes, Ordering::Relaxed);
        self.left.store(left, Ordering::Relaxed);
    }

    /// Does a fold, and notes how long it took.
    pub fn timed<R, E>(&self, fold: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        let began = Instant::now();
        let done = fold()?;
        self.last_fold_us.store(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        self.last_fold.store(Timestamp::now().sec as u64, Ordering::Relaxed);
        self.folds.fetch_add(1, Ordering::Relaxed);
        Ok(done)
    }

    /// The status; `rows_left` are the bytes of rows after which the log is folded, full or not.
    pub fn status(&self, bytes_on_disk: u64, rows_left: u64) -> LogStatus {
        LogStatus {
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_on_disk,
            bytes_until_fold: self.left.load(Ordering::Relaxed).min(rows_left),
            folds: self.folds.load(Ordering::Relaxed),
            last_fold: self.last_fold.load(Ordering::Relaxed) as i64,
            last_fold_us: self.last_fold_us.load(Ordering::Relaxed),
        }
    }
}
