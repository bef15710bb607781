//! The kernel's table of mounts, and the names that stand in it. It is asked where asking the mount itself would be a
//! request to a daemon that does not answer yet, or no more.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::mount::nobody_answers;
use crate::error::{Error, Result};

/// The type the kernel shows for our mounts.
const TYPE: &str = "fuse.cairnfs";

/// The mounts this process sees, in the order in which they were made.
pub struct MountTable(Vec<Entry>);

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
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
    /// True if it is a mount of a cairnfs store.
    pub fn is_ours(&self) -> bool {
        self.fstype == TYPE
    }
}

impl MountTable {
    /// Reads the table.
    pub fn read() -> Result<Self> {
        let text =
            fs::read("/proc/self/mountinfo").map_err(|e| Error::io("reading /proc/self/mountinfo", e))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &[u8]) -> Self {
        Self(text.split(|&b| b == b'\n').filter_map(parse_line).collect())
    }

    /// What is mounted at exactly this path: the last mount there hides the earlier ones.
    pub fn at(&self, mountpoint: &Path) -> Option<&Entry> {
        self.0.iter().rev().find(|e| e.mountpoint == mountpoint)
    }

    /// Our mount that has this device, whatever path leads to it.
    pub fn ours_by_device(&self, device: u64) -> Option<&Entry> {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        self.0.iter().find(|e| e.is_ours() && e.major == major && e.minor == minor)
    }

    /// True if this entry's file system is mounted anywhere.
    pub fn has_device(&self, entry: &Entry) -> bool {
        self.0.iter().any(|e| (e.major, e.minor) == (entry.major, entry.minor))
    }

    /// Our mounts of this store.
    pub fn of_store(&self, store: &Path) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |e| e.is_ours() && e.source == store)
    }
}

/// `36 35 98:0 /root /mnt opts [optional fields] - type source superopts`
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&b| b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mountpoint = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let fstype = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = unescape(rest.next()?);
    Some(Entry { mountpoint, source, fstype, major: major.parse().ok()?, minor: minor.parse().ok()? })
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

/// The path without symbolic links, also where its last component is a mount whose daemon is gone.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let first = match fs::canonicalize(path) {
        Ok(real) => return Ok(real),
        Err(e) => e,
    };
    if !nobody_answers(&first) {
        return Err(first);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(first);
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(fs::canonicalize(parent)?.join(name))
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
83 30 0:53 / /mnt/x rw - tmpfs tmpfs rw
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
        assert_eq!(table.of_store(Path::new("/srv/store")).count(), 2);
        let device = rustix::fs::makedev(0, 52);
        assert_eq!(table.ours_by_device(device).unwrap().source, Path::new("/srv/store"));
        assert!(table.ours_by_device(rustix::fs::makedev(0, 53)).is_none());
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
    }
}
