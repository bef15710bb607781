//! Which subvolumes are protected, by their numbers.

use std::collections::{HashMap, HashSet};

use crate::sabotage::{Protection, out};
use crate::sync::{AtomicBool, Ordering, RwLock};

/// Which subvolumes are protected.
#[derive(Debug, Default)]
pub struct Protected {
    /// False as long as there was none, so that asking costs one load.
    any: AtomicBool,
    sets: RwLock<Sets>,
}

#[derive(Debug, Default)]
struct Sets {
    /// Those whose root is immutable.
    immutable: HashSet<u64>,
    /// Append-only directories with subvolumes, and the newest one in each.
    newest: HashMap<u64, u64>,
    /// Sealed subvolumes, and the directory that each is in.
    sealed: HashMap<u64, u64>,
}

impl Protected {
    /// Is this one?
    pub fn has(&self, number: u64) -> bool {
        number > 0 && self.any.load(Ordering::Acquire) && is_asked() && {
            let sets = self.sets.read();
            sets.immutable.contains(&number) || sets.sealed.contains_key(&number)
        }
    }

    /// The root of a subvolume is immutable, or is so no more.
    pub fn set_immutable(&self, number: u64, is_immutable: bool) {
        let mut sets = self.sets.write();
        if is_immutable {
            sets.immutable.insert(number);
            self.any.store(true, Ordering::Release);
        } else {
            sets.immutable.remove(&number);
        }
    }

    /// A directory has these subvolumes and is append-only.
    pub fn seal(&self, directory: u64, in_it: &[u64]) {
        let Some(newest) = in_it.iter().max() else { return };
        let mut sets = self.sets.write();
        sets.newest.insert(directory, *newest);
        for number in in_it.iter().filter(|number| *number != newest) {
            sets.sealed.insert(*number, directory);
        }
        self.any.store(true, Ordering::Release);
    }

    /// Another subvolume came to an append-only directory.
    pub fn came(&self, directory: u64, number: u64) {
        let mut sets = self.sets.write();
        let newest = sets.newest.get(&directory).copied().unwrap_or(number);
        sets.newest.insert(directory, newest.max(number));
        if newest != number {
            sets.sealed.insert(newest.min(number), directory);
        }
        self.any.store(true, Ordering::Release);
    }

    /// A directory is not append-only.
    pub fn unseal(&self, directory: u64) {
        let mut sets = self.sets.write();
        sets.newest.remove(&directory);
        sets.sealed.retain(|_, sealed_in| *sealed_in != directory);
    }

    /// Those that this directory has sealed.
    pub fn sealed_in(&self, directory: u64) -> HashSet<u64> {
        let sets = self.sets.read();
        sets.sealed
            .iter()
            .filter(|(_, sealed_in)| **sealed_in == directory)
            .map(|(number, _)| *number)
            .collect()
    }

    /// The subvolume that the next one in this directory would seal.
    pub fn open_in(&self, directory: u64) -> Option<u64> {
        if self.any.load(Ordering::Acquire) { self.sets.read().newest.get(&directory).copied() } else { None }
    }
}

fn is_asked() -> bool {
    !out(Protection::ProtectedByNumber)
}
