//! Directories that protect what is below them: immutable ones, and the groups that only take new snapshots.
//!
//! Keeps true: once chattr(1) has answered, nothing that can be reached through a protected directory changes, by
//! whichever name, handle or open file it is asked for. The rules:
//! - Below an immutable directory nothing changes.
//! - In an append-only directory no name goes. The directory in it that was made last is open; the others are sealed:
//!   they are protected as if they were immutable. What is below a further append-only directory follows the rule of
//!   that one, but immutable directories above it count all the same.
//! - An inode with several names is protected if one of its names is. Other names of it, where nothing is protected,
//!   may come and go: they are not what is kept.
//!
//! A request pays one load of a counter while no directory is protected. Otherwise the way up is walked once for each
//! inode and *turn*; whatever could change an answer begins a new turn: the flags of a directory, a directory that
//! moves, one that comes to an append-only directory. All of them hold the tree lock alone. Whoever holds only an
//! inode's lock compares the turn inside it, so that an answer from before does not outlive the change.
//!
//! Marking each inode when the flag is set would make chattr a walk over the snapshot, which a crash or a full disk
//! could leave half done; here it is one row.

pub(super) mod turns;

use std::collections::HashMap;
use std::ops::Bound;

use crate::error::{Error, Result};
use crate::meta::rows::{
    APPEND_ONLY, DirentRow, IMMUTABLE, NameHash, PROTECTING, dirent_end, dirent_start, id_key,
};
use crate::meta::{Memtable, Table};
use crate::sync::{Arc, MutexGuard, Ordering};

use super::inode::{Inode, InodeState};
use super::names::is_root;
use super::tree_lock::Tree;
use super::{Fs, posix};

/// More directories than this are above none; beyond it there is a circle.
const DEEPEST: usize = 1 << 16;

impl Fs {
    /// Counts the protected directories of the store.
    pub(super) fn load_guard(&self) -> Result<()> {
        let mut count = 0;
        self.now().scan(Table::Held, Bound::Unbounded, Bound::Unbounded, |_, _| {
            count += 1;
            Ok(true)
        })?;
        self.guard.directories.store(count, Ordering::SeqCst);
        Ok(())
    }

