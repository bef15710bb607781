//! Locks and atomics for the code whose schedules matter: the barrier, the batches, the commit.
//!
//! Everything in `store/` and `gc/` takes its primitives from here and from nowhere else, so that a schedule
//! explorer can stand in for all of them at once.

pub use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
pub use std::sync::{Arc, OnceLock};

pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
