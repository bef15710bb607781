//! Directories that protect what is below them: immutable ones, and the groups that only take new snapshots.
//!
//! Keeps true: when chattr(1) has returned, nothing that can be reached through a protected directory changes,
//! whichever name, handle or open file a request uses. The rules:
//! - Below an immutable directory nothing changes.
//! - In an append-only directory no name is removed. The newest directory in it is open; the others are sealed: they
//!   are protected as if they were immutable. Everything below another append-only directory follows the rule of that
//!   one, but immutable directories above it still count.
//! - An inode with several names is protected if one of its names is. Its other names, outside protected directories,
//!   may be added and removed.
//!
//! While no directory is protected, a request costs one load of a counter. Otherwise the parents of an inode are walked
//! up once, and the answer is kept with a *sequence number*. Whatever could change an answer raises that number: a
//! change of the flags of a directory, a directory that moves, and a new directory in an append-only directory. All of
//! them hold the tree lock alone. A caller that holds only an inode's lock compares the number inside that lock, so
//! that it never uses an outdated answer.
//!
//! A mark on each inode would make chattr a walk over the snapshot, which a crash or a full disk could leave half done.
//! Here it changes one row.

pub(super) mod sequence;

use std::collections::HashMap;
use std::ops::Bound;

use crate::error::{Error, Result};
use crate::meta::rows::{APPEND_ONLY, IMMUTABLE, NameHash, PROTECTING, id_key};
use crate::meta::{Memtable, Table};
use crate::sync::{Arc, MutexGuard, Ordering};

use super::inode::{Inode, InodeState};
use super::names::is_root;
use super::rows::Rows;
use super::tree_lock::Tree;
use super::{Fs, posix};

/// No directory is deeper than this; beyond it there is a cycle.
const MAX_DEPTH: usize = 1 << 16;

impl Fs {
    /// Counts the protected directories of the store.
    pub(super) fn load_protected_dirs(&self) -> Result<()> {
        let mut count = 0;
        self.layers().scan(Table::Protected, Bound::Unbounded, Bound::Unbounded, |_, _| {
            count += 1;
            Ok(true)
        })?;
        self.protected_dirs.directories.store(count, Ordering::SeqCst);
        Ok(())
    }

