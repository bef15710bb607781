//! Reading files.
//!
//! Keeps true: a read is short only at the end of the file. It sees one moment of the file, since everything it needs
//! is gathered inside the inode's lock. Bytes that cannot be read are an error, never zeros.

use crate::error::Result;
use crate::meta::rows::{NO_ATIME, Piece};
use crate::sync::Arc;

use super::flush::Flush;
use super::inode::InodeState;
use super::rows::Content;
use super::staging::{Run, copy_part};
use super::types::{Access, AccessTimes, Timestamp};
use super::{Fs, extents, posix};

/// Each time a sequential reader advances by this much, the next part of the same size is read ahead.
const READ_AHEAD_STEP: u64 = 1 << 20;
/// Regions are read up to this far ahead, so that all processors and the disk are busy.
const READ_AHEAD_WINDOW: u64 = 4 << 20;
/// With relatime, an access time older than this is renewed.
const RELATIME_SECONDS: i64 = 24 * 60 * 60;

/// What a read needs, as of one moment.
#[derive(Default)]
struct Gathered {
    len: usize,
    /// The file is too small for read-ahead within it.
    small: bool,
    pieces: Vec<Piece>,
    /// The part of the range that is being flushed.
    flushing: Vec<Run>,
    /// The part of the range that is staged, if any.
    staged: Vec<(u64, Vec<u8>)>,
}

impl Fs {
    /// Up to `size` bytes from `offset`; fewer only at the end of the file.
    pub fn read(self: &Arc<Self>, ino: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        self.read_as(ino, offset, size, Access::Counts)
    }

    /// The same, and whether it counts as an access.
    pub fn read_as(self: &Arc<Self>, ino: u64, offset: u64, size: u32, access: Access) -> Result<Vec<u8>> {
        retry_once(|| {
            let gathered = self.gather(ino, offset, size, access)?;
            let mut out = vec![0; gathered.len];
            self.fill(&gathered, offset, &mut out)?;
            Ok(out)
        })
    }

    /// Reads from `offset` into `out`, whose old content does not matter. Returns how many bytes; fewer than `out` has
    /// room for only at the end of the file.
    pub fn read_into(
        self: &Arc<Self>,
        ino: u64,
        offset: u64,
        out: &mut [u8],
        access: Access,
    ) -> Result<usize> {
        let size = u32::try_from(out.len()).unwrap_or(u32::MAX);
        retry_once(|| {
            let gathered = self.gather(ino, offset, size, access)?;
            self.fill(&gathered, offset, &mut out[..gathered.len])?;
            Ok(gathered.len)
        })
    }

    /// Fills all of `out`, which begins at `offset`.
    fn fill(self: &Arc<Self>, gathered: &Gathered, offset: u64, out: &mut [u8]) -> Result<()> {
        self.store.chunks.read_pieces(&gathered.pieces, offset, gathered.small, out)?;
        for run in &gathered.flushing {
            copy_part(run.offset, &run.data, offset, out);
        }
        for (start, data) in &gathered.staged {
            copy_part(*start, data, offset, out);
        }
        Ok(())
    }

    fn gather(self: &Arc<Self>, ino: u64, offset: u64, size: u32, access: Access) -> Result<Gathered> {
        let inode = self.inode(ino)?;
        let mut state = inode.lock();
        if state.row.is_dir() {
            return posix(libc::EISDIR);
        }
        let end = state.row.size.min(offset.saturating_add(size.into()));
        if offset >= end {
            return Ok(Gathered::default());
        }
        let pieces = self.pieces_for_read(ino, &mut state, offset, end)?;
        let flushing = state.flushing.iter().filter(|run| run.offset < end && run.end() > offset);
        let flushing = flushing.cloned().collect();
        let staged = state.staging.copies(offset, end);
        let sequential = state.next_read == offset;
        state.next_read = end;
        if sequential && (end / READ_AHEAD_STEP > offset / READ_AHEAD_STEP || end - offset >= READ_AHEAD_STEP)
        {
            let far = READ_AHEAD_WINDOW.min(self.store.packs.cache_bytes() / 8).max(READ_AHEAD_STEP);
            // The nearer part was read ahead before, unless the reader has just begun.
            let near = if offset < READ_AHEAD_STEP { 0 } else { far - READ_AHEAD_STEP };
            self.read_ahead(ino, &state, end + near, end + far)?;
        }
        if access == Access::Counts {
            self.touch_atime(ino, &mut state)?;
        }
        let small = state.row.size <= READ_AHEAD_STEP;
        Ok(Gathered { len: (end - offset) as usize, small, pieces, flushing, staged })
    }

