//! What is known of protected directories, and the turns for which that holds.

use std::collections::HashMap;

use crate::sabotage::{Protection, out};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// What is known of protected directories.
#[derive(Debug)]
pub struct ProtectedDirs {
    /// How many directories are immutable or append-only.
    pub directories: AtomicU64,
    /// Raised whenever an answer may have changed; begins at 1.
    sequence: AtomicU64,
    /// The newest directory of each append-only directory, valid for this sequence number.
    pub newest: Mutex<(u64, HashMap<u64, u64>)>,
}

impl Default for ProtectedDirs {
    fn default() -> Self {
        Self { directories: AtomicU64::new(0), sequence: AtomicU64::new(1), newest: Mutex::default() }
    }
}

impl ProtectedDirs {
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::SeqCst)
    }

    pub fn is_idle(&self) -> bool {
        self.directories.load(Ordering::SeqCst) == 0 || out(Protection::WalkUp)
    }

    pub fn advance(&self) {
        self.sequence.fetch_add(1, Ordering::SeqCst);
    }
}
