//! Getting and setting attributes, sizes included.

use crate::error::Result;
use crate::meta::rows::xattr::ACCESS_ACL;
use crate::meta::rows::{IMMUTABLE, InodeRow, NO_ATIME, NO_DUMP, PROTECTING};

use crate::meta::versions::subvolumes::subvolume_of;

use super::inode::InodeState;
use super::rows::put_xattr;
use super::types::{Attr, Caller, SIZE_MAX, SetAttr, SetTime, Timestamp};
use super::{Fs, posix};

/// The flags of chattr(1) that are kept.
const KEPT_FLAGS: u32 = PROTECTING | NO_DUMP | NO_ATIME;

impl Fs {
    /// What stat tells.
    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        let inode = self.inode(ino)?;
        let state = inode.lock();
        Ok(state.attr(ino))
    }

    /// Changes attributes, all of them or none. The exception: after an error, a file with very many extents may be
    /// partly truncated.
    pub fn setattr(&self, ino: u64, caller: Caller, set: &SetAttr) -> Result<Attr> {
        if !set.times_are_possible() {
            return posix(libc::EINVAL);
        }
        let inode = self.inode(ino)?;
        // A change of size must not happen during a flush.
        let mut state = self.lock_unprotected(&inode, set.size.is_some())?;
        let protected = if set.may_be_of_append_only() { IMMUTABLE } else { PROTECTING };
        if state.row.flags & protected != 0 {
            return posix(libc::EPERM);
        }
        if let Some(size) = set.size {
            check_size(&state, size)?;
        }
        let acl = match set.mode {
            Some(mode) => self.acl_after_chmod(ino, &state, mode)?,
            None => None,
        };
        let now = Timestamp::now();
        let member = match set.size {
            Some(size) => self.set_size(ino, &mut state, size)?,
            None => self.join()?,
        };
        // Nothing fails from here on.
        if set.size.is_some() {
            state.row.times.mtime = now;
            if caller.uid != 0 {
                clear_set_ids(&mut state.row);
            }
        }
        set_owner(&mut state.row, set);
        if let Some(mode) = set.mode {
            state.row.mode = state.row.kind() | mode & 0o7777;
        }
        if let Some(acl) = acl {
            put_xattr(&member, ino, ACCESS_ACL, &acl);
        }
        let time = |set: Option<SetTime>, old| match set {
            None => old,
            Some(SetTime::Now) => now,
            Some(SetTime::At(time)) => time,
        };
        state.row.times.atime = time(set.atime, state.row.times.atime);
        state.row.times.mtime = time(set.mtime, state.row.times.mtime);
        state.row.times.ctime = set.ctime.unwrap_or(now);
        state.save(ino, &member);
        Ok(state.attr(ino))
    }

    /// Clears the set-id bits of a file, before a user without the right to keep them changes it. This includes
    /// set-group-id without group-execute, unless the user is in the group, as `is_in` says. True if there were any
    /// bits. A user who may write the file may do this, even if it is append-only.
    pub fn drop_set_ids(&self, ino: u64, is_in: impl Fn(u32) -> bool) -> Result<bool> {
        let inode = self.inode(ino)?;
        let lost = |row: &InodeRow| if row.is_dir() { 0 } else { set_ids(row, &is_in) };
        if lost(&inode.lock().row) == 0 {
            return Ok(false);
        }
        let mut state = self.lock_unprotected(&inode, false)?;
        if state.row.flags & IMMUTABLE != 0 {
            return posix(libc::EPERM);
        }
        let member = self.join()?;
        state.row.mode &= !lost(&state.row);
        state.row.times.ctime = Timestamp::now();
        state.save(ino, &member);
        Ok(true)
    }

    /// The flags of chattr(1).
    pub fn inode_flags(&self, ino: u64) -> Result<u32> {
        let inode = self.inode(ino)?;
        let state = inode.lock();
        Ok(state.row.flags & KEPT_FLAGS)
    }

    /// Sets the flags of chattr(1). Unsupported flags are refused, so that nobody relies on them. The permission is
    /// checked here too, since the kernel does not check it before Linux 5.13.
    pub fn set_inode_flags(&self, ino: u64, caller: Caller, flags: u32) -> Result<()> {
        if flags & !KEPT_FLAGS != 0 {
            return posix(libc::EOPNOTSUPP);
        }
        let inode = self.inode(ino)?;
        let mut state = inode.lock();
        let changed = (state.row.flags ^ flags) & KEPT_FLAGS;
        let may_protect = caller.uid == 0;
        if !may_protect && (caller.uid != state.row.uid || changed & PROTECTING != 0) {
            return posix(libc::EPERM);
        }
        // A user with the right may set and clear the protecting flags; the other flags of what is immutable cannot be
        // changed, and in a protected subvolume none but that of its root.
        let (own, is_freed) = (state.row.flags & IMMUTABLE != 0, state.row.flags & changed & IMMUTABLE != 0);
        if changed & !PROTECTING != 0 && own && !is_freed {
            return posix(libc::EPERM);
        }
        let is_root = self.is_subvolume(ino);
        let by_itself = is_root && (is_freed || changed == IMMUTABLE);
        if changed != 0 && !by_itself {
            self.refuse_protected(ino)?;
        }
        let held = self.hold_if_subvolume(is_root);
        let member = self.join()?;
        self.note_flags(&member, ino, &state.row, flags)?;
        state.row.flags = state.row.flags & !KEPT_FLAGS | flags;
        state.row.times.ctime = Timestamp::now();
        state.save(ino, &member);
        drop(member);
        drop(held);
        drop(state);
        if is_root {
            self.wait_for_changes(|number| number == subvolume_of(ino));
        } else {
            self.wait_for_sealed(ino);
        }
        Ok(())
    }
}

