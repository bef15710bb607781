//! The kernel's table of mounts. It is used where access to the mount itself would be a request to a daemon that does
//! not answer yet, or no longer answers.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};

/// The type the kernel shows for our mounts.
const TYPE: &str = "fuse.cairnfs";

/// The mounts this process sees, in the order in which they were made.
pub struct MountTable(Vec<Entry>);

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The kernel's number of this mount.
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// What is mounted; for our mounts the store's directory.
    pub source: PathBuf,
    /// The type, such as `fuse.cairnfs`.
    pub fstype: String,
    /// Major number of its device.
    pub major: u32,
    /// Minor number of its device; for FUSE also the number of the connection.
    pub minor: u32,
}

impl Entry {
    /// Our mount with this device, wherever it is, perhaps visible nowhere.
    pub fn of_device(major: u32, minor: u32) -> Self {
        let nowhere = PathBuf::new;
        Self { id: 0, parent: 0, mountpoint: nowhere(), source: nowhere(), fstype: TYPE.into(), major, minor }
    }

    /// True if it is a mount of a cairnfs store.
    pub fn is_ours(&self) -> bool {
        self.fstype == TYPE
    }

    /// True if its path leads to it: nothing is mounted over it or over one of its parents.
    pub fn is_visible(&self) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(&self.mountpoint, flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|file| id_of(&file))
            .is_ok_and(|id| id == self.id)
    }

    /// True if both show the same file system.
    pub fn is_same_device(&self, other: &Self) -> bool {
        (self.major, self.minor) == (other.major, other.minor) && self.fstype == other.fstype
    }
}

/// The number of the mount that an open file is in. Only the kernel is asked, not a daemon.
pub(super) fn id_of(file: &OwnedFd) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not show the number of a mount"))
}

impl MountTable {
    /// Reads the table.
    pub fn read() -> Result<Self> {
        let text =
            fs::read("/proc/self/mountinfo").map_err(|e| Error::io("reading /proc/self/mountinfo", e))?;
        Ok(Self::parse(&text))
    }

    pub(super) fn parse(text: &[u8]) -> Self {
        Self(text.split(|&b| b == b'\n').filter_map(parse_line).collect())
    }

    /// The mount at exactly this path; of several, the one on which none of the others is mounted. The table is in the
    /// order in which they were made, and a mount that was moved there may be older than the one that it covers.
    pub fn at(&self, mountpoint: &Path) -> Option<&Entry> {
        let here = || self.0.iter().rev().filter(|e| e.mountpoint == mountpoint);
        here().find(|e| here().all(|other| other.parent != e.id)).or_else(|| here().next())
    }

    /// The mount with this number.
    pub fn by_id(&self, id: u64) -> Option<&Entry> {
        self.0.iter().find(|e| e.id == id)
    }

    /// Our mounts, with every place of each.
    pub fn ours(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(|e| e.is_ours())
    }

    /// What is mounted in this mount.
    pub fn mounted_on(&self, entry: &Entry) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |e| e.parent == entry.id)
    }

    /// Every place at which the file system of `entry` is mounted.
    pub fn places_of(&self, entry: &Entry) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |e| e.is_same_device(entry))
    }
}

/// `36 35 98:0 /root /mnt opts [optional fields] - type source superopts`
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&b| b == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mountpoint = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let fstype = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = unescape(rest.next()?);
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    Some(Entry { id, parent, mountpoint, source, fstype, major, minor })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(code) = code {
            out.push(code);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    const TABLE: &[u8] = b"\
22 28 0:20 / /sys rw,nosuid - sysfs sysfs rw
30 28 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
81 30 0:51 / /mnt/my\\040backups rw,nosuid,nodev shared:44 master:3 - fuse.cairnfs /srv/a\\134b\\040c rw,user_id=0
82 30 0:52 / /mnt/x rw - fuse.cairnfs /srv/store rw
83 82 0:53 / /mnt/x rw - tmpfs tmpfs rw
84 30 0:52 /sub /mnt/bound rw - fuse.cairnfs /srv/store rw
short line
";

    #[test]
    fn octal_escapes_and_optional_fields_are_read() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.0.len(), 6);
        let entry = table.at(Path::new("/mnt/my backups")).unwrap();
        assert!(entry.is_ours());
        assert_eq!(entry.source, Path::new("/srv/a\\b c"));
        assert_eq!((entry.major, entry.minor), (0, 51));
    }

    #[test]
    fn the_last_mount_hides_the_earlier_one() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.at(Path::new("/mnt/x")).unwrap().fstype, "tmpfs");
        assert!(table.at(Path::new("/mnt")).is_none());
        let covered = table.by_id(82).unwrap();
        assert_eq!(table.places_of(covered).count(), 2);
        assert_eq!(table.mounted_on(covered).next().unwrap().fstype, "tmpfs");
        assert_eq!(table.ours().count(), 3);
    }

    /// `mount --move` brings an older mount over a newer one.
    #[test]
    fn what_stands_on_the_others_hides_them_however_old_it_is() {
        let table = MountTable::parse(
            b"51 60 0:40 / /mnt/y rw - fuse.cairnfs /srv/old rw\n60 30 0:41 / /mnt/y rw - tmpfs tmpfs rw\n",
        );
        assert_eq!(table.at(Path::new("/mnt/y")).unwrap().source, Path::new("/srv/old"));
        assert_eq!(table.by_id(60).unwrap().fstype, "tmpfs");
        assert!(table.by_id(61).is_none());
    }

    #[test]
    fn what_is_no_escape_stays() {
        for (escaped, plain) in [
            (&b"/a\\"[..], &b"/a\\"[..]),
            (b"/a\\04", b"/a\\04"),
            (b"/a\\999", b"/a\\999"),
            (b"\\011\\012", b"\t\n"),
            (b"/\xff\\040", b"/\xff "),
        ] {
            assert_eq!(unescape(escaped).as_os_str().as_bytes(), plain);
        }
    }

    #[test]
    fn the_own_table_has_a_root() {
        let table = MountTable::read().unwrap();
        assert!(table.at(Path::new("/")).is_some());
        let proc = table.at(Path::new("/proc")).unwrap();
        assert!(proc.is_visible());
        assert!(!Entry { id: proc.id + 1_000_000, ..proc.clone() }.is_visible());
    }
}
