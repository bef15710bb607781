//! Locks, atomics, threads and channels for the code whose schedules matter: the barrier, the batches, the commit, and
//! the code next to them.
//!
//! All code in `store/`, `gc/`, `fs/`, `pack/` and `meta/` takes its primitives only from here, so that a schedule
//! explorer can replace all of them at once (`tests/schedules`). The exceptions are parts that must be one step for it:
//! `meta/kv` and `meta/pages.rs` around the database, and the simulated disk.

pub use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
pub use std::sync::{Arc, OnceLock};

pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Threads.
pub mod thread {
    pub use std::thread::{Builder, JoinHandle, panicking};

    /// Runs `work`; `None` if it panicked, which the panic itself has reported. It is for work that others wait for:
    /// the caller can tell them that it failed, and the thread goes on. The caller has to handle what the work left
    /// half done.
    pub fn caught<R>(work: impl FnOnce() -> R) -> Option<R> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
    }
}

/// Channels.
pub mod channel {
    pub use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
}
