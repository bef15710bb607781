//! Which files have staged bytes.
//!
//! Keeps true: an inode with staged bytes is in the queue, or it is in somebody's hands: taken from the queue and not
//! flushed yet, or being flushed, in which case it is put back if anything stays staged. Who makes everything durable
//! gets all of them, and waits for flushes that are under way ([`Flush::Wanted`](super::flush::Flush::Wanted)). With the
//! queue alone it would miss what another thread took a moment before, and promise bytes that are in no batch.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering};

use super::inode::{Inode, InodeState};

/// A writer that found no room for this long is told so.
const STUCK_SECONDS: u32 = 60;

#[derive(Debug, Default)]
struct Queue {
    /// Oldest first.
    waiting: VecDeque<Arc<Inode>>,
    /// By number: in somebody's hands, and in how many.
    taken: BTreeMap<u64, (Arc<Inode>, u64)>,
}

impl Queue {
    fn take(&mut self, inode: &Arc<Inode>) {
        self.taken.entry(inode.ino).or_insert_with(|| (inode.clone(), 0)).1 += 1;
    }
}

/// The inodes with staged bytes, and how many bytes there are.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    queue: Mutex<Queue>,
    /// Staged bytes and those that are being flushed.
    bytes: AtomicU64,
    /// Pool jobs that flush the oldest.
    pub flushers: AtomicU64,
    waiting: Mutex<()>,
    room: Condvar,
}

