//! Keys: big-endian numbers, so that the byte order of the database is the order of the numbers.

use crate::error::{Error, Result};

/// The key of an inode, an orphan, a region (its first ChunkId).
pub fn id_key(id: u64) -> [u8; 8] {
    id.to_be_bytes()
}

fn number(key: &[u8], at: usize) -> Result<u64> {
    key.get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or_else(|| Error::damaged("a metadata key is too short"))
}

/// The inode number a key begins with.
pub fn ino_of(key: &[u8]) -> Result<u64> {
    number(key, 0)
}

/// The ChunkId in the key of a region.
pub fn chunk_of(key: &[u8]) -> Result<u64> {
    number(key, 0)
}

/// The key of the extent of `ino` that begins at `offset`.
pub fn extent_key(ino: u64, offset: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&ino.to_be_bytes());
    key[8..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// Inode and offset of an extent's key.
pub fn decode_extent_key(key: &[u8]) -> Result<(u64, u64)> {
    Ok((number(key, 0)?, number(key, 8)?))
}

/// The key of a directory entry: directory, hash of the name, name.
pub fn dirent_key(parent: u64, hash: u64, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(16 + name.len());
    key.extend_from_slice(&parent.to_be_bytes());
    key.extend_from_slice(&hash.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// Below all entries of `parent` whose hash is `hash` or more.
pub fn dirent_start(parent: u64, hash: u64) -> [u8; 16] {
    extent_key(parent, hash)
}

/// Above all entries of `parent`.
pub fn dirent_end(parent: u64) -> [u8; 8] {
    id_key(parent + 1)
}

/// Hash and name of a directory entry's key.
pub fn dirent_name(key: &[u8]) -> Result<(u64, &[u8])> {
    let hash = number(key, 8)?;
    match key.get(16..) {
        Some(name) if !name.is_empty() => Ok((hash, name)),
        _ => Err(Error::damaged("a directory entry has no name")),
    }
}

/// The key of an extended attribute.
pub fn xattr_key(ino: u64, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + name.len());
    key.extend_from_slice(&ino.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// Above all extended attributes of `ino`.
pub fn xattr_end(ino: u64) -> [u8; 8] {
    id_key(ino + 1)
}

/// The name in an extended attribute's key.
pub fn xattr_name(key: &[u8]) -> Result<&[u8]> {
    key.get(8..).ok_or_else(|| Error::damaged("an extended attribute has no name"))
}
