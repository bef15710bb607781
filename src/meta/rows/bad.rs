//! Rows of the table `bad`: a chunk that could not be read, with its pack. The key is the ChunkId.

use crate::error::{Error, Result};
use crate::meta::varint;
use crate::pack::PackId;

/// The row's bytes.
pub fn bad_row(pack: PackId) -> Vec<u8> {
    let mut out = Vec::with_capacity(5);
    varint::put(&mut out, pack.0);
    out
}

/// The pack in a row.
pub fn bad_pack(mut row: &[u8]) -> Result<PackId> {
    let pack = varint::take(&mut row)?;
    if row.is_empty() { Ok(PackId(pack)) } else { Err(Error::damaged("a row of the table bad is too long")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back() {
        for pack in [0, 127, 128, u64::MAX] {
            assert_eq!(bad_pack(&bad_row(PackId(pack))).unwrap(), PackId(pack));
        }
        assert!(bad_pack(&[]).is_err() && bad_pack(&[1, 1]).is_err());
    }
}
