//! Locks, atomics, threads and channels for the code whose schedules matter: the barrier, the batches, the commit, and
//! what lies right above and below them.
//!
//! Everything in `store/`, `gc/`, `fs/`, `pack/` and `meta/` takes its primitives from here and from nowhere else, so
//! that a schedule explorer can stand in for all of them at once (`tests/schedules`). The exceptions are what must be
//! one step for it: `meta/kv` and `meta/pages.rs` around the database, and the simulated disk.

pub use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
pub use std::sync::{Arc, OnceLock};

pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Threads.
pub mod thread {
    pub use std::thread::{Builder, JoinHandle, panicking};

    /// Does `work`; `None` if it panicked, which the panic has told. For work that others wait for: they are told that it
    /// failed then, and the thread goes on. Whatever it left half done has to be seen to.
    pub fn caught<R>(work: impl FnOnce() -> R) -> Option<R> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
    }
}

/// Channels.
pub mod channel {
    pub use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
}
