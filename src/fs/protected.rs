//! Protected subvolumes: those whose root is immutable, and those that an append-only directory has sealed.
//!
//! Keeps true: once chattr(1) has returned, nothing in a protected subvolume changes, whichever name, handle or open
//! file a request uses. The rules:
//! - A subvolume whose root is immutable is protected. Its own row says so.
//! - In an append-only directory no name is removed. Of the subvolumes in it the newest one is open, the others are
//!   *sealed*: protected as if their roots were immutable.
//! - On everything else these flags concern the inode that has them, and nothing below it.
//!
//! Which subvolumes are protected is known in memory by their numbers, so a request needs no way up: outside all
//! subvolumes nothing is asked, in one of them a set. It is asked inside the lock of the inode that would change. Whoever
//! protects puts the number into the set first and then goes once through the locks of the inodes in memory: a request
//! that was inside one of them has ended by then, and every later one sees the set.
//!
//! The subvolumes of a directory are looked up, and those in it sealed, while that directory is locked: so none comes or
//! goes meanwhile.

pub(super) mod known;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::Result;
use crate::meta::rows::{APPEND_ONLY, IMMUTABLE, InodeRow, PROTECTING, SubvolumeRow};
use crate::meta::versions::subvolumes::{self, subvolume_of};
use crate::sabotage::{Protection, out};
use crate::store::Member;
use crate::sync::MutexGuard;

use super::inode::{Inode, InodeState};
use super::rows::{Rows, are_apart};
use super::{Fs, posix};

fn is_waited_for() -> bool {
    !out(Protection::WaitForChanges)
}

impl Fs {
    /// Takes in which subvolumes are protected, from the rows of all of them.
    pub(super) fn load_protected(&self, rows: &BTreeMap<u64, SubvolumeRow>) {
        let mut by_parent: HashMap<u64, Vec<u64>> = HashMap::new();
        for (number, row) in rows.iter().filter(|(_, row)| !row.dropped && row.parent != 0) {
            if row.protected {
                self.protected.set_immutable(*number, true);
            }
            by_parent.entry(row.parent).or_default().push(*number);
        }
        for (parent, in_it) in by_parent {
            let is_append_only = match Rows::at(&self.layers()).inode(parent) {
                Ok(row) => row.is_some_and(|row| row.flags & APPEND_ONLY != 0),
                Err(error) => {
                    let what = "it counts as append-only";
                    tracing::warn!(directory = parent, "a directory with subvolumes, {what}: {error}");
                    true
                }
            };
            if is_append_only {
                self.protected.seal(parent, &in_it);
            }
        }
    }

    /// Is an inode in a protected subvolume?
    pub(super) fn is_protected(&self, ino: u64) -> bool {
        self.protected.has(subvolume_of(ino))
    }

    /// Refuses with EPERM what would change a locked inode in a protected subvolume.
    pub(super) fn refuse_protected(&self, ino: u64) -> Result<()> {
        if self.is_protected(ino) { posix(libc::EPERM) } else { Ok(()) }
    }

    /// Refuses to change names in a locked directory whose subvolume was dropped, or is protected.
    pub(super) fn refuse_names(&self, directory: u64) -> Result<()> {
        self.refuse_dropped(directory)?;
        self.refuse_protected(directory)
    }

