//! Inode rows.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::meta::varint;

/// The root directory's inode number.
pub const ROOT_INO: u64 = 1;

/// FS_IMMUTABLE_FL of chattr(1), in an inode's flags.
pub const IMMUTABLE: u32 = 0x10;
/// FS_APPEND_FL of chattr(1), in an inode's flags.
pub const APPEND_ONLY: u32 = 0x20;
/// FS_NODUMP_FL of chattr(1), in an inode's flags.
pub const NO_DUMP: u32 = 0x40;
/// FS_NOATIME_FL of chattr(1), in an inode's flags.
pub const NO_ATIME: u32 = 0x80;
/// The flags that forbid changes.
pub const PROTECTING: u32 = IMMUTABLE | APPEND_ONLY;

/// A point in time, as POSIX has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub sec: i64,
    /// Nanoseconds after that second, below 10^9.
    pub nsec: u32,
}

impl Timestamp {
    /// The time of the clock. For the times of files and for display; safety does not depend on it (I10).
    pub fn now() -> Self {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Self { sec: since.as_secs() as i64, nsec: since.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                let (sec, nsec) = (before.as_secs() as i64, before.subsec_nanos());
                if nsec == 0 {
                    Self { sec: -sec, nsec: 0 }
                } else {
                    Self { sec: -sec - 1, nsec: 1_000_000_000 - nsec }
                }
            }
        }
    }
}

impl Timestamp {
    /// Appends it as rows of subvolumes have it: seconds as 64 bits, and nanoseconds.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        varint::put(out, self.sec as u64);
        varint::put(out, self.nsec.into());
    }

    /// Takes it from the beginning of `rest`.
    pub(super) fn take(rest: &mut &[u8]) -> Result<Self> {
        let sec = varint::take(rest)? as i64;
        Self { sec, nsec: narrow(varint::take(rest)?)? }.possible()
    }

    fn possible(self) -> Result<Self> {
        if self.nsec < 1_000_000_000 {
            Ok(self)
        } else {
            Err(Error::damaged("a row holds an impossible time"))
        }
    }
}

/// When what happened to an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// Last read.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// When it was made.
    pub btime: Timestamp,
}

impl Times {
    /// All at one moment.
    pub fn all(now: Timestamp) -> Self {
        Self { atime: now, mtime: now, ctime: now, btime: now }
    }
}

/// Everything about a file, directory, symlink or special file, except its data, names and attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InodeRow {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of it; for a directory 2 and one for each directory in it.
    pub nlink: u32,
    /// Device number of a device file.
    pub rdev: u32,
    /// FS_*_FL flags of chattr(1), and the flags of this module.
    pub flags: u32,
    /// Size in bytes.
    pub size: u64,
    /// Bytes of it that have chunks. Holes have none.
    pub allocated: u64,
    /// For a directory: entries in it.
    pub entries: u64,
    /// For a directory: the one that it is in; the root is its own parent.
    pub parent: u64,
    /// The store's generation when it was made.
    pub generation: u64,
    /// In a subvolume, for a file: the version under which its extents stand. 0 where extents have none.
    pub content: u64,
    /// When what happened to it.
    pub times: Times,
    /// For a symlink: where it points.
    pub target: Vec<u8>,
}

impl InodeRow {
    /// A flag of ours: there are extended attributes. It saves lookups if there are none.
    pub const HAS_XATTRS: u32 = 1 << 31;
    /// A flag of ours: there is a default ACL to inherit.
    pub const HAS_DEFAULT_ACL: u32 = 1 << 30;

    const VERSION: u8 = 1;

    /// The row's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + self.target.len());
        out.push(Self::VERSION);
        for number in [self.mode, self.uid, self.gid, self.nlink, self.rdev, self.flags] {
            varint::put(&mut out, number.into());
        }
        for number in [self.size, self.allocated, self.entries, self.parent, self.generation, self.content] {
            varint::put(&mut out, number);
        }
        let Times { atime, mtime, ctime, btime } = self.times;
        for time in [atime, mtime, ctime, btime] {
            varint::put(&mut out, zigzag(time.sec));
            varint::put(&mut out, time.nsec.into());
        }
        out.extend_from_slice(&self.target);
        out
    }

    /// The row from its bytes.
    pub fn decode(from: &[u8]) -> Result<Self> {
        let (&version, mut rest) =
            from.split_first().ok_or_else(|| Error::damaged("an inode row is empty"))?;
        if version != Self::VERSION {
            return Err(Error::damaged(format!("an inode row has the unknown version {version}")));
        }
        let mut small = [0u32; 6];
        for slot in &mut small {
            *slot = narrow(varint::take(&mut rest)?)?;
        }
        let mut large = [0u64; 6];
        for slot in &mut large {
            *slot = varint::take(&mut rest)?;
        }
        let mut times = [Timestamp::default(); 4];
        for slot in &mut times {
            let sec = unzigzag(varint::take(&mut rest)?);
            *slot = Timestamp { sec, nsec: narrow(varint::take(&mut rest)?)? }.possible()?;
        }
        let [mode, uid, gid, nlink, rdev, flags] = small;
        let [size, allocated, entries, parent, generation, content] = large;
        let [atime, mtime, ctime, btime] = times;
        let target = rest.to_vec();
        Ok(Self {
            mode,
            uid,
            gid,
            nlink,
            rdev,
            flags,
            size,
            allocated,
            entries,
            parent,
            generation,
            content,
            times: Times { atime, mtime, ctime, btime },
            target,
        })
    }

    /// The type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// True for a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == libc::S_IFREG
    }
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

fn narrow(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::damaged("a metadata row holds a number that is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn zigzag_is_its_own_inverse(number: i64) {
            prop_assert_eq!(unzigzag(zigzag(number)), number);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            if let Ok(row) = InodeRow::decode(&bytes) {
                prop_assert_eq!(InodeRow::decode(&row.encode()).unwrap(), row);
            }
        }

        #[test]
        fn a_row_comes_back(mode: u32, size: u64, sec: i64, nsec in 0u32..1_000_000_000, target: Vec<u8>) {
            let time = Timestamp { sec, nsec };
            let row = InodeRow { mode, size, times: Times { mtime: time, btime: time, ..Times::default() }, target, ..InodeRow::default() };
            prop_assert_eq!(InodeRow::decode(&row.encode()).unwrap(), row);
        }
    }
}
