//! POSIX ACLs: what a new file inherits, and how an ACL and the permission bits of the mode determine each other.
//!
//! The kernel enforces ACLs. The filesystem stores them as the attributes `system.posix_acl_access` and
//! `system.posix_acl_default`, and keeps the mode consistent with them, as acl(5) defines it.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Result};
use crate::meta::Layers;
use crate::meta::rows::InodeRow;
use crate::meta::rows::xattr::{ACCESS_ACL, DEFAULT_ACL};
use crate::store::Batch;

use super::rows::{Rows, put_xattr};

const VERSION: U32 = U32::new(2);
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// One ACL in the form in which the kernel hands it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl {
    entries: Vec<Entry>,
}

/// One of its entries, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    tag: U16,
    permissions: U16,
    id: U32,
}

impl Acl {
    /// From the attribute's bytes; EINVAL if they are none.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = || Error::Posix(libc::EINVAL);
        let (version, entries) = U32::read_from_prefix(bytes).map_err(|_| bad())?;
        let entries = <[Entry]>::ref_from_bytes(entries).map_err(|_| bad())?;
        let acl = Self { entries: entries.to_vec() };
        let is_possible = version == VERSION && entries.iter().all(|entry| entry.permissions <= 7);
        let has_all = [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| acl.entry(tag).is_some());
        if is_possible && has_all { Ok(acl) } else { Err(bad()) }
    }

    /// The attribute's bytes.
    pub fn encode(&self) -> Vec<u8> {
        [VERSION.as_bytes(), self.entries.as_bytes()].concat()
    }

    /// The first entry with this tag.
    fn entry(&self, tag: u16) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }

    /// True if it says no more than a mode can.
    pub fn is_minimal(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.tag.get(), USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// The entry that the mode's group bits stand for: the mask, where there is one.
    fn group_class(&self) -> u16 {
        if self.entry(MASK).is_some() { MASK } else { GROUP_OBJ }
    }

    /// The permission bits that a mode shows for this ACL.
    pub fn mode(&self) -> u32 {
        let group = self.group_class();
        let bits = |tag| self.entry(tag).map_or(0, |entry| u32::from(entry.permissions.get()));
        bits(USER_OBJ) << 6 | bits(group) << 3 | bits(OTHER)
    }

    /// Sets the permissions of each class to `f(bits of the class in the mode, present permissions)`.
    fn for_classes(&mut self, mode: u32, f: impl Fn(u16, u16) -> u16) {
        let group = self.group_class();
        for entry in &mut self.entries {
            let shift = match entry.tag.get() {
                USER_OBJ => 6,
                OTHER => 0,
                tag if tag == group => 3,
                _ => continue,
            };
            entry.permissions.set(f((mode >> shift & 7) as u16, entry.permissions.get()));
        }
    }

    /// After chmod(2): the classes get the mode's bits.
    pub fn chmod(&mut self, mode: u32) {
        self.for_classes(mode, |bits, _| bits);
    }

    /// For a new file made with `mode`: no class gets more than the mode asked for.
    pub fn restrict(&mut self, mode: u32) {
        self.for_classes(mode, |bits, present| bits & present);
    }
}

/// ACLs that a new inode begins with.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl Inherited {
    /// Writes them as the attributes of `ino`.
    pub fn save(&self, ino: u64, batch: &Batch) {
        for (name, value) in [(ACCESS_ACL, &self.access), (DEFAULT_ACL, &self.default)] {
            if let Some(value) = value {
                put_xattr(batch, ino, name, value);
            }
        }
    }
}

