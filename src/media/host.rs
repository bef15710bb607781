//! The real disk: one store directory on a host file system.
//!
//! The store's directory is opened once. Everything else is reached from that descriptor, name by name, without
//! following a link. So an open store keeps working if it is renamed or if something is mounted over its path. A user
//! who can write to a directory above it cannot lead the daemon to another file between two calls.
//!
//! The owner of the store's directory owns everything in it. Files that root makes in a user's store are given to the
//! user, who could not open them otherwise. If a name in such a store is a second name of another user's file, root
//! does not open it for writing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Gid, Uid, geteuid};
use xxhash_rust::xxh3::xxh3_64;

use super::kind::{self, Kind};
use super::{Media, MediaFile, Space};
use crate::sabotage::{Protection, out};

/// Bytes written at once if space has to be allocated by writing zeros.
const ZEROS: usize = 1 << 20;

/// A store directory on the host.
#[derive(Debug)]
pub struct HostMedia {
    /// The path of the store when it was opened; for messages only.
    path: PathBuf,
    /// Readable, because an `O_PATH` descriptor cannot be synced.
    dir: OwnedFd,
    /// The user who owns new files, if root works in a user's store.
    heir: Option<(Uid, Gid)>,
    /// The log has said that a file could not be given to that user.
    warned: AtomicBool,
    kind: Kind,
    /// The host has a limit that its figures do not show.
    hidden_limit: bool,
}

/// A directory of the store: the store's own descriptor, or one opened on the way to a name.
enum Place<'a> {
    Store(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl AsFd for Place<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Store(fd) => *fd,
            Self::Below(fd) => fd.as_fd(),
        }
    }
}

/// Whoever is to have what root makes in a directory of this owner.
fn heir(owner: (Uid, Gid)) -> Option<(Uid, Gid)> {
    let is_anothers = geteuid().is_root() && !owner.0.is_root();
    (is_anothers && !out(Protection::OneOwner)).then_some(owner)
}

fn no_links() -> OFlags {
    if out(Protection::NoLinks) { OFlags::empty() } else { OFlags::NOFOLLOW }
}

impl HostMedia {
    /// Opens the directory of a store.
    pub fn open(path: &Path) -> io::Result<Self> {
        let dir = retry_on_intr(|| {
            fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        })?;
        let stat = fs::fstat(&dir)?;
        let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        let heir = heir(owner);
        let (kind, hidden_limit) = (Kind::of(&dir)?, kind::has_hidden_limit(&dir));
        Ok(Self { path: path.to_owned(), dir, heir, warned: AtomicBool::new(false), kind, hidden_limit })
    }

    /// What kind of file system the store is on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether a lock that somebody else holds is always seen.
    pub(super) fn sees_all_locks(&self) -> bool {
        !self.kind.locks_may_be_local()
    }

    /// The permission bits of the store's directory.
    pub fn mode(&self) -> io::Result<u32> {
        Ok(fs::fstat(&self.dir)?.st_mode & 0o777)
    }

    /// Keeps everybody but the owner out of the store.
    pub fn restrict_to_owner(&self) -> io::Result<()> {
        Ok(fs::fchmod(&self.dir, Mode::RWXU)?)
    }

    /// Removes a directory that is empty.
    pub fn remove_dir(&self, dir: &str) -> io::Result<()> {
        let (parent, name) = self.parent(dir)?;
        Ok(fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
    }

    /// Gives a file that this process has just made to the store's owner. Some hosts cannot do that; the store works
    /// all the same.
    fn give_to_owner(&self, made: impl AsFd, name: &str) {
        let Some((uid, gid)) = self.heir else { return };
        if let Err(errno) = fs::fchown(made, Some(uid), Some(gid))
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            let (path, uid) = (self.path.display(), uid.as_raw());
            tracing::warn!("{path}/{name} cannot be given to user {uid}, who owns the store: {errno}");
        }
    }

