//! Packs as files of the store's directory, or of the simulated disk.
//!
//! Files that are read stay open, the least recently used given up first. A pack that is removed is forgotten, or its
//! space would stay taken.
//!
//! Keeps true: each directory that got a name is on the list of those to sync by the time the file can be written to, and
//! only after it has got it.

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroUsize;

use lru::LruCache;

use super::{NewPack, PackInfo, PackStore, StoredPack};
use crate::error::{Error, Result};
use crate::media::{Media, MediaFile, open_or_create};
use crate::pack::PackId;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

/// The directory of all packs.
pub const PACKS: &str = "packs";
/// How many directories below it the packs are spread over.
const FAN_OUT: u64 = 0x1000;

impl PackId {
    /// The directory of the pack's file: `packs/00c`.
    pub fn dir(self) -> String {
        format!("{PACKS}/{:03x}", self.0 % FAN_OUT)
    }

    /// The pack's file: `packs/00c/00000000000c.pack`.
    pub fn path(self) -> String {
        format!("{}/{:012x}.pack", self.dir(), self.0)
    }

    /// The pack with this file name, without directories; none if it is not the name of a pack.
    pub fn from_name(name: &str) -> Option<Self> {
        let id = u64::from_str_radix(name.strip_suffix(".pack")?, 16).ok()?;
        // The comparison with the formatted name refuses signs, capitals and missing zeros.
        (format!("{id:012x}.pack") == name).then_some(Self(id))
    }
}

/// The packs in a directory.
#[derive(Debug)]
pub struct LocalPacks {
    media: Arc<dyn Media>,
    files: Mutex<Files>,
    names: Mutex<Names>,
}

/// Files that are open for reading.
#[derive(Debug)]
struct Files {
    open: LruCache<PackId, Arc<LocalFile>>,
    /// How often a pack was forgotten. A file that was opened before the last time may be one that was forgotten
    /// meanwhile.
    forgotten: u64,
}

/// Names that no sync covered.
#[derive(Debug, Default)]
struct Names {
    /// The directories they are in.
    dirs: BTreeSet<String>,
    /// Whether the name of the directory of packs was among them.
    top_noted: bool,
}

impl LocalPacks {
    /// The packs on `media`, of which up to `max_open_files`, at least one, stay open for reading.
    pub fn new(media: Arc<dyn Media>, max_open_files: usize) -> Self {
        let max = NonZeroUsize::new(max_open_files).unwrap_or(NonZeroUsize::MIN);
        Self {
            media,
            files: Mutex::new(Files { open: LruCache::new(max), forgotten: 0 }),
            names: Mutex::default(),
        }
    }

    /// Makes the directories of a pack's file.
    fn make_dirs(&self, pack: PackId) -> io::Result<()> {
        if !self.names.lock().top_noted {
            self.media.mkdir(PACKS)?;
            let mut names = self.names.lock();
            names.dirs.insert(String::new());
            names.top_noted = true;
        }
        // Noted even if the directory was there: a process that was killed may have made it and not synced it.
        self.media.mkdir(&pack.dir())?;
        self.names.lock().dirs.insert(PACKS.to_owned());
        Ok(())
    }

    fn list_dir(&self, dir: &str) -> Result<Vec<String>> {
        self.media.list(dir).map_err(|error| Error::io(format!("listing {dir}"), error))
    }

    /// Closes a pack's file.
    fn forget(&self, pack: PackId) {
        let closed = {
            let mut files = self.files.lock();
            files.forgotten += 1;
            files.open.pop(&pack)
        };
        // Closing the last descriptor of a large unlinked file takes the host a while: not under the lock.
        drop(closed);
    }
}

impl PackStore for LocalPacks {
    fn create(&self, pack: PackId) -> io::Result<Option<Arc<dyn NewPack>>> {
        self.make_dirs(pack)?;
        let file = match self.media.create(&pack.path()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            created => created?,
        };
        self.names.lock().dirs.insert(pack.dir());
        Ok(Some(Arc::new(LocalPack { file, torn: AtomicBool::new(false) })))
    }

    fn reopen(&self, pack: PackId) -> io::Result<Arc<dyn NewPack>> {
        self.make_dirs(pack)?;
        let file = open_or_create(self.media.as_ref(), &pack.path())?;
        self.names.lock().dirs.insert(pack.dir());
        Ok(Arc::new(LocalPack { file, torn: AtomicBool::new(false) }))
    }

    fn open(&self, pack: PackId) -> io::Result<Arc<dyn StoredPack>> {
        let forgotten = {
            let mut files = self.files.lock();
            if let Some(file) = files.open.get(&pack) {
                return Ok(file.clone());
            }
            files.forgotten
        };
        // Opened without the lock: a slow disk must not hold up reads of other packs.
        let file = Arc::new(LocalFile(self.media.open(&pack.path(), false)?));
        let mut files = self.files.lock();
        let given_up = if files.forgotten == forgotten { files.open.push(pack, file.clone()) } else { None };
        drop(files);
        drop(given_up);
        Ok(file)
    }

