//! The types of the filesystem's interface: those of POSIX, independent of any protocol.

pub use crate::meta::rows::xattr::{NameSpace, is_namespace};
pub use crate::meta::rows::{
    APPEND_ONLY, IMMUTABLE, NAME_MAX, NO_ATIME, NO_DUMP, PROTECTING, ROOT_INO, Timestamp,
};

/// The largest file: 16 TiB.
pub const SIZE_MAX: u64 = 16 << 40;
/// The most names an inode can have.
pub const LINK_MAX: u32 = 1_000_000;

/// The user and group of a request; they become the owner of new inodes.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Which reads of a file set its access time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTimes {
    /// None.
    Never,
    /// Those that find it older than a change, or than a day.
    Relative,
    /// All of them.
    Always,
}

/// Whether a read sets the access time, if the mount and the file have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It does.
    Counts,
    /// The reader has said O_NOATIME.
    Unnoticed,
}

/// A time to set.
#[derive(Debug, Clone, Copy)]
pub enum SetTime {
    /// The clock's.
    Now,
    /// This one.
    At(Timestamp),
}

/// What stat(2) tells.
#[derive(Debug, Clone)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// The store's generation when the inode was made.
    pub generation: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes that have data.
    pub blocks: u64,
    /// A good size for reads and writes.
    pub blksize: u32,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
}

/// What setattr changes; `None` leaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
    /// Last change of anything.
    pub ctime: Option<Timestamp>,
}

impl SetAttr {
    /// True if nothing is set, except a ctime, which the kernel sends with the writeback cache.
    pub(super) fn is_empty(&self) -> bool {
        let times = self.atime.is_some() || self.mtime.is_some();
        !times && self.mode.is_none() && self.uid.is_none() && self.gid.is_none() && self.size.is_none()
    }

    /// True if the change clears set-id bits that the caller may not keep: a change of the size, or of the owner, even
    /// one that changes nothing.
    pub fn takes_set_ids(&self) -> bool {
        self.uid.is_some() || self.gid.is_some() || self.size.is_some() || self.is_empty()
    }

    /// True if an append-only inode allows it: no change, or both times set to now, as touch(1) does.
    pub(super) fn may_be_of_append_only(&self) -> bool {
        if self.mode.is_some() || self.uid.is_some() || self.gid.is_some() || self.size.is_some() {
            return false;
        }
        // With the writeback cache the kernel sends its own time for now, and the times of the writes it has collected.
        let is_now = match (self.mtime, self.ctime) {
            (Some(SetTime::Now), _) => true,
            (Some(SetTime::At(mtime)), Some(ctime)) => mtime == ctime,
            _ => false,
        };
        match self.atime {
            None => self.mtime.is_none() || self.ctime.is_some(),
            Some(SetTime::Now) => is_now,
            Some(SetTime::At(_)) => false,
        }
    }

    /// True if each time is one that an inode's row can hold.
    pub(super) fn times_are_possible(&self) -> bool {
        let given = |time: &Option<SetTime>| match time {
            Some(SetTime::At(time)) => Some(*time),
            Some(SetTime::Now) | None => None,
        };
        let times = [given(&self.atime), given(&self.mtime), self.ctime];
        times.into_iter().flatten().all(|time| time.nsec < 1_000_000_000)
    }
}

/// A directory's entry as readdir gives it.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// The cookie after this entry.
    pub cookie: u64,
    /// S_IFMT bits.
    pub mode: u32,
    /// The name.
    pub name: &'a [u8],
}

/// What statfs tells.
#[derive(Debug, Clone, Copy)]
pub struct FsStat {
    /// Blocks of the host file system.
    pub blocks: u64,
    /// Free ones.
    pub bfree: u64,
    /// Free ones for others than root.
    pub bavail: u64,
    /// Inodes there are and could be.
    pub files: u64,
    /// Inodes there could be beyond those there are.
    pub ffree: u64,
    /// Bytes of a block.
    pub bsize: u32,
    /// Bytes of a block.
    pub frsize: u32,
    /// The longest name.
    pub namelen: u32,
}

/// The flags of renameat2(2).
#[derive(Debug, Clone, Copy, Default)]
pub struct RenameFlags {
    /// Fail if the new name is taken.
    pub noreplace: bool,
    /// Exchange the two.
    pub exchange: bool,
}
