//! A store on the simulated disk with filesystem and collector, and what the kernel would ask of them.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::fs::{Caller, Fs, FsOptions, ROOT_INO};
use crate::gc::{Collector, Options};
use crate::media::Media;
use crate::media::sim::{Rng, SimMedia};
use crate::store::{MkfsOptions, OpenOptions, Store, StoreConfig, make_database};
use crate::sync::Arc;

use super::disk::Disk;

/// What came of something: nothing to say, or the promise that was broken.
pub type Outcome<T = ()> = std::result::Result<T, Broken>;

/// A promise that was broken, in words.
#[derive(Debug)]
pub struct Broken(pub String);

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self(error.to_string())
    }
}

/// A promise was broken.
pub fn broken<T>(what: impl Into<String>) -> Outcome<T> {
    Err(Broken(what.into()))
}

const CALLER: Caller = Caller { uid: 0, gid: 0 };

/// Bytes of contents below [`LARGE`]: one chunk, since no chunk but a file's last is shorter than 1 KiB.
const SMALL_LEN: u64 = 900;
/// Contents from here on have some chunks.
pub const LARGE: u64 = 50;

/// The bytes that go by a number. Equal numbers are what dedup finds.
pub fn content(number: u64) -> Vec<u8> {
    let len = if number < LARGE { SMALL_LEN + number } else { 14_000 + number };
    let mut random = Rng::new(number);
    let words = (0..len.div_ceil(8)).flat_map(|_| random.draw().to_le_bytes());
    words.take(len as usize).collect()
}

/// Makes an empty store on a disk.
pub fn make_store(disk: &SimMedia) {
    make_database(disk).expect("a disk without faults");
    disk.sync_dir("").expect("a disk without faults");
}

fn config() -> Result<StoreConfig> {
    let options = MkfsOptions { avg_chunk: 4096, reserve: 16 << 10, ..MkfsOptions::default() };
    Ok(StoreConfig {
        uuid: uuid::Uuid::from_u128(1),
        region_size: 32 << 10,
        pack_size: 1 << 20,
        name_seed: 7,
        ..StoreConfig::new(&options)?
    })
}

/// Everything that a daemon would hold.
pub struct World {
    pub disk: SimMedia,
    pub store: Arc<Store>,
    pub fs: Arc<Fs>,
    pub collector: Arc<Collector>,
}

impl World {
    pub fn open(disk: &SimMedia, immediate_removal_limit: usize) -> Result<Arc<Self>> {
        let options = OpenOptions { cache_bytes: 3 << 20, workers: 1, ..OpenOptions::default() };
        let path = PathBuf::from("/simulated");
        let store = Store::on_media(Arc::new(Disk::new(disk)), config()?, path, None, &options)?;
        let commit_interval = Duration::from_secs(3600);
        let fs = Fs::new(
            store.clone(),
            FsOptions { commit_interval, immediate_removal_limit, ..FsOptions::default() },
        )?;
        let drained = fs.clone();
        let drain = Arc::new(move || drained.drain_orphans());
        let collector = Collector::new(store.clone(), Options { drain, ..Options::default() })?;
        Ok(Arc::new(Self { disk: disk.clone(), store, fs, collector }))
    }

    /// Ends everything as umount does.
    pub fn close(&self) -> Result<()> {
        self.collector.shutdown();
        let ended = self.fs.shutdown();
        ended.and(self.store.close())
    }

    pub fn cycle(&self) -> Outcome {
        match self.collector.run_cycle(false) {
            Ok(_) => Ok(()),
            Err(error) => broken(format!("a cycle: {error}")),
        }
    }

    /// Makes a file in the root. The kernel remembers it until [`World::forget`].
    pub fn create(&self, name: &str) -> Result<u64> {
        Ok(self.fs.mknod(ROOT_INO, name.as_bytes(), CALLER, libc::S_IFREG | 0o644, 0, 0)?.ino)
    }

    /// Looks a file up; the kernel remembers it once more.
    pub fn lookup(&self, name: &str) -> Result<u64> {
        Ok(self.fs.lookup(ROOT_INO, name.as_bytes())?.ino)
    }

    /// The kernel forgets one lookup.
    pub fn forget(&self, ino: u64) {
        self.fs.forget(ino, 1);
    }

    /// Makes a file with this content, as `cp` does: create, write, close.
    pub fn save(&self, name: &str, number: u64) -> Result<()> {
        let ino = self.create(name)?;
        self.fs.write(ino, 0, &content(number), false)?;
        self.fs.file_closed(ino);
        self.forget(ino);
        Ok(())
    }

    /// The same with fsync before the close.
    pub fn save_durably(&self, name: &str, number: u64) -> Result<()> {
        let ino = self.create(name)?;
        self.fs.write(ino, 0, &content(number), false)?;
        self.fs.fsync(ino)?;
        self.forget(ino);
        Ok(())
    }

    /// Removes a file's name.
    pub fn remove(&self, name: &str) -> Result<()> {
        let ino = self.lookup(name)?;
        self.fs.unlink(ROOT_INO, name.as_bytes())?;
        self.forget(ino);
        Ok(())
    }

    /// All bytes of a file.
    pub fn read(&self, ino: u64) -> Result<Vec<u8>> {
        let size = self.fs.getattr(ino)?.size;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            let part = self.fs.read(ino, bytes.len() as u64, 128 << 10)?;
            if part.is_empty() {
                return Err(Error::Posix(libc::EIO));
            }
            bytes.extend(part);
        }
        Ok(bytes)
    }

    /// Reads a file by name and compares it with what it has to be.
    pub fn expect(&self, name: &str, number: u64) -> Outcome {
        let read = || {
            let ino = self.lookup(name)?;
            let bytes = self.read(ino);
            self.forget(ino);
            bytes
        };
        match read() {
            Ok(bytes) if bytes == content(number) => Ok(()),
            Ok(_) => broken(format!("{name} has other bytes than content {number}")),
            Err(error) => broken(format!("{name}: {error}")),
        }
    }
}
