//! Several inodes locked at once, and directories together with what their entries stand for.
//!
//! Keeps true: inodes are locked by rising number, and an entry is what it was found to be for as long as its directory
//! stays locked. Most inodes are younger than the directory that has their name, so they are locked after it and the
//! name is looked up once; for the others all locks are let go, taken in order, and the name is looked up again.

use crate::error::{Error, Result};
use crate::meta::rows::DirentRow;
use crate::sabotage::{Protection, out};
use crate::sync::{Arc, MutexGuard};

use super::Fs;
use super::inode::{Inode, InodeState};

/// A name in a directory, whether there is one or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub parent: u64,
    pub name: &'a [u8],
}

/// Several inodes, locked in the order of their numbers.
pub(super) struct Locked<'a> {
    states: Vec<(u64, MutexGuard<'a, InodeState>)>,
}

/// What places were found to stand for, under locks that were let go since.
struct Found<const N: usize> {
    entries: [Option<DirentRow>; N],
    inodes: Vec<Arc<Inode>>,
}

impl<'a> Locked<'a> {
    /// Locks inodes whose numbers rise, all above those that are locked already.
    fn add(&mut self, inodes: &'a [Arc<Inode>]) {
        self.states.extend(inodes.iter().map(|inode| (inode.ino, inode.lock())));
    }

    fn highest(&self) -> u64 {
        self.states.last().map_or(0, |(ino, _)| *ino)
    }

    fn has(&self, ino: u64) -> bool {
        self.states.iter().any(|(number, _)| *number == ino)
    }

    /// One of them.
    pub fn get(&self, ino: u64) -> Result<&InodeState> {
        let found = self.states.iter().find(|(number, _)| *number == ino);
        found.map(|(_, state)| &**state).ok_or_else(|| Error::damaged(format!("inode {ino} was not locked")))
    }

    /// One of them, to be changed.
    pub fn get_mut(&mut self, ino: u64) -> Result<&mut InodeState> {
        let found = self.states.iter_mut().find(|(number, _)| *number == ino);
        found
            .map(|(_, state)| &mut **state)
            .ok_or_else(|| Error::damaged(format!("inode {ino} was not locked")))
    }
}

fn is_looked_at_again() -> bool {
    !out(Protection::SecondLookAtNames)
}

impl Fs {
    /// Locks the directories of `places` and the inodes that their entries stand for, and calls `act` with what is
    /// locked and the entry at each place.
    pub(super) fn with_entries<const N: usize, R>(
        &self,
        places: [Place<'_>; N],
        act: impl FnOnce(&mut Locked<'_>, [Option<DirentRow>; N]) -> Result<R>,
    ) -> Result<R> {
        let directories = self.inodes_of(places.map(|place| place.parent))?;
        let mut before: Option<Found<N>> = None;
        loop {
            let mut first = directories.clone();
            first.extend(before.iter().flat_map(|found| found.inodes.iter().cloned()));
            first.sort_unstable_by_key(|inode| inode.ino);
            first.dedup_by_key(|inode| inode.ino);
            let mut locked = Locked { states: Vec::with_capacity(2 * N) };
            locked.add(&first);
            let entries = match &before {
                Some(found) if !is_looked_at_again() => found.entries,
                _ => self.entries_at(places)?,
            };
            let numbers = || entries.iter().flatten().map(|entry| entry.ino);
            // Nobody removes what a locked directory names: one that is not there is damage.
            let rest = self.inodes_of(numbers().filter(|ino| !locked.has(*ino)))?;
            if rest.first().is_some_and(|inode| inode.ino < locked.highest()) {
                before = Some(Found { entries, inodes: self.inodes_of(numbers())? });
                continue;
            }
            // From here on the locks go before what they lock.
            let mut locked = locked;
            locked.add(&rest);
            return act(&mut locked, entries);
        }
    }

    fn entries_at<const N: usize>(&self, places: [Place<'_>; N]) -> Result<[Option<DirentRow>; N]> {
        let layers = self.layers();
        let mut entries = [None; N];
        for (entry, place) in entries.iter_mut().zip(places) {
            *entry = self.entry(&layers, place.parent, place.name)?;
        }
        Ok(entries)
    }

    /// Inodes by rising number, each once.
    fn inodes_of(&self, numbers: impl IntoIterator<Item = u64>) -> Result<Vec<Arc<Inode>>> {
        let mut numbers: Vec<u64> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|ino| self.inode(ino)).collect()
    }
}
