//! The layout of a pack file around its region records. Encoding and decoding are pure.
//!
//! All numbers are little-endian. A pack is a header, region records without gaps (see `region`), and once it is sealed
//! a footer; a pack without a footer was open when its writer ended.
//!
//! Header, the first 64 bytes:
//!
//! | offset | bytes | field | |
//! |---|---|---|---|
//! | 0 | 8 | magic | `CAIRNPK1` |
//! | 8 | 2 | version | 1 |
//! | 10 | 2 | header length | 64 |
//! | 12 | 4 | reserved | 0 |
//! | 16 | 8 | pack id | the one in the file's name |
//! | 24 | 16 | store | the uuid of the store the pack belongs to |
//! | 40 | 16 | reserved | 0 |
//! | 56 | 8 | checksum | xxh3-64, seed 0, of bytes 0 to 55 |
//!
//! Footer: an index entry per region record, in the order of the file, then a trailer, which ends the file. A region
//! that was punched out keeps its entry.
//!
//! | entry offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | offset of the record from the beginning of the file |
//! | 8 | 4 | length of the record |
//! | 12 | 4 | chunks of the record |
//!
//! | trailer offset | bytes | field | |
//! |---|---|---|---|
//! | 0 | 8 | magic | `CAIRNEND` |
//! | 8 | 8 | pack id | |
//! | 16 | 8 | index offset | of the first index entry; records end there |
//! | 24 | 4 | count | index entries |
//! | 28 | 4 | reserved | 0 |
//! | 32 | 8 | checksum | xxh3-64, seed 0, of all index entries and of the trailer's bytes 0 to 31 |

use xxhash_rust::xxh3::xxh3_64;

use super::PackId;
use crate::error::{Error, Result};

/// The version of the pack format that is written.
pub const VERSION: u16 = 1;
/// The length of a pack's header: where its first region begins.
pub const HEADER_LEN: u64 = 64;

const MAGIC: [u8; 8] = *b"CAIRNPK1";
const HEADER: usize = HEADER_LEN as usize;
const HEADER_SUM_AT: usize = 56;

const END_MAGIC: [u8; 8] = *b"CAIRNEND";
const TRAILER_SUM_AT: usize = 32;
/// The length of the trailer.
pub(super) const TRAILER_LEN: u64 = 40;
/// The length of an index entry.
pub(super) const ENTRY_LEN: u64 = 16;

const _: () = {
    assert!(MAGIC.len() + 2 + 2 + 4 + 8 + 16 + 16 == HEADER_SUM_AT);
    assert!(HEADER_SUM_AT + 8 == HEADER);
    assert!(END_MAGIC.len() + 8 + 8 + 4 + 4 == TRAILER_SUM_AT);
    assert!(TRAILER_SUM_AT + 8 == TRAILER_LEN as usize);
};