    /// The same for a directory. If it is not empty, it is not the one that was made here: somebody who can write to
    /// the store has put it in its place.
    fn give_dir_to_owner(&self, parent: &Place<'_>, name: &str) -> io::Result<()> {
        if self.heir.is_none() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = retry_on_intr(|| fs::openat(parent, name, flags, Mode::empty()))?;
        for entry in Dir::read_from(&made)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(());
            }
        }
        self.give_to_owner(&made, name);
        Ok(())
    }

    /// Where the store was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file that must not exist yet.
    pub(super) fn create_file(&self, path: &str) -> io::Result<File> {
        let (dir, name) = self.parent(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR))?;
        self.give_to_owner(&fd, path);
        Ok(fd.into())
    }

    /// Opens a regular file that exists.
    pub(super) fn open_file(&self, path: &str, writable: bool) -> io::Result<File> {
        let (dir, name) = self.parent(path)?;
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        // NONBLOCK: a FIFO in the place of the file must not block the daemon. For regular files the flag means
        // nothing.
        let flags = access | no_links() | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| fs::openat(&dir, name, flags, Mode::empty()))?;
        let stat = fs::fstat(&fd)?;
        let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path} {why}")));
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return refused("is not a regular file");
        }
        let foreign = self.heir.is_some_and(|(uid, _)| uid.as_raw() != stat.st_uid);
        if writable && foreign && stat.st_nlink > 1 {
            return refused("is a second name of a file of somebody else than the store's owner");
        }
        Ok(fd.into())
    }

    /// Opens a directory of the store, each name on the way without following a link.
    fn walk(&self, dir: &str, last: OFlags) -> io::Result<Place<'_>> {
        let mut place = Place::Store(self.dir.as_fd());
        if dir.is_empty() {
            return Ok(place);
        }
        let mut names = dir.split('/').peekable();
        while let Some(name) = names.next() {
            check_name(name)?;
            let how = if names.peek().is_some() { OFlags::PATH } else { last };
            let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            place = Place::Below(retry_on_intr(|| fs::openat(&place, name, flags, Mode::empty()))?);
        }
        Ok(place)
    }

    /// The directory that has the last name of a path, and that name.
    fn parent<'p>(&self, path: &'p str) -> io::Result<(Place<'_>, &'p str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        check_name(name)?;
        Ok((self.walk(dir, OFlags::PATH)?, name))
    }
}

/// Refuses what would lead out of the store.
fn check_name(name: &str) -> io::Result<()> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not a name of a file in a store"),
        ));
    }
    Ok(())
}

impl Media for HostMedia {
    fn create(&self, path: &str) -> io::Result<Arc<dyn MediaFile>> {
        Ok(Arc::new(HostFile(self.create_file(path)?)))
    }

