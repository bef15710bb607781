//! Removing ranges of files: truncation and holes.
//!
//! Keeps true: a batch gets no more than some thousand rows of a range at once, however many extents it has, so that
//! others do not wait long for a commit. After each step, and after a crash between two steps, the file is consistent:
//! a truncation shortens it from its end, a hole grows from its beginning. Staged bytes are dropped only after the step
//! that could fail, so that a failed step removes nothing.

use crate::error::Result;
use crate::store::Member;

use super::inode::InodeState;
use super::rows::Content;
use super::types::Timestamp;
use super::{Fs, extents};

/// The open batch is committed before the next step if its rows have this many bytes for each extent that a step may
/// remove: 4 MiB with the usual number.
const BYTES_OF_EACH: u64 = 1024;

impl Fs {
    /// Makes `[from, to)` of a settled inode a hole. Nothing of it is left staged. The caller goes on as a member of
    /// the batch that has the last step, and saves the inode.
    pub(super) fn make_hole(
        &self,
        ino: u64,
        state: &mut InodeState,
        (mut from, to): (u64, u64),
    ) -> Result<Member> {
        let most = self.options.extents_per_step;
        let (mut old, mut next) =
            extents::touching_first(&self.layers(), Content::of(ino, &state.row), (from, to), most)?;
        loop {
            let (member, layers) = (self.join_to_change(ino, state)?, self.layers());
            extents::replace_these(
                (&member, &self.store.collection.barrier),
                &layers,
                (ino, state),
                (from, next),
                &old,
                Vec::new(),
            )?;
            self.discard_staged(state, from, next);
            if next == to {
                return Ok(member);
            }
            self.end_step(ino, state, member)?;
            from = next;
            (old, next) = extents::beginning_first(
                &self.layers(),
                Content::of(ino, &state.row),
                (from, to),
                Vec::new(),
                most,
            )?;
        }
    }

    /// Gives a settled inode this size. The caller goes on as a member of the batch that has the last step, and saves
    /// the inode.
    pub(super) fn set_size(&self, ino: u64, state: &mut InodeState, size: u64) -> Result<Member> {
        let most = self.options.extents_per_step;
        let (mut all, mut cuts, mut to) = (None, Vec::new(), u64::MAX);
        if size < state.disk_size {
            let layers = self.layers();
            let (old, next) =
                extents::touching_first(&layers, Content::of(ino, &state.row), (size, to), most)?;
            if next == to {
                all = Some(old);
            } else {
                cuts = extents::every(&layers, Content::of(ino, &state.row), next, most)?;
            }
        }
        loop {
            let (member, layers) = (self.join_to_change(ino, state)?, self.layers());
            // From the end, so that the rest is a beginning of the file.
            let end = cuts.pop().unwrap_or(size);
            if end < state.disk_size {
                let old = match all.take() {
                    Some(all) => all,
                    None => extents::touching(&layers, Content::of(ino, &state.row), end, to)?,
                };
                extents::replace_these(
                    (&member, &self.store.collection.barrier),
                    &layers,
                    (ino, state),
                    (end, to),
                    &old,
                    Vec::new(),
                )?;
                state.disk_size = end;
                to = end;
            }
            if end < state.row.size {
                self.discard_staged(state, end, u64::MAX);
            }
            state.row.size = end;
            state.settle_size();
            if end == size {
                return Ok(member);
            }
            self.end_step(ino, state, member)?;
        }
    }

    fn discard_staged(&self, state: &mut InodeState, from: u64, to: u64) {
        let staged = state.staging.bytes();
        state.staging.discard(from, to);
        self.dirty.sub(staged - state.staging.bytes());
    }

    /// Saves the result of a step like any other change, and commits the batch if it has grown.
    fn end_step(&self, ino: u64, state: &mut InodeState, member: Member) -> Result<()> {
        let now = Timestamp::now();
        (state.row.times.mtime, state.row.times.ctime) = (now, now);
        state.save(ino, &member);
        drop(member);
        let enough = self.options.extents_per_step as u64 * BYTES_OF_EACH;
        if self.store.batches.open_bytes() < enough { Ok(()) } else { self.store.commits.commit() }
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