/// A number in a slice whose length the caller has checked.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// A number in a slice whose length the caller has checked.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// The header of a pack.
pub(super) fn encode_header(pack: PackId, store: [u8; 16]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10..12].copy_from_slice(&(HEADER as u16).to_le_bytes());
    header[16..24].copy_from_slice(&pack.0.to_le_bytes());
    header[24..40].copy_from_slice(&store);
    let sum = xxh3_64(&header[..HEADER_SUM_AT]);
    header[HEADER_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// Checks the header of the pack that should be `pack`; the uuid of its store.
pub(super) fn decode_header(header: &[u8; HEADER], pack: PackId) -> Result<[u8; 16]> {
    if header[..8] != MAGIC {
        return Err(Error::damaged(format!("pack {pack} does not begin like a pack")));
    }
    if xxh3_64(&header[..HEADER_SUM_AT]) != u64_at(header, HEADER_SUM_AT) {
        return Err(Error::damaged(format!("the header of pack {pack} does not match its checksum")));
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION || header[10..12] != (HEADER as u16).to_le_bytes() {
        return Err(Error::Format(format!(
            "pack {pack} has format version {version}, this program knows {VERSION}"
        )));
    }
    let id = PackId(u64_at(header, 16));
    if id != pack {
        return Err(Error::damaged(format!("the file of pack {pack} holds pack {id}")));
    }
    let mut store = [0; 16];
    store.copy_from_slice(&header[24..40]);
    Ok(store)
}

/// Where a record is, as a footer's index has it.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) struct IndexEntry {
    pub offset: u64,
    pub len: u32,
    pub chunks: u32,
}

/// The length of a footer for so many records.
pub(super) fn footer_len(records: usize) -> u64 {
    records as u64 * ENTRY_LEN + TRAILER_LEN
}

/// The footer of a pack whose records end at `index_offset`.
pub(super) fn encode_footer(pack: PackId, index_offset: u64, index: &[IndexEntry]) -> Vec<u8> {
    let mut footer = Vec::with_capacity(footer_len(index.len()) as usize);
    for entry in index {
        footer.extend_from_slice(&entry.offset.to_le_bytes());
        footer.extend_from_slice(&entry.len.to_le_bytes());
        footer.extend_from_slice(&entry.chunks.to_le_bytes());
    }
    footer.extend_from_slice(&END_MAGIC);
    footer.extend_from_slice(&pack.0.to_le_bytes());
    footer.extend_from_slice(&index_offset.to_le_bytes());
    footer.extend_from_slice(&(index.len() as u32).to_le_bytes());
    footer.extend_from_slice(&0u32.to_le_bytes());
    let sum = xxh3_64(&footer);
    footer.extend_from_slice(&sum.to_le_bytes());
    footer
}

/// Where the index begins in a pack file of `file_len` bytes that ends with `trailer`; none where that is no trailer of
/// this pack, as in one that was not sealed.
pub(super) fn index_offset(trailer: &[u8; TRAILER_LEN as usize], pack: PackId, file_len: u64) -> Option<u64> {
    let offset = u64_at(trailer, 16);
    let footer = footer_len(u32_at(trailer, 24) as usize);
    let right = trailer[..8] == END_MAGIC
        && u64_at(trailer, 8) == pack.0
        && u32_at(trailer, 28) == 0
        && offset >= HEADER_LEN
        && offset.checked_add(footer) == Some(file_len);
    right.then_some(offset)
}

/// Decodes and checks a footer that begins at `index_offset`. The records must lie in order between header and index,
/// without gaps.
pub(super) fn decode_footer(footer: &[u8], pack: PackId, index_offset: u64) -> Result<Vec<IndexEntry>> {
    let wrong = || Error::damaged(format!("the footer of pack {pack} does not match its checksum"));
    let summed = footer.len().checked_sub(8).ok_or_else(wrong)?;
    let entries = footer.len().checked_sub(TRAILER_LEN as usize).ok_or_else(wrong)?;
    if xxh3_64(&footer[..summed]) != u64_at(footer, summed) {
        return Err(wrong());
    }
    let index: Vec<IndexEntry> = footer[..entries]
        .chunks_exact(ENTRY_LEN as usize)
        .map(|entry| IndexEntry {
            offset: u64_at(entry, 0),
            len: u32_at(entry, 8),
            chunks: u32_at(entry, 12),
        })
        .collect();
    let end = index.iter().try_fold(HEADER_LEN, |end, entry| {
        (entry.offset == end).then(|| end.checked_add(u64::from(entry.len)))?
    });
    if end != Some(index_offset) {
        return Err(Error::damaged(format!("the footer of pack {pack} contradicts itself")));
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: PackId = PackId(0x0102_0304);

    #[test]
    fn a_header_goes_there_and_back() {
        let header = encode_header(PACK, [7; 16]);
        assert_eq!(decode_header(&header, PACK).unwrap(), [7; 16]);
        assert!(decode_header(&header, PackId(1)).is_err());
        for at in 0..HEADER {
            for bit in 0..8 {
                let mut wrong = header;
                wrong[at] ^= 1 << bit;
                assert!(decode_header(&wrong, PACK).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    /// The bytes of a format that stores out there have.
    #[test]
    fn the_layout_never_changes() {
        let header = encode_header(PACK, *b"0123456789abcdef");
        assert_eq!(&header[..16], b"CAIRNPK1\x01\0\x40\0\0\0\0\0");
        assert_eq!(header[16..24], [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(&header[24..40], b"0123456789abcdef");
        assert_eq!(header[40..56], [0; 16]);
        assert_eq!(u64_at(&header, 56), xxh3_64(&header[..56]));
        let entry = IndexEntry { offset: 64, len: 0x1234, chunks: 3 };
        let footer = encode_footer(PACK, 64 + 0x1234, &[entry]);
        assert_eq!(footer.len(), 56);
        assert_eq!(&footer[..16], b"\x40\0\0\0\0\0\0\0\x34\x12\0\0\x03\0\0\0");
        assert_eq!(&footer[16..32], b"CAIRNEND\x04\x03\x02\x01\0\0\0\0");
        assert_eq!(&footer[32..48], b"\x74\x12\0\0\0\0\0\0\x01\0\0\0\0\0\0\0");
    }

    #[test]
    fn a_footer_goes_there_and_back_and_shows_every_flip() {
        let index: Vec<IndexEntry> = [(64, 100, 1), (164, 50, 2)]
            .map(|(offset, len, chunks)| IndexEntry { offset, len, chunks })
            .into();
        let footer = encode_footer(PACK, 214, &index);
        let file_len = 214 + footer.len() as u64;
        let read = |footer: &[u8]| {
            let trailer = footer.last_chunk()?;
            let offset = index_offset(trailer, PACK, file_len)?;
            decode_footer(footer, PACK, offset).ok()
        };
        assert_eq!(read(&footer), Some(index));
        for at in 0..footer.len() {
            let mut wrong = footer.clone();
            wrong[at] ^= 0x20;
            assert_eq!(read(&wrong), None, "byte {at}");
        }
        assert_eq!(index_offset(footer.last_chunk().unwrap(), PACK, file_len + 1), None);
        assert!(decode_footer(&footer[..7], PACK, 214).is_err());
    }

    #[test]
    fn a_footer_with_gaps_is_refused() {
        for offsets in [[64, 165], [65, 165], [64, 64], [64, u64::MAX]] {
            let index = offsets.map(|offset| IndexEntry { offset, len: 100, chunks: 1 });
            let footer = encode_footer(PACK, 264, &index);
            assert!(decode_footer(&footer, PACK, 264).is_err(), "{offsets:?}");
        }
    }
}
