//! The structures of requests and replies, byte for byte as `linux/fuse.h` has them (protocol 7.42).
//!
//! Only those that this side has to look into. Fields that nothing reads are named `_pad`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::fs::{Attr as FsAttr, DirEntry, FsStat, Timestamp};
use crate::fuse::answer::{KEEP, keep};

macro_rules! incoming {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
            #[repr(C)]
            pub struct $name { $(pub $field: $kind),* }
        )*
    };
}

macro_rules! outgoing {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, Immutable, IntoBytes, KnownLayout)]
            #[repr(C)]
            pub struct $name { $(pub $field: $kind),* }
        )*
    };
}

incoming! {
    /// What every request begins with.
    InHeader {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, _pad: u32,
    }
    /// What the transport says about one request.
    EntryState { flags: u64, commit_id: u64, payload_size: u32, _pad: u32, _reserved: u64 }
    SetattrIn {
        valid: u32, _pad: u32, fh: u64, size: u64, lock_owner: u64, atime: i64, mtime: i64, ctime: i64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, _pad2: u32, uid: u32, gid: u32, _pad3: u32,
    }
    MknodIn { mode: u32, rdev: u32, umask: u32, _pad: u32 }
    MkdirIn { mode: u32, umask: u32 }
    RenameIn { newdir: u64, flags: u32, _pad: u32 }
    LinkIn { oldnodeid: u64 }
    CreateIn { flags: i32, mode: u32, umask: u32, open_flags: u32 }
    ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, _pad: u32 }
    WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, _pad: u32 }
    SetxattrIn { size: u32, flags: i32 }
    GetxattrIn { size: u32, _pad: u32 }
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    FallocateIn { fh: u64, offset: u64, length: u64, mode: i32, _pad: u32 }

    LseekIn { fh: u64, offset: i64, whence: i32, _pad: u32 }
    CopyFileRangeIn {
        fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64,
    }
}

outgoing! {
    /// What every reply begins with; `error` is 0 or a negative errno.
    OutHeader { len: u32, error: i32, unique: u64 }
    AttrFields {
        ino: u64, size: u64, blocks: u64, atime: i64, mtime: i64, ctime: i64, atimensec: u32, mtimensec: u32,
        ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32,
        attr_valid_nsec: u32, attr: AttrFields,
    }
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, _pad: u32, attr: AttrFields }
    StatxTime { sec: i64, nsec: u32, _pad: u32 }
    Statx {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, _pad: u16, ino: u64,
        size: u64, blocks: u64, attributes_mask: u64, atime: StatxTime, btime: StatxTime, ctime: StatxTime,
        mtime: StatxTime, rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, _spare: [u64; 14],
    }
    StatxOut { attr_valid: u64, attr_valid_nsec: u32, flags: u32, _spare: [u64; 2], stat: Statx }
    OpenOut { fh: u64, open_flags: u32, backing_id: u32 }
    CreateOut { entry: EntryOut, open: OpenOut }
    WriteOut { size: u32, _pad: u32 }
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32,
        _pad: u32, _spare: [u32; 6],
    }
    GetxattrOut { size: u32, _pad: u32 }
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    LseekOut { offset: i64 }
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32 }
    DirentPlus { entry: EntryOut, dirent: Dirent }
}

/// Opcodes.
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const IOCTL: u32 = 39;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const STATX: u32 = 52;
}

/// Bits of `SetattrIn::valid`.
pub mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const CTIME: u32 = 1 << 10;
}

impl From<&FsAttr> for AttrFields {
    fn from(attr: &FsAttr) -> Self {
        Self {
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            atime: attr.atime.sec,
            mtime: attr.mtime.sec,
            ctime: attr.ctime.sec,
            atimensec: attr.atime.nsec,
            mtimensec: attr.mtime.nsec,
            ctimensec: attr.ctime.nsec,
            mode: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            blksize: attr.blksize,
            flags: 0,
        }
    }
}

