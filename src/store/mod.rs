//! The datastore: bytes in, a ChunkId out, and back; group commit; the barrier.
//!
//! What stands where: [`barrier`] and [`cells`] decide about reuse, [`batch`] says who may still add to a batch,
//! `cut` makes chunks of bytes, `put` stores them, `commit` makes batches durable (I1, I8), `get` reads, [`heal`] mends
//! bad chunks, `presence` notices packs that are gone, [`space`] knows the disk's free bytes, `collect` is what the collector may do to the store, `backups`
//! keeps copies of the metadata.

mod ahead;
mod backups;
pub mod barrier;
pub mod batch;
pub mod cells;
mod collect;
mod commit;
mod config;
mod cut;
mod get;
pub mod heal;
mod locality;
mod mkfs;
mod pool;
mod presence;
mod put;
mod region_builder;
mod space;
mod status;
mod together;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::chunk::{CutParams, Cutter};
use crate::error::{Error, Result};
use crate::media::{HostMedia, Media, StoreLock, most_open_files};
use crate::meta::rows::{NameHash, STATE_KEY, State};
use crate::meta::{Counter, Kv, Layers, Memtable, Meta, Table};
use crate::pack::{Compression, PackId, PackReader, PackWriter};
use crate::sabotage::{Protection, out};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, OnceLock, Ordering, RwLock};

pub use backups::{BACKUP_DIR, list_backups, open_backup};
pub use batch::Member;
pub use collect::FlipInfo;
pub use config::{CONFIG_FILE, META_FILE, StoreConfig, cannot_look, no_store, open_dir, real_path};
pub use cut::Cut;
pub use mkfs::{MkfsOptions, make_database, mkfs, mkfs_and};
pub use status::StoreStatus;
pub use together::Turn;

use ahead::Trails;
use barrier::Barrier;
use batch::{Batch, Gate};
use commit::CommitState;
use get::RegionCache;
use heal::BadChunks;
use locality::Locality;
use pool::Pool;
use space::SpaceKeeper;

/// Inode numbers below this are the root's and the control directory's.
pub const FIRST_INO: u64 = 16;