    /// Files that are no packs, or are in a directory where their pack would not be looked for, are left out.
    fn list(&self) -> Result<Vec<PackId>> {
        let mut packs = Vec::new();
        for name in self.list_dir(PACKS)? {
            // Ignore other files between the directories.
            if name.len() != 3 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                continue;
            }
            let dir = format!("{PACKS}/{name}");
            let found = self.list_dir(&dir)?;
            let ids = found.iter().filter_map(|name| PackId::from_name(name));
            packs.extend(ids.filter(|pack| pack.dir() == dir));
        }
        packs.sort_unstable();
        Ok(packs)
    }

    fn info(&self, pack: PackId) -> io::Result<PackInfo> {
        let file = self.media.open(&pack.path(), false)?;
        Ok(PackInfo { id: pack, len: file.len()?, taken: file.allocated()? })
    }

    fn sync_names(&self) -> Result<()> {
        let dirs = std::mem::take(&mut self.names.lock().dirs);
        for dir in dirs {
            self.media
                .sync_dir(&dir)
                .map_err(|error| Error::io(format!("syncing the directory \"{dir}\""), error))?;
        }
        Ok(())
    }

    fn grows_after_sync(&self) -> bool {
        true
    }

    fn remove(&self, pack: PackId) -> io::Result<()> {
        self.media.remove(&pack.path())?;
        self.forget(pack);
        Ok(())
    }

    /// Hosts that cannot are few, and say so when it is tried.
    fn can_punch(&self) -> bool {
        true
    }

    fn punch(&self, pack: PackId, offset: u64, len: u64) -> io::Result<bool> {
        self.media.open(&pack.path(), true)?.punch(offset, len)
    }

    fn name(&self, pack: PackId) -> String {
        pack.path()
    }
}

/// A file that is written to.
#[derive(Debug)]
struct LocalPack {
    file: Arc<dyn MediaFile>,
    /// An append failed: there may be bytes behind the end.
    torn: AtomicBool,
}

impl NewPack for LocalPack {
    fn append(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        // Relaxed: one thread at a time appends.
        self.file.write_at(data, offset).inspect_err(|_| self.torn.store(true, Ordering::Relaxed))
    }

    fn seal(&self, offset: u64, footer: &[u8]) -> io::Result<()> {
        self.append(offset, footer)?;
        if self.torn.load(Ordering::Relaxed) {
            // The footer must end the file.
            self.file.set_len(offset + footer.len() as u64)?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// A file that is read.
#[derive(Debug)]
struct LocalFile(Arc<dyn MediaFile>);

impl StoredPack for LocalFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::sim::{OpKind, SimMedia};

    fn on(media: &SimMedia, max_open_files: usize) -> LocalPacks {
        LocalPacks::new(Arc::new(media.clone()), max_open_files)
    }

    /// Packs of a hundred bytes.
    fn filled(media: &SimMedia, ids: std::ops::Range<u64>) -> Vec<PackId> {
        let packs = on(media, 1);
        let make = |id| {
            packs.create(PackId(id)).unwrap().unwrap().append(0, &[1; 100]).unwrap();
            PackId(id)
        };
        ids.map(make).collect()
    }

    #[test]
    fn names_go_there_and_back() {
        assert_eq!(PackId(0x1234).path(), "packs/234/000000001234.pack");
        assert_eq!(PackId::from_name("000000001234.pack"), Some(PackId(0x1234)));
        let large = PackId(u64::MAX);
        assert_eq!(large.path(), "packs/fff/ffffffffffffffff.pack");
        assert_eq!(PackId::from_name("ffffffffffffffff.pack"), Some(large));
        for name in
            ["1234.pack", "00000000123A.pack", "+00000001234.pack", "000000001234", "000000001234.tmp", ""]
        {
            assert_eq!(PackId::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn only_packs_in_their_own_directories_are_listed() {
        let media = SimMedia::new();
        for dir in ["packs", "packs/001", "packs/002", "packs/lost+found"] {
            media.mkdir(dir).unwrap();
        }
        for pack in [PackId(0x1001), PackId(2), PackId(1)] {
            media.create(&pack.path()).unwrap();
        }
        media.create("packs/002/000000000001.pack").unwrap();
        media.create("packs/002/note").unwrap();
        media.create("packs/note").unwrap();
        assert_eq!(on(&media, 1).list().unwrap(), [PackId(1), PackId(2), PackId(0x1001)]);
    }

    #[test]
    fn few_files_stay_open_and_removed_ones_give_their_space_back() {
        let media = SimMedia::new();
        let ids = filled(&media, 0..4);
        let packs = on(&media, 2);
        let opened = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&opened);
        media.set_fault(Box::new(move |op| {
            if op.kind == OpKind::Open {
                log.lock().push(op.path.clone());
            }
            None
        }));
        let read = |at: usize| packs.open(ids[at]).and_then(|pack| pack.read_at(&mut [0; 100], 0));
        for at in [0, 1, 0, 2, 0, 1] {
            read(at).unwrap();
        }
        assert_eq!(*opened.lock(), [0, 1, 2, 1].map(|at| ids[at].path()));

        let before = media.used();
        packs.remove(ids[0]).unwrap();
        assert!(media.used() < before, "it is kept open no longer");
        assert_eq!(read(0).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// A file that was opened before its pack was removed must not be kept afterwards.
    #[test]
    fn a_file_that_is_forgotten_while_it_is_opened_is_not_kept() {
        let media = SimMedia::new();
        let pack = filled(&media, 1..2)[0];
        let packs = Arc::new(on(&media, 2));
        let other = Arc::downgrade(&packs);
        media.set_fault(Box::new(move |op| {
            if op.kind == OpKind::Open {
                other.upgrade().unwrap().forget(pack);
            }
            None
        }));
        packs.open(pack).unwrap();
        media.remove(&pack.path()).unwrap();
        assert_eq!(media.used(), 0);
    }
}
