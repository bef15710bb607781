//! Which files have staged bytes.
//!
//! Keeps true: an inode with staged bytes is in the queue, or a thread has taken it from the queue to flush it, or it
//! is being flushed. If anything stays staged, it is put back. A sync gets all of these inodes, and waits for running
//! flushes ([`Flush::Wanted`](super::flush::Flush::Wanted)). With the queue alone, it would miss an inode that another
//! thread took a moment before, and promise bytes that are in no batch.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering};

use super::inode::{Inode, InodeState};

/// A writer that finds no room for this long gets an error.
const STUCK_SECONDS: u32 = 60;

#[derive(Debug, Default)]
struct Queue {
    /// Oldest first.
    waiting: VecDeque<Arc<Inode>>,
    /// By number: inodes that threads have taken, and how many threads.
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
    /// How many writers wait for room.
    waiting: Mutex<u64>,
    room: Condvar,
}

/// Decides how long a writer waits for room. It has no clock; the caller counts the seconds.
#[derive(Debug)]
struct StallDetector {
    /// The lowest number of bytes since it began.
    least: u64,
    /// Seconds without progress since then.
    idle: u32,
}

impl StallDetector {
    fn new(bytes: u64) -> Self {
        Self { least: bytes, idle: 0 }
    }

    /// True if the writer should give up. `silent` says that a whole second passed without a wake-up; a wake-up without
    /// progress does not count.
    fn ends(&mut self, bytes: u64, silent: bool) -> bool {
        self.idle = if bytes < self.least { 0 } else { self.idle + u32::from(silent) };
        self.least = self.least.min(bytes);
        self.idle > STUCK_SECONDS
    }
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
            // The lock orders this against a writer that has checked and does not wait yet.
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

    /// Takes all inodes, also those that other threads have taken and not flushed yet. To be followed by
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

    /// A flush of the inode begins. To be followed by [`Dirty::flushed`].
    pub fn flushing(&self, inode: &Arc<Inode>) {
        self.queue.lock().take(inode);
    }

    /// The bytes that were staged when an inode was taken have been flushed, or the inode was put back.
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

