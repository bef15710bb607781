//! The state of the modelled store: small, plain bytes, so that tens of millions of them can be told apart.
//!
//! Keeps true: everything that survives a crash is in `disk` and `synced`; everything else is forgotten by
//! [`State::crash`]. A layer of rows says only what it changes (`KEEP` elsewhere), as the batches of the store
//! do, because the collector and the reaper change the database beneath the batches.

use crate::log::Log;
use std::hash::{Hash, Hasher};

/// Files (inodes) of the model: file 0 stands in the store at the start, file 1 + w belongs to writer w.
pub const FILES: usize = 3;
/// Contents: A, B, C.
pub const DIGESTS: usize = 3;
/// Chunk ids that can exist at one time.
pub const IDS: usize = 8;
/// Writers.
pub const WRITERS: usize = 2;

/// In a row: there is no such row. In a hand: no chunk.
pub const NONE: u8 = 0xFE;
/// In a layer: this layer says nothing about the row.
pub const KEEP: u8 = 0xFF;

/// Values of `Rows::link`: the directory a file has its name in, or that it lost its last name.
pub const GROUP_ONE: u8 = 0;
pub const GROUP_TWO: u8 = 1;
pub const ORPHAN: u8 = 2;

/// The bit of a chunk id or file in a mask.
pub const fn bit(n: u8) -> u8 {
    1 << n
}

/// An extent: the chunk it names and, for the checks only, the content that must be found there.
pub const fn extent(id: u8, digest: u8) -> u8 {
    digest << 4 | id
}

/// The chunk and the content of an extent row, if there is one.
pub const fn parts(ext: u8) -> Option<(u8, u8)> {
    if ext >= NONE { None } else { Some((ext & 15, ext >> 4)) }
}

/// Rows of one layer, or of the whole database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rows {
    /// Extent of each file.
    pub ext: [u8; FILES],
    /// Name or orphan row of each file.
    pub link: [u8; FILES],
    /// Digest rows: content to chunk id.
    pub dig: [u8; DIGESTS],
    /// Chunks that have a row.
    pub chunks: u8,
}

impl Rows {
    /// A layer that changes nothing.
    pub const fn layer() -> Self {
        Rows { ext: [KEEP; FILES], link: [KEEP; FILES], dig: [KEEP; DIGESTS], chunks: 0 }
    }

    /// A database without rows.
    pub const fn database() -> Self {
        Rows { ext: [NONE; FILES], link: [NONE; FILES], dig: [NONE; DIGESTS], chunks: 0 }
    }

    /// Puts the rows of `layer` over these.
    pub fn apply(&mut self, layer: &Rows) {
        let over = |old: &mut u8, new: u8| {
            if new != KEEP {
                *old = new;
            }
        };
        for f in 0..FILES {
            over(&mut self.ext[f], layer.ext[f]);
            over(&mut self.link[f], layer.link[f]);
        }
        for d in 0..DIGESTS {
            over(&mut self.dig[d], layer.dig[d]);
        }
        self.chunks |= layer.chunks;
    }

    /// True if the layer has a row of this file.
    pub fn touches(&self, f: usize) -> bool {
        self.ext[f] != KEEP || self.link[f] != KEEP
    }

    /// Chunks named by the extents of files for which `take` says yes.
    pub fn marks(&self, take: impl Fn(usize) -> bool) -> u8 {
        (0..FILES).filter(|&f| take(f)).filter_map(|f| parts(self.ext[f])).fold(0, |m, (id, _)| m | bit(id))
    }

    /// Chunks that any row names.
    pub fn named(&self) -> u8 {
        let digests = self.dig.iter().filter(|&&id| id < NONE).fold(0, |m, &id| m | bit(id));
        self.chunks | digests | self.marks(|_| true)
    }

    pub fn write(&self, out: &mut Packer) {
        out.put(&self.ext);
        out.put(&self.link);
        out.put(&self.dig);
        out.put(&[self.chunks]);
    }
}

/// Where a writer's operation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pc {
    Idle,
    /// Member of a batch, nothing looked up yet.
    Joined,
    /// Member; `hand` is the answer of the lookup.
    Looked,
    /// Only without compare-and-swap: the cell was read as white, the mark is not written yet.
    ReadWhite,
    /// Member; `hand` is the chunk to refer to, `fresh` if it is new.
    Decided,
    /// Not yet a member, `hand` is known: a clone has read its source's rows under its source's lock. (Puts
    /// come here only when lookups are made before joining.)
    Holding,
    /// Only when lookups are made before joining: looking up.
    Outside,
}

/// One writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Writer {
    pub pc: Pc,
    /// Its batch was swapped out since it joined.
    pub old: bool,
    pub digest: u8,
    /// Source of a clone; `NONE` for a put.
    pub src: u8,
    pub hand: u8,
    pub fresh: bool,
    /// Operations it may still begin.
    pub puts: u8,
    pub clones: u8,
}