/// Adjusts the mode of a new inode, and returns the ACLs that it inherits. Without a default ACL the umask applies.
pub(super) fn inherit(
    layers: &Layers,
    parent: u64,
    dir: &InodeRow,
    row: &mut InodeRow,
    umask: u32,
) -> Result<Inherited> {
    let mut inherited = Inherited::default();
    if row.kind() == libc::S_IFLNK {
        return Ok(inherited);
    }
    let stored = if dir.flags & InodeRow::HAS_DEFAULT_ACL != 0 {
        Rows::at(layers).xattr(parent, DEFAULT_ACL)?
    } else {
        None
    };
    let Some(stored) = stored else {
        row.mode &= !(umask & 0o777);
        return Ok(inherited);
    };
    let mut acl = Acl::parse(&stored)?;
    acl.restrict(row.mode);
    row.mode = row.mode & !0o777 | acl.mode();
    if !acl.is_minimal() {
        inherited.access = Some(acl.encode());
        row.flags |= InodeRow::HAS_XATTRS;
    }
    if row.is_dir() {
        inherited.default = Some(stored);
        row.flags |= InodeRow::HAS_XATTRS | InodeRow::HAS_DEFAULT_ACL;
    }
    Ok(inherited)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        let entry = |&(tag, permissions, id): &(u16, u16, u32)| Entry {
            tag: tag.into(),
            permissions: permissions.into(),
            id: id.into(),
        };
        Acl { entries: entries.iter().map(entry).collect() }
    }

    #[test]
    fn a_mask_stands_for_the_group_class() {
        let mut with_mask =
            acl(&[(USER_OBJ, 7, 0), (0x02, 6, 1000), (GROUP_OBJ, 5, 0), (MASK, 6, 0), (OTHER, 1, 0)]);
        assert_eq!(with_mask.mode(), 0o761);
        with_mask.chmod(0o640);
        assert_eq!(with_mask.mode(), 0o640);
        assert_eq!(with_mask.entries[2].permissions, 5, "the owning group's own entry stays");
        assert!(!with_mask.is_minimal());
        assert_eq!(Acl::parse(&with_mask.encode()).unwrap(), with_mask);
    }

    /// The bytes that the kernel hands over and stores have.
    #[test]
    fn the_layout_never_changes() {
        let acl = acl(&[
            (USER_OBJ, 7, u32::MAX),
            (0x02, 6, 1000),
            (GROUP_OBJ, 5, u32::MAX),
            (OTHER, 1, 0x01020304),
        ]);
        let bytes = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x06\0\xe8\x03\0\0\x04\0\x05\0\xff\xff\xff\xff\x20\0\x01\0\x04\x03\x02\x01";
        assert_eq!(acl.encode(), bytes);
        assert_eq!(Acl::parse(bytes).unwrap(), acl);
    }

    #[test]
    fn a_new_file_gets_no_more_than_it_asked_for() {
        let mut inherited = acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 7, 0), (OTHER, 5, 0)]);
        inherited.restrict(0o640);
        assert_eq!(inherited.mode(), 0o640);
        assert!(inherited.is_minimal());
    }

    #[test]
    fn what_is_no_acl_is_refused() {
        for bytes in [&b""[..], b"\x02\0\0\0", b"\x01\0\0\0\x01\0\x07\0\0\0\0\0", b"\x02\0\0\0\x01\0\x07"] {
            assert_eq!(Acl::parse(bytes).unwrap_err().errno(), libc::EINVAL);
        }
    }

    proptest! {
        /// Any bytes, and any near those of an ACL.
        #[test]
        fn what_parses_comes_back_and_nothing_panics(
            bytes: Vec<u8>,
            entries in prop::collection::vec((0u16..64, 0u16..9, any::<u32>()), 0..8),
            cut in 0usize..80,
        ) {
            let mut near = acl(&entries).encode();
            near.truncate(cut);
            for bytes in [bytes, near] {
                if let Ok(mut acl) = Acl::parse(&bytes) {
                    prop_assert_eq!(&acl.encode(), &bytes);
                    let mode = acl.mode();
                    acl.chmod(mode);
                    prop_assert_eq!(acl.mode(), mode);
                    let _ = acl.is_minimal();
                    acl.restrict(0o640);
                }
            }
        }
    }
}
