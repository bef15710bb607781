//! Extended attributes.
//!
//! Keeps true: the flags of an inode row say whether there are any attributes, so that the kernel's many requests for
//! unset attributes cost nothing. An access ACL and the mode agree.

use crate::error::{Error, Result};
use crate::meta::rows::xattr::{ACCESS_ACL, CAPABILITY, DEFAULT_ACL, NameSpace, is_acl};
use crate::meta::rows::{IMMUTABLE, InodeRow, NAME_MAX, PROTECTING};
use crate::store::Batch;

use super::acl::Acl;
use super::inode::InodeState;
use super::rows::{self, RowOf, Rows, put_xattr};
use super::types::Timestamp;
use super::{Fs, posix};

/// The largest value, as Linux has it.
const VALUE_MAX: usize = 64 << 10;
/// The most that all names of an inode may take in a list, as Linux has it.
const LIST_MAX: usize = 64 << 10;

impl Fs {
    /// The value of an attribute.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.lock().row.flags & InodeRow::HAS_XATTRS == 0 {
            return posix(libc::ENODATA);
        }
        let value = Rows::at(&self.layers()).xattr(ino, name)?;
        value.ok_or(Error::Posix(libc::ENODATA))
    }

    /// The names of all attributes, each ended by a NUL.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.lock().row.flags & InodeRow::HAS_XATTRS == 0 {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        Rows::at(&self.layers()).xattrs(ino, |name| {
            names.extend_from_slice(name);
            names.push(0);
            Ok(true)
        })?;
        Ok(names)
    }

    /// Sets an attribute; `flags` are XATTR_CREATE and XATTR_REPLACE. If a caller who is not in the group of the file,
    /// as `is_in` says, sets an access ACL, set-group-id is cleared, as chmod(2) would do.
    pub fn setxattr(
        &self,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: i32,
        is_in: impl Fn(u32) -> bool,
    ) -> Result<()> {
        check_xattr_name(name)?;
        if value.len() > VALUE_MAX {
            return posix(libc::E2BIG);
        }
        let inode = self.inode(ino)?;
        let mut state = self.lock_unprotected(&inode, false)?;
        may_change(&state)?;
        let exists = self.has_xattr(&state, ino, name)?;
        if exists && flags & libc::XATTR_CREATE != 0 {
            return posix(libc::EEXIST);
        }
        if !exists && flags & libc::XATTR_REPLACE != 0 {
            return posix(libc::ENODATA);
        }
        if !exists && self.names_len(&state, ino)? + name.len() + 1 > LIST_MAX {
            return posix(libc::ENOSPC);
        }
        self.store.claim_space((name.len() + value.len()) as u64, self.dirty.bytes())?;
        let acl = self.parse_acl(&state, name, value)?;
        let member = self.join()?;
        match acl {
            Some(acl) if name == ACCESS_ACL => {
                let lost = if is_in(state.row.gid) { 0o777 } else { 0o777 | libc::S_ISGID };
                state.row.mode = state.row.mode & !lost | acl.mode();
                if acl.is_minimal() {
                    rows::remove(&member, RowOf::Xattr(ino, name), || self.layers())?;
                } else {
                    put(&mut state, &member, (ino, name), value);
                }
            }
            Some(_) => {
                state.row.flags |= InodeRow::HAS_DEFAULT_ACL;
                put(&mut state, &member, (ino, name), value);
            }
            None => put(&mut state, &member, (ino, name), value),
        }
        state.row.times.ctime = Timestamp::now();
        state.save(ino, &member);
        Ok(())
    }

    fn names_len(&self, state: &InodeState, ino: u64) -> Result<usize> {
        if state.row.flags & InodeRow::HAS_XATTRS == 0 {
            return Ok(0);
        }
        let mut len = 0;
        Rows::at(&self.layers()).xattrs(ino, |name| {
            len += name.len() + 1;
            Ok(true)
        })?;
        Ok(len)
    }

    fn parse_acl(&self, state: &InodeState, name: &[u8], value: &[u8]) -> Result<Option<Acl>> {
        if !is_acl(name) {
            return Ok(None);
        }
        if name == DEFAULT_ACL && !state.row.is_dir() {
            return posix(libc::EACCES);
        }
        Acl::parse(value).map(Some)
    }

    /// Removes an attribute. Removing an ACL that does not exist succeeds; setting an empty ACL arrives here too. A
    /// capability is removed from an append-only file as well: the kernel asks for that before each write, with the
    /// same request as a user.
    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        let inode = self.inode(ino)?;
        let mut state = self.lock_unprotected(&inode, false)?;
        if name != CAPABILITY || state.row.flags & IMMUTABLE != 0 {
            may_change(&state)?;
        }
        if !self.has_xattr(&state, ino, name)? {
            return if is_acl(name) { Ok(()) } else { posix(libc::ENODATA) };
        }
        self.delete_xattr(&mut state, ino, name)
    }

    fn has_xattr(&self, state: &InodeState, ino: u64, name: &[u8]) -> Result<bool> {
        Ok(state.row.flags & InodeRow::HAS_XATTRS != 0
            && Rows::at(&self.layers()).xattr(ino, name)?.is_some())
    }

    fn delete_xattr(&self, state: &mut InodeState, ino: u64, name: &[u8]) -> Result<()> {
        let member = self.join()?;
        rows::remove(&member, RowOf::Xattr(ino, name), || self.layers())?;
        if name == DEFAULT_ACL {
            state.row.flags &= !InodeRow::HAS_DEFAULT_ACL;
        }
        state.row.times.ctime = Timestamp::now();
        state.save(ino, &member);
        Ok(())
    }

    /// The access ACL, if there is one, after a change of the mode.
    pub(super) fn acl_after_chmod(&self, ino: u64, state: &InodeState, mode: u32) -> Result<Option<Vec<u8>>> {
        if state.row.flags & InodeRow::HAS_XATTRS == 0 {
            return Ok(None);
        }
        let Some(value) = Rows::at(&self.layers()).xattr(ino, ACCESS_ACL)? else { return Ok(None) };
        let mut acl = Acl::parse(&value)?;
        acl.chmod(mode);
        Ok(Some(acl.encode()))
    }
}

fn put(state: &mut InodeState, batch: &Batch, (ino, name): (u64, &[u8]), value: &[u8]) {
    state.row.flags |= InodeRow::HAS_XATTRS;
    put_xattr(batch, ino, name, value);
}

fn may_change(state: &InodeState) -> Result<()> {
    if state.row.flags & PROTECTING != 0 {
        return posix(libc::EPERM);
    }
    Ok(())
}

fn check_xattr_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return posix(libc::ERANGE);
    }
    if NameSpace::of(name).is_none() {
        return posix(libc::EOPNOTSUPP);
    }
    Ok(())
}
