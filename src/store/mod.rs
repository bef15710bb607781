//! The datastore: bytes in, a ChunkId out, and back; group commit; the barrier.
//!
//! Its parts, each with its own state and locks, from bottom to top; a part imports only those before it:
//!
//! | part | is |
//! |---|---|
//! | [`workers`] | the threads that hash, compress and read ahead |
//! | [`space`] | the disk's free bytes and the reserve |
//! | [`barrier`] | what decides whether a chunk may be reused while a cycle runs (I4, I6) |
//! | [`batches`] | which operations may add to a batch, the numbers given out, whether changes are accepted (I8) |
//! | [`packs`] | records of regions: made, appended, read and freed |
//! | [`healing`] | the bad chunks, and how they are healed |
//! | [`chunks`] | cut, stored once, read back |
//! | [`commit`] | batches become durable (I1) |
//! | [`collection`] | the flip and the end of a cycle (I5, I9) |
//! | [`backups`] | copies of the metadata |
//!
//! [`Store`] puts them together. Callers use the part that they need.

pub mod backups;
pub mod barrier;
pub mod batches;
pub mod chunks;
pub mod collection;
pub mod commit;
mod config;
mod files;
mod given_room;
pub mod healing;
mod mkfs;
pub mod packs;
pub mod space;
mod status;
pub mod workers;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::chunk::{ChunkId, CutParams, Cutter};
use crate::error::{Error, Result};
use crate::media::{HostMedia, Media, StoreLock};
use crate::meta::log::{Log, Position};
use crate::meta::rows::{NameHash, STATE_KEY, State};
use crate::meta::versions::{FIRST_VERSION, Subvolumes, Version};
use crate::meta::{Counter, Kv, Layers, Meta, Table, View};
use crate::pack::{PackId, PackStore};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

pub use backups::{BACKUP_DIR, list_backups, open_backup};
pub use batches::{Batch, FIRST_INO, Member, NUMBER_GAP};
pub use chunks::Cut;
pub use collection::FlipInfo;
pub use commit::LogStatus;
pub use config::{
    CONFIG_FILE, META_FILE, MkfsOptions, StoreConfig, access_error, no_store, open_dir, real_path,
};
pub use mkfs::{make_database, mkfs, mkfs_and};
pub use status::StoreStatus;
pub use workers::Priority;

use backups::Backups;
use barrier::Barrier;
use batches::{Batches, Latch, Numbers};
use chunks::Chunks;
use collection::Collection;
use commit::{Commits, Replay};
use given_room::GivenRoom;
use healing::Healing;
use packs::{PackOptions, Packs, pack_store};
use space::SpaceManager;
use workers::Pool;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Refuse every change.
    pub read_only: bool,
    /// Bytes for caches: a third for decoded regions, two thirds for the metadata engine.
    pub cache_bytes: u64,
    /// Who opens it, for the message to others.
    pub who: String,
    /// How long to wait for the lock.
    pub lock_wait: Duration,
    /// Threads that cut, hash and compress.
    pub workers: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            cache_bytes: 192 << 20,
            who: "cairnfs".to_owned(),
            lock_wait: Duration::from_secs(10),
            workers: std::thread::available_parallelism().map_or(2, |n| n.get().min(8)),
        }
    }
}

/// An open store.
pub struct Store {
    config: StoreConfig,
    path: PathBuf,
    media: Arc<dyn Media>,
    /// Given up last.
    lock: Mutex<Option<StoreLock>>,
    closed: AtomicBool,
    numbers: Arc<Numbers>,
    /// The rows.
    pub meta: Arc<Meta>,
    /// The workers.
    pub workers: Arc<Pool>,
    /// The disk's free bytes.
    pub space: Arc<SpaceManager>,
    /// The batches.
    pub batches: Arc<Batches>,
    /// Records of regions.
    pub packs: Arc<Packs>,
    /// Bad chunks.
    pub healing: Arc<Healing>,
    /// Chunks in and out.
    pub chunks: Arc<Chunks>,
    /// What becomes durable.
    pub commits: Arc<Commits>,
    /// What the collector asks for.
    pub collection: Collection,
    /// Copies of the metadata.
    pub backups: Backups,
}

impl Store {
    /// Opens the store in `dir` and takes its lock.
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<Arc<Self>> {
        let path = real_path(dir)?;
        let media = open_dir(&path)?;
        let config = StoreConfig::read(&media)?;
        let lock = StoreLock::acquire(&media, options.lock_wait, &options.who)?;
        warn_of_others(&media);
        Self::on_media(Arc::new(media), config, path, Some(lock), options)
    }

    /// Opens a store on any media; `lock` is held until the store is closed.
    pub fn on_media(
        media: Arc<dyn Media>,
        config: StoreConfig,
        path: PathBuf,
        lock: Option<StoreLock>,
        options: &OpenOptions,
    ) -> Result<Arc<Self>> {
        let packs = pack_store(media.clone());
        Self::with_packs((media, packs), config, path, lock, options)
    }