    fn open(&self, path: &str, writable: bool) -> io::Result<Arc<dyn MediaFile>> {
        Ok(Arc::new(HostFile(self.open_file(path, writable)?)))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        let (dir, name) = match self.parent(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        match fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.walk(dir, OFlags::RDONLY)?)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        let (parent, name) = self.parent(dir)?;
        match fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => self.give_dir_to_owner(&parent, name),
            Err(Errno::EXIST) => {
                let stat = fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    Ok(())
                } else {
                    Err(Errno::NOTDIR.into())
                }
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(fs::unlinkat(&dir, name, AtFlags::empty())?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        Ok(fs::renameat(&from_dir, from_name, &to_dir, to_name)?)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        Ok(fs::linkat(&from_dir, from_name, &to_dir, to_name, AtFlags::empty())?)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        // Not retried after an interruption: the second call may not report the failure of the first one (I8). In
        // practice the fsync of a directory cannot be interrupted.
        Ok(fs::fsync(self.walk(dir, OFlags::RDONLY)?)?)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = fs::fstatvfs(&self.dir)?;
        Ok(Space {
            block_size: stat.f_bsize,
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bfree.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            files: stat.f_files,
            files_free: stat.f_ffree,
            hidden_limit: self.hidden_limit,
        })
    }
}

/// An open file on the host.
#[derive(Debug)]
struct HostFile(File);

impl HostFile {
    /// Allocates the space of a range on a host that has no call for it: existing bytes are rewritten, missing ones are
    /// written as zeros.
    fn allocate_by_writing(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
        let mut buf = vec![0; ZEROS];
        let mut at = offset;
        while at < end {
            let piece = usize::try_from(end - at).map_or(ZEROS, |rest| rest.min(ZEROS));
            let present =
                usize::try_from(self.len()?.saturating_sub(at)).map_or(piece, |rest| rest.min(piece));
            self.read_at(&mut buf[..present], at)?;
            buf[present..piece].fill(0);
            self.write_at(&buf[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }
}

impl MediaFile for HostFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match retry_on_intr(|| fs::fallocate(&self.0, FallocateFlags::empty(), offset, len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.allocate_by_writing(offset, len),
            other => Ok(other?),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        if len == 0 {
            return Ok(true);
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| fs::fallocate(&self.0, flags, offset, len)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn allocated(&self) -> io::Result<u64> {
        let blocks = u64::try_from(fs::fstat(&self.0)?.st_blocks).unwrap_or(0);
        Ok(blocks * 512)
    }

    fn identity(&self) -> io::Result<u64> {
        // On a new file system, a copy may have the same inode number that the file has on the old one.
        let found = fs::statx(&self.0, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
        let born = (found.stx_btime.tv_sec as u64, found.stx_btime.tv_nsec.into());
        let warned = [found.stx_ino, born.0, born.1].map(u64::to_le_bytes);
        Ok(xxh3_64(warned.as_flattened()).max(1))
    }

    fn sync(&self) -> io::Result<()> {
        // Straight to the system call: the standard library repeats an interrupted one, and no sync is ever
        // repeated (I8).
        Ok(fs::fdatasync(&self.0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn media() -> (tempfile::TempDir, HostMedia) {
        let dir = tempfile::tempdir().unwrap();
        let media = HostMedia::open(dir.path()).unwrap();
        (dir, media)
    }

    #[test]
    fn files_are_made_once_read_written_and_removed() {
        let (dir, media) = media();
        media.mkdir("a").unwrap();
        media.mkdir("a").unwrap();
        media.mkdir("a/b").unwrap();
        let file = media.create("a/b/c").unwrap();
        assert_eq!(media.create("a/b/c").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.write_at(b"hello", 3).unwrap();
        assert_eq!(file.len().unwrap(), 8);
        let mut buf = [0; 5];
        media.open("a/b/c", false).unwrap().read_at(&mut buf, 3).unwrap();
        assert_eq!(&buf, b"hello");
        assert_eq!(file.read_at(&mut buf, 4).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        file.sync().unwrap();
        media.sync_dir("a/b").unwrap();
        media.sync_dir("").unwrap();
        media.rename("a/b/c", "d").unwrap();
        assert!(!media.exists("a/b/c").unwrap() && media.exists("d").unwrap());
        assert_eq!(media.list("").unwrap(), ["a", "d"]);
        let mode =
            |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("d")), (0o700, 0o600));
        media.link("d", "a/e").unwrap();
        assert_eq!(media.link("d", "a/e").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let identity = |name: &str| media.open(name, false).unwrap().identity().unwrap();
        assert_eq!(identity("d"), identity("a/e"), "one file, two names");
        media.remove("d").unwrap();
        assert!(!media.exists("d").unwrap() && !media.exists("no/where").unwrap());
        assert!(media.space().unwrap().total >= media.space().unwrap().available);
    }

    #[test]
    fn no_link_is_followed_and_no_path_leads_out() {
        let (dir, media) = media();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("f"), "x").unwrap();
        symlink(outside.path(), dir.path().join("d")).unwrap();
        symlink(outside.path().join("f"), dir.path().join("f")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("fifo"),
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        for path in ["d/f", "f", "fifo", "..", "../f", "/etc/passwd", "", "d/", "a\0b", "./f"] {
            assert!(media.open(path, false).is_err(), "{path:?}");
            assert!(media.create(path).is_err(), "{path:?}");
        }
        assert!(media.mkdir("d").is_err() && media.list("d").is_err());
        assert!(media.sync_dir("d").is_err());
        assert!(media.open("fifo", true).is_err());
    }

    #[test]
    fn a_store_renamed_while_open_keeps_working() {
        let outer = tempfile::tempdir().unwrap();
        let (before, after) = (outer.path().join("s"), outer.path().join("t"));
        std::fs::create_dir(&before).unwrap();
        let media = HostMedia::open(&before).unwrap();
        std::fs::rename(&before, &after).unwrap();
        media.create("f").unwrap();
        assert!(after.join("f").exists());
        assert_eq!(media.path(), before);
    }

    #[test]
    fn space_is_taken_and_given_back() {
        let (dir, media) = media();
        let file = media.create("f").unwrap();
        file.write_at(b"head", 0).unwrap();
        file.allocate(0, 1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        assert!(file.allocated().unwrap() >= 1 << 20);
        let blocks = std::fs::metadata(dir.path().join("f")).unwrap().blocks();
        assert_eq!(file.allocated().unwrap(), blocks * 512);
        let mut head = [0; 4];
        file.read_at(&mut head, 0).unwrap();
        assert_eq!(&head, b"head");
        if file.punch(0, 1 << 19).unwrap() {
            assert!(file.allocated().unwrap() < 1 << 20);
            file.read_at(&mut head, 0).unwrap();
            assert_eq!(head, [0; 4]);
        }
        assert_eq!(file.len().unwrap(), 1 << 20);
    }

    #[test]
    fn space_taken_by_writing_keeps_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![7; 1000]).unwrap();
        let file = HostFile(File::options().read(true).write(true).open(&path).unwrap());
        file.set_len(3 << 20).unwrap();
        file.allocate_by_writing(500, 4 << 20).unwrap();
        let mut expected = vec![7; 1000];
        expected.resize(500 + (4 << 20), 0);
        assert!(std::fs::read(&path).unwrap() == expected);
        assert!(file.allocated().unwrap() >= 4 << 20);
    }
}
