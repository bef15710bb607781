//! Reading chunks.
//!
//! Keeps true: bytes come only from a region that matched its checksum, and only with the length in the extent. If a
//! place is gone or does not match, the chunk is looked up once more, since the collector may have moved it. A second
//! failure is damage.

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::meta::rows::{Piece, RegionRow};
use crate::pack::Region;
use crate::sabotage::{Protection, out};
use crate::sync::Arc;

use super::sequential::REGIONS_AHEAD;
use super::{Chunks, find_region};

fn looks_again() -> bool {
    !out(Protection::SecondLook)
}

impl Chunks {
    /// Fills `out`, which begins at `start` of a file, with the bytes of `pieces`, which are in file order; ranges
    /// without pieces become zeros. `small` marks a small file, after which the reader probably reads the next stored
    /// file.
    pub fn read_pieces(
        self: &Arc<Self>,
        pieces: &[Piece],
        start: u64,
        small: bool,
        out: &mut [u8],
    ) -> Result<()> {
        let mut last: Option<(RegionRow, Arc<Region>)> = None;
        let (mut rest, mut at) = (out, start);
        for piece in pieces {
            let (gap, behind) = split(rest, piece.offset.checked_sub(at), piece)?;
            let (part, behind) = split(behind, Some(piece.len.into()), piece)?;
            gap.fill(0);
            (rest, at) = (behind, piece.offset + u64::from(piece.len));
            if let Some((row, region)) = &last
                && row.entry(piece.id).is_some()
                && !self.healing.is_bad(piece.id)
            {
                copy_piece(piece, region, part)?;
                continue;
            }
            if self.read_unwritten(piece, part)? {
                continue;
            }
            let found = self.region_of(piece.id)?;
            copy_piece(piece, &found.1, part)?;
            if small {
                self.read_ahead(&found.0);
            }
            last = Some(found);
        }
        rest.fill(0);
        Ok(())
    }

    /// Reads the region of a chunk into the cache, if it is not cached; returns the end of its ids. Errors are left to
    /// the later read.
    pub fn prefetch(&self, id: ChunkId) -> Option<ChunkId> {
        let row = find_region(&self.meta.layers(), id).ok()??;
        self.packs.load(&row.at).ok()?;
        Some(row.end())
    }

    /// Notes that `row` was read for a small file, and has the next regions read ahead if a reader seems to read in
    /// order.
    fn read_ahead(self: &Arc<Self>, row: &RegionRow) {
        if !self.sequential.note_read(row.first, row.end()) {
            return;
        }
        let fit = self.packs.cache_bytes() / 2 / self.region_size as u64;
        let (chunks, mut next) = (self.clone(), row.end());
        self.workers.ordinary(move || {
            for _ in 0..REGIONS_AHEAD.min(fit) {
                let Some(end) = chunks.prefetch(next) else { return };
                next = end;
            }
        });
    }

    /// Reads a piece of a chunk from a batch, if the chunk has no row yet or the batch has new bytes for it.
    fn read_unwritten(&self, piece: &Piece, out: &mut [u8]) -> Result<bool> {
        let is_in_database = self.batches.is_in_database(piece.id);
        if is_in_database && !self.healing.is_bad(piece.id) {
            return Ok(false);
        }
        let end = (piece.start + piece.len) as usize;
        let mut batches = self.batches.undurable();
        if is_in_database {
            let bytes = batches.find_map(|batch| self.healing.bytes(&batch, piece.id));
            let part = bytes.as_ref().and_then(|bytes| bytes.get(piece.start as usize..end));
            return Ok(part.is_some_and(|part| {
                out.copy_from_slice(part);
                true
            }));
        }
        for batch in batches {
            let copied =
                batch.regions.with_chunk(piece.id, |bytes| match bytes.get(piece.start as usize..end) {
                    Some(part) => {
                        out.copy_from_slice(part);
                        Ok(())
                    }
                    None => Err(wrong_length(piece)),
                });
            if let Some(result) = copied {
                return result.map(|()| true);
            }
        }
        Ok(false)
    }

    /// The decoded region that holds a chunk, with its row.
    pub fn region_of(&self, id: ChunkId) -> Result<(RegionRow, Arc<Region>)> {
        match self.try_region_of(id) {
            Ok(found) => Ok(found),
            // It was moved between reading its row and reading its pack: the row has the new place by now.
            Err(error) if !looks_again() => Err(error),
            Err(_) => self.try_region_of(id).inspect_err(|error| {
                tracing::error!("chunk {} cannot be read: {error}", id.0);
                // A chunk without a row was swept after its file stopped using it: that is no damage.
                if let Ok(Some(row)) = find_region(&self.meta.layers(), id) {
                    self.healing.note_read_error(&row, error);
                }
            }),
        }
    }

    fn try_region_of(&self, id: ChunkId) -> Result<(RegionRow, Arc<Region>)> {
        let row = find_region(&self.meta.layers(), id)?
            .ok_or_else(|| Error::damaged(format!("chunk {} is referred to and not there", id.0)))?;
        let region = self.packs.load(&row.at)?;
        Ok((row, region))
    }
}

/// Splits `out` after `len` bytes. Pieces come from rows: an impossible length is damage.
fn split<'a>(out: &'a mut [u8], len: Option<u64>, piece: &Piece) -> Result<(&'a mut [u8], &'a mut [u8])> {
    let wrong = || Error::damaged(format!("the extent at {} of a file overlaps another", piece.offset));
    out.split_at_mut_checked(len.ok_or_else(wrong)? as usize).ok_or_else(wrong)
}

/// Fills `out`, which is as long as the piece.
fn copy_piece(piece: &Piece, region: &Region, out: &mut [u8]) -> Result<()> {
    let bytes = region
        .chunk(piece.id)
        .ok_or_else(|| Error::damaged(format!("the region of chunk {} does not have it", piece.id.0)))?;
    if bytes.len() != piece.chunk_len as usize {
        return Err(wrong_length(piece));
    }
    let end = (piece.start + piece.len) as usize;
    match bytes.get(piece.start as usize..end) {
        Some(part) => {
            out.copy_from_slice(part);
            Ok(())
        }
        None => Err(wrong_length(piece)),
    }
}

fn wrong_length(piece: &Piece) -> Error {
    Error::damaged(format!("chunk {} does not have the length its file says", piece.id.0))
}
