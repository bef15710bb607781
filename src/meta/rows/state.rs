//! The one row of the table `state`: the generation, the next free numbers, the counters.

use crate::error::{Error, Result};
use crate::meta::memtable::Counter;

/// Its key.
pub const STATE_KEY: &[u8] = b"state";

/// The state of the store; written with every commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The generation.
    pub generation: u64,
    /// The next ChunkId.
    pub next_chunk: u64,
    /// The next inode number.
    pub next_ino: u64,
    /// The next pack.
    pub next_pack: u64,
    /// The next version; they count down.
    pub next_version: u64,
    /// The next subvolume.
    pub next_subvolume: u64,
    /// Sums of [`Counter::ALL`], in that order.
    pub counters: [i64; Counter::ALL.len()],
}

/// Numbers before the counters.
const OTHERS: usize = 6;
/// Counters of the first version of the row; a later one is 0 if it is missing.
const FIRST_COUNTERS: usize = 6;

impl State {
    /// The row's bytes: 64-bit numbers, little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let numbers = [
            self.generation,
            self.next_chunk,
            self.next_ino,
            self.next_pack,
            self.next_version,
            self.next_subvolume,
        ];
        let counters = self.counters.iter().map(|&counter| counter as u64);
        numbers.into_iter().chain(counters).flat_map(u64::to_le_bytes).collect()
    }

    /// The row from its bytes.
    pub fn decode(from: &[u8]) -> Result<Self> {
        let (words, []) = from.as_chunks::<8>() else {
            return Err(Error::damaged("the state row has a wrong length"));
        };
        let lengths = OTHERS + FIRST_COUNTERS..=OTHERS + Counter::ALL.len();
        let ([generation, next_chunk, next_ino, next_pack, next_version, next_subvolume, sums @ ..], true) =
            (words, lengths.contains(&words.len()))
        else {
            return Err(Error::damaged("the state row has a wrong length"));
        };
        let mut counters = [0; Counter::ALL.len()];
        for (counter, word) in counters.iter_mut().zip(sums) {
            *counter = i64::from_le_bytes(*word);
        }
        let number = |word: &[u8; 8]| u64::from_le_bytes(*word);
        Ok(Self {
            generation: number(generation),
            next_chunk: number(next_chunk),
            next_ino: number(next_ino),
            next_pack: number(next_pack),
            next_version: number(next_version),
            next_subvolume: number(next_subvolume),
            counters,
        })
    }

    /// One of the sums; a negative sum, which only damage can make, counts as 0.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].max(0) as u64
    }
}
