//! The layout of a region record: some chunks stored together, with all that is needed to rebuild the chunk
//! tables. Pure, and decoding takes nothing on trust: it never panics, and allocates no more than the record's own length.
//! `codec` makes whole records and opens them.
//!
//! All numbers are little-endian. A record is a head (fixed part and table), then the payload:
//!
//! | offset | bytes | field | |
//! |---|---|---|---|
//! | 0 | 4 | magic | `CRGN`; its first byte is not zero, so that a walk finds the next record after a hole |
//! | 4 | 1 | version | 1 |
//! | 5 | 1 | codec | how the payload is stored: see `compression` |
//! | 6 | 2 | reserved | 0 |
//! | 8 | 4 | count | chunks, 1 to 1,048,576 |
//! | 12 | 4 | plain length | bytes of all chunks, at most 64 MiB |
//! | 16 | 4 | payload length | bytes after the head: the plain length for codec 0, less for codec 1 |
//! | 20 | 4 | reserved | 0 |
//! | 24 | 8 | payload checksum | xxh3-64, seed 0, of the payload as stored |
//! | 32 | 8 | head checksum | xxh3-64, seed 0, of bytes 0 to 31 and the table |
//! | 40 | 44 each | table | an entry per chunk, ids strictly ascending |
//! | 40 + 44 count | payload length | payload | |
//!
//! A table entry:
//!
//! | offset | bytes | field | |
//! |---|---|---|---|
//! | 0 | 8 | ChunkId | |
//! | 8 | 4 | length | plain bytes of the chunk, at least 1 |
//! | 12 | 32 | digest | SHA-256 of the plain bytes |
//!
//! Chunks stand in the plain bytes one after the other in the order of the table.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::compression::{self, RAW};
use super::format::{u32_at, u64_at};
use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};

/// The most plain bytes a region may have.
pub const MAX_PLAIN: usize = 64 << 20;
/// The most chunks a region may have.
pub const MAX_CHUNKS: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"CRGN";
const VERSION: u8 = 1;

/// Offsets of the fields of the fixed part.
const AT_VERSION: usize = 4;
const AT_CODEC: usize = 5;
const AT_RESERVED_1: usize = 6;
const AT_COUNT: usize = 8;
const AT_PLAIN_LEN: usize = 12;
const AT_PAYLOAD_LEN: usize = 16;
const AT_RESERVED_2: usize = 20;
const AT_PAYLOAD_SUM: usize = 24;
const AT_HEAD_SUM: usize = 32;
/// The length of the fixed part.
pub(super) const FIXED_LEN: usize = 40;

/// Offsets within a table entry.
const ENTRY_LEN_AT: usize = 8;
const ENTRY_DIGEST_AT: usize = 12;
/// The length of a table entry.
const ENTRY_LEN: usize = 44;

/// The most bytes a record can have.
pub(super) const MAX_RECORD: usize = FIXED_LEN + MAX_CHUNKS * ENTRY_LEN + MAX_PLAIN;

const _: () = {
    assert!(AT_VERSION == MAGIC.len() && AT_CODEC == AT_VERSION + 1);
    assert!(AT_RESERVED_1 == AT_CODEC + 1 && AT_COUNT == AT_RESERVED_1 + 2);
    assert!(AT_PLAIN_LEN == AT_COUNT + 4 && AT_PAYLOAD_LEN == AT_PLAIN_LEN + 4);
    assert!(AT_RESERVED_2 == AT_PAYLOAD_LEN + 4 && AT_PAYLOAD_SUM == AT_RESERVED_2 + 4);
    assert!(AT_HEAD_SUM == AT_PAYLOAD_SUM + 8 && FIXED_LEN == AT_HEAD_SUM + 8);
    assert!(ENTRY_LEN == size_of::<ChunkId>() + size_of::<u32>() + size_of::<Digest>());
    assert!(ENTRY_LEN_AT == 8 && ENTRY_DIGEST_AT == 12);
    // A record's length fits a Location's.
    assert!(MAX_RECORD <= u32::MAX as usize);
    assert!(MAGIC[0] != 0);
};

/// A chunk as a region's table has it.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct RegionChunk {
    /// Its name.
    pub id: ChunkId,
    /// SHA-256 of its plain bytes.
    pub digest: Digest,
    /// How many plain bytes it has, at least one.
    pub len: u32,
}

/// The head of a region: everything but the bytes.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct RegionHeader {
    /// The chunks, in the order of their ids.
    pub chunks: Vec<RegionChunk>,
    /// The bytes of all chunks.
    pub plain_len: u32,
    /// The bytes they take in the pack, without the head.
    pub payload_len: u32,
    /// How they are stored there.
    pub(super) codec: u8,
    pub(super) payload_sum: u64,
}

impl RegionHeader {
    /// The bytes of the whole record.
    pub fn record_len(&self) -> u32 {
        // Both parts are bounded, see the assertion above.
        (FIXED_LEN + self.chunks.len() * ENTRY_LEN) as u32 + self.payload_len
    }
}

/// A region's chunks with their bytes.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Region {
    /// The chunks, in the order of their ids.
    pub chunks: Vec<RegionChunk>,
    /// Their bytes, one after the other.
    pub plain: Vec<u8>,
    /// Where in `plain` each chunk begins.
    starts: Vec<u32>,
}

impl Region {
    /// The lengths of `chunks` add up to the length of `plain`: the decoder saw to that.
    pub(super) fn new(chunks: Vec<RegionChunk>, plain: Vec<u8>) -> Self {
        let starts = chunks
            .iter()
            .scan(0, |start, chunk| {
                let this = *start;
                *start += chunk.len;
                Some(this)
            })
            .collect();
        Self { chunks, plain, starts }
    }