/// Numbers skipped at each opening: more than the two batches that a crash can lose give out.
pub const NUMBER_GAP: u64 = 1 << 20;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Refuse every change.
    pub read_only: bool,
    /// Bytes for caches: a third for decoded regions, two thirds for the metadata engine.
    pub cache_bytes: u64,
    /// Who opens it, for the message that others see.
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
    /// Immutable.
    config: StoreConfig,
    compression: Compression,
    cutter: Cutter,
    path: PathBuf,
    read_only: bool,
    media: Arc<dyn Media>,
    /// Given up last.
    lock: Mutex<Option<StoreLock>>,

    meta: Meta,
    gate: Gate,
    barrier: Barrier,
    writer: PackWriter,
    reader: PackReader,
    regions: RegionCache,
    trails: Trails,
    locality: Locality,
    pool: Pool,
    space: SpaceKeeper,

    /// The next ChunkId; ordered by the locks of the region builders.
    next_chunk: AtomicU64,
    /// The next inode number.
    next_ino: AtomicU64,
    /// The present generation; raised by the flip while nobody can join.
    generation: AtomicU64,
    /// The sums as they stand in the database.
    counters: Mutex<[i64; Counter::ALL.len()]>,
    /// Plain bytes in regions that are not written yet.
    pending_bytes: AtomicU64,

    /// Every chunk with an id below this has its row in the database.
    settled: AtomicU64,
    /// The batch that is being committed.
    sealed: RwLock<Option<Arc<Batch>>>,
    /// One commit at a time.
    committing: Mutex<CommitState>,
    /// Number of the last batch that is durable.
    committed: AtomicU64,
    /// Bytes of rows committed since the last metadata backup.
    changed: AtomicU64,
    /// Bytes of rows that the last metadata backup had, about.
    backed_up: AtomicU64,
    /// Why the store takes no more changes (I8).
    latch: OnceLock<String>,
    closed: AtomicBool,
    /// Chunks that did not read back.
    bad: BadChunks,
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
        // One that is not there is never made: taken for a new store, this one would lose every pack to its first cycle.
        if !media.exists(META_FILE).map_err(opening)? {
            return Err(without_database(&path));
        }
        let space = SpaceKeeper::new(media.clone(), config.reserve);
        let kv = open_database(media.as_ref(), &space, (options.cache_bytes / 3 * 2) as usize)?;
        let state = kv.read().and_then(|view| view.get(Table::State, STATE_KEY)).map_err(unusable)?;
        let state = match state {
            Some(row) => State::decode(&row).map_err(unusable)?,
            // Taken for a new store, this one would lose every pack to its first cycle.
            None if has_packs(media.as_ref())? => return Err(without_database(&path)),
            None => State {
                generation: 1,
                next_chunk: 1,
                next_ino: FIRST_INO,
                next_pack: 1,
                counters: [0; Counter::ALL.len()],
            },
        };
        let bad = BadChunks::load(&kv)?;
        let fresh = state.next_ino == FIRST_INO;
        let first = Batch::new(1);
        let meta = Meta::new(kv, first.rows.clone())?;
        let next_pack = PackId(state.next_pack);
        let pool = Pool::new(options.workers.max(1)).map_err(|error| Error::io("starting workers", error))?;
        let store = Self {
            compression: config.compression()?,
            cutter: Cutter::new(CutParams::new(config.avg_chunk)?),
            path,
            read_only: options.read_only,
            lock: Mutex::new(lock),
            meta,
            gate: Gate::new(first),
            barrier: Barrier::default(),
            writer: PackWriter::new(media.clone(), *config.uuid.as_bytes(), config.pack_size, next_pack),
            reader: PackReader::new(media.clone(), open_packs()),
            regions: RegionCache::new(options.cache_bytes / 3),
            trails: Trails::default(),
            locality: Locality::default(),
            pool,
            space,
            // A crash may have left bytes or handles with numbers that no commit recorded; those are not given again.
            next_chunk: AtomicU64::new(state.next_chunk + NUMBER_GAP),
            next_ino: AtomicU64::new(state.next_ino + if fresh { 0 } else { NUMBER_GAP }),
            generation: AtomicU64::new(state.generation),
            counters: Mutex::new(state.counters),
            pending_bytes: AtomicU64::new(0),
            settled: AtomicU64::new(state.next_chunk),
            sealed: RwLock::new(None),
            committing: Mutex::new(CommitState::default()),
            committed: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            backed_up: AtomicU64::new(backups::newest_size(media.as_ref())),
            latch: OnceLock::new(),
            closed: AtomicBool::new(false),
            bad,
            media,
            config,
        };
        if !options.read_only {
            store.space.restore_reserve();
        }
        Ok(Arc::new(store))
    }

    /// Makes everything durable, ends the workers and gives the lock up. Nothing can be changed afterwards.
    pub fn close(self: &Arc<Self>) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let result = match self.latch.get() {
            _ if self.read_only => Ok(()),
            None => self.finish_closing(),
            // What was acknowledged since the failure, or shortly before it, is in no database.
            Some(why) if self.batch_bytes() > 0 || self.sealed.read().is_some() => {
                Err(Error::Latched(format!("{why}; what was written since then is lost")))
            }
            Some(_) => Ok(()),
        };
        self.pool.close();
        let _ = self.latch.set("it was closed".to_owned());
        // The database writes once more while it closes; only then may another process have the store.
        let closed = self.meta.kv().close();
        drop(self.lock.lock().take());
        result.and(closed)
    }

    fn finish_closing(self: &Arc<Self>) -> Result<()> {
        self.commit()?;
        self.writer.seal()?;
        self.writer.sync()?;
        // Where that fails, a pack that goes is noticed later; all that matters is durable.
        let noted = self.note_packs().and_then(|()| self.commit());
        noted.or_else(|error| if self.writable().is_err() { Err(error) } else { Ok(()) })
    }

    /// Joins the open batch. Take the locks of inodes first; see [`batch`].
    pub fn join(&self) -> Result<Member> {
        self.writable()?;
        Ok(self.gate.join())
    }

    /// Refuses where nothing may be changed.
    pub fn writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::Posix(libc::EROFS));
        }
        match self.latch.get() {
            None => Ok(()),
            Some(why) => Err(Error::Latched(why.clone())),
        }
    }

    /// Takes no more changes from here on (I8).
    pub(crate) fn latch(&self, why: &Error) {
        if self.latch.set(why.to_string()).is_ok() {
            tracing::error!("the store is read-only from now on: {why}");
        }
    }

    /// One moment of the metadata.
    pub fn now(&self) -> Arc<Layers> {
        self.meta.now()
    }

    /// The metadata, for the deletion queue and the collector.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The barrier.
    pub fn barrier(&self) -> &Barrier {
        &self.barrier
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
        self.generation.load(Ordering::Acquire)
    }

    /// A new inode number; none is ever given twice.
    pub fn new_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    /// The order in which directories are read.
    pub fn name_hash(&self) -> NameHash {
        NameHash::new(self.config.name_seed)
    }

    /// Pack and offset before which nothing is written any more, neither by writers nor by a cycle.
    pub fn frontier(&self) -> (PackId, u64) {
        self.writer.frontier()
    }

    /// The store's directory.
    pub fn media(&self) -> &dyn Media {
        self.media.as_ref()
    }

    /// The same, for those who may outlive the store.
    pub fn shared_media(&self) -> Arc<dyn Media> {
        Arc::clone(&self.media)
    }

    /// The host file system's numbers.
    pub fn host_space(&self) -> Result<crate::media::Space> {
        self.media.space().map_err(|error| Error::io(format!("statvfs of {}", self.path.display()), error))
    }

    /// Refuses with ENOSPC unless `bytes` more, beside all that is promised already, will find room.
    pub fn claim_space(&self, bytes: u64, promised: u64) -> Result<()> {
        let promised =
            promised + self.pending_bytes.load(Ordering::Relaxed) + self.gate.open().rows.bytes() * 2;
        self.space.claim(bytes, promised)
    }

    /// Frees the reserve for something without which the store cannot be used; true if that gave anything.
    pub fn give_up_reserve(&self) -> bool {
        self.space.give_up_reserve()
    }

    /// The longest chunk there can be, in bytes.
    pub fn max_chunk(&self) -> u64 {
        self.cutter.params().max.into()
    }

    /// Bytes of rows in the open batch.
    pub fn batch_bytes(&self) -> u64 {
        self.gate.open().rows.bytes()
    }

    /// The number of the open batch.
    pub fn open_batch(&self) -> u64 {
        self.gate.open().number
    }

    /// The number of the last batch all of whose rows are durable: that of the open one while there are none in it.
    /// Who is inside the open one may still add some, so ask after those who matter have left.
    pub fn settled_batch(&self) -> u64 {
        let open = self.gate.open();
        let committed = self.committed.load(Ordering::Acquire);
        let nothing_waits = committed + 1 == open.number && open.rows.is_empty();
        if nothing_waits { open.number } else { committed }
    }

    /// True if inodes without a name wait to be removed.
    pub fn has_orphans(&self) -> bool {
        self.counter(Counter::Orphans) > 0
    }

    /// Queues work for the pool.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.pool.ordinary(job);
    }

    /// A sum over the whole store, the open batches included.
    pub fn counter(&self, counter: Counter) -> u64 {
        let sums = self.counters.lock();
        let (layers, base) = (self.now(), sums[counter as usize]);
        let sealed = layers.sealed.as_ref().map_or(0, |batch: &Arc<Memtable>| batch.counted(counter));
        (base + sealed + layers.active.counted(counter)).max(0) as u64
    }
}

/// Whoever may enter the store can read every file in it, whatever the files' own permissions say.
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

fn has_packs(media: &dyn Media) -> Result<bool> {
    Ok(!crate::pack::list_packs(media)?.is_empty())
}

fn without_database(path: &Path) -> Error {
    Error::Unusable(format!(
        "the metadata database of {0} is missing or empty; `cairnfs repair {0}` says what can be rebuilt",
        path.display()
    ))
}

/// Opens the database; on a full disk the reserve is given up for it, without which nothing could be deleted either.
fn open_database(media: &dyn Media, space: &SpaceKeeper, cache_bytes: usize) -> Result<Kv> {
    let open = || Kv::open(media.open(META_FILE, true).map_err(opening)?, cache_bytes).map_err(unusable);
    match open() {
        Err(error) if error.is_no_space() && !out(Protection::ReserveOpens) && space.give_up_reserve() => {
            open()
        }
        opened => opened,
    }
}

/// How many packs are kept open: no more than a quarter of the files that may be.
fn open_packs() -> usize {
    (most_open_files() / 4).clamp(4, 256) as usize
}

/// The database cannot be used: says the way out, unless the host refused to read it.
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