impl From<&FsAttr> for EntryOut {
    fn from(attr: &FsAttr) -> Self {
        let keep = keep(attr).as_secs();
        Self {
            nodeid: attr.ino,
            generation: attr.generation,
            entry_valid: keep,
            attr_valid: keep,
            attr: attr.into(),
            ..Self::default()
        }
    }
}

impl EntryOut {
    /// Number and type alone, which is all that the kernel takes of "." and ".." in a listing.
    pub fn bare(entry: &DirEntry<'_>) -> Self {
        let attr = AttrFields { ino: entry.ino, mode: entry.mode, ..AttrFields::default() };
        Self { nodeid: entry.ino, attr, ..Self::default() }
    }

    /// The answer for a missing name: inode 0, which the kernel keeps as "there is no such name".
    pub fn nothing() -> Self {
        Self { entry_valid: KEEP.as_secs(), attr_valid: KEEP.as_secs(), ..Self::default() }
    }
}

impl From<&FsAttr> for AttrOut {
    fn from(attr: &FsAttr) -> Self {
        Self { attr_valid: KEEP.as_secs(), attr: attr.into(), ..Self::default() }
    }
}

impl From<Timestamp> for StatxTime {
    fn from(time: Timestamp) -> Self {
        Self { sec: time.sec, nsec: time.nsec, _pad: 0 }
    }
}

impl From<&FsAttr> for StatxOut {
    fn from(attr: &FsAttr) -> Self {
        let stat = Statx {
            mask: libc::STATX_BASIC_STATS | libc::STATX_BTIME,
            blksize: attr.blksize,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            mode: attr.mode as u16,
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            atime: attr.atime.into(),
            btime: attr.btime.into(),
            ctime: attr.ctime.into(),
            mtime: attr.mtime.into(),
            // The one number that MKNOD brought has the minor one's higher bits above the major one.
            rdev_major: attr.rdev >> 8 & 0xfff,
            rdev_minor: attr.rdev & 0xff | attr.rdev >> 12 & 0xfff00,
            ..Statx::default()
        };
        Self { attr_valid: KEEP.as_secs(), stat, ..Self::default() }
    }
}

impl From<&FsStat> for StatfsOut {
    fn from(stat: &FsStat) -> Self {
        Self {
            blocks: stat.blocks,
            bfree: stat.bfree,
            bavail: stat.bavail,
            files: stat.files,
            ffree: stat.ffree,
            bsize: stat.bsize,
            namelen: stat.namelen,
            frsize: stat.frsize,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of `linux/fuse.h`: a field too many or too few would shift all that follow.
    #[test]
    fn sizes_are_those_of_the_kernel() {
        assert_eq!(size_of::<InHeader>(), 40);
        assert_eq!(size_of::<OutHeader>(), 16);
        assert_eq!(size_of::<EntryState>(), 32);
        assert_eq!(size_of::<SetattrIn>(), 88);
        assert_eq!(size_of::<CreateIn>(), 16);
        assert_eq!(size_of::<ReadIn>(), 40);
        assert_eq!(size_of::<WriteIn>(), 40);
        assert_eq!(size_of::<IoctlIn>(), 32);
        assert_eq!(size_of::<FallocateIn>(), 32);
        assert_eq!(size_of::<LseekIn>(), 24);
        assert_eq!(size_of::<CopyFileRangeIn>(), 56);
        assert_eq!(size_of::<AttrFields>(), 88);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<AttrOut>(), 104);
        assert_eq!(size_of::<CreateOut>(), 144);
        assert_eq!(size_of::<Statx>(), 256);
        assert_eq!(size_of::<StatxOut>(), 288);
        assert_eq!(size_of::<StatfsOut>(), 80);
        assert_eq!(size_of::<Dirent>(), 24);
        assert_eq!(size_of::<DirentPlus>(), 152);
    }
}
