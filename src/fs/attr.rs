//! Getting and setting attributes, sizes included.

use crate::error::Result;
use crate::meta::rows::{APPEND_ONLY, IMMUTABLE, InodeRow};

use super::inode::InodeState;
use super::types::{Attr, Caller, SIZE_MAX, SetAttr, SetTime, Timestamp};
use super::{Fs, extents, posix};

/// The flags of chattr(1) that are kept: append-only, immutable, no-dump, no-atime.
const KEPT_FLAGS: u32 = APPEND_ONLY | IMMUTABLE | 0x40 | 0x80;

impl Fs {
    /// What stat tells.
    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        let inode = self.inode(ino)?;
        let state = inode.lock();
        Ok(state.attr(ino))
    }

    /// Changes attributes; all of them or none.
    pub fn setattr(&self, ino: u64, caller: Caller, set: &SetAttr) -> Result<Attr> {
        if !set.times_are_possible() {
            return posix(libc::EINVAL);
        }
        let inode = self.inode(ino)?;
        // A change of size must not meet a flush half way.
        let mut state = self.lock_free(&inode, set.size.is_some())?;
        let only_times = set.mode.is_none() && set.uid.is_none() && set.gid.is_none() && set.size.is_none();
        let held = if only_times { IMMUTABLE } else { IMMUTABLE | APPEND_ONLY };
        if state.row.flags & held != 0 {
            return posix(libc::EPERM);
        }
        if let Some(size) = set.size {
            check_size(&state, size)?;
        }
        let now = Timestamp::now();
        let member = self.join()?;
        if let Some(size) = set.size {
            self.set_size(&member, ino, &mut state, size)?;
            state.row.mtime = now;
            if caller.uid != 0 {
                clear_set_ids(&mut state.row);
            }
        }
        set_owner(&mut state.row, set);
        if let Some(mode) = set.mode {
            state.row.mode = state.row.kind() | mode & 0o7777;
            self.follow_chmod(ino, &state, &member.rows)?;
        }
        let time = |set: Option<SetTime>, old| match set {
            None => old,
            Some(SetTime::Now) => now,
            Some(SetTime::At(time)) => time,
        };
        state.row.atime = time(set.atime, state.row.atime);
        state.row.mtime = time(set.mtime, state.row.mtime);
        state.row.ctime = set.ctime.unwrap_or(now);
        state.save(ino, &member.rows);
        Ok(state.attr(ino))
    }

    fn set_size(
        &self,
        member: &crate::store::Member,
        ino: u64,
        state: &mut InodeState,
        size: u64,
    ) -> Result<()> {
        if size < state.row.size {
            let staged = state.staging.bytes();
            state.staging.discard(size, u64::MAX);
            self.dirty.sub(staged - state.staging.bytes());
            if size < state.disk_size {
                extents::replace(member, &self.now(), ino, state, (size, u64::MAX), Vec::new())?;
                state.disk_size = size;
            }
        }
        state.row.size = size;
        state.settle_size();
        Ok(())
    }

    /// The flags of chattr(1).
    pub fn inode_flags(&self, ino: u64) -> Result<u32> {
        let inode = self.inode(ino)?;
        let state = inode.lock();
        Ok(state.row.flags & KEPT_FLAGS)
    }

    /// Sets the flags of chattr(1); one that is not kept is refused, so that nobody relies on it.
    pub fn set_inode_flags(&self, ino: u64, flags: u32) -> Result<()> {
        if flags & !KEPT_FLAGS != 0 {
            return posix(libc::EOPNOTSUPP);
        }
        let names = self.names.lock();
        let inode = self.inode(ino)?;
        let held = self.is_held(&inode)?;
        let mut state = inode.lock();
        let changed = (state.row.flags ^ flags) & KEPT_FLAGS;
        // What protects may be set and taken away by whoever the kernel lets; the rest is what is protected.
        let (own, is_freed) = (state.row.flags & IMMUTABLE != 0, state.row.flags & changed & IMMUTABLE != 0);
        let is_free = is_freed || !held && !own;
        if changed & !(IMMUTABLE | APPEND_ONLY) != 0 && !is_free {
            return posix(libc::EPERM);
        }
        let member = self.join()?;
        self.note_flags(&member.rows, ino, &state, flags);
        state.row.flags = state.row.flags & !KEPT_FLAGS | flags;
        state.row.ctime = Timestamp::now();
        state.save(ino, &member.rows);
        self.flags_changed(&names);
        Ok(())
    }
}

impl InodeState {
    /// With nothing staged, what the row says of the size is the size.
    pub(super) fn settle_size(&mut self) {
        if self.staging.is_empty() {
            self.disk_size = self.row.size;
        }
    }
}

fn check_size(state: &InodeState, size: u64) -> Result<()> {
    if state.row.is_dir() {
        return posix(libc::EISDIR);
    }
    if !state.row.is_file() {
        return posix(libc::EINVAL);
    }
    if size > SIZE_MAX {
        return posix(libc::EFBIG);
    }
    Ok(())
}

/// chown(2), with the set-id bits that it takes away from anything but directories.
fn set_owner(row: &mut InodeRow, set: &SetAttr) {
    if set.uid.is_none() && set.gid.is_none() {
        return;
    }
    row.uid = set.uid.unwrap_or(row.uid);
    row.gid = set.gid.unwrap_or(row.gid);
    if !row.is_dir() {
        clear_set_ids(row);
    }
}

/// Takes set-user-id away, and set-group-id where the group may execute.
pub(super) fn clear_set_ids(row: &mut InodeRow) {
    row.mode &= !libc::S_ISUID;
    if row.mode & libc::S_IXGRP != 0 {
        row.mode &= !libc::S_ISGID;
    }
}
