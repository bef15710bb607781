//! Digest rows: the chunks that have the bytes of a digest.
//!
//! Nearly always there is one. But while a batch waits for its last members, one of them can store bytes that a member
//! of the next batch stored a moment before. It must not use that chunk, whose rows may never be committed. Keeps true:
//! every chunk in a region row is named in the row of its digest. So if one of them is removed, the others are still
//! found.

use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};

/// The digest in a key.
pub fn from_key(key: &[u8]) -> Result<Digest> {
    let wrong = |_| Error::damaged("a row of the table digests has a wrong length");
    key.try_into().map(Digest).map_err(wrong)
}

/// The chunks that a row names, the last one that was stored first.
pub fn chunk_ids(row: &[u8]) -> Result<impl Iterator<Item = ChunkId>> {
    match row.as_chunks::<8>() {
        (ids, []) if !ids.is_empty() => Ok(ids.iter().map(|id| ChunkId(u64::from_be_bytes(*id)))),
        _ => Err(Error::damaged("a row of the table digests has a wrong length")),
    }
}

fn row(ids: impl IntoIterator<Item = ChunkId>) -> Vec<u8> {
    ids.into_iter().flat_map(|id| id.0.to_be_bytes()).collect()
}

/// The row with the chunks of `newer`, followed by those that only `older` names.
pub fn merge(newer: &[u8], older: &[u8]) -> Result<Vec<u8>> {
    let mut ids: Vec<ChunkId> = chunk_ids(newer)?.collect();
    for id in chunk_ids(older)? {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(row(ids))
}

/// The row without a chunk; `None` if no other is left.
pub fn remove(old: &[u8], gone: ChunkId) -> Result<Option<Vec<u8>>> {
    let left = row(chunk_ids(old)?.filter(|id| *id != gone));
    Ok(Some(left).filter(|row| !row.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ids: &[u64]) -> Vec<u8> {
        row(ids.iter().map(|id| ChunkId(*id)))
    }

    #[test]
    fn a_row_names_every_chunk_once_the_newest_first() {
        assert_eq!(merge(&names(&[7]), &names(&[5])).unwrap(), names(&[7, 5]));
        assert_eq!(merge(&names(&[9]), &names(&[7, 5])).unwrap(), names(&[9, 7, 5]));
        assert_eq!(merge(&names(&[5]), &names(&[7, 5])).unwrap(), names(&[5, 7]));
        assert_eq!(chunk_ids(&names(&[7, 5])).unwrap().collect::<Vec<_>>(), [ChunkId(7), ChunkId(5)]);
    }

    #[test]
    fn the_row_goes_with_its_last_chunk() {
        assert_eq!(remove(&names(&[7, 5]), ChunkId(7)).unwrap(), Some(names(&[5])));
        assert_eq!(remove(&names(&[7, 5]), ChunkId(6)).unwrap(), Some(names(&[7, 5])));
        assert_eq!(remove(&names(&[5]), ChunkId(5)).unwrap(), None);
    }

    #[test]
    fn other_bytes_are_damage() {
        for bytes in [&[][..], &[1], &[0; 7], &[0; 9]] {
            assert!(chunk_ids(bytes).is_err(), "{bytes:?}");
            assert!(merge(&names(&[1]), bytes).is_err());
            assert!(remove(bytes, ChunkId(1)).is_err());
        }
    }
}