impl Writer {
    /// True while it is counted in a batch.
    pub fn member(&self) -> bool {
        matches!(self.pc, Pc::Joined | Pc::Looked | Pc::ReadWhite | Pc::Decided)
    }

    /// Ends the operation, however it went.
    pub fn rest(&mut self) {
        *self = Writer {
            pc: Pc::Idle,
            old: false,
            digest: NONE,
            src: NONE,
            hand: NONE,
            fresh: false,
            puts: self.puts,
            clones: self.clones,
        };
    }
}

/// Stages of the group commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Commit {
    Idle,
    /// Batch swapped out; members may still be writing to it.
    Swapped,
    /// Members gone, bytes synced.
    Synced,
    /// Only with names before bytes: durable, bytes not synced.
    Named,
    /// Only with a log: the entry is written, not synced.
    Logged,
}

/// Stages of the collector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gc {
    Idle,
    /// Flipped; the batch of the earlier generation is not durable yet.
    FlipWait,
    /// That batch is in the database.
    Drained,
    /// Only with a log: and in the database of the last fold.
    Folded,
    /// The read snapshot is taken.
    Snapped,
    Sweep,
    /// The digests of condemned chunks do not name them any more, visibly; their own rows stand.
    Unnamed,
    /// All rows of condemned chunks removed, visibly.
    Removed,
    /// The removal is durable.
    RemovedDurably,
    /// Space given back, or the cycle ended early: the end of the cycle begins.
    Ending,
    Cleared,
    GraceWait,
    GraceOver,
}

/// Steps that were wrong in themselves, noted when they were made.
pub mod wrong {
    pub const FREED_EARLY: u8 = 1;
    pub const DIGEST_LOST: u8 = 2;
    pub const GARBAGE_KEPT: u8 = 4;
    pub const ROWS_LOST: u8 = 8;
    pub const ACKNOWLEDGED_LOST: u8 = 16;
}

/// What each actor may still do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    pub prunes: u8,
    pub renames: u8,
    pub opens: u8,
    pub cycles: u8,
    pub crashes: u8,
    pub errors: u8,
}

/// The whole store, with its daemon and its users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    pub writers: [Writer; WRITERS],
    pub active: Rows,
    pub sealed: Rows,
    /// What is committed, as readers see it: the database, and what the log has above it.
    pub db: Rows,
    /// What an opening after a power cut has to find.
    pub disk: Rows,
    /// The log of commits; without it, a commit is one durable transaction of the database.
    pub log: Option<Log>,
    /// Chunks whose bytes are in memory, or in a pack but not synced: a crash loses both alike.
    pub unsynced: u8,
    /// Chunks whose bytes are durable.
    pub synced: u8,
    /// The content of each chunk.
    pub content: [u8; IDS],
    pub commit: Commit,
    pub gc: Gc,
    pub armed: bool,
    /// Chunks at or above the watermark.
    pub young: u8,
    /// Cells: neither marked nor condemned is white.
    pub marked: u8,
    pub condemned: u8,
    /// Condemned chunks whose rows the sweep has still to remove.
    pub doomed: u8,
    /// Chunks named in the mark's snapshot.
    pub snap: u8,
    /// Remembered answers, digest to chunk.
    pub cache: [u8; DIGESTS],
    /// Files the kernel remembers.
    pub kernel: u8,
    /// Chunks that were garbage at the flip and have been since.
    pub garbage: u8,
    /// Only if the next id is noted too early: ids given after that.
    pub late: u8,
    /// And after a crash: ids in use that will be given once more.
    pub again: u8,
    pub wrong: u8,
    pub left: Budget,
}

impl State {
    /// What a lookup by the daemon sees: database, sealed batch, active batch.
    pub fn view(&self) -> Rows {
        let mut rows = self.db;
        rows.apply(&self.sealed);
        rows.apply(&self.active);
        rows
    }

    /// What a member of the sealed batch may see: nothing of the batch that was opened after its own.
    pub fn old_view(&self) -> Rows {
        let mut rows = self.db;
        rows.apply(&self.sealed);
        rows
    }

    /// The rows of which the mark takes a snapshot.
    pub fn database(&self) -> &Rows {
        self.log.as_ref().map_or(&self.db, |log| &log.base)
    }

    /// True while someone is a member of the batch being committed.
    pub fn draining(&self) -> bool {
        self.writers.iter().any(|w| w.old && w.member())
    }

    /// True if a put holds the lock of this file. (A clone's target is locked the same way.)
    pub fn written(&self, f: usize) -> bool {
        f > 0 && self.writers[f - 1].pc != Pc::Idle
    }