    /// Refuses with EPERM if something protects an inode, and otherwise locks it; `settled` waits for its flush.
    pub(super) fn lock_free<'a>(
        &self,
        inode: &'a Inode,
        settled: bool,
    ) -> Result<MutexGuard<'a, InodeState>> {
        loop {
            let turn = self.refuse_change(inode)?;
            let state = if settled { inode.lock_settled() } else { inode.lock() };
            if self.is_turn(turn) {
                return Ok(state);
            }
        }
    }

    /// Refuses with EPERM if something protects an inode. The answer holds for the turn that is returned, which has to
    /// be compared once the inode is locked.
    pub(super) fn refuse_change(&self, inode: &Inode) -> Result<u64> {
        let turn = self.guard.turn();
        if self.is_held(inode)? { posix(libc::EPERM) } else { Ok(turn) }
    }

    /// Is it still this turn?
    pub(super) fn is_turn(&self, turn: u64) -> bool {
        self.guard.turn() == turn
    }

    /// Refuses with EPERM if something protects one of these directories. No turn ends while `tree` is held.
    pub(super) fn refuse_held(&self, _tree: &Tree<'_>, directories: &[u64]) -> Result<()> {
        if self.guard.is_idle() {
            return Ok(());
        }
        for &directory in directories {
            if self.is_held(&*self.inode(directory)?)? {
                return posix(libc::EPERM);
            }
        }
        Ok(())
    }

    /// Does a directory at or above an inode protect it? Takes locks of inodes, one at a time.
    pub(super) fn is_held(&self, inode: &Inode) -> Result<bool> {
        if self.guard.is_idle() {
            return Ok(false);
        }
        let turn = self.guard.turn();
        let (is_dir, parents) = {
            let state = inode.lock();
            if state.held.0 == turn {
                return Ok(state.held.1);
            }
            (state.row.is_dir(), self.parents(inode.ino, &state)?)
        };
        let held = match parents {
            _ if is_dir => self.is_below_held(inode.ino)?,
            Some(parents) => {
                let mut held = false;
                for parent in parents {
                    held = held || self.is_held(&*self.inode(parent)?)?;
                }
                held
            }
            // It may be anywhere.
            None => true,
        };
        // With a turn that ended meanwhile, this says nothing.
        inode.lock().held = (turn, held);
        Ok(held)
    }

    /// Walks up from a directory, itself included.
    fn is_below_held(&self, directory: u64) -> Result<bool> {
        let (mut at, mut has_rule) = (directory, false);
        let (mut flags, mut parent) = self.flags_and_parent(at)?;
        for _ in 0..DEEPEST {
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
        // A directory that was removed while somebody has it open is nowhere.
        let parent = if state.row.nlink == 0 { super::ROOT_INO } else { state.row.parent };
        Ok((state.row.flags, parent))
    }

    /// The directory that was made last of those in `group`: numbers rise and are never given twice.
    fn newest_in(&self, group: u64) -> Result<Option<u64>> {
        let turn = self.guard.turn();
        let known = self.guard.newest.lock();
        if known.0 == turn
            && let Some(newest) = known.1.get(&group)
        {
            return Ok(Some(*newest));
        }
        drop(known);
        let mut newest = None;
        let (start, end) = (dirent_start(group, NameHash::FIRST), dirent_end(group));
        self.now().scan(Table::Dirents, Bound::Included(&start), Bound::Excluded(&end), |_, row| {
            let row = DirentRow::decode(row)?;
            if row.kind == libc::S_IFDIR {
                newest = newest.max(Some(row.ino));
            }
            Ok(true)
        })?;
        let mut known = self.guard.newest.lock();
        if known.0 != turn {
            *known = (turn, HashMap::new());
        }
        known.1.extend(newest.map(|newest| (group, newest)));
        Ok(newest)
    }

    /// An entry was put into a locked directory; with `tree` held alone if it is a directory and this one append-only.
    pub(super) fn directory_came(&self, tree: &Tree<'_>, dir: &InodeState, is_dir: bool) {
        if is_dir && dir.row.flags & APPEND_ONLY != 0 {
            debug_assert!(tree.is_alone());
            self.guard.next_turn();
        }
    }

    /// A directory was moved, with `tree` held alone.
    pub(super) fn directory_moved(&self, tree: &Tree<'_>) {
        debug_assert!(tree.is_alone());
        if !self.guard.is_idle() {
            self.guard.next_turn();
        }
    }

    /// The flags of a locked directory are about to become `flags`, with the tree lock held alone.
    pub(super) fn note_flags(&self, rows: &Memtable, ino: u64, state: &InodeState, flags: u32) {
        let (before, after) = (state.row.flags & PROTECTING, flags & PROTECTING);
        // Nothing comes into a directory that was removed, and its row would stay when it is forgotten.
        if before == after || !state.row.is_dir() || state.row.nlink == 0 {
            return;
        }
        match (before, after) {
            (0, _) => {
                rows.put(Table::Held, &id_key(ino), &[]);
                self.guard.directories.fetch_add(1, Ordering::SeqCst);
            }
            (_, 0) => {
                rows.delete(Table::Held, &id_key(ino));
                self.guard.directories.fetch_sub(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }

    /// Flags were changed, with `tree` held alone.
    pub(super) fn flags_changed(&self, tree: &Tree<'_>) {
        debug_assert!(tree.is_alone());
        self.guard.next_turn();
    }

    /// The inodes below `directory`, or all if there is a doubt, that the kernel remembers. It may hold bytes of them
    /// that were written and are not here yet.
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

    /// Is `at` one of the directories known to be below, or does its way up lead to one?
    fn is_under(&self, at: u64, below: &mut HashMap<u64, bool>) -> Result<bool> {
        let (mut at, mut way) = (at, Vec::new());
        let answer = loop {
            if let Some(known) = below.get(&at) {
                break *known;
            }
            way.push(at);
            if is_root(at) || way.len() > DEEPEST {
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

    /// True if an entry that is a directory would seal another one: `directory` is append-only.
    pub fn seals(&self, directory: u64) -> bool {
        !self.guard.is_idle()
            && self.inode(directory).is_ok_and(|inode| inode.lock().row.flags & APPEND_ONLY != 0)
    }
}
