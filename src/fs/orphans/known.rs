//! What is known of inodes without a name while the store is open.

use std::collections::HashMap;

use crate::sync::Mutex;

/// What is known of inodes that lost their last name since the store was opened.
#[derive(Debug, Default)]
pub struct Orphans {
    /// `None` while the kernel remembers the inode; then the batch that was open when it forgot.
    pub inodes: Mutex<HashMap<u64, Option<u64>>>,
    /// Held while orphans are chosen and removed, so that none is removed, and counted, twice.
    pub reaping: Mutex<()>,
}

impl Orphans {
    /// An inode lost its last name in `batch`; `remembered` says whether the kernel still knows it.
    pub fn unlinked(&self, ino: u64, remembered: bool, batch: u64) {
        self.inodes.lock().insert(ino, (!remembered).then_some(batch));
    }

    pub fn is_orphan(&self, ino: u64) -> bool {
        self.inodes.lock().contains_key(&ino)
    }
}
