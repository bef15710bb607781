//! The map of cells: for each ChunkId below a watermark two bits, `white`, `marked` or `condemned`.
//!
//! Keeps true (I6): a cell leaves `white` once, by compare-and-swap, and never changes again. The second caller sees
//! what the first one decided. A page of cells exists only if one of its cells was touched, so old ids that are never
//! reused cost nothing.

use crate::chunk::ChunkId;
use crate::sabotage::{Protection, out};
use crate::sync::{AtomicU64, OnceLock, Ordering};

/// Cells in one 64-bit word.
const PER_WORD: u64 = 32;
/// Words in one page: 16 KiB, 65,536 cells.
const WORDS: usize = 2048;
/// Cells in one page.
const PER_PAGE: u64 = PER_WORD * WORDS as u64;

const WHITE: u64 = 0b00;
const MARKED: u64 = 0b01;
const CONDEMNED: u64 = 0b10;
/// The low bit of every cell of a word.
const LOW_BITS: u64 = 0x5555_5555_5555_5555;

/// The decision about a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Nothing yet.
    White,
    /// It stays.
    Marked,
    /// It goes.
    Condemned,
}

type Page = Box<[AtomicU64]>;

/// The cells of one cycle.
#[derive(Debug)]
pub struct Cells {
    watermark: ChunkId,
    pages: Vec<OnceLock<Page>>,
}

impl Cells {
    /// All white, for the ids below `watermark`.
    pub fn new(watermark: ChunkId) -> Self {
        let pages = watermark.0.div_ceil(PER_PAGE);
        Self { watermark, pages: (0..pages).map(|_| OnceLock::new()).collect() }
    }

    /// Ids at or above this have no cell: they are live.
    pub fn watermark(&self) -> ChunkId {
        self.watermark
    }

    /// Memory that pages take, in bytes.
    pub fn bytes(&self) -> usize {
        self.pages.iter().filter(|page| page.get().is_some()).count() * WORDS * 8
    }

    fn word(&self, id: u64) -> &AtomicU64 {
        let page = self.pages[(id / PER_PAGE) as usize]
            .get_or_init(|| (0..WORDS).map(|_| AtomicU64::new(0)).collect());
        &page[(id % PER_PAGE / PER_WORD) as usize]
    }

    /// Decides a white cell; returns its state afterwards.
    fn decide(&self, id: ChunkId, decision: u64) -> Cell {
        let word = self.word(id.0);
        let shift = id.0 % PER_WORD * 2;
        let mut seen = word.load(Ordering::Acquire);
        loop {
            match seen >> shift & 0b11 {
                WHITE => {}
                MARKED => return Cell::Marked,
                _ => return Cell::Condemned,
            }
            let wanted = seen | decision << shift;
            match replace(word, seen, wanted) {
                Ok(_) if decision == MARKED => return Cell::Marked,
                Ok(_) => return Cell::Condemned,
                Err(now) => seen = now,
            }
        }
    }

    /// White becomes marked. Returns the state afterwards.
    pub fn mark(&self, id: ChunkId) -> Cell {
        self.decide(id, MARKED)
    }

    /// White becomes condemned. Returns the state afterwards.
    pub fn condemn(&self, id: ChunkId) -> Cell {
        self.decide(id, CONDEMNED)
    }

    /// The present state of a cell.
    pub fn get(&self, id: ChunkId) -> Cell {
        match self.word(id.0).load(Ordering::Acquire) >> (id.0 % PER_WORD * 2) & 0b11 {
            WHITE => Cell::White,
            MARKED => Cell::Marked,
            _ => Cell::Condemned,
        }
    }

    /// Marks the white cells of `count` ids from `first` that lie below the watermark; returns how many were white,
    /// and the first that was condemned, if any.
    pub fn mark_run(&self, first: ChunkId, count: u64) -> (u64, Option<ChunkId>) {
        let end = first.0.saturating_add(count).min(self.watermark.0);
        let (mut at, mut newly, mut condemned) = (first.0, 0, None);
        while at < end {
            let next = end.min((at / PER_WORD + 1) * PER_WORD);
            let cells = next - at;
            let mask =
                if cells == PER_WORD { !0 } else { ((1u64 << (cells * 2)) - 1) << (at % PER_WORD * 2) };
            let word = self.word(at);
            let mut seen = word.load(Ordering::Acquire);
            loop {
                // Low bits of the cells in the mask that are white: neither of their bits is set.
                let white = !(seen | seen >> 1) & LOW_BITS & mask;
                if seen >> 1 & LOW_BITS & mask != 0 && condemned.is_none() {
                    let bit = (seen >> 1 & LOW_BITS & mask).trailing_zeros() as u64;
                    condemned = Some(ChunkId(at / PER_WORD * PER_WORD + bit / 2));
                }
                if white == 0 {
                    break;
                }
                match replace(word, seen, seen | white) {
                    Ok(_) => {
                        newly += u64::from(white.count_ones());
                        break;
                    }
                    Err(now) => seen = now,
                }
            }
            at = next;
        }
        (newly, condemned)
    }
}

/// Replaces `seen` by `wanted` if the word still has it (I6); otherwise returns the present word.
fn replace(word: &AtomicU64, seen: u64, wanted: u64) -> Result<u64, u64> {
    if out(Protection::OneDecision) {
        return Ok(word.swap(wanted, Ordering::AcqRel));
    }
    word.compare_exchange(seen, wanted, Ordering::AcqRel, Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_decision_stands() {
        let cells = Cells::new(ChunkId(100));
        assert_eq!(cells.get(ChunkId(7)), Cell::White);
        assert_eq!(cells.mark(ChunkId(7)), Cell::Marked);
        assert_eq!(cells.condemn(ChunkId(7)), Cell::Marked);
        assert_eq!(cells.condemn(ChunkId(8)), Cell::Condemned);
        assert_eq!(cells.mark(ChunkId(8)), Cell::Condemned);
        assert_eq!(cells.get(ChunkId(9)), Cell::White);
    }

    proptest! {
        #[test]
        fn marking_a_run_is_marking_each(
            condemned in prop::collection::vec(0u64..200_000, 0..20),
            runs in prop::collection::vec((0u64..200_000, 1u64..70_000), 1..6),
        ) {
            let watermark = ChunkId(180_000);
            let (by_run, by_one) = (Cells::new(watermark), Cells::new(watermark));
            for &id in condemned.iter().filter(|&&id| id < watermark.0) {
                by_run.condemn(ChunkId(id));
                by_one.condemn(ChunkId(id));
            }
            for &(first, count) in &runs {
                let (newly, met) = by_run.mark_run(ChunkId(first), count);
                let (mut expected, mut expected_met) = (0, None);
                for id in (first..(first + count).min(watermark.0)).map(ChunkId) {
                    expected += u64::from(by_one.get(id) == Cell::White);
                    if by_one.mark(id) == Cell::Condemned && expected_met.is_none() {
                        expected_met = Some(id);
                    }
                }
                prop_assert_eq!((newly, met), (expected, expected_met));
            }
            for id in (0..watermark.0).step_by(7).map(ChunkId) {
                prop_assert_eq!(by_run.get(id), by_one.get(id));
            }
        }
    }
}
