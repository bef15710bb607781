//! Small changes that somebody waits for are stored as they are, and cut together with what is around them later.
//!
//! A chunk that is changed has to be cut again, 64 KiB for a record of a database. An fsync that did so would cost many
//! times what was changed. So it stores a *patch*: the new bytes alone, as chunks of their own between parts of the old
//! one. The range that should have been cut again is noted with the inode, and recut once the file was left alone, or
//! when much of it is patched.
//!
//! Keeps true:
//! * a recut changes no byte and no time of a file: the chunks of a range give way to others with the same bytes, in one
//!   batch, if the range still consists of what was read. Whatever was changed meanwhile stays;
//! * the new chunks get their references as those of any flush do (I4);
//! * nobody waits for a recut, and it waits for no flush;
//! * what is noted is bounded. It is lost when the process is killed: then patches stay as they are, of the last interval
//!   and [`MOST`](super::patched::MOST) of a file at most, until the file is changed there.

pub(super) mod waiting;

use crate::error::{Error, Result};
use crate::meta::rows::Piece;
use crate::sabotage::{Protection, out};
use crate::store::Cut;
use crate::sync::Arc;
use crate::sync::thread::caught;

use super::inode::{Inode, InodeState};
use super::patched::Patched;
use super::rows::{Content, leaf_of};
use super::{Fs, extents};

/// Chunks that follow each other in a file, and what takes their place.
struct Recut {
    pieces: Vec<Piece>,
    range: (u64, u64),
    data: Arc<Vec<u8>>,
    cuts: Vec<Cut>,
}

impl Fs {
    /// After a flush that somebody waited for: has a file recut by a worker if much of it is patched.
    pub(super) fn recut_if_many(self: &Arc<Self>, inode: &Arc<Inode>) {
        let Some(patched) = inode.lock().patched.take_if_many() else {
            return;
        };
        let (fs, inode) = (self.clone(), inode.clone());
        self.store.workers.ordinary(move || fs.recut(&inode, patched));
    }

    /// Recuts the files that were left alone since the last call.
    pub(super) fn recut_quiet(&self) {
        for inode in self.recuts.take() {
            let quiet = inode.lock().patched.take_if_quiet();
            match quiet {
                None => self.recuts.push(&inode),
                Some(patched) => self.recut(&inode, patched),
            }
        }
    }

    /// Recuts all files.
    pub(super) fn recut_all(&self) {
        for inode in self.recuts.take() {
            let patched = std::mem::take(&mut inode.lock().patched);
            self.recut(&inode, patched);
        }
    }

    /// Recuts ranges of a file. What cannot be recut stays as it is; that is no loss.
    fn recut(&self, inode: &Arc<Inode>, patched: Patched) {
        for (from, to) in patched.into_ranges() {
            let recut = caught(|| {
                for recut in self.begin_recut(inode, (from, to))? {
                    self.end_recut(inode, &recut)?;
                }
                Ok(())
            });
            match recut.unwrap_or_else(|| Err(Error::panicked("cutting again what was patched"))) {
                Ok(()) => {}
                // Later there may be room.
                Err(error) if error.is_no_space() => {
                    inode.lock().patched.add((from, to), 0);
                    self.recuts.push(inode);
                }
                Err(error) => tracing::debug!("inode {} stays cut as it is: {error}", inode.ino),
            }
        }
    }

    /// Reads and cuts what stands in a range, from the first chunk in it to the last.
    fn begin_recut(&self, inode: &Arc<Inode>, range: (u64, u64)) -> Result<Vec<Recut>> {
        self.store.batches.writable()?;
        let found = self.whole_in(inode.ino, &inode.lock(), range)?;
        let mut recuts = Vec::new();
        for pieces in found.chunk_by(|piece, next| end_of(piece) == next.offset) {
            let ([first, .., last] | [first @ last]) = pieces else { continue };
            let range = (first.offset, end_of(last));
            if pieces.len() == 1 && first.len == first.chunk_len {
                continue;
            }
            self.store.claim_space(range.1 - range.0, self.dirty.bytes())?;
            let mut data = vec![0; (range.1 - range.0) as usize];
            self.store.chunks.read_pieces(pieces, range.0, false, &mut data)?;
            let data = Arc::new(data);
            let cuts = self.store.chunks.cut_together(&data);
            recuts.push(Recut { pieces: pieces.to_vec(), range, data, cuts });
        }
        Ok(recuts)
    }

    /// Puts what was cut in the place of what was read, if that is still there.
    fn end_recut(&self, inode: &Arc<Inode>, recut: &Recut) -> Result<()> {
        let (ino, Recut { pieces, range, data, cuts }) = (inode.ino, recut);
        let mut state = inode.lock();
        if state.dead {
            return Ok(());
        }
        let member = self.join()?;
        // To copy a content for this would be too much.
        let shared = leaf_of(&member, ino)?.is_some_and(|leaf| leaf.0 != state.row.content);
        if shared || !is_blind() && self.whole_in(ino, &state, *range)? != *pieces {
            return Ok(());
        }
        let allocated = state.row.allocated;
        self.store_cuts(&member, (ino, &mut state), range.0, data, cuts)?;
        if state.row.allocated != allocated {
            state.save(ino, &member);
        }
        Ok(())
    }

    /// The parts of chunks that touch a range, not clipped to it.
    fn whole_in(&self, ino: u64, state: &InodeState, (from, to): (u64, u64)) -> Result<Vec<Piece>> {
        let extents = extents::touching(&self.layers(), Content::of(ino, &state.row), from, to)?;
        let pieces = extents.iter().flat_map(|extent| extent.pieces().collect::<Vec<_>>());
        Ok(pieces.filter(|piece| piece.offset < to && end_of(piece) > from).collect())
    }
}

fn end_of(piece: &Piece) -> u64 {
    piece.offset + u64::from(piece.len)
}

/// Taken out: a recut does not look whether what it read is still there.
fn is_blind() -> bool {
    out(Protection::RecutLooksAgain)
}