    /// Refuses with EPERM if an inode is protected, and otherwise locks it; with `quiescent`, waits for its flush.
    pub(super) fn lock_unprotected<'a>(
        &self,
        inode: &'a Inode,
        quiescent: bool,
    ) -> Result<MutexGuard<'a, InodeState>> {
        loop {
            let sequence = self.refuse_change(inode)?;
            let state = if quiescent { inode.lock_quiescent() } else { inode.lock() };
            if self.is_current(sequence) {
                return Ok(state);
            }
        }
    }

    /// Refuses with EPERM if an inode is protected. The answer is valid for the returned sequence number, which has to
    /// be compared again once the inode is locked.
    pub(super) fn refuse_change(&self, inode: &Inode) -> Result<u64> {
        let sequence = self.protected_dirs.sequence();
        if self.is_protected(inode)? { posix(libc::EPERM) } else { Ok(sequence) }
    }

    /// Is this still the current sequence number?
    pub(super) fn is_current(&self, sequence: u64) -> bool {
        self.protected_dirs.sequence() == sequence
    }

    /// Refuses with EPERM if one of these directories is protected. The answer stays valid while `tree` is held.
    pub(super) fn refuse_protected(&self, _tree: &Tree<'_>, directories: &[u64]) -> Result<()> {
        for &directory in directories {
            self.refuse_dropped(directory)?;
        }
        if self.protected_dirs.is_idle() {
            return Ok(());
        }
        for &directory in directories {
            if self.is_protected(&*self.inode(directory)?)? {
                return posix(libc::EPERM);
            }
        }
        Ok(())
    }

    /// Does a directory at or above an inode protect it? Takes locks of inodes, one at a time.
    pub(super) fn is_protected(&self, inode: &Inode) -> Result<bool> {
        if self.protected_dirs.is_idle() {
            return Ok(false);
        }
        let sequence = self.protected_dirs.sequence();
        let (is_dir, parents) = {
            let state = inode.lock();
            if state.protected.0 == sequence {
                return Ok(state.protected.1);
            }
            (state.row.is_dir(), self.parents(inode.ino, &state)?)
        };
        let protected = match parents {
            _ if is_dir => self.is_below_protected(inode.ino)?,
            Some(parents) => {
                let mut protected = false;
                for parent in parents {
                    protected = protected || self.is_protected(&*self.inode(parent)?)?;
                }
                protected
            }
            // It may be anywhere.
            None => true,
        };
        // If the sequence number was raised meanwhile, this answer is not valid.
        inode.lock().protected = (sequence, protected);
        Ok(protected)
    }

    /// Walks up from a directory, itself included.
    fn is_below_protected(&self, directory: u64) -> Result<bool> {
        let (mut at, mut has_rule) = (directory, false);
        let (mut flags, mut parent) = self.flags_and_parent(at)?;
        for _ in 0..MAX_DEPTH {
            if self.root_of(at).is_some_and(|root| root != at) {
                // Inside a subvolume its root alone protects.
                at = self.root_of(at).unwrap_or(super::ROOT_INO);
                (flags, parent) = self.flags_and_parent(at)?;
                continue;
            }
            if flags & IMMUTABLE != 0 {
                return Ok(true);
            }
            if is_root(at) {
                return Ok(false);
            }
            has_rule |= flags & APPEND_ONLY != 0;
            let above = self.flags_and_parent(parent)?;
            if !has_rule && above.0 & APPEND_ONLY != 0 {
                if self.newest_in(parent)? != Some(at) {
                    return Ok(true);
                }
                has_rule = true;
            }
            at = parent;
            (flags, parent) = above;
        }
        Err(Error::damaged(format!("directory {directory} is in a circle of directories")))
    }

    fn flags_and_parent(&self, directory: u64) -> Result<(u32, u64)> {
        let inode = self.inode(directory)?;
        let state = inode.lock();
        // A directory that was removed while it is open has no parent.
        let parent = if state.row.nlink == 0 { super::ROOT_INO } else { state.row.parent };
        Ok((state.row.flags, parent))
    }

    /// The newest directory in `group`: inode numbers rise and are never reused.
    fn newest_in(&self, group: u64) -> Result<Option<u64>> {
        let sequence = self.protected_dirs.sequence();
        let known = self.protected_dirs.newest.lock();
        if known.0 == sequence
            && let Some(newest) = known.1.get(&group)
        {
            return Ok(Some(*newest));
        }
        drop(known);
        let mut newest = None;
        Rows::at(&self.layers()).entries(group, NameHash::FIRST, |_, _, row| {
            if row.kind == libc::S_IFDIR {
                newest = newest.max(Some(row.ino));
            }
            Ok(true)
        })?;
        let mut known = self.protected_dirs.newest.lock();
        if known.0 != sequence {
            *known = (sequence, HashMap::new());
        }
        known.1.extend(newest.map(|newest| (group, newest)));
        Ok(newest)
    }

    /// An entry was put into a locked directory; with `tree` held alone if it is a directory and this one append-only.
    pub(super) fn directory_came(&self, tree: &Tree<'_>, dir: &InodeState, is_dir: bool) {
        if is_dir && dir.row.flags & APPEND_ONLY != 0 {
            debug_assert!(tree.is_alone());
            self.protected_dirs.advance();
        }
    }

    /// A directory was moved, with `tree` held alone.
    pub(super) fn directory_moved(&self, tree: &Tree<'_>) {
        debug_assert!(tree.is_alone());
        if !self.protected_dirs.is_idle() {
            self.protected_dirs.advance();
        }
    }

    /// The flags of a locked directory are about to become `flags`, with the tree lock held alone.
    pub(super) fn note_flags(&self, rows: &Memtable, ino: u64, state: &InodeState, flags: u32) {
        let (before, after) = (state.row.flags & PROTECTING, flags & PROTECTING);
        // A removed directory gets no row, which would stay after the inode is gone.
        let is_inside = self.root_of(ino).is_some_and(|root| root != ino);
        if before == after || !state.row.is_dir() || state.row.nlink == 0 || is_inside {
            return;
        }
        match (before, after) {
            (0, _) => {
                rows.put(Table::Protected, &id_key(ino), &[]);
                self.protected_dirs.directories.fetch_add(1, Ordering::SeqCst);
            }
            (_, 0) => {
                rows.delete(Table::Protected, &id_key(ino));
                self.protected_dirs.directories.fetch_sub(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }

    /// Flags were changed, with `tree` held alone.
    pub(super) fn flags_changed(&self, tree: &Tree<'_>) {
        debug_assert!(tree.is_alone());
        self.protected_dirs.advance();
    }

    /// The inodes below `directory` that the kernel remembers; in doubt, all that it remembers. The kernel may hold
    /// written bytes of them that have not arrived here.
    pub fn remembered_below(&self, directory: u64) -> Result<Vec<u64>> {
        let mut below: HashMap<u64, bool> = HashMap::from([(directory, true)]);
        let mut found = Vec::new();
        for ino in self.inodes.remembered() {
            let Some(inode) = self.existing(ino)? else { continue };
            let parents = {
                let state = inode.lock();
                if !state.row.is_file() {
                    continue;
                }
                self.parents(ino, &state)?
            };
            let mut is_below = parents.is_none();
            for parent in parents.into_iter().flatten() {
                is_below = is_below || self.is_under(parent, &mut below)?;
            }
            if is_below {
                found.push(ino);
            }
        }
        Ok(found)
    }

    /// Is `at` one of the directories known to be below, or is one of its ancestors?
    fn is_under(&self, at: u64, below: &mut HashMap<u64, bool>) -> Result<bool> {
        let (mut at, mut way) = (at, Vec::new());
        let answer = loop {
            if let Some(known) = below.get(&at) {
                break *known;
            }
            way.push(at);
            if is_root(at) || way.len() > MAX_DEPTH {
                break false;
            }
            at = self.flags_and_parent(at)?.1;
        };
        below.extend(way.into_iter().map(|directory| (directory, answer)));
        Ok(answer)
    }

    fn existing(&self, ino: u64) -> Result<Option<Arc<Inode>>> {
        match self.inode(ino) {
            Err(Error::Posix(libc::ENOENT)) => Ok(None),
            other => other.map(Some),
        }
    }

    /// True if a new directory in `directory` would seal another one: `directory` is append-only.
    pub fn seals(&self, directory: u64) -> bool {
        !self.protected_dirs.is_idle()
            && self.inode(directory).is_ok_and(|inode| inode.lock().row.flags & APPEND_ONLY != 0)
    }
}
