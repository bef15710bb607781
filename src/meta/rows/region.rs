//! Region rows: the place of some consecutive chunks, and their lengths and digests.
//!
//! The key is the ChunkId of the first entry. Entries have consecutive ids. The entry of a swept chunk stays as an
//! absent entry, so that the others keep their positions.

use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};
use crate::meta::varint;
use crate::pack::{Location, PackId};

/// One chunk of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionEntry {
    /// Plain bytes of the chunk.
    pub len: u32,
    /// What it must hash to.
    pub digest: Digest,
}

/// Where a region is and what chunks it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionRow {
    /// The id of the first entry.
    pub first: ChunkId,
    /// Where its record stands.
    pub at: Location,
    /// Plain bytes in the record, those of swept chunks included.
    pub plain: u32,
    /// The chunks; `None` for one that was swept.
    pub entries: Vec<Option<RegionEntry>>,
}

impl RegionRow {
    /// The id after the last entry.
    pub fn end(&self) -> ChunkId {
        self.first.offset(self.entries.len() as u64)
    }

    /// The entry of a chunk, if this region has it.
    pub fn entry(&self, id: ChunkId) -> Option<&RegionEntry> {
        let index = id.0.checked_sub(self.first.0)?;
        self.entries.get(usize::try_from(index).ok()?)?.as_ref()
    }

    /// The chunks that are there.
    pub fn live(&self) -> impl Iterator<Item = (ChunkId, &RegionEntry)> {
        let numbered = self.entries.iter().enumerate();
        numbered.filter_map(|(index, entry)| Some((self.first.offset(index as u64), entry.as_ref()?)))
    }

    /// Plain bytes of the chunks that are there.
    pub fn live_bytes(&self) -> u64 {
        self.live().map(|(_, entry)| u64::from(entry.len)).sum()
    }

    /// The row's bytes; the first id is in the key.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 36 * self.entries.len());
        varint::put(&mut out, self.at.pack.0);
        varint::put(&mut out, self.at.offset);
        varint::put(&mut out, self.at.len.into());
        varint::put(&mut out, self.plain.into());
        for entry in &self.entries {
            match entry {
                None => varint::put(&mut out, 0),
                Some(entry) => {
                    varint::put(&mut out, entry.len.into());
                    out.extend_from_slice(&entry.digest.0);
                }
            }
        }
        out
    }

    /// The row from its bytes.
    pub fn decode(first: ChunkId, mut from: &[u8]) -> Result<Self> {
        let bad = || Error::damaged(format!("the region row of chunk {} makes no sense", first.0));
        let narrow = |number: u64| u32::try_from(number).map_err(|_| bad());
        let pack = PackId(varint::take(&mut from)?);
        let offset = varint::take(&mut from)?;
        let len = narrow(varint::take(&mut from)?)?;
        let plain = narrow(varint::take(&mut from)?)?;
        let mut entries = Vec::new();
        while !from.is_empty() {
            let len = narrow(varint::take(&mut from)?)?;
            if len == 0 {
                entries.push(None);
                continue;
            }
            let (digest, rest) = from.split_first_chunk::<32>().ok_or_else(bad)?;
            from = rest;
            entries.push(Some(RegionEntry { len, digest: Digest(*digest) }));
        }
        if entries.is_empty() || first.0.checked_add(entries.len() as u64).is_none() {
            return Err(bad());
        }
        let at = Location { pack, offset, len };
        Ok(Self { first, at, plain, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_comes_back(first in 0u64..1 << 50, pack: u64, offset: u64, len: u32, plain: u32,
                            lens in prop::collection::vec(0u32..1 << 20, 1..40)) {
            let entry = |len: u32| (len > 0).then_some(RegionEntry { len, digest: Digest([len as u8; 32]) });
            let row = RegionRow {
                first: ChunkId(first),
                at: Location { pack: PackId(pack), offset, len },
                plain,
                entries: lens.into_iter().map(entry).collect(),
            };
            prop_assert_eq!(RegionRow::decode(row.first, &row.encode()).unwrap(), row);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(first: u64, bytes: Vec<u8>) {
            if let Ok(row) = RegionRow::decode(ChunkId(first), &bytes) {
                prop_assert_eq!(RegionRow::decode(row.first, &row.encode()).unwrap(), row);
            }
        }
    }
}
