//! The structures of requests and replies, byte for byte as `linux/fuse.h` has them (protocol 7.42).
//!
//! Only those structures that this program reads or writes. Unused fields are named `_pad`.

use fuser::FopenFlags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::fs::{Attr as FsAttr, DirEntry, FsStat, Timestamp};
use crate::fuse::answer::{ENTRY_TIMEOUT, entry_timeout};

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

/// FUSE_FSYNC_FDATASYNC: a bit of [`FsyncIn::flags`].
pub const FDATASYNC: u32 = 1;

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

    FsyncIn { fh: u64, flags: u32, _pad: u32 }
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

/// Opcodes, each with the name that errors give the request.
pub mod op {
    macro_rules! opcodes {
        ($($opcode:ident = $number:literal $name:literal,)*) => {
            $(pub const $opcode: u32 = $number;)*

            /// `None` for what is newer than this program, or not for it: access is checked by the kernel, locks are
            /// kept by it.
            pub fn name(opcode: u32) -> Option<&'static str> {
                match opcode {
                    $($opcode => Some($name),)*
                    _ => None,
                }
            }
        };
    }

    opcodes! {
        LOOKUP = 1 "lookup",
        GETATTR = 3 "getattr",
        SETATTR = 4 "setattr",
        READLINK = 5 "readlink",
        SYMLINK = 6 "symlink",
        MKNOD = 8 "mknod",
        MKDIR = 9 "mkdir",
        UNLINK = 10 "unlink",
        RMDIR = 11 "rmdir",
        RENAME = 12 "rename",
        LINK = 13 "link",
        OPEN = 14 "open",
        READ = 15 "read",
        WRITE = 16 "write",
        STATFS = 17 "statfs",
        RELEASE = 18 "release",
        FSYNC = 20 "fsync",
        SETXATTR = 21 "setxattr",
        GETXATTR = 22 "getxattr",
        LISTXATTR = 23 "listxattr",
        REMOVEXATTR = 24 "removexattr",
        FLUSH = 25 "flush",
        OPENDIR = 27 "opendir",
        READDIR = 28 "readdir",
        RELEASEDIR = 29 "release",
        FSYNCDIR = 30 "fsync",
        CREATE = 35 "create",
        IOCTL = 39 "ioctl",
        FALLOCATE = 43 "fallocate",
        READDIRPLUS = 44 "readdirplus",
        RENAME2 = 45 "rename",
        LSEEK = 46 "lseek",
        COPY_FILE_RANGE = 47 "copy_file_range",
        STATX = 52 "statx",
    }
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
        let entry_timeout = entry_timeout(attr).as_secs();
        Self {
            nodeid: attr.ino,
            generation: attr.generation,
            entry_valid: entry_timeout,
            attr_valid: entry_timeout,
            attr: attr.into(),
            ..Self::default()
        }
    }
}

impl EntryOut {
    /// Number and type only, which is all that the kernel uses of "." and ".." in a listing.
    pub fn bare(entry: &DirEntry<'_>) -> Self {
        let attr = AttrFields { ino: entry.ino, mode: entry.mode, ..AttrFields::default() };
        Self { nodeid: entry.ino, attr, ..Self::default() }
    }

    /// The reply for a missing name: inode 0, which the kernel caches as a negative entry.
    pub fn negative() -> Self {
        Self { entry_valid: ENTRY_TIMEOUT.as_secs(), attr_valid: ENTRY_TIMEOUT.as_secs(), ..Self::default() }
    }
}

impl From<&FsAttr> for AttrOut {
    fn from(attr: &FsAttr) -> Self {
        Self { attr_valid: ENTRY_TIMEOUT.as_secs(), attr: attr.into(), ..Self::default() }
    }
}

impl From<FopenFlags> for OpenOut {
    fn from(flags: FopenFlags) -> Self {
        Self { open_flags: flags.bits(), ..Self::default() }
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
        Self { attr_valid: ENTRY_TIMEOUT.as_secs(), stat, ..Self::default() }
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
        assert_eq!(size_of::<FsyncIn>(), 16);
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
