//! Taking writes: into memory, within a bound, and on to the flush.
//!
//! Keeps true: there is room on the disk for every acknowledged write (ENOSPC comes here or at fsync, never later).
//! Staged bytes never exceed their limit by more than one write of each writer.

use crate::error::Result;
use crate::meta::rows::{APPEND_ONLY, IMMUTABLE};
use crate::sabotage::{Protection, out};
use crate::sync::{Arc, Ordering};

use super::attr::clear_set_ids;
use super::flush::Flush;
use super::types::{SIZE_MAX, Timestamp};
use super::{Fs, posix};

/// A file with this much staged is flushed as it grows.
pub(super) const FLUSH_FILE: u64 = 4 << 20;
/// If all files together have this much staged, the oldest are flushed.
const FLUSH_START: u64 = 16 << 20;
/// Down to this much.
pub(super) const FLUSH_STOP: u64 = 8 << 20;

impl Fs {
    fn has_too_much_staged(&self) -> bool {
        self.dirty.bytes() > self.options.staging_limit && !out(Protection::StagingLimit)
    }

    /// Writes all of `data`. With `kill_priv` it clears the set-id bits, as for a writer without the right to keep
    /// them.
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
        if self.has_too_much_staged() {
            self.flush_oldest();
            let room = self
                .dirty
                .wait_for_room(self.options.staging_limit, || self.store.batches.writable().is_ok());
            self.store.batches.writable()?;
            if !room {
                // Nothing can be stored: other programs have filled the disk, or the reason is not known.
                self.promise(data.len() as u64)?;
                return posix(libc::EIO);
            }
        }
        let inode = self.inode(ino)?;
        let mut state = self.lock_unprotected(&inode, false)?;
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
        state.row.times.mtime = now;
        state.row.times.ctime = now;
        if kill_priv {
            clear_set_ids(&mut state.row);
        }
        self.dirty.push(&inode, &mut state);
        let stream = state.staging.bytes() >= FLUSH_FILE && state.flushing.is_empty();
        drop(state);
        if stream {
            let fs = self.clone();
            self.store.workers.ordinary(move || {
                fs.flush_in_background(&inode, Flush::Growing);
            });
        } else if self.dirty.bytes() > FLUSH_START {
            self.flush_oldest();
        }
        Ok(())
    }

    /// Promises room for `bytes`. Staged bytes count in full until they are stored, so they are stored before a
    /// refusal.
    pub(super) fn promise(self: &Arc<Self>, bytes: u64) -> Result<()> {
        match self.store.claim_space(bytes, self.dirty.bytes()) {
            Err(error) if error.is_no_space() => {
                self.sync()?;
                self.store.claim_space(bytes, self.dirty.bytes())
            }
            other => other,
        }
    }

    /// Has the pool flush the oldest files, unless it is already doing so.
    pub(super) fn flush_oldest(self: &Arc<Self>) {
        if self.dirty.flushers.fetch_add(1, Ordering::AcqRel) >= 2 {
            self.dirty.flushers.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let fs = self.clone();
        self.store.workers.ordinary(move || {
            while fs.dirty.bytes() > FLUSH_STOP {
                let Some(inode) = fs.dirty.pop() else { break };
                let stored = fs.flush_in_background(&inode, Flush::Aged);
                fs.dirty.flushed(&inode);
                if !stored {
                    // It would be taken again at once.
                    break;
                }
            }
            fs.dirty.flushers.fetch_sub(1, Ordering::AcqRel);
        });
    }
}
