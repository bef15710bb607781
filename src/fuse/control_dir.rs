//! `/.cairnfs`: a directory that is not in the store and not in listings of the root.
//!
//! The kernel reads a file through its page cache, up to the size that it knows. Neither content nor size may change
//! meanwhile, and since the kernel sends no OPEN, there is no reply that could say "do not cache". So each LOOKUP of a
//! control file makes a new inode, with a number that was never used before and the content of that moment. The reply
//! tells the kernel not to cache the name. The content is kept until the kernel forgets the number. Simpler ways fail:
//! a fixed inode with timeout 0 shows old pages, and one of size 0 shows nothing.
//!
//! Programs must not see these numbers: `cp` and `tail` think that a file whose number changes was replaced. The kernel
//! addresses an inode by the number in the entry reply, but shows the number in the last GETATTR reply. That number is
//! fixed for each file. The entry reply has attributes with timeout 0, so stat(2) asks for it.
//!
//! `trash` in it is a directory that is always empty: a subvolume that is moved into it is removed, which
//! [`super::operations`] does.
//!
//! All numbers from 2^63 on belong to this directory; `Fs` never uses them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::fs::{Attr, Caller, DirEntry, ROOT_INO, SetAttr, Timestamp};

const NAME: &[u8] = b".cairnfs";
const DIR_INO: u64 = 1 << 63;
/// The directory in it that takes what is to be removed.
pub(super) const TRASH_INO: u64 = DIR_INO + 15;
const TRASH: &[u8] = b"trash";
/// The number of the first instance; the numbers between are those that stat(2) shows.
const FIRST_INSTANCE: u64 = DIR_INO + 16;

/// The content and the actions of the files in the control directory.
///
/// Each text is requested once for each lookup of its file, so it must be cheap and must not wait for a request through
/// the mount.
pub trait ControlFiles: Send + Sync {
    /// `/.cairnfs/generation`: the store's present generation and a newline.
    fn generation(&self) -> String;
    /// `/.cairnfs/status`: JSON and a newline.
    fn status(&self) -> String;
    /// The presence of the serving process, as text that this module does not interpret.
    fn presence(&self) -> String;
    /// `/.cairnfs/gc` when it is read: the state of the collector and a newline.
    fn gc_status(&self) -> String;
    /// `/.cairnfs/gc` when it is written: starts what `word` (trimmed) names.
    fn start_gc(&self, word: &[u8]) -> Result<()>;
}

/// The files of the directory, in the order of its listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Generation,
    Status,
    Gc,
}

const FILES: [(&[u8], Kind); 3] =
    [(b"generation", Kind::Generation), (b"status", Kind::Status), (b"gc", Kind::Gc)];

impl Kind {
    /// What stat(2) shows as the inode number.
    fn shown_ino(self) -> u64 {
        DIR_INO
            + match self {
                Self::Generation => 1,
                Self::Status => 2,
                Self::Gc => 3,
            }
    }

    fn mode(self) -> u32 {
        libc::S_IFREG
            | match self {
                Self::Generation | Self::Status => 0o444,
                Self::Gc => 0o644,
            }
    }
}

/// The instance of a control file that one LOOKUP made.
struct Instance {
    kind: Kind,
    content: Vec<u8>,
    made: Timestamp,
    /// References that the kernel holds.
    lookups: u64,
}

/// The control directory of one mount.
pub(super) struct ControlDir {
    files: Arc<dyn ControlFiles>,
    /// Immutable: who mounted, and when.
    uid: u32,
    gid: u32,
    born: Timestamp,
    /// The next inode number.
    next: AtomicU64,
    /// Every instance that the kernel knows, by number. Never locked while `files` is asked.
    known: Mutex<HashMap<u64, Instance>>,
}

/// True for the numbers of the control directory and its files.
pub(super) fn owns(ino: u64) -> bool {
    ino >= DIR_INO
}

/// True for the numbers of its files.
pub(super) fn is_file(ino: u64) -> bool {
    ino > DIR_INO && ino != TRASH_INO
}

fn is_dir(ino: u64) -> bool {
    ino == DIR_INO || ino == TRASH_INO
}

/// True if the name is that of the control directory, or is in it.
pub(super) fn owns_name(parent: u64, name: &[u8]) -> bool {
    owns(parent) || (parent == ROOT_INO && name == NAME)
}

