//! Inodes in memory: their state, the kernel's references to them, and when they may be dropped.
//!
//! Keeps true: there is never more than one [`Inode`] for a number, so its lock is the inode's lock. An inode is read
//! from the metadata inside the lock of its shard, and dropped from memory only while nobody holds it. The kernel's
//! references are counted apart from the cache, in a few bytes for each inode: the kernel may remember millions.

use std::borrow::Cow;
use std::collections::HashMap;

use lru::LruCache;

use crate::error::Result;
use crate::meta::rows::{Extent, InodeRow};
use crate::meta::versions::Version;
use crate::meta::versions::subvolumes::subvolume_of;
use crate::meta::versions::usage::counted;
use crate::sabotage::{Protection, out};
use crate::store::Batch;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::patched::Patched;
use super::rows::put_inode;
use super::staging::{Run, Staging};
use super::types::Attr;

/// Inodes cached in each shard beyond those in use.
const CACHED: usize = 2048;
const SHARDS: usize = 16;

/// One inode.
#[derive(Debug)]
pub struct Inode {
    /// Its number.
    pub ino: u64,
    /// Everything else. Lock order: the tree lock, then inodes by rising number, then the batch.
    state: Mutex<InodeState>,
    /// A flush of this inode came to its end.
    pub flushed: Condvar,
}

/// The changeable part of an inode.
#[derive(Debug)]
pub struct InodeState {
    /// What stat shows; `size` includes the staged bytes.
    pub row: InodeRow,
    /// The size in the stored row: all bytes below it are chunks or holes.
    pub disk_size: u64,
    /// Written, not yet chunks.
    pub staging: Staging,
    /// On their way to becoming chunks; below `staging`, above the extents.
    pub flushing: Vec<Run>,
    /// Where the last chunk of a growing file ended at a cut point.
    pub content_cut: Option<u64>,
    /// The batch that last had a row of it.
    pub saved_in: u64,
    /// What it counts in what its subvolume holds, by its stored row.
    counted: (i64, i64),
    /// True while the inode stands in the queue of dirty inodes.
    pub queued: bool,
    /// The inode has no name and the kernel has forgotten it: nothing more is written for it.
    pub dead: bool,
    /// Where the next sequential read would begin.
    pub next_read: u64,
    /// The extent that was read last.
    pub recent: Option<Extent>,
    /// How far the extents of a content that others see, too, were copied to a version.
    pub copied: Option<(Version, u64)>,
    /// Ranges with small changes that stand as chunks of their own.
    pub patched: Patched,
}

impl Inode {
    fn new(ino: u64, row: InodeRow, saved_in: u64) -> Arc<Self> {
        let state = InodeState {
            counted: counted(&row),
            disk_size: row.size,
            row,
            saved_in,
            staging: Staging::default(),
            flushing: Vec::new(),
            content_cut: None,
            queued: false,
            dead: false,
            next_read: u64::MAX,
            recent: None,
            copied: None,
            patched: Patched::default(),
        };
        Arc::new(Self { ino, state: Mutex::new(state), flushed: Condvar::new() })
    }

    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, InodeState> {
        self.state.lock()
    }

    /// Locks it and waits until no flush of it is under way.
    pub fn lock_quiescent(&self) -> MutexGuard<'_, InodeState> {
        let mut state = self.state.lock();
        while !state.flushing.is_empty() {
            self.flushed.wait(&mut state);
        }
        state
    }
}

/// Locks two inodes in the order of their numbers; for one inode, the second guard is `None`.
pub fn lock_two<'a>(
    a: &'a Inode,
    b: &'a Inode,
) -> (MutexGuard<'a, InodeState>, Option<MutexGuard<'a, InodeState>>) {
    use std::cmp::Ordering;
    match a.ino.cmp(&b.ino) {
        Ordering::Equal => (a.lock(), None),
        Ordering::Less => {
            let first = a.lock();
            (first, Some(b.lock()))
        }
        Ordering::Greater => {
            let second = b.lock();
            (a.lock(), Some(second))
        }
    }
}

impl InodeState {
    /// True if it has lost its last name, and stays without one.
    pub fn is_nameless(&self) -> bool {
        self.row.nlink == 0 && !out(Protection::NamelessStaysSo)
    }

    /// Writes the inode's row into a batch.
    pub fn save(&mut self, ino: u64, batch: &Batch) {
        let row = if self.disk_size == self.row.size {
            Cow::Borrowed(&self.row)
        } else {
            Cow::Owned(InodeRow { size: self.disk_size, ..self.row.clone() })
        };
        put_inode(batch, ino, &row);
        if subvolume_of(ino) > 0 {
            let ((files, bytes), now) = (self.counted, counted(&row));
            batch.usage.count(subvolume_of(ino), now.0 - files, now.1 - bytes, row.times.ctime);
            self.counted = now;
        }
        self.saved_in = batch.number;
    }

