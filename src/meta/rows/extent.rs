//! Extent rows: a range of a file as a run of consecutive ChunkIds.
//!
//! A row has the length of each of its chunks, so that finding an offset and splitting a row need no access to the
//! chunk table. This costs two to three bytes a chunk.

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::meta::varint;

/// Chunks in one row at most: bounds the row's size and the walk to an offset in it.
pub const MAX_EXTENT_CHUNKS: usize = 128;

/// The chunks of `[offset, offset + len)` of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file it begins.
    pub offset: u64,
    /// Bytes of the file it covers; more than 0.
    pub len: u64,
    /// The first chunk; the others follow without a gap.
    pub first: ChunkId,
    /// Bytes of the first chunk that are not part of the file here.
    pub skip: u32,
    /// The whole length of each chunk.
    pub lens: Vec<u32>,
}

/// A part of one chunk that stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where in the file it begins.
    pub offset: u64,
    /// The chunk.
    pub id: ChunkId,
    /// The whole length of the chunk.
    pub chunk_len: u32,
    /// Where in the chunk the part begins.
    pub start: u32,
    /// Bytes of the part.
    pub len: u32,
}

impl Extent {
    /// The end in the file.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// An extent of one part.
    pub fn of(piece: Piece) -> Self {
        Self {
            offset: piece.offset,
            len: piece.len.into(),
            first: piece.id,
            skip: piece.start,
            lens: vec![piece.chunk_len],
        }
    }