/// Refuses to make `name` if it belongs to the control directory.
pub(super) fn may_create(parent: u64, name: &[u8]) -> Result<()> {
    if owns(parent) {
        Err(Error::Posix(libc::EPERM))
    } else if owns_name(parent, name) {
        Err(Error::Posix(libc::EEXIST))
    } else {
        Ok(())
    }
}

/// Refuses to remove, rename or replace a name of the control directory.
pub(super) fn may_remove(parent: u64, name: &[u8]) -> Result<()> {
    if owns_name(parent, name) { Err(Error::Posix(libc::EPERM)) } else { Ok(()) }
}

/// Refuses, with `errno`, an operation that control files do not support.
pub(super) fn not_ours(ino: u64, errno: i32) -> Result<()> {
    if owns(ino) { Err(Error::Posix(errno)) } else { Ok(()) }
}

impl ControlDir {
    pub(super) fn new(files: Arc<dyn ControlFiles>) -> Self {
        Self {
            files,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            born: Timestamp::now(),
            next: AtomicU64::new(FIRST_INSTANCE),
            known: Mutex::new(HashMap::new()),
        }
    }

    /// The presence of the process that serves this mount, for callers that may know it.
    pub(super) fn presence(&self, caller: Caller) -> Result<Vec<u8>> {
        if caller.uid == 0 || caller.uid == self.uid {
            Ok(self.files.presence().into_bytes())
        } else {
            Err(Error::Posix(libc::EPERM))
        }
    }