impl InodeState {
    /// If nothing is staged, the size in the row is the size on disk.
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

/// chown(2), which also clears the set-id bits of anything but directories. A chown that changes neither owner nor
/// group does so, too; it arrives as a request that sets nothing.
fn set_owner(row: &mut InodeRow, set: &SetAttr) {
    if set.uid.is_none() && set.gid.is_none() && !set.is_empty() {
        return;
    }
    row.uid = set.uid.unwrap_or(row.uid);
    row.gid = set.gid.unwrap_or(row.gid);
    if !row.is_dir() {
        clear_set_ids(row);
    }
}

/// Clears set-user-id, and set-group-id if the group may execute.
pub(super) fn clear_set_ids(row: &mut InodeRow) {
    row.mode &= !set_ids(row, |_| true);
}

/// The set-id bits that are cleared by a user without the right to keep them. Set-group-id without group-execute once
/// meant mandatory locking, so a member of the group may keep it.
fn set_ids(row: &InodeRow, is_in: impl Fn(u32) -> bool) -> u32 {
    let group = row.mode & libc::S_ISGID;
    let stays = group == 0 || row.mode & libc::S_IXGRP == 0 && is_in(row.gid);
    row.mode & libc::S_ISUID | if stays { 0 } else { group }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;
    use crate::fs::ROOT_INO;
    use crate::fs::simulated::{close, config, new_disk, open};
    use crate::meta::rows::APPEND_ONLY;

    const ROOT: Caller = Caller { uid: 0, gid: 0 };
    const OWNER: Caller = Caller { uid: 1000, gid: 1000 };
    const OTHER: Caller = Caller { uid: 1001, gid: 1000 };

    #[test]
    fn flags_are_set_by_the_owner_and_those_that_protect_by_root() {
        let fs = open(&new_disk(), &config());
        let ino = fs.mknod(ROOT_INO, b"file", OWNER, libc::S_IFREG | 0o666, 0, 0).unwrap().ino;
        let set = |caller, flags| fs.set_inode_flags(ino, caller, flags).map_err(|error| error.errno());
        assert_eq!(set(OTHER, NO_DUMP), Err(libc::EPERM));
        assert_eq!(set(OWNER, NO_DUMP), Ok(()));
        for protecting in [IMMUTABLE, APPEND_ONLY] {
            assert_eq!(set(OWNER, NO_DUMP | protecting), Err(libc::EPERM));
            assert_eq!(set(ROOT, NO_DUMP | protecting), Ok(()));
            assert_eq!(set(OWNER, NO_DUMP), Err(libc::EPERM));
            assert_eq!(set(ROOT, NO_DUMP), Ok(()));
        }
        assert_eq!(fs.inode_flags(ino).unwrap(), NO_DUMP);
        close(&fs);
    }

    #[test]
    fn set_gid_without_execute_stays_for_the_group_alone() {
        let fs = open(&new_disk(), &config());
        let ino = fs.mknod(ROOT_INO, b"file", OWNER, libc::S_IFREG | 0o666, 0, 0).unwrap().ino;
        for (mode, is_in, left) in [
            (0o6755, true, 0o755),
            (0o6745, true, 0o2745),
            (0o6745, false, 0o745),
            (0o2644, true, 0o2644),
            (0o2644, false, 0o644),
            (0o1644, false, 0o1644),
        ] {
            fs.setattr(ino, ROOT, &SetAttr { mode: Some(mode), ..SetAttr::default() }).unwrap();
            let changed = fs.drop_set_ids(ino, |gid| is_in && gid == 1000).unwrap();
            assert_eq!(fs.getattr(ino).unwrap().mode & 0o7777, left, "{mode:o}");
            assert_eq!(changed, mode != left, "{mode:o}");
        }
        close(&fs);
    }

    #[test]
    fn only_now_is_a_time_for_what_is_append_only() {
        let fs = open(&new_disk(), &config());
        let ino = fs.mknod(ROOT_INO, b"file", OWNER, libc::S_IFREG | 0o666, 0, 0).unwrap().ino;
        let (now, then) = (Some(SetTime::Now), Some(SetTime::At(Timestamp { sec: 7, nsec: 0 })));
        let (written, of_it) =
            (Some(Timestamp { sec: 9, nsec: 1 }), Some(SetTime::At(Timestamp { sec: 9, nsec: 1 })));
        fs.set_inode_flags(ino, ROOT, APPEND_ONLY).unwrap();
        for (atime, mtime, ctime, expected) in [
            (None, None, None, 0),
            (now, now, None, 0),
            (now, None, None, libc::EPERM),
            (None, now, None, libc::EPERM),
            (now, then, None, libc::EPERM),
            (then, now, None, libc::EPERM),
            (then, then, None, libc::EPERM),
            (None, then, None, libc::EPERM),
            // With the writeback cache the kernel sets the time of changes itself.
            (None, of_it, written, 0),
            (now, of_it, written, 0),
            (now, then, written, libc::EPERM),
        ] {
            let set = SetAttr { atime, mtime, ctime, ..SetAttr::default() };
            let errno = fs.setattr(ino, OWNER, &set).err().map_or(0, |error| error.errno());
            assert_eq!(errno, expected, "{set:?}");
        }
        close(&fs);
    }
}
