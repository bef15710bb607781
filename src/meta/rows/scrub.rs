//! The position of the scrub: a row of the table `state`. Times are for pacing and display only (I10).

use crate::error::{Error, Result};

/// Its key.
pub const SCRUB_KEY: &[u8] = b"scrub";

/// The present pass over all data, and the last complete one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubRow {
    /// Regions below this ChunkId were read in the present pass; 0 while none is under way.
    pub position: u64,
    /// Plain bytes read in the present pass.
    pub bytes: u64,
    /// Chunks that it found bad.
    pub bad: u64,
    /// When the present pass, or the last one, began, in seconds since 1970; 0 if there was none.
    pub began: i64,
    /// Whole passes so far.
    pub passes: u64,
    /// When the last whole one ended.
    pub ended: i64,
    /// Chunks that it had found bad.
    pub last_bad: u64,
}

const WORDS: usize = 7;

impl ScrubRow {
    /// The row's bytes: 64-bit numbers, little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let times = [self.began as u64, self.ended as u64];
        let words = [self.position, self.bytes, self.bad, times[0], self.passes, times[1], self.last_bad];
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// The row from its bytes.
    pub fn decode(from: &[u8]) -> Result<Self> {
        let wrong = || Error::damaged("the scrub's row has a wrong length");
        let (words, []) = from.as_chunks::<8>() else {
            return Err(wrong());
        };
        let words: [[u8; 8]; WORDS] = words.try_into().map_err(|_| wrong())?;
        let [position, bytes, bad, began, passes, ended, last_bad] = words.map(u64::from_le_bytes);
        Ok(Self { position, bytes, bad, began: began as i64, passes, ended: ended as i64, last_bad })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back() {
        let row = ScrubRow { position: 1, bytes: 2, bad: 3, began: -4, passes: 5, ended: 6, last_bad: 7 };
        assert_eq!(ScrubRow::decode(&row.encode()).unwrap(), row);
        assert!(ScrubRow::decode(&row.encode()[1..]).is_err());
    }
}