    /// Finds a name for which [`owns_name`] holds, except `..`.
    pub(super) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        if parent == ROOT_INO || (parent == DIR_INO && name == b".") {
            return Ok(self.dir_attr(DIR_INO));
        }
        if parent == DIR_INO && name == TRASH || parent == TRASH_INO && name == b"." {
            return Ok(self.dir_attr(TRASH_INO));
        }
        if parent == TRASH_INO {
            return Err(Error::Posix(libc::ENOENT));
        }
        if is_file(parent) {
            return self.add_reference(parent, name);
        }
        let (_, kind) = FILES.iter().find(|(file, _)| *file == name).ok_or(Error::Posix(libc::ENOENT))?;
        Ok(self.new_instance(*kind))
    }

    /// Makes a new instance, with one reference.
    fn new_instance(&self, kind: Kind) -> Attr {
        let content = match kind {
            Kind::Generation => self.files.generation(),
            Kind::Status => self.files.status(),
            Kind::Gc => self.files.gc_status(),
        };
        let instance = Instance { kind, content: content.into_bytes(), made: Timestamp::now(), lookups: 1 };
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        let attr = self.file_attr(ino, &instance);
        self.known.lock().insert(ino, instance);
        attr
    }

    /// Adds a reference to an existing instance, for a handle (a lookup of `.` in it).
    fn add_reference(&self, ino: u64, name: &[u8]) -> Result<Attr> {
        if name != b"." {
            return Err(Error::Posix(libc::ENOTDIR));
        }
        let mut known = self.known.lock();
        let instance = known.get_mut(&ino).ok_or(Error::Posix(libc::ESTALE))?;
        instance.lookups += 1;
        Ok(self.file_attr(ino, instance))
    }

    /// Removes references.
    pub(super) fn forget(&self, ino: u64, count: u64) {
        let mut known = self.known.lock();
        if let Some(instance) = known.get_mut(&ino) {
            instance.lookups = instance.lookups.saturating_sub(count);
            if instance.lookups == 0 {
                known.remove(&ino);
            }
        }
    }

    /// The attributes to show.
    pub(super) fn getattr(&self, ino: u64) -> Result<Attr> {
        if is_dir(ino) {
            return Ok(self.dir_attr(ino));
        }
        self.with(ino, |instance| Ok(self.file_attr(instance.kind.shown_ino(), instance)))
    }

    /// The only possible change: truncating the gc file, which `echo word > gc` does before it writes. With the
    /// writeback cache, the kernel later sends the time of the write; if that were refused, every syncfs(2) of the
    /// mount would fail.
    pub(super) fn setattr(&self, ino: u64, set: &SetAttr) -> Result<Attr> {
        if is_dir(ino) || set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
            return Err(Error::Posix(libc::EPERM));
        }
        self.with(ino, |instance| {
            let only_tells_when = set.size.is_none() && set.atime.is_none() && set.mtime.is_some();
            if instance.kind != Kind::Gc || set.size != Some(0) && !only_tells_when {
                return Err(Error::Posix(libc::EPERM));
            }
            if set.size.is_some() {
                instance.content.clear();
            }
            Ok(self.file_attr(instance.kind.shown_ino(), instance))
        })
    }

    pub(super) fn read(&self, ino: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        self.with(ino, |instance| {
            let length = instance.content.len();
            let from = usize::try_from(offset).map_or(length, |offset| offset.min(length));
            let to = length.min(from.saturating_add(size as usize));
            Ok(instance.content[from..to].to_vec())
        })
    }

    /// A write to the gc file is a command, at any offset. With the writeback cache, an appended word arrives after the
    /// old text.
    pub(super) fn write(&self, ino: u64, data: &[u8]) -> Result<()> {
        let word = self.with(ino, |instance| match instance.kind {
            Kind::Gc => Ok(data.strip_prefix(&*instance.content).unwrap_or(data)),
            Kind::Generation | Kind::Status => Err(Error::Posix(libc::EPERM)),
        })?;
        self.files.start_gc(word.trim_ascii())
    }

    /// Data up to the end, a hole behind it.
    pub(super) fn lseek(&self, ino: u64, offset: i64, whence: i32) -> Result<u64> {
        let size = self.with(ino, |instance| Ok(instance.content.len() as u64))?;
        let offset = u64::try_from(offset).map_err(|_| Error::Posix(libc::ENXIO))?;
        match whence {
            _ if offset >= size => Err(Error::Posix(libc::ENXIO)),
            libc::SEEK_DATA => Ok(offset),
            libc::SEEK_HOLE => Ok(size),
            _ => Err(Error::Posix(libc::EINVAL)),
        }
    }

    /// The listing after `cookie`, names only.
    pub(super) fn readdir(
        &self,
        ino: u64,
        cookie: u64,
        add: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        self.list(ino, cookie, &mut |entry, _| add(entry))
    }

    /// The listing after `cookie`, with an instance of each file that `add` accepts.
    pub(super) fn readdirplus(
        &self,
        ino: u64,
        cookie: u64,
        add: &mut dyn FnMut(&DirEntry<'_>, Option<&Attr>) -> bool,
    ) -> Result<()> {
        self.list(ino, cookie, &mut |entry, kind| {
            let Some(kind) = kind else {
                return add(entry, None);
            };
            let attr = self.new_instance(kind);
            let entry = DirEntry { ino: attr.ino, ..*entry };
            let taken = add(&entry, Some(&attr));
            if !taken {
                self.forget(attr.ino, 1);
            }
            taken
        })
    }

    fn list(
        &self,
        ino: u64,
        cookie: u64,
        add: &mut dyn FnMut(&DirEntry<'_>, Option<Kind>) -> bool,
    ) -> Result<()> {
        let is_top = ino == DIR_INO;
        if !is_dir(ino) {
            return Err(Error::Posix(libc::ENOTDIR));
        }
        let directories =
            [(&b"."[..], ino), (b"..", if is_top { ROOT_INO } else { DIR_INO }), (TRASH, TRASH_INO)];
        let directories = directories.into_iter().map(|(name, ino)| (name, ino, libc::S_IFDIR, None));
        let files = FILES.into_iter().map(|(name, kind)| (name, kind.shown_ino(), libc::S_IFREG, Some(kind)));
        let there = if is_top { usize::MAX } else { 2 };
        for ((name, ino, mode, kind), number) in directories.chain(files).take(there).zip(1..) {
            let entry = DirEntry { ino, cookie: number, mode, name };
            if number > cookie && !add(&entry, kind) {
                break;
            }
        }
        Ok(())
    }

    fn with<T>(&self, ino: u64, f: impl FnOnce(&mut Instance) -> Result<T>) -> Result<T> {
        if is_dir(ino) {
            return Err(Error::Posix(libc::EISDIR));
        }
        let mut known = self.known.lock();
        f(known.get_mut(&ino).ok_or(Error::Posix(libc::ESTALE))?)
    }

    fn dir_attr(&self, ino: u64) -> Attr {
        // Anybody may move something into the trash that is his.
        let mode = if ino == TRASH_INO { 0o777 } else { 0o555 };
        self.attr(ino, libc::S_IFDIR | mode, 0, self.born)
    }

    fn file_attr(&self, ino: u64, instance: &Instance) -> Attr {
        let size = instance.content.len() as u64;
        self.attr(ino, instance.kind.mode(), size, instance.made)
    }

    fn attr(&self, ino: u64, mode: u32, size: u64, time: Timestamp) -> Attr {
        Attr {
            ino,
            generation: 0,
            mode,
            nlink: match ino {
                DIR_INO => 3,
                TRASH_INO => 2,
                _ => 1,
            },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            size,
            blocks: size.div_ceil(512),
            blksize: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files whose status counts how often it was asked for; commands other than `start` are refused.
    #[derive(Default)]
    struct Counting(AtomicU64);

    impl ControlFiles for Counting {
        fn generation(&self) -> String {
            String::from("7\n")
        }
        fn status(&self) -> String {
            format!("{{\"asked\":{}}}\n", self.0.fetch_add(1, Ordering::Relaxed))
        }
        fn gc_status(&self) -> String {
            String::from("idle\n")
        }
        fn presence(&self) -> String {
            String::from("here")
        }
        fn start_gc(&self, word: &[u8]) -> Result<()> {
            if word == b"start" { Ok(()) } else { Err(Error::Usage(String::from("write `start`"))) }
        }
    }

    fn dir() -> ControlDir {
        ControlDir::new(Arc::new(Counting::default()))
    }

    fn errno<T>(result: Result<T>) -> i32 {
        result.map_or_else(|error| error.errno(), |_| 0)
    }

    #[test]
    fn only_its_own_user_and_root_are_told_who_serves() {
        let dir = ControlDir { uid: 7, ..dir() };
        for (uid, told) in [(0, 0), (7, 0), (8, libc::EPERM)] {
            assert_eq!(errno(dir.presence(Caller { uid, gid: 7 })), told, "user {uid}");
        }
    }

    #[test]
    fn each_lookup_is_a_new_file_with_the_content_of_its_moment() {
        let dir = dir();
        let first = dir.lookup(DIR_INO, b"status").expect("exists");
        let second = dir.lookup(DIR_INO, b"status").expect("exists");
        assert!(first.ino >= FIRST_INSTANCE && second.ino > first.ino);
        let shown = dir.getattr(first.ino).expect("known").ino;
        assert_eq!(dir.getattr(second.ino).expect("known").ino, shown);
        assert_eq!(dir.read(first.ino, 0, 100).expect("known"), b"{\"asked\":0}\n");
        assert_eq!(dir.read(second.ino, 8, 100).expect("known"), b":1}\n", "at an offset");
        assert_eq!(first.size, 12);
        assert_eq!(dir.read(first.ino, u64::MAX, 9).expect("known"), b"", "behind the end");
    }

    #[test]
    fn a_file_lives_until_its_last_reference_is_given_back() {
        let dir = dir();
        let file = dir.lookup(DIR_INO, b"generation").expect("exists");
        assert_eq!(dir.lookup(file.ino, b".").expect("known").ino, file.ino, "a handle finds it");
        dir.forget(file.ino, 1);
        assert_eq!(errno(dir.getattr(file.ino)), 0);
        dir.forget(file.ino, 1);
        assert_eq!(errno(dir.getattr(file.ino)), libc::ESTALE);
        assert_eq!(errno(dir.lookup(file.ino, b".")), libc::ESTALE);
    }

    #[test]
    fn only_the_gc_file_takes_words() {
        let dir = dir();
        let gc = dir.lookup(DIR_INO, b"gc").expect("exists").ino;
        let status = dir.lookup(DIR_INO, b"status").expect("exists").ino;
        let empty = SetAttr { size: Some(0), ..SetAttr::default() };
        assert_eq!(errno(dir.write(gc, b"idle\nstart\n")), 0, "appended");
        assert_eq!(dir.setattr(gc, &empty).expect("truncates").size, 0);
        assert_eq!(errno(dir.write(gc, b" start\n")), 0);
        assert_eq!(errno(dir.write(gc, b"stop\n")), libc::EINVAL);
        assert_eq!(errno(dir.write(status, b"start\n")), libc::EPERM);
        let when = SetAttr { mtime: Some(crate::fs::SetTime::Now), ..SetAttr::default() };
        dir.setattr(gc, &when).expect("the kernel tells when it was written");
        assert_eq!(errno(dir.setattr(status, &when)), libc::EPERM);
        assert_eq!(errno(dir.setattr(status, &empty)), libc::EPERM);
        assert_eq!(errno(dir.setattr(DIR_INO, &empty)), libc::EPERM);
        let mode = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        assert_eq!(errno(dir.setattr(gc, &mode)), libc::EPERM);
    }

    #[test]
    fn a_listing_takes_up_where_it_stopped_and_keeps_only_what_was_taken() {
        let dir = dir();
        let mut names = Vec::new();
        let mut cookie = 0;
        for _ in 0..10 {
            let mut room = 2;
            dir.readdirplus(DIR_INO, cookie, &mut |entry, attr| {
                if room == 0 {
                    return false;
                }
                room -= 1;
                assert_eq!(attr.is_some(), entry.mode == libc::S_IFREG);
                assert!(attr.is_none_or(|attr| attr.ino == entry.ino));
                names.push(entry.name.to_vec());
                cookie = entry.cookie;
                true
            })
            .expect("lists");
        }
        let wanted: [&[u8]; 6] = [b".", b"..", b"trash", b"generation", b"status", b"gc"];
        assert_eq!(names, wanted);
        assert_eq!(dir.known.lock().len(), 3);
    }

    #[test]
    fn the_trash_is_a_directory_and_always_empty() {
        let dir = dir();
        let trash = dir.lookup(DIR_INO, TRASH).expect("exists");
        assert_eq!((trash.ino, trash.mode), (TRASH_INO, libc::S_IFDIR | 0o777));
        assert_eq!(dir.lookup(TRASH_INO, b".").expect("itself").ino, TRASH_INO);
        assert_eq!(dir.getattr(TRASH_INO).expect("known").mode, trash.mode);
        assert_eq!(errno(dir.lookup(TRASH_INO, b"status")), libc::ENOENT);
        assert_eq!(
            errno(dir.setattr(TRASH_INO, &SetAttr { mode: Some(0), ..SetAttr::default() })),
            libc::EPERM
        );
        let mut names = Vec::new();
        dir.readdir(TRASH_INO, 0, &mut |entry| {
            names.push((entry.name.to_vec(), entry.ino));
            true
        })
        .expect("lists");
        assert_eq!(names, [(b".".to_vec(), TRASH_INO), (b"..".to_vec(), DIR_INO)]);
    }

    #[test]
    fn nothing_of_it_can_be_made_or_removed() {
        assert_eq!(errno(may_create(ROOT_INO, NAME)), libc::EEXIST);
        assert_eq!(errno(may_create(DIR_INO, b"x")), libc::EPERM);
        assert_eq!(errno(may_create(ROOT_INO, b"x")), 0);
        assert_eq!(errno(may_create(99, NAME)), 0, "below the root it is a name like any");
        assert_eq!(errno(may_remove(ROOT_INO, NAME)), libc::EPERM);
        assert_eq!(errno(may_remove(DIR_INO, b"gc")), libc::EPERM);
        assert_eq!(errno(may_remove(99, NAME)), 0);
        assert_eq!(errno(not_ours(DIR_INO, libc::EXDEV)), libc::EXDEV);
        assert_eq!(errno(not_ours(DIR_INO - 1, libc::EXDEV)), 0);
    }

    #[test]
    fn seeking_sees_one_piece_of_data() {
        let dir = dir();
        let ino = dir.lookup(DIR_INO, b"generation").expect("exists").ino;
        assert_eq!(dir.lseek(ino, 1, libc::SEEK_DATA).expect("data"), 1);
        assert_eq!(dir.lseek(ino, 1, libc::SEEK_HOLE).expect("hole"), 2);
        assert_eq!(errno(dir.lseek(ino, 2, libc::SEEK_DATA)), libc::ENXIO);
        assert_eq!(errno(dir.lseek(ino, -1, libc::SEEK_HOLE)), libc::ENXIO);
    }
}
