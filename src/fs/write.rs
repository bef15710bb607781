//! Taking writes: into memory, within a bound, and on to the flush.
//!
//! Keeps true: what a writer was told is written has room on the disk (ENOSPC is told here or at fsync, never later);
//! staged bytes never exceed their limit by more than one write of each writer.

use std::collections::VecDeque;

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::Result;
use crate::sync::{Arc, AtomicU64, Ordering};

use super::attr::clear_set_ids;
use super::flush::Flush;
use super::inode::{Inode, InodeState};
use super::names::{APPEND_ONLY, IMMUTABLE};
use super::types::{SIZE_MAX, Timestamp};
use super::{Fs, posix};

/// A file with this much staged is flushed as it grows.
pub(super) const FLUSH_FILE: u64 = 4 << 20;
/// With this much staged in all, the oldest files are flushed.
const FLUSH_START: u64 = 16 << 20;
/// A writer that found no room for this long is told so.
const STUCK_SECONDS: u32 = 60;
/// Down to this much.
pub(super) const FLUSH_STOP: u64 = 8 << 20;

/// The inodes with staged bytes, oldest first, and how many bytes there are.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    queue: Mutex<VecDeque<Arc<Inode>>>,
    /// Staged bytes and those that are being flushed.
    bytes: AtomicU64,
    /// Pool jobs that flush the oldest.
    flushers: AtomicU64,
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
            self.queue.lock().push_back(inode.clone());
        }
    }

    /// Takes the oldest.
    pub fn pop(&self) -> Option<Arc<Inode>> {
        let inode = self.queue.lock().pop_front()?;
        inode.lock().queued = false;
        Some(inode)
    }

    /// Takes all there are now.
    pub fn take_all(&self) -> VecDeque<Arc<Inode>> {
        let taken = std::mem::take(&mut *self.queue.lock());
        for inode in &taken {
            inode.lock().queued = false;
        }
        taken
    }

    pub fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }

    /// Waits until there is room; false if for a long while nothing could be stored.
    fn wait_for_room(&self, limit: u64, go_on: impl Fn() -> bool) -> bool {
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

impl Fs {
    /// Writes all of `data`. With `kill_priv`, the set-id bits go, as for a writer without the right to keep them.
    pub fn write(self: &Arc<Self>, ino: u64, offset: u64, data: &[u8], kill_priv: bool) -> Result<()> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= SIZE_MAX);
        let Some(end) = end else {
            return posix(libc::EFBIG);
        };
        if data.is_empty() {
            // Not even the size changes.
            return Ok(());
        }
        self.promise(data.len() as u64)?;
        if self.dirty.bytes() > self.options.staging_limit {
            self.flush_oldest();
            let room = self.dirty.wait_for_room(self.options.staging_limit, || self.store.writable().is_ok());
            self.store.writable()?;
            if !room {
                return posix(libc::EIO);
            }
        }
        let inode = self.inode(ino)?;
        let mut state = inode.lock();
        if !state.row.is_file() {
            return posix(if state.row.is_dir() { libc::EISDIR } else { libc::EINVAL });
        }
        let appends = offset >= state.row.size;
        if state.row.flags & IMMUTABLE != 0 || state.row.flags & APPEND_ONLY != 0 && !appends {
            return posix(libc::EPERM);
        }
        let before = state.staging.bytes();
        state.staging.write(offset, data);
        self.dirty.add(state.staging.bytes() - before);
        let now = Timestamp::now();
        state.row.size = state.row.size.max(end);
        state.row.mtime = now;
        state.row.ctime = now;
        if kill_priv {
            clear_set_ids(&mut state.row);
        }
        self.dirty.push(&inode, &mut state);
        let stream = state.staging.bytes() >= FLUSH_FILE && state.flushing.is_empty();
        drop(state);
        if stream {
            let fs = self.clone();
            self.store.spawn(move || {
                fs.flush_in_background(&inode, Flush::Growing);
            });
        } else if self.dirty.bytes() > FLUSH_START {
            self.flush_oldest();
        }
        Ok(())
    }

    /// Promises room for `bytes`. What is staged counts in full until it is stored, so before a refusal it is stored.
    pub(super) fn promise(self: &Arc<Self>, bytes: u64) -> Result<()> {
        match self.store.claim_space(bytes, self.dirty.bytes()) {
            Err(error) if error.is_no_space() => {
                self.sync()?;
                self.store.claim_space(bytes, self.dirty.bytes())
            }
            other => other,
        }
    }

    /// Has the pool flush the oldest files, if it is not at it already.
    pub(super) fn flush_oldest(self: &Arc<Self>) {
        if self.dirty.flushers.fetch_add(1, Ordering::AcqRel) >= 2 {
            self.dirty.flushers.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let fs = self.clone();
        self.store.spawn(move || {
            while fs.dirty.bytes() > FLUSH_STOP {
                match fs.dirty.pop() {
                    // One that cannot be stored would come again at once.
                    Some(inode) if fs.flush_in_background(&inode, Flush::Aged) => {}
                    _ => break,
                }
            }
            fs.dirty.flushers.fetch_sub(1, Ordering::AcqRel);
        });
    }
}
