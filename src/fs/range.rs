//! Work on ranges of files: fallocate and copy_file_range.
//!
//! Keeps true: a clone refers to chunks that a live extent refers to, asked of the barrier like any other reuse (I4);
//! no data moves.

use crate::error::Result;
use crate::meta::rows::{Extent, IMMUTABLE, PROTECTING, Piece};
use crate::sync::Arc;

use super::flush::Flush;
use super::inode::{Inode, InodeState, lock_two};
use super::rows::Content;
use super::types::{SIZE_MAX, Timestamp};
use super::{Fs, extents, posix};

const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;

/// How often a clone waits for a pause of the writers of its source before it gives up.
const SETTLE_TRIES: usize = 64;

impl Fs {
    /// fallocate(2): extends, punches or zeroes. It reserves no space: a hole takes none until it is written.
    pub fn fallocate(self: &Arc<Self>, ino: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= SIZE_MAX);
        let Some(end) = end else {
            return posix(libc::EFBIG);
        };
        if len == 0 {
            return posix(libc::EINVAL);
        }
        let (clears, keeps_size) = match mode {
            0 => (false, false),
            KEEP_SIZE => (false, true),
            m if m == PUNCH_HOLE | KEEP_SIZE => (true, true),
            ZERO_RANGE => (true, false),
            m if m == ZERO_RANGE | KEEP_SIZE => (true, true),
            _ => return posix(libc::EOPNOTSUPP),
        };
        if !clears {
            self.promise(len)?;
        }
        let inode = self.inode(ino)?;
        let mut state = self.lock_unprotected(&inode, true)?;
        if !state.row.is_file() {
            return posix(if state.row.is_dir() { libc::EISDIR } else { libc::ENODEV });
        }
        let held = if clears { PROTECTING } else { IMMUTABLE };
        if state.row.flags & held != 0 {
            return posix(libc::EPERM);
        }
        let member = if clears { self.make_hole(ino, &mut state, (offset, end))? } else { self.join()? };
        if !keeps_size {
            state.row.size = state.row.size.max(end);
        }
        state.settle_size();
        let now = Timestamp::now();
        (state.row.times.mtime, state.row.times.ctime) = (now, now);
        state.save(ino, &member);
        Ok(())
    }

    /// copy_file_range(2): the target refers to the source's chunks. Returns the bytes copied: 0 at the source's end,
    /// and fewer than asked for where there are very many extents.
    pub fn copy_file_range(
        self: &Arc<Self>,
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        let (source, target) = (self.inode(from)?, self.inode(to)?);
        self.store.claim_space(4096, self.dirty.bytes())?;
        for _ in 0..SETTLE_TRIES {
            self.flush(&source, Flush::Wanted)?;
            self.flush(&target, Flush::Wanted)?;
            let (mut source_state, mut target_state) = lock_two(&source, &target);
            self.refuse_protected(to)?;
            let quiescent = is_quiescent(&source_state) && target_state.as_deref().is_none_or(is_quiescent);
            if quiescent {
                let both = (&mut *source_state, target_state.as_deref_mut());
                return self.clone_range(&target, both, (from, from_offset), to_offset, len);
            }
        }
        // The kernel then copies by reading and writing.
        posix(libc::EXDEV)
    }

    fn clone_range(
        &self,
        target: &Inode,
        (source, other): (&mut InodeState, Option<&mut InodeState>),
        (from, from_offset): (u64, u64),
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        let same = other.is_none();
        if !source.row.is_file() || other.as_ref().is_some_and(|other| !other.row.is_file()) {
            return posix(libc::EINVAL);
        }
        let from_end = source.row.size.min(from_offset.saturating_add(len));
        let len = from_end.saturating_sub(from_offset);
        let to_end = to_offset.checked_add(len).filter(|end| *end <= SIZE_MAX);
        let Some(to_end) = to_end else {
            return posix(libc::EFBIG);
        };
        if same && from_offset < to_end && to_offset < from_end && len > 0 {
            return posix(libc::EINVAL);
        }
        if len == 0 {
            return Ok(0);
        }
        let apart = (!same).then(|| Content::of(from, &source.row));
        let state = other.unwrap_or(source);
        if state.row.flags & PROTECTING != 0 {
            return posix(libc::EPERM);
        }
        let (member, layers) = (self.join_to_change(target.ino, state)?, self.layers());
        let of_target = Content::of(target.ino, &state.row);
        let content = apart.unwrap_or(of_target);
        // No more rows than one step may write; the caller continues after the copied part.
        let most = self.options.extents_per_step;
        let (found, from_end) = extents::touching_first(&layers, content, (from_offset, from_end), most)?;
        let to_end = to_end.min(to_offset + (from_end - from_offset));
        let (old, to_end) = extents::touching_first(&layers, of_target, (to_offset, to_end), most)?;
        let len = to_end - to_offset;
        let from_end = from_offset + len;
        let clipped: Vec<Extent> =
            found.iter().filter_map(|extent| extent.clip(from_offset, from_end)).collect();
        let barrier = &*self.store.collection.barrier;
        let mut pieces: Vec<Piece> = Vec::new();
        for extent in &clipped {
            extents::ask_again(barrier, from, extent)?;
            pieces.extend(
                extent
                    .pieces()
                    .map(|piece| Piece { offset: piece.offset - from_offset + to_offset, ..piece }),
            );
        }
        extents::replace_these(
            (&member, barrier),
            &layers,
            (target.ino, state),
            (to_offset, to_end),
            &old,
            pieces,
        )?;
        state.row.size = state.row.size.max(to_end);
        state.settle_size();
        let now = Timestamp::now();
        (state.row.times.mtime, state.row.times.ctime) = (now, now);
        state.save(target.ino, &member);
        Ok(len)
    }
}

fn is_quiescent(state: &InodeState) -> bool {
    state.staging.is_empty() && state.flushing.is_empty()
}