    /// The parts in file order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let mut offset = self.offset;
        let mut left = self.len;
        self.lens.iter().enumerate().map(move |(index, &chunk_len)| {
            let start = if index == 0 { self.skip } else { 0 };
            let len = u64::from(chunk_len - start).min(left) as u32;
            let piece = Piece { offset, id: self.first.offset(index as u64), chunk_len, start, len };
            offset += u64::from(len);
            left -= u64::from(len);
            piece
        })
    }

    /// Appends `piece` if it begins where this extent ends; false otherwise.
    pub fn extend(&mut self, piece: Piece) -> bool {
        let ends_whole = self.pieces().last().is_some_and(|last| last.start + last.len == last.chunk_len);
        let follows = piece.offset == self.end()
            && piece.id == self.first.offset(self.lens.len() as u64)
            && piece.start == 0
            && self.lens.len() < MAX_EXTENT_CHUNKS;
        if !(ends_whole && follows) {
            return false;
        }
        self.len += u64::from(piece.len);
        self.lens.push(piece.chunk_len);
        true
    }

    /// Joins parts in file order into as few extents as can be.
    pub fn join(pieces: impl IntoIterator<Item = Piece>) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for piece in pieces {
            let taken = extents.last_mut().is_some_and(|last| last.extend(piece));
            if !taken {
                extents.push(Extent::of(piece));
            }
        }
        extents
    }

    /// The part of this extent in `[from, to)` of the file, or `None`.
    pub fn clip(&self, from: u64, to: u64) -> Option<Extent> {
        let mut clipped: Option<Extent> = None;
        for mut piece in self.pieces() {
            let end = piece.offset + u64::from(piece.len);
            let (low, high) = (piece.offset.max(from), end.min(to));
            if low >= high {
                continue;
            }
            piece.start += (low - piece.offset) as u32;
            piece.offset = low;
            piece.len = (high - low) as u32;
            match &mut clipped {
                None => clipped = Some(Extent::of(piece)),
                Some(extent) => {
                    let joined = extent.extend(piece);
                    debug_assert!(joined, "the parts of one extent follow each other");
                }
            }
        }
        clipped
    }

    /// The row's bytes; the offset is in the key.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + 3 * self.lens.len());
        varint::put(&mut out, self.len);
        varint::put(&mut out, self.first.0);
        varint::put(&mut out, self.skip.into());
        for &len in &self.lens {
            varint::put(&mut out, len.into());
        }
        out
    }

    /// The row from its bytes.
    pub fn decode(offset: u64, mut from: &[u8]) -> Result<Self> {
        let bad = || Error::damaged(format!("the extent row at offset {offset} makes no sense"));
        let len = varint::take(&mut from)?;
        let first = ChunkId(varint::take(&mut from)?);
        let skip = u32::try_from(varint::take(&mut from)?).map_err(|_| bad())?;
        let mut lens = Vec::new();
        let mut total = 0u64;
        while !from.is_empty() {
            let len = u32::try_from(varint::take(&mut from)?).map_err(|_| bad())?;
            total += u64::from(len);
            lens.push(len);
        }
        let (Some(&head), Some(&tail)) = (lens.first(), lens.last()) else {
            return Err(bad());
        };
        let reach = total.checked_sub(skip.into()).ok_or_else(bad)?;
        // Every chunk must contribute at least one byte, or the row would name chunks that the file does not have.
        let needed = len > 0 && len <= reach && skip < head && reach - len < u64::from(tail);
        let fits = offset.checked_add(len).is_some() && first.0.checked_add(lens.len() as u64).is_some();
        if !needed || !fits || lens.len() > MAX_EXTENT_CHUNKS || lens.contains(&0) {
            return Err(bad());
        }
        Ok(Self { offset, len, first, skip, lens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_extent() -> impl Strategy<Value = Extent> {
        (0u64..1 << 40, 0u64..1 << 40, prop::collection::vec(1u32..300_000, 1..20), any::<(u32, u32)>())
            .prop_map(|(offset, first, lens, (a, b))| {
                let skip = a % lens[0];
                let spare = if lens.len() == 1 { lens[0] - skip } else { lens[lens.len() - 1] };
                let total: u64 = lens.iter().map(|&len| u64::from(len)).sum();
                let len = total - u64::from(skip) - u64::from(b % spare);
                Extent { offset, len, first: ChunkId(first), skip, lens }
            })
    }

    proptest! {
        #[test]
        fn an_extent_comes_back(extent in any_extent()) {
            prop_assert_eq!(Extent::decode(extent.offset, &extent.encode()).unwrap(), extent);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(offset: u64, bytes: Vec<u8>) {
            if let Ok(extent) = Extent::decode(offset, &bytes) {
                prop_assert_eq!(extent.pieces().map(|p| u64::from(p.len)).sum::<u64>(), extent.len);
            }
        }

        #[test]
        fn a_clip_holds_the_same_bytes(extent in any_extent(), a in 0u64..1_000_000, b in 0u64..1_000_000) {
            let (from, to) = (extent.offset + a.min(b), extent.offset + a.max(b));
            let byte_at = |extent: &Extent, at: u64| {
                let piece = extent.pieces().find(|p| at >= p.offset && at < p.offset + u64::from(p.len));
                piece.map(|p| (p.id, u64::from(p.start) + at - p.offset))
            };
            let clipped = extent.clip(from, to);
            let (low, high) = (from.max(extent.offset), to.min(extent.end()));
            prop_assert_eq!(clipped.as_ref().map_or(0, |c| c.len), high.saturating_sub(low));
            if let Some(clipped) = clipped {
                prop_assert_eq!(clipped.offset, low);
                for at in [low, (low + high) / 2, high - 1] {
                    prop_assert_eq!(byte_at(&clipped, at), byte_at(&extent, at));
                }
                Extent::decode(clipped.offset, &clipped.encode()).unwrap();
            }
        }

        #[test]
        fn joined_pieces_are_the_same_pieces(extent in any_extent()) {
            let pieces: Vec<Piece> = extent.pieces().collect();
            let joined = Extent::join(pieces.clone());
            prop_assert_eq!(joined.iter().flat_map(Extent::pieces).collect::<Vec<_>>(), pieces);
            prop_assert_eq!(joined.len(), 1);
        }
    }
}