    /// The parts of chunks in a range, from the extent that was read last if it has them all.
    fn pieces_for_read(&self, ino: u64, state: &mut InodeState, from: u64, to: u64) -> Result<Vec<Piece>> {
        if let Some(recent) = &state.recent
            && recent.offset <= from
            && to <= recent.end()
        {
            return Ok(recent.clip(from, to).map_or_else(Vec::new, |part| part.pieces().collect()));
        }
        let extents = extents::touching(&self.layers(), Content::of(ino, &state.row), from, to)?;
        let clipped = extents.iter().filter_map(|extent| extent.clip(from, to));
        let pieces = clipped.flat_map(|extent| extent.pieces().collect::<Vec<_>>()).collect();
        state.recent = extents.into_iter().next_back();
        Ok(pieces)
    }

    /// Has the pool read what a sequential reader will need soon.
    fn read_ahead(self: &Arc<Self>, ino: u64, state: &InodeState, from: u64, to: u64) -> Result<()> {
        let to = to.min(state.disk_size);
        if from >= to {
            return Ok(());
        }
        let pieces = extents::pieces(&self.layers(), Content::of(ino, &state.row), from, to)?;
        let store = self.store.clone();
        self.store.workers.ordinary(move || {
            for piece in pieces {
                store.chunks.prefetch(piece.id);
            }
        });
        Ok(())
    }

    /// With relatime the access time moves only where it would otherwise be older than a change, or than a day.
    fn touch_atime(&self, ino: u64, state: &mut InodeState) -> Result<()> {
        let times = self.options.atime;
        if times == AccessTimes::Never
            || state.row.flags & NO_ATIME != 0
            || self.store.batches.writable().is_err()
        {
            return Ok(());
        }
        let now = Timestamp::now();
        let row = &mut state.row;
        let stale = row.times.atime <= row.times.mtime || row.times.atime <= row.times.ctime;
        if times == AccessTimes::Relative && !stale && now.sec - row.times.atime.sec < RELATIME_SECONDS {
            return Ok(());
        }
        row.times.atime = now;
        let member = self.join()?;
        state.save(ino, &member);
        Ok(())
    }

    /// SEEK_DATA and SEEK_HOLE from `offset`.
    pub fn lseek(self: &Arc<Self>, ino: u64, offset: i64, whence: i32) -> Result<u64> {
        let inode = self.inode(ino)?;
        self.flush(&inode, Flush::Wanted)?;
        let state = inode.lock_quiescent();
        let Some(mut at) = u64::try_from(offset).ok().filter(|at| *at < state.row.size) else {
            return posix(libc::ENXIO);
        };
        // Bytes that were staged since the flush are in no extent; they are data.
        let staged = |at: u64| state.staging.ranges(at, state.row.size);
        let layers = self.layers();
        match whence {
            libc::SEEK_DATA => {
                let stored = extents::next_after(&layers, Content::of(ino, &state.row), at)?
                    .map(|extent| extent.offset.max(at));
                let staged = staged(at).first().map(|range| range.0);
                let next = stored.into_iter().chain(staged).min();
                next.map_or_else(|| posix(libc::ENXIO), Ok)
            }
            libc::SEEK_HOLE => {
                let staged = staged(at);
                loop {
                    let stored = extents::next_after(&layers, Content::of(ino, &state.row), at)?
                        .filter(|extent| extent.offset <= at);
                    let covering = staged.iter().find(|range| range.0 <= at && at < range.1);
                    match (stored, covering) {
                        (None, None) => return Ok(at.min(state.row.size)),
                        (stored, covering) => {
                            let ends =
                                stored.map(|extent| extent.end()).into_iter().chain(covering.map(|c| c.1));
                            at = ends.max().unwrap_or(state.row.size);
                        }
                    }
                    if at >= state.row.size {
                        return Ok(state.row.size);
                    }
                }
            }
            _ => posix(libc::EINVAL),
        }
    }
}

/// Retries once: the gathered range may have been overwritten and its chunks freed meanwhile.
fn retry_once<R>(mut read: impl FnMut() -> Result<R>) -> Result<R> {
    match read() {
        Err(error) if error.errno() == libc::EIO => read(),
        other => other,
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