    /// The bytes of a chunk; none if it is not in this region.
    pub fn chunk(&self, id: ChunkId) -> Option<&[u8]> {
        let at = self.chunks.binary_search_by_key(&id, |chunk| chunk.id).ok()?;
        Some(self.bytes(at))
    }

    /// Every chunk with its bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&RegionChunk, &[u8])> {
        self.chunks.iter().enumerate().map(|(at, chunk)| (chunk, self.bytes(at)))
    }

    /// The chunks whose bytes do not match their digests. The checksums of the record were right, so these bytes were
    /// already wrong when they were written.
    pub fn wrong_digests(&self) -> impl Iterator<Item = ChunkId> {
        self.iter().filter(|(chunk, bytes)| Digest::of(bytes) != chunk.digest).map(|(chunk, _)| chunk.id)
    }

    fn bytes(&self, at: usize) -> &[u8] {
        let start = self.starts[at] as usize;
        &self.plain[start..start + self.chunks[at].len as usize]
    }
}

/// The record of a region of `plain_len` bytes that are stored as `payload`, in the way that `codec` says.
pub(super) fn assemble(chunks: &[RegionChunk], plain_len: usize, codec: u8, payload: &[u8]) -> Vec<u8> {
    let head = FIXED_LEN + chunks.len() * ENTRY_LEN;
    let mut record = Vec::with_capacity(head + payload.len());
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&[VERSION, codec, 0, 0]);
    record.extend_from_slice(&(chunks.len() as u32).to_le_bytes());
    record.extend_from_slice(&(plain_len as u32).to_le_bytes());
    record.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    record.extend_from_slice(&0u32.to_le_bytes());
    record.extend_from_slice(&xxh3_64(payload).to_le_bytes());
    record.extend_from_slice(&0u64.to_le_bytes());
    for chunk in chunks {
        record.extend_from_slice(&chunk.id.0.to_le_bytes());
        record.extend_from_slice(&chunk.len.to_le_bytes());
        record.extend_from_slice(&chunk.digest.0);
    }
    let sum = head_sum(&record);
    record[AT_HEAD_SUM..FIXED_LEN].copy_from_slice(&sum.to_le_bytes());
    record.extend_from_slice(payload);
    record
}

/// The head's checksum: of all of it but the place of the checksum itself.
fn head_sum(head: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(&head[..AT_HEAD_SUM]);
    sum.update(&head[FIXED_LEN..]);
    sum.digest()
}

/// The length of a record's head, from its first 40 bytes: [`decode_header`] needs this many.
pub(super) fn head_len(fixed: &[u8]) -> Result<usize> {
    if fixed.len() < FIXED_LEN {
        return Err(Error::damaged(format!(
            "a region record ends after {} bytes, its head has at least {FIXED_LEN}",
            fixed.len()
        )));
    }
    if fixed[..MAGIC.len()] != MAGIC {
        return Err(Error::damaged("no region record begins here"));
    }
    if fixed[AT_VERSION] != VERSION {
        return Err(Error::damaged(format!(
            "a region record of version {}, this program knows {VERSION}",
            fixed[AT_VERSION]
        )));
    }
    let count = u32_at(fixed, AT_COUNT) as usize;
    if !(1..=MAX_CHUNKS).contains(&count) {
        return Err(Error::damaged(format!("a region record says it has {count} chunks")));
    }
    Ok(FIXED_LEN + count * ENTRY_LEN)
}

/// Decodes and checks a record's head; what follows it in `prefix` is not looked at.
pub(super) fn decode_header(prefix: &[u8]) -> Result<RegionHeader> {
    let wanted = head_len(prefix)?;
    let Some(head) = prefix.get(..wanted) else {
        return Err(Error::damaged(format!(
            "a region record ends after {} bytes, its head has {wanted}",
            prefix.len()
        )));
    };
    if head_sum(head) != u64_at(head, AT_HEAD_SUM) {
        return Err(Error::damaged("the head of a region record does not match its checksum"));
    }
    let chunks: Vec<RegionChunk> = head[FIXED_LEN..].chunks_exact(ENTRY_LEN).map(decode_entry).collect();
    let header = RegionHeader {
        plain_len: u32_at(head, AT_PLAIN_LEN),
        payload_len: u32_at(head, AT_PAYLOAD_LEN),
        codec: head[AT_CODEC],
        payload_sum: u64_at(head, AT_PAYLOAD_SUM),
        chunks,
    };
    // The checksum was right: any error from here on was written like this.
    let reserved = u32_at(head, AT_RESERVED_2) == 0
        && head[AT_RESERVED_1..AT_COUNT] == [0, 0]
        && compression::is_known(header.codec);
    let sum: u64 = header.chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    let lengths = sum == u64::from(header.plain_len)
        && header.plain_len as usize <= MAX_PLAIN
        && match header.codec {
            RAW => header.payload_len == header.plain_len,
            _ => header.payload_len < header.plain_len,
        };
    let table =
        header.chunks.iter().all(|chunk| chunk.len > 0) && header.chunks.is_sorted_by(|a, b| a.id < b.id);
    if reserved && lengths && table {
        Ok(header)
    } else {
        Err(Error::damaged("the head of a region record contradicts itself"))
    }
}

fn decode_entry(entry: &[u8]) -> RegionChunk {
    let mut digest = [0; 32];
    digest.copy_from_slice(&entry[ENTRY_DIGEST_AT..]);
    RegionChunk { id: ChunkId(u64_at(entry, 0)), digest: Digest(digest), len: u32_at(entry, ENTRY_LEN_AT) }
}

#[cfg(test)]
mod tests;
