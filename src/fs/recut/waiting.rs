//! The files that have patched ranges.

use std::collections::BTreeMap;

use crate::sync::{Arc, Mutex};

use super::super::inode::Inode;

/// Each of them once; what is in it stays in memory.
#[derive(Debug, Default)]
pub struct Recuts {
    waiting: Mutex<BTreeMap<u64, Arc<Inode>>>,
}

impl Recuts {
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// Notes that the inode has patched ranges.
    pub fn push(&self, inode: &Arc<Inode>) {
        self.waiting.lock().entry(inode.ino).or_insert_with(|| inode.clone());
    }

    /// Takes all of them.
    pub fn take(&self) -> impl Iterator<Item = Arc<Inode>> + use<> {
        std::mem::take(&mut *self.waiting.lock()).into_values()
    }
}
