//! Reading chunks.
//!
//! Keeps true: bytes are handed out only from a region that matched its checksum, and only with the length the extent
//! says. A read that meets a place that is gone or does not match looks the chunk up once more: the collector may have
//! moved it. A second failure is damage.

use lru::LruCache;

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::meta::rows::{Piece, RegionRow, chunk_of, id_key};
use crate::meta::{Layers, Table};
use crate::pack::{Location, Region};
use crate::sabotage::{Protection, out};
use crate::sync::{Arc, Mutex, Ordering};

use super::Store;

/// Decoded regions, by bytes.
#[derive(Debug)]
pub(super) struct RegionCache {
    limit: u64,
    inner: Mutex<(u64, LruCache<Location, Arc<Region>>)>,
}

impl RegionCache {
    pub fn new(limit: u64) -> Self {
        Self { limit, inner: Mutex::new((0, LruCache::unbounded())) }
    }

    fn get(&self, at: &Location) -> Option<Arc<Region>> {
        self.inner.lock().1.get(at).cloned()
    }

    fn put(&self, at: Location, region: Arc<Region>) {
        let mut inner = self.inner.lock();
        let (bytes, cache) = &mut *inner;
        *bytes += region.plain.len() as u64;
        if let Some((_, old)) = cache.push(at, region) {
            *bytes -= old.plain.len() as u64;
        }
        while *bytes > self.limit && cache.len() > 1 {
            match cache.pop_lru() {
                Some((_, old)) => *bytes -= old.plain.len() as u64,
                None => break,
            }
        }
    }
}

impl Store {
    /// Fills `out`, which begins at `start` of a file, with the bytes of `pieces`, which come in the file's order; zeros
    /// where there are none. It is a `small` file if what is read next is likely to stand behind it.
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
                && !self.is_bad(piece.id)
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
                self.look_ahead(&found.0);
            }
            last = Some(found);
        }
        rest.fill(0);
        Ok(())
    }

    /// How many plain bytes of regions are kept.
    pub fn region_cache_bytes(&self) -> u64 {
        self.regions.limit
    }

    /// Reads the region of a chunk into the cache, if it is not there yet; where its ids end. Failures are left to the
    /// read that follows.
    pub fn prefetch(&self, id: ChunkId) -> Option<ChunkId> {
        let row = find_region(&self.now(), id).ok()??;
        self.load(&row.at).ok()?;
        Some(row.end())
    }

    /// Takes a piece of a chunk that has no row yet, or whose bytes were brought again, from its batch.
    fn read_unwritten(&self, piece: &Piece, out: &mut [u8]) -> Result<bool> {
        let is_settled = piece.id.0 < self.settled.load(Ordering::Acquire);
        if is_settled && !self.is_bad(piece.id) {
            return Ok(false);
        }
        let end = (piece.start + piece.len) as usize;
        // The open one first: a batch that is sealed in between is then met twice, and never missed.
        let batches = [Some(self.gate.open()), self.sealed.read().clone()];
        if is_settled {
            let mut batches = batches.into_iter().flatten();
            let bytes = batches.find_map(|batch| self.healing_bytes(&batch, piece.id));
            let part = bytes.as_ref().and_then(|bytes| bytes.get(piece.start as usize..end));
            return Ok(part.is_some_and(|part| {
                out.copy_from_slice(part);
                true
            }));
        }
        for batch in batches.into_iter().flatten() {
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
            // Moved between the look at its row and the read of its pack: the row by now says where to.
            Err(error) if out(Protection::SecondLook) => Err(error),
            Err(_) => self.try_region_of(id).inspect_err(|error| {
                tracing::error!("chunk {} cannot be read: {error}", id.0);
                // A chunk without a row was swept after its file let go of it: nothing is bad.
                if let Ok(Some(row)) = find_region(&self.now(), id) {
                    self.note_unread(&row, error);
                }
            }),
        }
    }

    fn try_region_of(&self, id: ChunkId) -> Result<(RegionRow, Arc<Region>)> {
        let row = find_region(&self.now(), id)?
            .ok_or_else(|| Error::damaged(format!("chunk {} is referred to and not there", id.0)))?;
        let region = self.load(&row.at)?;
        Ok((row, region))
    }

    pub(super) fn load(&self, at: &Location) -> Result<Arc<Region>> {
        if let Some(region) = self.regions.get(at) {
            return Ok(region);
        }
        let region = Arc::new(self.reader.read_region(at)?);
        self.regions.put(*at, region.clone());
        Ok(region)
    }
}

/// The row of the region that has a chunk.
pub(super) fn find_region(layers: &Layers, id: ChunkId) -> Result<Option<RegionRow>> {
    let Some((key, row)) = layers.last(Table::Regions, &id_key(0), &id_key(id.0))? else {
        return Ok(None);
    };
    let row = RegionRow::decode(ChunkId(chunk_of(&key)?), &row)?;
    Ok(row.entry(id).is_some().then_some(row))
}

/// The first `len` bytes and what follows them. Pieces come from rows: where these say what cannot be, that is damage.
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