    /// What stat tells.
    pub fn attr(&self, ino: u64) -> Attr {
        let row = &self.row;
        let staged =
            self.staging.bytes() + self.flushing.iter().map(|run| run.data.len() as u64).sum::<u64>();
        let data = match row.kind() {
            // Staged bytes may replace bytes that are already counted; the sum is at most the size.
            libc::S_IFREG => (row.allocated + staged).min(row.size.next_multiple_of(512)),
            _ => 0,
        };
        Attr {
            ino,
            generation: row.generation,
            mode: row.mode,
            nlink: row.nlink,
            uid: row.uid,
            gid: row.gid,
            rdev: row.rdev,
            size: match row.kind() {
                libc::S_IFDIR => 4096,
                libc::S_IFLNK => row.target.len() as u64,
                _ => row.size,
            },
            blocks: data.div_ceil(512),
            blksize: 128 << 10,
            atime: row.times.atime,
            mtime: row.times.mtime,
            ctime: row.times.ctime,
            btime: row.times.btime,
        }
    }
}

#[derive(Debug)]
struct Shard {
    /// The lookup count of each inode: how often the kernel got it, minus what it has forgotten.
    references: HashMap<u64, u64>,
    cache: LruCache<u64, Arc<Inode>>,
}

/// All inodes in memory.
#[derive(Debug)]
pub struct InodeTable {
    shards: Vec<Mutex<Shard>>,
}

impl Default for InodeTable {
    fn default() -> Self {
        let shard = || Shard { references: HashMap::new(), cache: LruCache::unbounded() };
        Self { shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect() }
    }
}

impl InodeTable {
    fn shard(&self, ino: u64) -> MutexGuard<'_, Shard> {
        self.shards[(ino % SHARDS as u64) as usize].lock()
    }

    /// The inode with this number, from memory or from the metadata; ENOENT if there is none. `read`
    /// gives its row, and the number of a batch that is not older.
    pub fn get(&self, ino: u64, read: impl FnOnce() -> Result<(InodeRow, u64)>) -> Result<Arc<Inode>> {
        let mut shard = self.shard(ino);
        if let Some(inode) = shard.cache.get(&ino) {
            return Ok(inode.clone());
        }
        let (row, newest) = read()?;
        let inode = Inode::new(ino, row, newest);
        shard.insert(&inode);
        Ok(inode)
    }

    /// Adds a new inode whose row is in this batch, with one reference of the kernel.
    pub fn insert_new(&self, ino: u64, row: InodeRow, batch: u64) -> Arc<Inode> {
        let inode = Inode::new(ino, row, batch);
        let mut shard = self.shard(ino);
        shard.insert(&inode);
        shard.references.insert(ino, 1);
        inode
    }

    /// Adds a reference of the kernel to an inode.
    pub fn remember(&self, ino: u64) {
        *self.shard(ino).references.entry(ino).or_insert(0) += 1;
    }

    /// Removes `count` references of the kernel; true if none is left.
    pub fn forget(&self, ino: u64, count: u64) -> bool {
        let mut shard = self.shard(ino);
        let Some(left) = shard.references.get_mut(&ino) else {
            return true;
        };
        *left = left.saturating_sub(count);
        if *left > 0 {
            return false;
        }
        shard.references.remove(&ino);
        true
    }

    /// True if the kernel remembers an inode.
    pub fn is_remembered(&self, ino: u64) -> bool {
        self.shard(ino).references.contains_key(&ino)
    }

    /// The numbers of all inodes that the kernel remembers.
    pub fn remembered(&self) -> Vec<u64> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().references.keys().copied().collect::<Vec<_>>())
            .collect()
    }

    /// The inodes in memory of the subvolumes with these numbers.
    pub fn cached(&self, is_wanted: impl Fn(u64) -> bool) -> Vec<Arc<Inode>> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let wanted = shard.cache.iter().filter(|(ino, _)| is_wanted(subvolume_of(**ino)));
            found.extend(wanted.map(|(_, inode)| inode.clone()));
        }
        found
    }

    /// Takes out all inodes of a subvolume that is dropped and that nobody remembers.
    pub fn take_all_of(&self, subvolume: u64) -> Vec<Arc<Inode>> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            let gone = |ino: &u64| subvolume_of(*ino) == subvolume;
            let gone: Vec<u64> = shard.cache.iter().map(|(ino, _)| *ino).filter(gone).collect();
            taken.extend(gone.iter().filter_map(|ino| shard.cache.pop(ino)));
        }
        taken
    }

    /// Drops an inode that exists no more.
    pub fn remove(&self, ino: u64) {
        self.shard(ino).cache.pop(&ino);
    }
}

impl Shard {
    fn insert(&mut self, inode: &Arc<Inode>) {
        self.cache.put(inode.ino, inode.clone());
        let mut tries = 8;
        while self.cache.len() > CACHED && tries > 0 {
            tries -= 1;
            match self.cache.pop_lru() {
                // Somebody holds it, perhaps the queue of dirty inodes: it stays.
                Some((ino, kept)) if Arc::strong_count(&kept) > 1 => {
                    self.cache.put(ino, kept);
                }
                _ => {}
            }
        }
    }
}