    /// Waits until there is room. False if `go_on` returns false, or if nothing could be stored for a long time.
    pub fn wait_for_room(&self, limit: u64, go_on: impl Fn() -> bool) -> bool {
        let mut waiting = self.waiting.lock();
        let (mut stall, mut room) = (StallDetector::new(self.bytes()), true);
        *waiting += 1;
        while room && self.bytes() > limit {
            let silent = self.room.wait_for(&mut waiting, Duration::from_secs(1)).timed_out();
            room = go_on() && !stall.ends(self.bytes(), silent);
        }
        *waiting -= 1;
        room
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use std::thread::{self, yield_now};

    use super::*;
    use crate::fs::flush::Flush;
    use crate::fs::simulated::{close, config, new_disk, new_file, open, open_with};
    use crate::fs::{Caller, Fs, ROOT_INO};
    use crate::media::sim::{OpKind, Rng, SimMedia};

    fn write(fs: &Arc<Fs>, name: &str, bytes: &[u8]) {
        let ino = new_file(fs, name);
        fs.write(ino, 0, bytes, false).unwrap();
    }

    #[test]
    fn patience_ends_after_a_minute_without_a_sign_and_never_for_being_woken() {
        let mut stall = StallDetector::new(100);
        assert!((0..1_000_000).all(|_| !stall.ends(100, false)), "woken in vain");
        assert!((0..STUCK_SECONDS).all(|_| !stall.ends(100, true)));
        assert!(!stall.ends(99, true), "a byte was stored: it begins anew");
        // Others stage as much as is stored: only less than ever before is a sign.
        assert!((0..STUCK_SECONDS).all(|second| !stall.ends(99 + u64::from(second % 2), true)));
        assert!(stall.ends(99, true));
        // A disk that stores one byte in a minute is slow, not stuck.
        let mut stall = StallDetector::new(100);
        assert!((0..100).rev().all(|bytes| (0..60).all(|_| !stall.ends(bytes, true))));
    }

    const LIMIT: u64 = 9 << 20;
    const FILE: u64 = 1 << 20;

    /// A disk on which nothing can be written to packs until its gate is opened.
    fn gated() -> (SimMedia, Arc<(Mutex<bool>, Condvar)>) {
        let (disk, gate) = (new_disk(), Arc::new((Mutex::new(false), Condvar::default())));
        let held = gate.clone();
        disk.set_fault(Box::new(move |op| {
            if !op.path.starts_with("packs/") || op.kind != OpKind::Write {
                return None;
            }
            let mut open = held.0.lock();
            while !*open {
                held.1.wait(&mut open);
            }
            None
        }));
        (disk, gate)
    }

    fn noise(seed: u64) -> Vec<u8> {
        Rng::new(seed).bytes(FILE as usize)
    }

    /// Writes files until all are written, or one cannot be.
    fn write_files(fs: &Arc<Fs>, files: u64) -> crate::error::Result<()> {
        let caller = Caller { uid: 0, gid: 0 };
        (0..files).try_for_each(|n| {
            let name = n.to_string();
            let ino = fs.mknod(ROOT_INO, name.as_bytes(), caller, libc::S_IFREG | 0o644, 0, 0)?.ino;
            fs.write(ino, 0, &noise(n), false)
        })
    }

    /// Writes with the gate closed until the writer waits or is through; opens the gate. Whether it waited, how many
    /// bytes were staged by then, and what came of it.
    fn write_at_the_gate(limit: u64) -> (bool, u64, crate::error::Result<()>, Arc<Fs>) {
        let (disk, gate) = gated();
        let config = config();
        let fs = open_with(&disk, &config, limit);
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_files(&fs, 80));
            while *fs.dirty.waiting.lock() == 0 && !writer.is_finished() {
                yield_now();
            }
            let (waited, staged) = (*fs.dirty.waiting.lock() == 1, fs.dirty.bytes());
            *gate.0.lock() = true;
            gate.1.notify_all();
            (waited, staged, writer.join().unwrap(), fs.clone())
        })
    }

    #[test]
    fn a_writer_is_refused_once_nothing_can_be_stored() {
        let disk = new_disk();
        let fs = open_with(&disk, &config(), LIMIT);
        disk.set_fault(Box::new(|op| {
            let fails = op.path.starts_with("packs/") && op.kind == OpKind::Write;
            fails.then_some(libc::EIO)
        }));
        let errno = write_files(&fs, 80).map_err(|error| error.errno());
        assert_eq!(errno, Err(libc::EROFS));
        assert!(fs.dirty.bytes() <= LIMIT + FILE, "{} bytes are staged", fs.dirty.bytes());
        assert!(fs.shutdown().is_err(), "what was staged is lost, and that is said");
    }

    #[test]
    fn a_writer_waits_while_the_disk_stands_still() {
        let (waited, staged, outcome, fs) = write_at_the_gate(LIMIT);
        assert!(waited && staged <= LIMIT + FILE, "{staged} bytes are staged");
        outcome.unwrap();
        for n in 0..80 {
            let ino = fs.lookup(ROOT_INO, n.to_string().as_bytes()).unwrap().ino;
            assert!(fs.read(ino, 0, FILE as u32).unwrap() == noise(n), "file {n}");
        }
        close(&fs);
        // Without the limit nobody waits.
        let (waited, staged, outcome, fs) = write_at_the_gate(u64::MAX);
        assert!(!waited && staged > 2 * LIMIT && outcome.is_ok(), "{staged} bytes are staged");
        close(&fs);
    }

    /// A thread that took a file to flush it is held up before it begins; then somebody else makes everything durable.
    #[test]
    fn a_sync_covers_files_that_others_have_taken_to_flush() {
        let config = config();
        for take_one in [true, false] {
            let disk = new_disk();
            let fs = open(&disk, &config);
            let bytes = b"stone on stone".repeat(3000);
            write(&fs, "file", &bytes);
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
        let config = config();
        let disk = new_disk();
        let fs = open(&disk, &config);
        write(&fs, "file", &b"stone".repeat(2000));
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
