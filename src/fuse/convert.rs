//! Pure conversions between the types of `Fs` and those of the protocol.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::fs::{Attr, DirEntry, SetTime, Timestamp};

/// The entry reply for a missing name: inode 0, which the kernel caches as a negative entry.
pub(super) const NEGATIVE_ENTRY: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// Number and type only, which is all that the kernel uses of "." and ".." in a listing.
pub(super) fn bare(entry: &DirEntry<'_>) -> FileAttr {
    FileAttr { ino: INodeNo(entry.ino), kind: file_type(entry.mode), ..NEGATIVE_ENTRY }
}

/// Attributes as the protocol has them. Device numbers need no change: `Fs` keeps the 32 bits that MKNOD brought.
pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.mode),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// The file type of a mode.
pub(super) fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// A point in time as fuser wants it. Before 1970 the nanoseconds still count forward.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let second = if time.sec < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let nanos = Duration::from_nanos(u64::from(time.nsec));
    second.and_then(|second| second.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// A point in time as SETATTR brought it.
///
/// fuser 0.18 turns "-5 s + 200 ms" into 5.2 s before 1970 instead of 4.8 s: it subtracts both seconds and nanoseconds.
/// Doing the reverse for both restores the kernel's two numbers.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            Timestamp { sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nsec: after.subsec_nanos() }
        }
        Err(before) => Timestamp {
            sec: 0_i64.checked_sub_unsigned(before.duration().as_secs()).unwrap_or(i64::MIN),
            nsec: before.duration().subsec_nanos(),
        },
    }
}

/// A time to set.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuser 0.18 does to the seconds and nanoseconds of SETATTR.
    fn as_fuser_reads(sec: i64, nsec: u32) -> SystemTime {
        if sec >= 0 {
            UNIX_EPOCH + Duration::new(sec.unsigned_abs(), nsec)
        } else {
            UNIX_EPOCH - Duration::new(sec.unsigned_abs(), nsec)
        }
    }

    #[test]
    fn times_to_set_survive_on_both_sides_of_the_epoch() {
        for (sec, nsec) in [
            (0, 0),
            (0, 999_999_999),
            (1_700_000_000, 1),
            (-1, 0),
            (-1, 999_999_999),
            (-5, 200_000_000),
            (i64::MAX, 999_999_999),
            (i64::MIN, 0),
        ] {
            assert_eq!(timestamp(as_fuser_reads(sec, nsec)), Timestamp { sec, nsec });
        }
    }

    #[test]
    fn times_to_show_count_nanoseconds_forward() {
        let shown = system_time(Timestamp { sec: -5, nsec: 200_000_000 });
        assert_eq!(shown, UNIX_EPOCH - Duration::from_millis(4800));
        let least = Timestamp { sec: i64::MIN, nsec: 0 };
        assert_ne!(system_time(least), UNIX_EPOCH);
    }

    #[test]
    fn every_type_of_node_is_told_apart() {
        for (mode, kind) in [
            (libc::S_IFDIR, FileType::Directory),
            (libc::S_IFREG, FileType::RegularFile),
            (libc::S_IFLNK, FileType::Symlink),
            (libc::S_IFIFO, FileType::NamedPipe),
            (libc::S_IFSOCK, FileType::Socket),
            (libc::S_IFCHR, FileType::CharDevice),
            (libc::S_IFBLK, FileType::BlockDevice),
        ] {
            assert_eq!(file_type(mode | 0o7777), kind);
        }
    }
}