    /// Locks an inode that is not protected, and refuses others with EPERM; with `quiescent`, waits for its flush.
    pub(super) fn lock_unprotected<'a>(
        &self,
        inode: &'a Inode,
        quiescent: bool,
    ) -> Result<MutexGuard<'a, InodeState>> {
        let state = if quiescent { inode.lock_quiescent() } else { inode.lock() };
        self.refuse_protected(inode.ino)?;
        Ok(state)
    }

    /// Notes what the new flags of a locked inode protect, in the batch that gets them. Whoever calls this for the root
    /// of a subvolume holds the subvolumes, and afterwards [waits](Fs::wait_for_changes) when all locks are let go.
    pub(super) fn note_flags(&self, member: &Member, ino: u64, row: &InodeRow, flags: u32) -> Result<()> {
        let changed = (row.flags ^ flags) & PROTECTING;
        if changed & IMMUTABLE != 0 && self.is_subvolume(ino) {
            let (number, is_immutable) = (subvolume_of(ino), flags & IMMUTABLE != 0);
            let old = subvolumes::row(&*self.layers(), number)?.ok_or_else(|| subvolumes::missing(number))?;
            subvolumes::put_row(&member.rows, number, &SubvolumeRow { protected: is_immutable, ..old });
            self.protected.set_immutable(number, is_immutable);
        }
        if changed & APPEND_ONLY != 0 && row.is_dir() && subvolume_of(ino) == 0 {
            if flags & APPEND_ONLY == 0 {
                self.protected.unseal(ino);
            } else {
                self.protected.seal(ino, &self.subvolumes_in(ino)?);
            }
        }
        Ok(())
    }

    /// A subvolume came into a locked directory; if that is append-only, one of the two newest there is sealed. Whoever
    /// calls this calls [`Fs::wait_for_sealed`] when all locks are let go.
    pub(super) fn subvolume_came(&self, directory: u64, row: &InodeRow, root: u64) {
        if row.flags & APPEND_ONLY != 0 {
            self.protected.came(directory, subvolume_of(root));
        }
    }

    /// Waits for the requests that began to change something before its subvolume was sealed by this directory. Holds no
    /// lock of an inode but one at a time, here and in the next.
    pub(super) fn wait_for_sealed(&self, directory: u64) {
        if self.protected.open_in(directory).is_some() {
            let sealed = self.protected.sealed_in(directory);
            self.wait_for_changes(|number| sealed.contains(&number));
        }
    }

    /// Waits for the requests that began to change something in these subvolumes before they were protected.
    pub(super) fn wait_for_changes(&self, is_one: impl Fn(u64) -> bool) {
        if is_waited_for() {
            self.inodes.cached(is_one).iter().for_each(|inode| drop(inode.lock()));
        }
    }

    /// The numbers of the subvolumes that have their names in a directory.
    fn subvolumes_in(&self, directory: u64) -> Result<Vec<u64>> {
        let rows = subvolumes::read_rows(&*self.layers())?;
        let in_it = rows.into_iter().filter(|(_, row)| !row.dropped && row.parent == directory);
        Ok(in_it.map(|(number, _)| number).collect())
    }

    /// The inodes that the kernel remembers, and may hold written bytes of that have not arrived here, of what `ino`
    /// protects once it has one of these flags, or once another subvolume comes to it.
    pub fn remembered_of(&self, ino: u64) -> Result<Vec<u64>> {
        let is_dir = self.inode(ino)?.lock().row.is_dir();
        let numbers: Vec<u64> = match (subvolume_of(ino), self.protected.open_in(ino)) {
            (0, Some(newest)) => vec![newest],
            (0, None) if is_dir => self.subvolumes_in(ino)?,
            (number, _) if self.is_subvolume(ino) => vec![number],
            _ => return Ok(vec![ino]),
        };
        let numbers: HashSet<u64> = numbers.into_iter().collect();
        let mut remembered = self.inodes.remembered();
        remembered.retain(|ino| numbers.contains(&subvolume_of(*ino)));
        Ok(remembered)
    }

    /// The same of a subvolume that has this name; nothing of anything else.
    pub fn remembered_at(&self, parent: u64, name: &[u8]) -> Result<Vec<u64>> {
        match self.entry(&self.layers(), parent, name)? {
            Some(entry) if are_apart(entry.ino, parent) => self.remembered_of(entry.ino),
            _ => Ok(Vec::new()),
        }
    }

    /// True if a new subvolume in `directory` would seal another one: `directory` is append-only.
    pub fn seals(&self, directory: u64) -> bool {
        self.protected.open_in(directory).is_some()
    }
}