    /// The same, with its packs elsewhere.
    pub fn with_packs(
        (media, packs): (Arc<dyn Media>, Arc<dyn PackStore>),
        config: StoreConfig,
        path: PathBuf,
        lock: Option<StoreLock>,
        options: &OpenOptions,
    ) -> Result<Arc<Self>> {
        // A missing database is never made: the store would look new, and its first cycle would free every pack.
        if !media.exists(META_FILE).map_err(opening)? {
            return Err(without_database(&path));
        }
        let space = Arc::new(SpaceManager::new(media.clone(), config.reserve));
        let kv = open_database(media.as_ref(), space.clone(), (options.cache_bytes / 3 * 2) as usize)?;
        let replay = Replay::read(
            (media.as_ref(), packs.as_ref(), &space),
            &kv,
            *config.uuid.as_bytes(),
            config.reserve,
        )
        .map_err(unusable)?;
        let is_settled = replay.is_settled;
        let base = Arc::new(kv.read().map_err(unusable)?);
        let view = View::new(base, replay.runs);
        let log = (replay.log, replay.last);
        let state = match view.get(Table::State, STATE_KEY).map_err(unusable)? {
            Some(row) => State::decode(&row).map_err(unusable)?,
            // If it were treated as a new store, its first cycle would free every pack.
            None if !packs.list()?.is_empty() => return Err(without_database(&path)),
            None => State {
                generation: 1,
                next_chunk: 1,
                next_ino: FIRST_INO,
                next_pack: 1,
                next_version: FIRST_VERSION,
                next_subvolume: 1,
                counters: [0; Counter::ALL.len()],
            },
        };
        let store =
            Self::assemble((media, packs, space), config, (path, lock), (kv, view, log, &state), options)?;
        if options.read_only || !is_settled {
            // Who only reads looks into the database alone, as a check does.
            store.commits.fold()?;
        }
        if !options.read_only {
            store.space.restore_reserve();
        }
        Ok(Arc::new(store))
    }

    /// Puts the parts together, from bottom to top.
    fn assemble(
        (media, packs, space): (Arc<dyn Media>, Arc<dyn PackStore>, Arc<SpaceManager>),
        config: StoreConfig,
        (path, lock): (PathBuf, Option<StoreLock>),
        (kv, view, log, state): (Kv, View, (Log, Position), &State),
        options: &OpenOptions,
    ) -> Result<Self> {
        let subvolumes = Arc::new(Subvolumes::read(&view).map_err(unusable)?);
        let first = Batch::new(1, subvolumes.clone());
        let meta = Arc::new(Meta::new(kv, view, state.counters, (first.rows.clone(), subvolumes)));
        let workers =
            Pool::new(options.workers.max(1)).map_err(|error| Error::io("starting workers", error))?;
        let workers = Arc::new(workers);
        let barrier = Arc::new(Barrier::default());
        let numbers = Arc::new(Numbers::after(state));
        let latch = Arc::new(Latch::new(options.read_only));
        let batches = Arc::new(Batches::new(first, state.next_chunk, latch.clone()));
        let pack_options = PackOptions {
            store: *config.uuid.as_bytes(),
            size: config.pack_size,
            next: PackId(state.next_pack),
            codec: config.codec()?,
            cache: options.cache_bytes / 3,
        };
        let packs = Arc::new(Packs::new(packs, pack_options, space.clone(), latch));
        let region_size = config.region_size as usize;
        let healing = Arc::new(Healing::new(meta.clone(), batches.clone(), packs.clone(), region_size)?);
        let parts = chunks::Parts {
            meta: meta.clone(),
            barrier: barrier.clone(),
            batches: batches.clone(),
            packs: packs.clone(),
            healing: healing.clone(),
            workers: workers.clone(),
            numbers: numbers.clone(),
        };
        let cutter = Cutter::new(CutParams::new(config.avg_chunk)?);
        let chunks = Arc::new(Chunks::new(cutter, region_size, parts));
        let parts = commit::Parts {
            meta: meta.clone(),
            batches: batches.clone(),
            packs: packs.clone(),
            healing: healing.clone(),
            chunks: chunks.clone(),
            numbers: numbers.clone(),
            space: space.clone(),
            workers: workers.clone(),
        };
        let commits = Arc::new(Commits::new(log, state.counters, parts));
        let collection = Collection {
            barrier,
            meta: meta.clone(),
            batches: batches.clone(),
            packs: packs.clone(),
            chunks: chunks.clone(),
            commits: commits.clone(),
            numbers: numbers.clone(),
        };
        let parts = backups::Parts {
            media: media.clone(),
            meta: meta.clone(),
            batches: batches.clone(),
            commits: commits.clone(),
            numbers: numbers.clone(),
        };
        let backups = Backups::new(*config.uuid.as_bytes(), config.reserve, parts);
        let (lock, closed) = (Mutex::new(lock), AtomicBool::new(false));
        Ok(Self {
            config,
            path,
            media,
            lock,
            closed,
            numbers,
            meta,
            workers,
            space,
            batches,
            packs,
            healing,
            chunks,
            commits,
            collection,
            backups,
        })
    }

