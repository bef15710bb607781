//! Making and removing names.
//!
//! Keeps true: a name, the inode behind it and its directory change in one batch, and all of them are locked
//! meanwhile; whether a name is there is looked up inside its directory's lock; an inode's count of names is the number
//! of its entries; one whose last name goes joins the queue of orphans in the same batch, or is gone with it if it is
//! small and nobody needs it, and never gets a name again. What may go side by side is said in `tree_lock`.

use crate::error::{Error, Result};
use crate::meta::rows::{DirentRow, IMMUTABLE, InodeRow, PROTECTING, Times, id_key};
use crate::meta::versions::subvolumes::{public_ino, subvolume_of};
use crate::meta::{Counter, Table};
use crate::sabotage::{Protection, out};
use crate::store::{Batch, Member};
use crate::sync::Arc;

use super::acl;
use super::inode::InodeState;
use super::locked::Place;
use super::rows::{self, RowOf, are_apart, leaf_of, put_entry, put_inode};
use super::types::{Attr, Caller, LINK_MAX, ROOT_INO, Timestamp};
use super::{Fs, check_name, posix};

impl Fs {
    /// Finds a name. The kernel remembers the inode from here on.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        let is_dots = name == b"." || name == b"..";
        if self.dropped.has(subvolume_of(parent)) {
            // By a handle, or by a name that the kernel still has.
            return posix(if is_dots { libc::ESTALE } else { libc::ENOENT });
        }
        let ino = match name {
            b"." => parent,
            b".." => self.inode(parent)?.lock().row.parent,
            _ if name.len() > super::NAME_MAX => return posix(libc::ENAMETOOLONG),
            _ => {
                let found = self.entry(&self.layers(), parent, name)?;
                found.ok_or(Error::Posix(libc::ENOENT))?.ino
            }
        };
        let inode = self.inode(ino).map_err(|error| match error {
            // A name without an inode is damage; a handle without one is only stale.
            Error::Posix(libc::ENOENT) if is_dots => Error::Posix(libc::ESTALE),
            Error::Posix(libc::ENOENT) => self.why_missing(parent, name, ino),
            other => other,
        })?;
        let state = inode.lock();
        if state.row.nlink == 0 {
            return posix(if name == b"." { libc::ESTALE } else { libc::ENOENT });
        }
        self.inodes.remember(ino);
        let attr = state.attr(ino);
        drop(state);
        if self.is_dropped_by_now(ino) {
            // Its reap may have begun before this was remembered. Whoever drops it from here on, waits for that.
            self.forget(ino, 1);
            return posix(if is_dots { libc::ESTALE } else { libc::ENOENT });
        }
        Ok(attr)
    }

    fn is_dropped_by_now(&self, ino: u64) -> bool {
        self.is_dropped_or_gone(subvolume_of(ino)) && !out(Protection::DroppedIsSeen)
    }

    /// Why the inode of a name is missing: it was removed since the name was read, or it is damage.
    fn why_missing(&self, parent: u64, name: &[u8], ino: u64) -> Error {
        match self.entry(&self.layers(), parent, name) {
            Ok(Some(entry)) if entry.ino == ino => {
                Error::damaged(format!("inode {ino} has a name and is not there"))
            }
            Ok(_) => Error::Posix(libc::ENOENT),
            Err(error) => error,
        }
    }

    /// Makes a regular file, fifo, socket or device.
    pub fn mknod(
        &self,
        parent: u64,
        name: &[u8],
        caller: Caller,
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> Result<Attr> {
        let mode = if mode & libc::S_IFMT == 0 { mode | libc::S_IFREG } else { mode };
        match mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK | libc::S_IFCHR | libc::S_IFBLK => {}
            _ => return posix(libc::EINVAL),
        }
        let row = InodeRow { mode, rdev, nlink: 1, ..InodeRow::default() };
        self.make(Place { parent, name }, caller, umask, row)
    }

    /// Makes a directory.
    pub fn mkdir(
        self: &Arc<Self>,
        parent: u64,
        name: &[u8],
        caller: Caller,
        mode: u32,
        umask: u32,
    ) -> Result<Attr> {
        if let Some(source) = self.wished(Place { parent, name }, caller) {
            return self.make_clone(source, Place { parent, name }, caller);
        }
        if let Some(made) = self.new_snapshot(Place { parent, name }, caller, mode, umask)? {
            return Ok(made);
        }
        let mode = mode & 0o7777 | libc::S_IFDIR;
        let row = InodeRow { mode, nlink: 2, parent, ..InodeRow::default() };
        self.make(Place { parent, name }, caller, umask, row)
    }

    /// Makes a symlink.
    pub fn symlink(&self, parent: u64, name: &[u8], caller: Caller, target: &[u8]) -> Result<Attr> {
        if target.len() >= libc::PATH_MAX as usize {
            return posix(libc::ENAMETOOLONG);
        }
        let row = InodeRow {
            mode: libc::S_IFLNK | 0o777,
            nlink: 1,
            target: target.to_vec(),
            ..InodeRow::default()
        };
        self.make(Place { parent, name }, caller, 0, row)
    }

    fn make(
        &self,
        Place { parent, name }: Place<'_>,
        caller: Caller,
        umask: u32,
        mut row: InodeRow,
    ) -> Result<Attr> {
        check_name(name)?;
        let _tree = self.tree.shared();
        let directory = self.inode(parent)?;
        let mut dir = directory.lock();
        self.refuse_names(parent)?;
        may_add(&dir)?;
        if self.entry(&self.layers(), parent, name)?.is_some() {
            return posix(libc::EEXIST);
        }
        if row.is_dir() && dir.row.nlink >= LINK_MAX {
            return posix(libc::EMLINK);
        }
        self.store.claim_space(1024 + row.target.len() as u64, self.dirty.bytes())?;
        let inherited = self.new_row(&dir.row, parent, caller, umask, &mut row)?;
        let now = row.times.ctime;
        let member = self.join()?;
        let ino = public_ino(subvolume_of(parent), self.store.new_ino()?);
        if let Some(leaf) = leaf_of(&member, ino)? {
            row.content = leaf.0;
            member.usage.count(subvolume_of(ino), 1, 0, now);
        } else {
            member.rows.count(Counter::Inodes, 1);
        }
        put_inode(&member, ino, &row);
        inherited.save(ino, &member);
        let kind = row.kind();
        // Before its name, by which others would bring it into memory once more.
        let inode = self.inodes.insert_new(ino, row, member.number);
        self.add_entry(&member, parent, &mut dir, name, DirentRow { ino, kind }, now);
        drop(member);
        let attr = inode.lock().attr(ino);
        Ok(attr)
    }

    /// Completes the row of a new inode in a directory with the row `dir`: owner, mode and times, and the ACLs that it
    /// inherits.
    pub(super) fn new_row(
        &self,
        dir: &InodeRow,
        parent: u64,
        caller: Caller,
        umask: u32,
        row: &mut InodeRow,
    ) -> Result<acl::Inherited> {
        row.uid = caller.uid;
        row.gid = caller.gid;
        if dir.mode & libc::S_ISGID != 0 {
            row.gid = dir.gid;
            if row.is_dir() {
                row.mode |= libc::S_ISGID;
            }
        }
        let inherited = acl::inherit(&self.layers(), parent, dir, row, umask)?;
        row.times = Times::all(Timestamp::now());
        row.generation = self.store.generation();
        Ok(inherited)
    }

    /// Gives an inode another name.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        if are_apart(ino, parent) {
            return posix(libc::EXDEV);
        }
        self.claim_row()?;
        let _tree = self.tree.shared();
        let (inode, directory) = (self.inode(ino)?, self.inode(parent)?);
        let (mut state, dir) = super::inode::lock_two(&inode, &directory);
        let Some(mut dir) = dir else {
            return posix(libc::EPERM);
        };
        self.refuse_names(parent)?;
        may_add(&dir)?;
        if state.row.is_dir() || state.row.flags & PROTECTING != 0 {
            return posix(libc::EPERM);
        }
        if state.is_nameless() {
            return posix(libc::ENOENT);
        }
        if state.row.nlink >= LINK_MAX {
            return posix(libc::EMLINK);
        }
        if self.entry(&self.layers(), parent, name)?.is_some() {
            return posix(libc::EEXIST);
        }
        let now = Timestamp::now();
        let member = self.join()?;
        state.row.nlink += 1;
        state.row.times.ctime = now;
        state.save(ino, &member);
        let kind = state.row.kind();
        self.add_entry(&member, parent, &mut dir, name, DirentRow { ino, kind }, now);
        self.inodes.remember(ino);
        Ok(state.attr(ino))
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.remove(parent, name, Removal::Name).map(drop)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.remove(parent, name, Removal::Directory(None)).map(drop)
    }

    /// The same for a caller who may have asked before that a subvolume goes with all that is in it; the number of a
    /// subvolume that was dropped.
    pub fn rmdir_as(&self, parent: u64, name: &[u8], caller: Caller) -> Result<Option<u64>> {
        self.remove(parent, name, Removal::Directory(Some(caller)))
    }

    /// Drops the subvolume that has this name, with all that is in it, and tells its number. EPERM for anything else,
    /// and for everybody but its owner and root.
    pub fn drop_by_name(&self, parent: u64, name: &[u8], caller: Caller) -> Result<Option<u64>> {
        self.remove(parent, name, Removal::Subvolume(caller))
    }

    fn remove(&self, parent: u64, name: &[u8], wanted: Removal) -> Result<Option<u64>> {
        if name == b"." || name == b".." {
            return posix(if name == b"." { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        let _tree = self.tree.shared();
        self.with_entries([Place { parent, name }], |locked, [found]| {
            let ino = found.ok_or(Error::Posix(libc::ENOENT))?.ino;
            self.refuse_names(parent)?;
            if ino == parent {
                return Err(Error::damaged(format!("directory {parent} holds itself")));
            }
            let (dir, state) = (locked.get(parent)?, locked.get(ino)?);
            let is_dir = state.row.is_dir();
            match (is_dir, wanted) {
                (true, Removal::Name) => return posix(libc::EISDIR),
                (false, Removal::Directory(_)) => return posix(libc::ENOTDIR),
                (_, Removal::Subvolume(caller)) => is_its_subvolume(ino, parent, state, caller)?,
                _ => {}
            }
            may_remove(dir, state)?;
            if let Removal::Directory(caller) = wanted
                && state.row.entries > 0
                && !self.may_drop(ino, parent, caller)
            {
                return posix(libc::ENOTEMPTY);
            }
            let now = Timestamp::now();
            let _held = self.hold_if_subvolume(are_apart(ino, parent));
            let member = self.join()?;
            self.remove_entry(&member, parent, locked.get_mut(parent)?, name, is_dir, now)?;
            if are_apart(ino, parent) {
                self.drop_subvolume(&member, ino, locked.get_mut(ino)?)?;
                return Ok(Some(subvolume_of(ino)));
            }
            self.drop_name(&member, ino, locked.get_mut(ino)?, now)?;
            Ok(None)
        })
    }

    /// Puts an entry into a locked directory.
    pub(super) fn add_entry(
        &self,
        member: &Member,
        parent: u64,
        dir: &mut InodeState,
        name: &[u8],
        entry: DirentRow,
        now: Timestamp,
    ) {
        put_entry(member, (parent, self.hash.of(name), name), entry);
        dir.row.entries += 1;
        dir.row.nlink += u32::from(entry.kind == libc::S_IFDIR);
        touch(parent, dir, now, member);
    }

    /// Takes an entry out of a locked directory.
    pub(super) fn remove_entry(
        &self,
        member: &Member,
        parent: u64,
        dir: &mut InodeState,
        name: &[u8],
        is_dir: bool,
        now: Timestamp,
    ) -> Result<()> {
        rows::remove(member, RowOf::Entry(parent, self.hash.of(name), name), || self.layers())?;
        dir.row.entries = dir.row.entries.saturating_sub(1);
        dir.row.nlink = dir.row.nlink.saturating_sub(u32::from(is_dir));
        touch(parent, dir, now, member);
        Ok(())
    }

    /// Notes that a locked inode lost a name; after its last it goes, at once or by the queue of orphans.
    pub(super) fn drop_name(
        &self,
        member: &Member,
        ino: u64,
        state: &mut InodeState,
        now: Timestamp,
    ) -> Result<()> {
        state.row.times.ctime = now;
        state.row.nlink = if state.row.is_dir() { 0 } else { state.row.nlink.saturating_sub(1) };
        state.save(ino, member);
        if state.row.nlink > 0 {
            return Ok(());
        }
        member.rows.put(Table::Orphans, &id_key(ino), &[]);
        member.rows.count(Counter::Orphans, 1);
        let remembered = self.is_remembered(ino);
        self.orphans.unlinked(ino, remembered, member.number);
        if !remembered {
            self.mark_dead(state);
            // If it cannot be removed now, the queue reports that.
            if self.remove_immediately(member, ino).unwrap_or(false) {
                self.inodes.remove(ino);
            }
        }
        Ok(())
    }

    /// Where a symlink points.
    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        let state = inode.lock();
        if state.row.kind() != libc::S_IFLNK {
            return posix(libc::EINVAL);
        }
        Ok(state.row.target.clone())
    }
}

/// What is to be removed.
#[derive(Debug, Clone, Copy)]
enum Removal {
    /// A name of anything but a directory.
    Name,
    /// An empty directory; a subvolume with all that is in it, if this caller has asked for that.
    Directory(Option<Caller>),
    /// A subvolume of this caller, with all that is in it.
    Subvolume(Caller),
}

/// Refuses what is no root of a subvolume, or whose owner is somebody else.
fn is_its_subvolume(ino: u64, parent: u64, root: &InodeState, caller: Caller) -> Result<()> {
    let is_its = caller.uid == 0 || caller.uid == root.row.uid;
    if are_apart(ino, parent) && is_its { Ok(()) } else { posix(libc::EPERM) }
}

/// Notes a change of a directory's content.
fn touch(ino: u64, dir: &mut InodeState, now: Timestamp, batch: &Batch) {
    dir.row.times.mtime = now;
    dir.row.times.ctime = now;
    dir.save(ino, batch);
}

/// May an entry be put into this directory?
pub(super) fn may_add(dir: &InodeState) -> Result<()> {
    if !dir.row.is_dir() {
        return posix(libc::ENOTDIR);
    }
    if dir.is_nameless() {
        return posix(libc::ENOENT);
    }
    if dir.row.flags & IMMUTABLE != 0 {
        return posix(libc::EPERM);
    }
    Ok(())
}

/// May this entry be taken out of this directory?
pub(super) fn may_remove(dir: &InodeState, entry: &InodeState) -> Result<()> {
    if dir.row.flags & PROTECTING != 0 || entry.row.flags & PROTECTING != 0 {
        return posix(libc::EPERM);
    }
    Ok(())
}

/// The root has no entry.
pub(super) fn is_root(ino: u64) -> bool {
    ino == ROOT_INO
}

#[cfg(test)]
mod tests;
