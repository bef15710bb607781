//! A store on the simulated disk, with a filesystem and a collector.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use cairnfs::check::{self, CheckReport};
use cairnfs::fs::{Caller, Fs, FsOptions, IMMEDIATE_REMOVAL_LIMIT, ROOT_INO};
use cairnfs::gc::{Collector, Options};
use cairnfs::media::sim::SimMedia;
use cairnfs::pack::{LocalPacks, PackStore};
use cairnfs::sabotage::{Protection, take_out};
use cairnfs::store::{MkfsOptions, OpenOptions, Store, StoreConfig, make_database};
use cairnfs::{Error, Result};

pub const CALLER: Caller = Caller { uid: 0, gid: 0 };

/// Held for writing by tests that take a protection out of this process, for reading by all others.
static PROTECTIONS: RwLock<()> = RwLock::new(());

/// Keeps every protection in place while it is held.
pub fn protected() -> RwLockReadGuard<'static, ()> {
    PROTECTIONS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps protections out while it is held.
pub struct Without {
    protections: Vec<Protection>,
    _alone: RwLockWriteGuard<'static, ()>,
}

/// Takes protections out of this process.
pub fn without(protections: &[Protection]) -> Without {
    let alone = PROTECTIONS.write().unwrap_or_else(PoisonError::into_inner);
    for &protection in protections {
        take_out(protection, true);
    }
    Without { protections: protections.to_vec(), _alone: alone }
}

impl Drop for Without {
    fn drop(&mut self) {
        for &protection in &self.protections {
            take_out(protection, false);
        }
    }
}

/// Everything that a daemon would hold.
pub struct World {
    pub store: Arc<Store>,
    pub fs: Arc<Fs>,
    pub collector: Arc<Collector>,
}

/// The configuration of all simulated stores: small chunks, small packs, so that little data does a lot.
pub fn config() -> StoreConfig {
    let options = MkfsOptions { avg_chunk: 4096, reserve: 1 << 20, ..MkfsOptions::default() };
    StoreConfig {
        region_size: 32 << 10,
        pack_size: 1 << 20,
        name_seed: 7,
        ..StoreConfig::new(&options).unwrap()
    }
}

/// A disk with an empty store.
pub fn new_disk() -> SimMedia {
    use cairnfs::media::Media;
    let disk = SimMedia::new();
    make_database(&disk).unwrap();
    disk.sync_dir("").unwrap();
    disk
}

/// What a test may want otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The collector comes to a pause point after so many extents, and chunks.
    pub step: usize,
    /// With a small cache, what is looked at is read from the disk.
    pub cache_bytes: u64,
    /// As in [`FsOptions`].
    pub immediate_removal_limit: usize,
}

impl Default for Setting {
    fn default() -> Self {
        Self { cache_bytes: 12 << 20, ..SMALL_CACHE }
    }
}

pub const SMALL_CACHE: Setting =
    Setting { step: 8, cache_bytes: 64 << 10, immediate_removal_limit: WAYS_TO_GO[0] };

/// A file's rows up to which it goes at once: with the first of these any, with the second none, so that the deletion
/// queue has all of them.
pub const WAYS_TO_GO: [usize; 2] = [IMMEDIATE_REMOVAL_LIMIT, 0];

impl World {
    pub fn open(disk: &SimMedia, config: &StoreConfig) -> Result<Self> {
        Self::with(disk, config, Setting::default())
    }

    pub fn with(disk: &SimMedia, config: &StoreConfig, setting: Setting) -> Result<Self> {
        let packs = Arc::new(LocalPacks::new(Arc::new(disk.clone()), 256));
        Self::with_packs((disk, packs), config, setting)
    }

    /// With the packs elsewhere.
    pub fn with_packs(
        (disk, packs): (&SimMedia, Arc<dyn PackStore>),
        config: &StoreConfig,
        setting: Setting,
    ) -> Result<Self> {
        let Setting { step, cache_bytes, immediate_removal_limit } = setting;
        let options = OpenOptions { cache_bytes, workers: 2, ..OpenOptions::default() };
        let path = PathBuf::from("/simulated");
        let store = Store::with_packs((Arc::new(disk.clone()), packs), config.clone(), path, None, &options)?;
        // Commits happen where the test says, not when a timer does.
        let commit_interval = Duration::from_secs(3600);
        let fs = Fs::new(
            store.clone(),
            FsOptions { commit_interval, immediate_removal_limit, ..FsOptions::default() },
        )?;
        let drained = fs.clone();
        let drain = Arc::new(move || drained.drain_orphans());
        let collector = Collector::new(store.clone(), Options { drain, step, ..Options::default() })?;
        Ok(Self { store, fs, collector })
    }

    pub fn check(&self) -> CheckReport {
        let options = check::Options { data: true, ..check::Options::default() };
        check::check(&self.store, &options).unwrap()
    }

    /// Ends everything as umount does.
    pub fn close(self) -> Result<()> {
        self.collector.shutdown();
        let ended = self.fs.shutdown();
        ended.and(self.store.close())
    }

    pub fn create(&self, parent: u64, name: &str) -> u64 {
        self.fs.mknod(parent, name.as_bytes(), CALLER, libc::S_IFREG | 0o644, 0, 0).unwrap().ino
    }

    /// Makes a file with these bytes in the root. They are staged.
    pub fn save(&self, name: &str, bytes: &[u8]) -> u64 {
        let ino = self.create(ROOT_INO, name);
        self.fs.write(ino, 0, bytes, false).unwrap();
        ino
    }

    pub fn mkdir(&self, parent: u64, name: &str) -> u64 {
        self.fs.mkdir(parent, name.as_bytes(), CALLER, 0o755, 0).unwrap().ino
    }

    pub fn find(&self, path: &str) -> Result<u64> {
        let mut ino = ROOT_INO;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            ino = self.fs.lookup(ino, name.as_bytes())?.ino;
            self.fs.forget(ino, 1);
        }
        Ok(ino)
    }

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

    /// Removes a name the way rm does, the kernel's FORGET included.
    pub fn remove(&self, parent: u64, name: &str) {
        let ino = self.fs.lookup(parent, name.as_bytes()).unwrap().ino;
        self.fs.unlink(parent, name.as_bytes()).unwrap();
        self.fs.forget(ino, u64::MAX);
    }
}