    /// Makes everything durable, ends the workers and releases the lock. Nothing can be changed afterwards.
    pub fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let latch = self.batches.latch();
        let result = match latch.failure() {
            _ if latch.is_read_only() => Ok(()),
            None => self.finish_closing(),
            // Changes since the failure, or shortly before it, are not in the database.
            Some(why) if self.batches.open_bytes() > 0 || self.batches.is_committing() => {
                Err(Error::Latched(format!("{why}; what was written since then is lost")))
            }
            Some(_) => Ok(()),
        };
        self.workers.close();
        latch.close();
        // The log is another process's from there on.
        self.commits.wait();
        // The database writes once more while it closes; only then may another process have the store.
        let closed = self.meta.kv().close();
        drop(self.lock.lock().take());
        result.and(closed)
    }

    fn finish_closing(&self) -> Result<()> {
        self.commits.commit()?;
        self.packs.seal()?;
        self.packs.sync()?;
        // If that fails, a missing pack is noticed later; everything important is durable.
        let noted = self.healing.note_packs().and_then(|()| self.commits.commit());
        noted.or_else(|error| if self.batches.writable().is_err() { Err(error) } else { Ok(()) })?;
        self.commits.end()
    }

    /// The metadata at one moment.
    pub fn layers(&self) -> Arc<Layers> {
        self.meta.layers()
    }

    /// The store's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the store was made with.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// The present generation.
    pub fn generation(&self) -> u64 {
        self.numbers.generation()
    }

    /// A new inode number; none is ever given twice.
    pub fn new_ino(&self) -> Result<u64> {
        self.numbers.new_ino()
    }

    /// A new version; none is ever given twice.
    pub fn new_version(&self) -> Version {
        self.numbers.new_version()
    }

    /// The number of a new subvolume; none is ever given twice.
    pub fn new_subvolume(&self) -> Result<u64> {
        self.numbers.new_subvolume()
    }

    /// The next ChunkId.
    pub fn next_chunk(&self) -> ChunkId {
        self.numbers.next_chunk()
    }

    /// The order in which directories are read.
    pub fn name_hash(&self) -> NameHash {
        NameHash::new(self.config.name_seed)
    }

    /// The store's directory.
    pub fn media(&self) -> &dyn Media {
        self.media.as_ref()
    }

    /// The same, for those who may outlive the store.
    pub fn shared_media(&self) -> Arc<dyn Media> {
        Arc::clone(&self.media)
    }

    /// The space figures of the host's file system.
    pub fn host_space(&self) -> Result<crate::media::Space> {
        self.media.space().map_err(|error| Error::io(format!("statvfs of {}", self.path.display()), error))
    }

    /// Refuses with ENOSPC unless there is room for `bytes` beside everything that is already promised.
    pub fn claim_space(&self, bytes: u64, promised: u64) -> Result<()> {
        let promised = promised + self.chunks.pending_bytes() + self.batches.open_bytes() * 2;
        self.space.claim(bytes, promised)
    }

    /// True if inodes without a name wait to be removed.
    pub fn has_orphans(&self) -> bool {
        self.commits.counter(Counter::Orphans) > 0
    }
}

/// A user who can enter the store can read all its data, whatever the permissions of the files in the mount are.
fn warn_of_others(media: &HostMedia) {
    let mode = media.mode().unwrap_or(0);
    if mode & 0o077 != 0 {
        let path = media.path().display();
        tracing::warn!(
            "the store {path} can be entered by others (mode {mode:o}); `chmod 700 {path}` keeps them out"
        );
    }
}

fn opening(error: std::io::Error) -> Error {
    Error::io(format!("opening {META_FILE}"), error)
}

fn without_database(path: &Path) -> Error {
    Error::Unusable(format!(
        "the metadata database of {0} is missing or empty; `cairnfs repair {0}` says what can be rebuilt",
        path.display()
    ))
}

/// Opens the database. On a full disk the reserve is given up for that, since nothing could be deleted otherwise.
fn open_database(media: &dyn Media, space: Arc<SpaceManager>, cache_bytes: usize) -> Result<Kv> {
    let file = media.open(META_FILE, true).map_err(opening)?;
    Kv::open(Arc::new(GivenRoom::new(file, space)), cache_bytes).map_err(unusable)
}

/// The error for an unusable database: says what to do, unless the host refused to read it.
fn unusable(error: Error) -> Error {
    let what = match error {
        Error::Io { ref source, .. } if source.raw_os_error().is_some() => return error,
        Error::Damaged(what) => what,
        other => other.to_string(),
    };
    Error::Unusable(format!(
        "the store cannot be opened, its metadata database is damaged ({what}); `cairnfs repair` says what can be rebuilt"
    ))
}
