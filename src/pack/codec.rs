//! Makes the records of regions and opens them.
//!
//! [`Codec`] is the one way from chunks to a record and back, for whoever stores, reads, moves, checks or repairs. What a
//! record looks like is in `region`, how its bytes are compressed in `compression`.
//!
//! Keeps true: a region that is handed out matched both checksums of its record; and a record is made only of what can be
//! read back.

use xxhash_rust::xxh3::xxh3_64;

use super::compression::{self, Compression};
use super::region::{
    self, MAX_CHUNKS, MAX_PLAIN, Region, RegionChunk, RegionHeader, assemble, decode_header,
};
use crate::chunk::ChunkId;
use crate::error::{Error, Result};

/// Makes and opens the records of one store.
#[derive(Debug, Clone)]
pub struct Codec {
    compression: Compression,
}

impl Codec {
    /// One that compresses new regions in this way, and opens all.
    pub fn new(compression: Compression) -> Self {
        Self { compression }
    }

    /// The record of a region. The ids are strictly ascending but may have gaps, which a compaction leaves; `plain` has the
    /// bytes of the chunks one after the other.
    ///
    /// # Panics
    /// If the chunks break these rules or the bounds: such a record could never be read.
    pub fn encode(&self, chunks: &[RegionChunk], plain: &[u8]) -> Vec<u8> {
        let sum: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        assert!(
            sum == plain.len() as u64 && plain.len() <= MAX_PLAIN,
            "a region's chunks have {sum} bytes, {} were given, {MAX_PLAIN} are allowed",
            plain.len()
        );
        assert!(
            (1..=MAX_CHUNKS).contains(&chunks.len()) && chunks.iter().all(|chunk| chunk.len > 0),
            "a region has 1 to {MAX_CHUNKS} chunks that are not empty, not {}",
            chunks.len()
        );
        assert!(chunks.is_sorted_by(|a, b| a.id < b.id), "the ids of a region's chunks ascend");
        self.compression.with_stored(plain, |codec, payload| assemble(chunks, plain.len(), codec, payload))
    }

    /// The record for another place of what is kept of a region, and how many plain bytes that is. Nothing in a record
    /// depends on where it stands: if all of it is kept, it goes as it is. Fails if nothing is kept.
    pub fn carry(
        &self,
        (record, region): (Vec<u8>, &Region),
        is_kept: impl Fn(ChunkId) -> bool,
    ) -> Result<(Vec<u8>, u32)> {
        let kept = || region.iter().filter(|(chunk, _)| is_kept(chunk.id));
        if kept().count() == region.chunks.len() {
            return Ok((record, region.plain.len() as u32));
        }
        let (mut chunks, mut plain): (Vec<RegionChunk>, Vec<u8>) = Default::default();
        for (chunk, bytes) in kept() {
            chunks.push(*chunk);
            plain.extend_from_slice(bytes);
        }
        if chunks.is_empty() {
            return Err(Error::damaged("the region in the pack has none of the chunks of its row"));
        }
        Ok((self.encode(&chunks, &plain), plain.len() as u32))
    }

    /// Opens and checks a whole record, which must be neither shorter nor longer than it says. The digests are not
    /// computed: the checksums answer for the bytes, [`Region::wrong_digests`] is for checks.
    pub fn decode(&self, record: &[u8]) -> Result<Region> {
        let header = decode_header(record)?;
        if record.len() != header.record_len() as usize {
            return Err(Error::damaged(format!(
                "a region record has {} bytes where it says {}",
                record.len(),
                header.record_len()
            )));
        }
        let payload = &record[record.len() - header.payload_len as usize..];
        if xxh3_64(payload) != header.payload_sum {
            return Err(Error::damaged("the bytes of a region do not match their checksum"));
        }
        let plain = compression::restored(header.codec, payload, header.plain_len as usize)?;
        Ok(Region::new(header.chunks, plain))
    }

    /// Opens and checks a record's head; what follows it in `prefix` is not looked at.
    pub fn header(&self, prefix: &[u8]) -> Result<RegionHeader> {
        decode_header(prefix)
    }

    /// How much of a record [`header`](Self::header) wants to see, from its first 40 bytes.
    pub fn head_len(&self, fixed: &[u8]) -> Result<usize> {
        region::head_len(fixed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Digest;

    #[test]
    fn a_region_is_carried_as_it_is_or_made_anew_without_what_goes() {
        let (mut chunks, mut plain) = (Vec::new(), Vec::new());
        for (id, len) in [(3, 4000), (4, 1), (9, 700)] {
            let bytes = vec![id as u8; len];
            chunks.push(RegionChunk { id: ChunkId(id), digest: Digest::of(&bytes), len: len as u32 });
            plain.extend(bytes);
        }
        let record = Codec::new(Compression::Zstd(3)).encode(&chunks, &plain);
        // A store never re-encodes what it need not.
        let codec = Codec::new(Compression::None);
        let region = codec.decode(&record).unwrap();
        assert_eq!(codec.carry((record.clone(), &region), |_| true).unwrap(), (record.clone(), 4701));
        assert!(matches!(codec.carry((record.clone(), &region), |_| false), Err(Error::Damaged(_))));
        let (less, len) = codec.carry((record, &region), |id| id != ChunkId(4)).unwrap();
        let less = codec.decode(&less).unwrap();
        assert_eq!((len, &less.chunks[..]), (4700, &[chunks[0], chunks[2]][..]));
        assert_eq!(less.chunk(ChunkId(9)), Some(&[9; 700][..]));
        assert_eq!(less.wrong_digests().count(), 0);
    }
}
