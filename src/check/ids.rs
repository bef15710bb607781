//! Compact sets and tables by id: a bit or a word for each chunk, seven bytes for each inode. Sets of chunks are
//! bitmaps of the crate `roaring`: a bit a chunk where ids lie close together, two bytes where they do not.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;

const WORDS_A_PAGE: u64 = 512;

/// 64-bit words by number, zero unless they were changed. A page exists only if one of its words was changed, so that
/// old ids cost nothing.
#[derive(Debug, Default)]
pub(super) struct Words {
    pages: BTreeMap<u64, Box<[u64; WORDS_A_PAGE as usize]>>,
}

impl Words {
    pub fn word(&mut self, index: u64) -> &mut u64 {
        let page =
            self.pages.entry(index / WORDS_A_PAGE).or_insert_with(|| Box::new([0; WORDS_A_PAGE as usize]));
        &mut page[(index % WORDS_A_PAGE) as usize]
    }

    pub fn get(&self, index: u64) -> u64 {
        self.pages.get(&(index / WORDS_A_PAGE)).map_or(0, |page| page[(index % WORDS_A_PAGE) as usize])
    }

    /// The words that are not zero, with their numbers.
    pub fn nonzero(&self) -> impl Iterator<Item = (u64, u64)> {
        self.pages.iter().flat_map(|(&number, page)| {
            let words = page.iter().enumerate().filter(|(_, word)| **word != 0);
            words.map(move |(index, &word)| (number * WORDS_A_PAGE + index as u64, word))
        })
    }
}

/// The ids of a set as ranges, ends excluded, rising.
pub(super) fn ranges(ids: &RoaringTreemap) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for id in ids {
        let end = id.saturating_add(1);
        match ranges.last_mut() {
            Some(last) if last.1 == id => last.1 = end,
            _ => ranges.push((id, end)),
        }
    }
    ranges
}

/// A directory as its own row has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory {
    pub ino: u64,
    pub parent: u64,
}

/// All inodes, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    /// Numbers without their low 16 bits, each with where its inodes begin.
    blocks: Vec<(u64, usize)>,
    lows: Vec<u16>,
    /// The type, as the upper four bits of a mode; [`Inodes::UNKNOWN`] if the row cannot be read.
    kinds: Vec<u8>,
    /// Names that were not found yet.
    names: Vec<u32>,
    /// Those that are directories and have a name.
    pub directories: Vec<Directory>,
}

impl Inodes {
    /// The type of an inode whose row cannot be read: nothing is said about its names.
    pub const UNKNOWN: u8 = u8::MAX;

    /// Takes in the inode after the last one.
    pub fn push(&mut self, ino: u64, kind: u8, names: u32) {
        if self.blocks.last().is_none_or(|block| block.0 != ino >> 16) {
            self.blocks.push((ino >> 16, self.lows.len()));
        }
        self.lows.push(ino as u16);
        self.kinds.push(kind);
        self.names.push(names);
    }

    pub fn find(&self, ino: u64) -> Option<usize> {
        let block = self.blocks.binary_search_by_key(&(ino >> 16), |block| block.0).ok()?;
        let from = self.blocks[block].1;
        let to = self.blocks.get(block + 1).map_or(self.lows.len(), |next| next.1);
        self.lows[from..to].binary_search(&(ino as u16)).ok().map(|index| from + index)
    }

    pub fn kind(&self, index: usize) -> u8 {
        self.kinds[index]
    }

    /// A name of this inode was found.
    pub fn named(&mut self, index: usize) {
        self.names[index] = self.names[index].wrapping_sub(1);
    }

    /// Inodes whose number of names differs from their rows.
    pub fn misnamed(&self) -> impl Iterator<Item = u64> {
        let wrong = move |index: &usize| self.names[*index] != 0 && self.kinds[*index] != Self::UNKNOWN;
        (0..self.lows.len()).filter(wrong).map(|index| self.ino(index))
    }

    /// The names that were found of an inode that has `nlink` by its row.
    pub fn found(&self, ino: u64, expected: u32) -> u32 {
        self.find(ino).map_or(0, |index| expected.wrapping_sub(self.names[index]))
    }

    fn ino(&self, index: usize) -> u64 {
        let block = self.blocks.partition_point(|block| block.1 <= index) - 1;
        self.blocks[block].0 << 16 | u64::from(self.lows[index])
    }

    /// The parent of a directory, by its own row.
    pub fn parent(&self, ino: u64) -> Option<u64> {
        let index = self.directory(ino)?;
        Some(self.directories[index].parent)
    }

    /// The index of a directory among the directories.
    pub fn directory(&self, ino: u64) -> Option<usize> {
        self.directories.binary_search_by_key(&ino, |directory| directory.ino).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_gives_its_ids_back_as_ranges() {
        let set: RoaringTreemap = [65, 5, 63, 64, 1 << 32, (1 << 32) - 1, 1 << 40].into_iter().collect();
        let four = 1 << 32;
        assert_eq!(ranges(&set), [(5, 6), (63, 66), (four - 1, four + 1), (1 << 40, (1 << 40) + 1)]);
        assert_eq!(ranges(&RoaringTreemap::new()), []);
    }

    #[test]
    fn inodes_are_found_across_blocks() {
        let mut inodes = Inodes::default();
        let numbers = [1, 16, 17, 65_535, 65_536, 1 << 20, (1 << 40) + 3];
        for (kind, ino) in numbers.into_iter().enumerate() {
            inodes.push(ino, kind as u8, 1);
        }
        for (index, ino) in numbers.into_iter().enumerate() {
            assert_eq!(inodes.find(ino), Some(index));
            assert_eq!(inodes.ino(index), ino);
            assert_eq!(inodes.kind(index), index as u8);
        }
        for ino in [0, 2, 18, 65_537, (1 << 20) + 1, 3, u64::MAX] {
            assert_eq!(inodes.find(ino), None, "{ino}");
        }
        inodes.named(0);
        inodes.named(3);
        inodes.named(3);
        assert_eq!(inodes.misnamed().collect::<Vec<_>>(), [16, 17, 65_535, 65_536, 1 << 20, (1 << 40) + 3]);
        assert_eq!((inodes.found(1, 1), inodes.found(65_535, 1), inodes.found(16, 1)), (1, 2, 0));
    }
}