impl Dirty {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn sub(&self, bytes: u64) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            // The lock orders this against a writer between its look and its wait.
            drop(self.waiting.lock());
            self.room.notify_all();
        }
    }

    pub fn push(&self, inode: &Arc<Inode>, state: &mut InodeState) {
        if !state.queued {
            state.queued = true;
            self.queue.lock().waiting.push_back(inode.clone());
        }
    }

    /// Takes the oldest. To be followed by [`Dirty::flushed`].
    pub fn pop(&self) -> Option<Arc<Inode>> {
        let mut queue = self.queue.lock();
        let inode = queue.waiting.pop_front()?;
        queue.take(&inode);
        drop(queue);
        inode.lock().queued = false;
        Some(inode)
    }

    /// Takes all there are now, also those that others have taken and not flushed yet. To be followed by
    /// [`Dirty::flushed`] for each.
    pub fn take_all(&self) -> VecDeque<Arc<Inode>> {
        let mut queue = self.queue.lock();
        let others: Vec<Arc<Inode>> = queue.taken.values().map(|(inode, _)| inode.clone()).collect();
        let mut all = std::mem::take(&mut queue.waiting);
        let own = all.len();
        all.extend(others);
        all.iter().for_each(|inode| queue.take(inode));
        drop(queue);
        for inode in all.iter().take(own) {
            inode.lock().queued = false;
        }
        all
    }

    /// A flush of the inode begins, whoever had it begun. To be followed by [`Dirty::flushed`].
    pub fn flushing(&self, inode: &Arc<Inode>) {
        self.queue.lock().take(inode);
    }

    /// What was staged of an inode when it was taken has been flushed, or the inode was put back.
    pub fn flushed(&self, inode: &Inode) {
        let mut queue = self.queue.lock();
        if let Some((_, times)) = queue.taken.get_mut(&inode.ino) {
            *times -= 1;
            if *times == 0 {
                queue.taken.remove(&inode.ino);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.lock().waiting.is_empty()
    }

    /// Waits until there is room; false if for a long while nothing could be stored.
    pub fn wait_for_room(&self, limit: u64, go_on: impl Fn() -> bool) -> bool {
        let mut waiting = self.waiting.lock();
        let (mut least, mut idle) = (self.bytes(), 0);
        while self.bytes() > limit {
            // Only a whole second without a sign counts; being woken in vain is no sign of trouble.
            let silent = self.room.wait_for(&mut waiting, Duration::from_secs(1)).timed_out();
            idle = if self.bytes() < least { 0 } else { idle + u32::from(silent) };
            least = least.min(self.bytes());
            if !go_on() || idle > STUCK_SECONDS {
                return false;
            }
        }
        true
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::fs::flush::Flush;
    use crate::fs::{Caller, Fs, FsOptions, ROOT_INO};
    use crate::media::Media;
    use crate::media::sim::SimMedia;
    use crate::store::{MkfsOptions, OpenOptions, Store, StoreConfig};

    fn open(disk: &SimMedia, config: &StoreConfig) -> Arc<Fs> {
        let options = OpenOptions { cache_bytes: 12 << 20, workers: 2, ..OpenOptions::default() };
        let path = PathBuf::from("/simulated");
        let store =
            Store::on_media(Arc::new(disk.clone()), config.clone(), path, None, &options).expect("it opens");
        // Nothing is committed by a timer.
        let commit_interval = Duration::from_secs(3600);
        Fs::new(store, FsOptions { commit_interval, ..FsOptions::default() }).expect("it opens")
    }

    fn new_disk() -> SimMedia {
        let disk = SimMedia::new();
        for dir in ["meta", "packs"] {
            disk.mkdir(dir).unwrap();
            disk.sync_dir(dir).unwrap();
        }
        disk.sync_dir("").unwrap();
        disk
    }

    fn write(fs: &Arc<Fs>, name: &[u8], bytes: &[u8]) {
        let caller = Caller { uid: 0, gid: 0 };
        let ino = fs.mknod(ROOT_INO, name, caller, libc::S_IFREG | 0o644, 0, 0).unwrap().ino;
        fs.write(ino, 0, bytes, false).unwrap();
    }

    fn close(fs: &Arc<Fs>) {
        fs.shutdown().unwrap();
        fs.store().close().unwrap();
    }

    /// A thread that took a file to flush it is held up before it begins; then somebody else makes everything durable.
    #[test]
    fn a_sync_covers_files_that_others_have_taken_to_flush() {
        let config = StoreConfig::new(&MkfsOptions::default()).unwrap();
        for take_one in [true, false] {
            let disk = new_disk();
            let fs = open(&disk, &config);
            let bytes = b"stone on stone".repeat(3000);
            write(&fs, b"file", &bytes);
            let taken: Vec<_> = if take_one {
                fs.dirty.pop().into_iter().collect()
            } else {
                fs.dirty.take_all().into_iter().collect()
            };
            assert_eq!(taken.len(), 1);
            assert!(fs.dirty.is_empty(), "the queue alone does not have it");
            fs.sync().unwrap();

            let after = open(&disk.cut_at(disk.op_count(), 1), &config);
            let ino = after.lookup(ROOT_INO, b"file").unwrap().ino;
            assert!(after.read(ino, 0, 1 << 20).unwrap() == bytes, "synced, and lost with the power");
            close(&after);

            taken.iter().for_each(|inode| fs.dirty.flushed(inode));
            assert!(fs.dirty.take_all().is_empty(), "flushed once, it is in nobody's hand");
            close(&fs);
        }
    }

    /// While one flush of a growing file is under way, another that finds nothing to do lets go of it.
    #[test]
    fn a_sync_covers_files_that_are_being_flushed() {
        let config = StoreConfig::new(&MkfsOptions::default()).unwrap();
        let disk = new_disk();
        let fs = open(&disk, &config);
        write(&fs, b"file", &b"stone".repeat(2000));
        let inode = fs.dirty.pop().unwrap();
        assert!(fs.begin_flush(&inode, Flush::Growing).unwrap().is_some(), "there is something to flush");
        fs.write(inode.ino, 10_000, b"more", false).unwrap();
        // The one who popped it finds it in another's hands, and so does the next.
        for popped in [Some(inode.clone()), fs.dirty.pop()] {
            assert!(fs.flush_in_background(popped.as_ref().unwrap(), Flush::Aged));
            fs.dirty.flushed(&inode);
        }
        let found: Vec<u64> = fs.dirty.take_all().iter().map(|inode| inode.ino).collect();
        assert_eq!(found, [inode.ino], "what is staged is in nobody's hands");
        fs.dirty.flushed(&inode);
        fs.end_flush(&inode, &mut inode.lock(), false);
        close(&fs);

        let after = open(&disk, &config);
        let ino = after.lookup(ROOT_INO, b"file").unwrap().ino;
        assert_eq!(after.read(ino, 9_995, 100).unwrap(), b"stonemore");
        close(&after);
    }
}
