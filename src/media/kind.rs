//! The file system of a host: whether it can hold a store, whether a lock may be local to one machine, and whether its
//! figures of free space can be trusted.

use std::fs;
use std::io;
use std::os::fd::AsFd;

/// `f_type` of statfs(2). `linux/magic.h` has most of the values.
const FAT: u64 = 0x4d44;
const EXFAT: u64 = 0x2011_bab0;
const BTRFS: u64 = 0x9123_683e;
/// File systems of one kernel, on which flock(2) is seen by whoever can open the file: ext, XFS, btrfs, tmpfs, ramfs,
/// F2FS, ZFS, bcachefs, JFS, reiserfs, NILFS, ntfs3, eCryptfs, UBIFS.
const LOCAL_FILE_SYSTEMS: [u64; 14] = [
    0xef53,
    0x5846_5342,
    BTRFS,
    0x0102_1994,
    0x8584_58f6,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
    0x3153_464a,
    0x5265_4973,
    0x3434,
    0x7366_746e,
    0xf15f,
    0x2405_1905,
];

/// Mount options that show that a quota is enforced.
const QUOTA_OPTIONS: [&str; 10] = [
    "quota",
    "usrquota",
    "grpquota",
    "prjquota",
    "uquota",
    "gquota",
    "pquota",
    "usrjquota",
    "grpjquota",
    "quota2",
];

/// The type of the file system of a directory, by statfs(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(u64);

impl Kind {
    /// Of an open directory.
    pub(super) fn of(dir: impl AsFd) -> io::Result<Self> {
        Ok(Self(rustix::fs::fstatfs(dir)?.f_type as u64))
    }

    /// Why a store cannot live on it.
    pub fn refusal(self) -> Option<&'static str> {
        match self.0 {
            FAT => Some(
                "is on a FAT file system, which keeps no owners and no sockets, ends files at 4 GiB and can lose a whole \
                 directory in a power cut; use ext4, XFS or btrfs, or make one of these in a file there and mount that",
            ),
            EXFAT => Some(
                "is on an exFAT file system, which keeps no owners and no sockets and can lose a whole directory in a power \
                 cut; use ext4, XFS or btrfs, or make one of these in a file there and mount that",
            ),
            _ => None,
        }
    }

    /// Whether this host may not see a lock that is held on another machine or through another mount.
    pub(super) fn locks_may_be_local(self) -> bool {
        !LOCAL_FILE_SYSTEMS.contains(&self.0)
    }
}

/// Whether the host may refuse to store bytes although statvfs(2) shows free space. An unknown answer counts as no; the
/// first refusal then shows the truth.
pub(super) fn has_hidden_limit(dir: impl AsFd) -> bool {
    let btrfs = Kind::of(&dir).is_ok_and(|kind| kind == Kind(BTRFS));
    if btrfs {
        // It does not matter whose groups these are: the only effect is that promises are backed.
        let known = fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
        return known.map(|entry| entry.path().join("qgroups")).any(|groups| groups.is_dir());
    }
    let Ok(stat) = rustix::fs::fstat(&dir) else { return false };
    let device = format!("{}:{}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    fs::read("/proc/self/mountinfo").is_ok_and(|table| enforces_quota(&table, &device))
}

/// Whether the mount of this device has a quota, by the options in the last field of its line in mountinfo.
fn enforces_quota(table: &[u8], device: &str) -> bool {
    // The path of another mount may be no UTF-8.
    let table = String::from_utf8_lossy(table);
    let of_device = table.lines().filter(|line| line.split(' ').nth(2) == Some(device));
    let mut options = of_device.filter_map(|line| line.rsplit(' ').next()).flat_map(|all| all.split(','));
    options.any(|option| QUOTA_OPTIONS.contains(&option.split('=').next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_shows_in_the_options_of_its_own_device() {
        let table = b"35 1 97:0 / /\xff rw - ext4 /dev/e rw\n\
                     36 35 98:0 / /a rw,noatime shared:1 - xfs /dev/a rw,attr2,prjquota\n\
                     37 35 98:1 / /b rw,noatime - ext4 /dev/b rw,noquota,usrjquota=aquota.user,jqfmt=vfsv1\n\
                     38 35 98:2 / /c rw,usrquota - xfs /dev/c rw,noquota\n\
                     39 35 98:3 / /d rw - xfs /dev/d rw,uqnoenforce\n";
        let found = ["98:0", "98:1", "98:2", "98:3", "98"].map(|device| enforces_quota(table, device));
        assert_eq!(found, [true, true, false, false, false]);
    }

    #[test]
    fn fat_is_refused_and_only_known_locks_are_trusted() {
        assert!(Kind(FAT).refusal().is_some_and(|why| why.contains("4 GiB") && why.contains("ext4")));
        assert!(Kind(EXFAT).refusal().is_some_and(|why| why.contains("exFAT") && !why.contains("4 GiB")));
        for local in LOCAL_FILE_SYSTEMS {
            assert!(Kind(local).refusal().is_none() && !Kind(local).locks_may_be_local());
        }
        // FUSE, NFS, CIFS, 9P.
        for remote in [0x6573_5546, 0x6969, 0xff53_4d42, 0x0102_1997] {
            assert!(Kind(remote).refusal().is_none() && Kind(remote).locks_may_be_local());
        }
    }
}
