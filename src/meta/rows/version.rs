//! Keys of rows that have versions: the key as it would be without, and the version behind it, so that all rows of a key
//! stand side by side, those of the newest versions first.
//!
//! Keeps true: no key is the beginning of another one, or their versions would stand between each other: keys have one
//! length, or end in a zero byte that stands nowhere else in them.

use crate::error::{Error, Result};
use crate::meta::kv::Table;
use crate::meta::versions::Version;
use crate::sabotage::{Protection, out};

/// Bytes of a version in a key.
const LEN: usize = 8;

/// The key of a row of one version.
pub fn versioned_key(key: &[u8], version: Version) -> Vec<u8> {
    let mut whole = Vec::with_capacity(key.len() + LEN);
    whole.extend_from_slice(key);
    whole.extend_from_slice(&version.0.to_be_bytes());
    whole
}

/// Ends a name that the version of a row follows in a key: with a zero byte, which no name has, so that no name is the
/// beginning of another.
pub fn end_name(key: &mut Vec<u8>) {
    if !names_have_no_end() {
        key.push(0);
    }
}

/// Taken out: rows of a name stand among those of another that begins with it.
fn names_have_no_end() -> bool {
    out(Protection::NamesEnd)
}

/// Key and version of a row.
pub fn split_version(whole: &[u8]) -> Result<(&[u8], Version)> {
    let (key, version) = whole
        .split_last_chunk::<LEN>()
        .ok_or_else(|| Error::damaged("a metadata key is too short for a version"))?;
    Ok((key, Version(u64::from_be_bytes(*version))))
}

/// The key of a row that says: `version` has a row of its own under `key`.
pub fn owned_key(version: Version, table: Table, key: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(LEN + 1 + key.len());
    whole.extend_from_slice(&version.0.to_be_bytes());
    whole.push(table as u8);
    whole.extend_from_slice(key);
    whole
}

/// Version, table and key of such a row.
pub fn decode_owned_key(whole: &[u8]) -> Result<(Version, Table, &[u8])> {
    let wrong = || Error::damaged("a row of what a version has does not decode");
    let (version, rest) = whole.split_first_chunk::<LEN>().ok_or_else(wrong)?;
    let (&number, key) = rest.split_first().ok_or_else(wrong)?;
    let table = Table::ALL.get(usize::from(number)).ok_or_else(wrong)?;
    Ok((Version(u64::from_be_bytes(*version)), *table, key))
}

/// A row of one version: a value, or the word that there is none whatever the versions above have.
pub fn encode_seen(row: Option<&[u8]>) -> Vec<u8> {
    row.map_or_else(Vec::new, |row| [&[1], row].concat())
}

/// The value of such a row; `None` for a whiteout.
pub fn decode_seen(stored: &[u8]) -> Result<Option<&[u8]>> {
    match stored {
        [] => Ok(None),
        [1, row @ ..] => Ok(Some(row)),
        _ => Err(Error::damaged("a row of a version does not decode")),
    }
}

/// The rows of a version in the table `versions`: there are two, and either is enough.
pub fn version_rows(version: Version, parent: Option<Version>) -> [(Vec<u8>, [u8; LEN]); COPIES as usize] {
    let parent = parent.map_or(0, |parent| parent.0).to_be_bytes();
    std::array::from_fn(|copy| (version_key(copy as u8, version), parent))
}

/// Rows that say the same.
pub const COPIES: u8 = 2;

/// The key of one of them.
pub fn version_key(copy: u8, version: Version) -> Vec<u8> {
    versioned_key(&[copy], version)
}

/// The parent in such a row.
pub fn decode_version_row(row: &[u8]) -> Result<Option<Version>> {
    let parent =
        row.try_into().map_err(|_| Error::damaged("a row of the tree of versions does not decode"))?;
    let parent = u64::from_be_bytes(parent);
    Ok((parent != 0).then_some(Version(parent)))
}

/// The key of the inode `local` of a subvolume, and what the keys of all its rows begin with.
pub fn local_key(local: u64) -> [u8; 8] {
    local.to_be_bytes()
}

/// What the keys of all extents of one content of a file begin with.
pub fn content_key(local: u64, content: Version) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&local_key(local));
    key[8..].copy_from_slice(&content.0.to_be_bytes());
    key
}

/// The key of an extent of a file in a subvolume.
pub fn content_extent_key(local: u64, content: Version, offset: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&content_key(local, content));
    key[16..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The inode, the content and the offset of an extent, by its key.
pub fn decode_content_key(key: &[u8]) -> Result<(u64, Version, u64)> {
    let (words, []) = key.as_chunks::<8>() else {
        return Err(Error::damaged("the key of an extent has a wrong length"));
    };
    match words {
        [local, content, offset] => Ok((
            u64::from_be_bytes(*local),
            Version(u64::from_be_bytes(*content)),
            u64::from_be_bytes(*offset),
        )),
        _ => Err(Error::damaged("the key of an extent has a wrong length")),
    }
}