    /// True if a clone holds the lock of this file as its source, which it does until its rows are placed.
    pub fn cloned(&self, f: usize) -> bool {
        self.writers.iter().any(|w| w.src as usize == f)
    }

    /// Closes the active batch: it is now the sealed one, its members with it.
    pub fn swap(&mut self) {
        self.sealed = self.active;
        self.active = Rows::layer();
        self.commit = Commit::Swapped;
        for w in self.writers.iter_mut().filter(|w| w.member()) {
            w.old = true;
        }
    }

    /// Chunks in somebody's hand.
    pub fn hands(&self) -> u8 {
        self.writers.iter().filter(|w| w.hand < NONE).fold(0, |m, w| m | bit(w.hand))
    }

    /// A chunk id that names nothing anywhere. The store counts upwards and never gives an id twice; here an
    /// id of which no trace is left may be given again, which is the same up to renaming.
    pub fn unused(&self) -> u8 {
        let cached = self.cache.iter().filter(|&&id| id < NONE).fold(0, |m, &id| m | bit(id));
        let rows = self.active.named() | self.sealed.named() | self.db.named() | self.disk.named();
        let rows = rows | self.log.map_or(0, |log| log.named());
        let cells = self.marked | self.condemned | self.doomed | self.snap | self.young;
        let used = rows | cells | cached | self.hands() | self.unsynced | self.synced;
        let id = used.trailing_ones() as u8;
        assert!((id as usize) < IDS, "the configuration needs more than {IDS} chunks at a time");
        id
    }

    /// The power goes, and comes back: what is not in `disk` and `synced` is forgotten.
    pub fn crash(&mut self) {
        for w in &mut self.writers {
            w.rest();
        }
        self.active = Rows::layer();
        self.sealed = Rows::layer();
        self.db = self.disk;
        self.unsynced = 0;
        let named = self.disk.named() | self.log.map_or(0, |log| log.named());
        for id in 0..IDS as u8 {
            if (self.synced | named) & bit(id) == 0 {
                self.content[id as usize] = NONE;
            }
        }
        self.commit = Commit::Idle;
        self.again |= self.late & self.disk.chunks;
        self.late = 0;
        self.cache = [NONE; DIGESTS];
        self.kernel = 0;
        self.disarm();
    }

    /// Drops the cells; no cycle runs.
    pub fn disarm(&mut self) {
        self.gc = Gc::Idle;
        self.armed = false;
        self.young = 0;
        self.marked = 0;
        self.condemned = 0;
        self.doomed = 0;
        self.snap = 0;
        self.garbage = 0;
    }

    /// The same state with the two writers, and their files, exchanged.
    pub fn mirrored(&self) -> State {
        let mut s = *self;
        s.writers.swap(0, 1);
        for w in &mut s.writers {
            w.src = match w.src {
                1 => 2,
                2 => 1,
                other => other,
            };
        }
        let log = s.log.iter_mut().flat_map(Log::layers_mut);
        for rows in [&mut s.active, &mut s.sealed, &mut s.db, &mut s.disk].into_iter().chain(log) {
            rows.ext.swap(1, 2);
            rows.link.swap(1, 2);
        }
        s.kernel = s.kernel & 1 | (s.kernel & 2) << 1 | (s.kernel & 4) >> 1;
        s
    }

    /// Every byte that tells states apart, in one row.
    pub fn packed(&self) -> Packer {
        let mut out = Packer { bytes: [0; PACKED], at: 0 };
        for w in &self.writers {
            let flags = (w.pc as u8) << 2 | u8::from(w.old) << 1 | u8::from(w.fresh);
            out.put(&[flags, w.digest, w.src, w.hand, w.puts << 4 | w.clones]);
        }
        self.active.write(&mut out);
        self.sealed.write(&mut out);
        self.db.write(&mut out);
        self.disk.write(&mut out);
        out.put(&self.content);
        out.put(&self.cache);
        let stages = (self.gc as u8) << 4 | (self.commit as u8) << 1 | u8::from(self.armed);
        out.put(&[self.unsynced, self.synced, stages, self.young, self.marked, self.condemned, self.doomed]);
        out.put(&[self.snap, self.kernel, self.garbage, self.late, self.again, self.wrong]);
        let b = &self.left;
        out.put(&[b.prunes << 4 | b.renames, b.opens << 4 | b.cycles, b.crashes << 4 | b.errors]);
        if let Some(log) = &self.log {
            log.write(&mut out);
        }
        out
    }
}

const PACKED: usize = 128;

/// A state as bytes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Packer {
    bytes: [u8; PACKED],
    at: usize,
}

impl Packer {
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let packed = self.packed();
        state.write(&packed.bytes[..packed.at]);
    }
}
