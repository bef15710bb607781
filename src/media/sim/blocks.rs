//! The bytes of a simulated file: sparse, so that holes and the space taken can be told apart.

use std::collections::BTreeMap;

/// The size of a simulated host's block.
pub const BLOCK: u64 = 4096;

/// A file's bytes. A block that is not in the map is a hole and reads as zeros.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    len: u64,
    map: BTreeMap<u64, Box<[u8; BLOCK as usize]>>,
}

/// The pieces of a range, block by block: the block's number, where in it the piece begins, the piece's length.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset + len;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let within = at % BLOCK;
            let piece = (BLOCK - within).min(end - at);
            let found = (at / BLOCK, within as usize, piece as usize);
            at += piece;
            found
        })
    })
}

impl Blocks {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The bytes taken on the disk.
    pub fn allocated(&self) -> u64 {
        self.map.len() as u64 * BLOCK
    }

    /// The bytes a write to this range would take anew.
    pub fn needed(&self, offset: u64, len: u64) -> u64 {
        let holes = pieces(offset, len).filter(|(block, ..)| !self.map.contains_key(block));
        holes.count() as u64 * BLOCK
    }

    /// Fills the buffer; false where the file is too short.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> bool {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return false;
        }
        let mut done = 0;
        for (block, within, len) in pieces(offset, buf.len() as u64) {
            let to = &mut buf[done..done + len];
            match self.map.get(&block) {
                Some(bytes) => to.copy_from_slice(&bytes[within..within + len]),
                None => to.fill(0),
            }
            done += len;
        }
        true
    }

    /// All bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(&mut bytes, 0);
        bytes
    }

    pub fn write(&mut self, data: &[u8], offset: u64) {
        let mut done = 0;
        for (block, within, len) in pieces(offset, data.len() as u64) {
            self.block(block)[within..within + len].copy_from_slice(&data[done..done + len]);
            done += len;
        }
        if !data.is_empty() {
            self.len = self.len.max(offset + data.len() as u64);
        }
    }

    pub fn allocate(&mut self, offset: u64, len: u64) {
        for (block, ..) in pieces(offset, len) {
            self.block(block);
        }
        if len > 0 {
            self.len = self.len.max(offset + len);
        }
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len, (self.len - len).next_multiple_of(BLOCK));
            self.map.split_off(&len.div_ceil(BLOCK));
        }
        self.len = len;
    }

    pub fn punch(&mut self, offset: u64, len: u64) {
        for (block, within, len) in pieces(offset, len) {
            if len as u64 == BLOCK {
                self.map.remove(&block);
            } else if let Some(bytes) = self.map.get_mut(&block) {
                bytes[within..within + len].fill(0);
            }
        }
    }

    /// Flips a bit of the byte at `offset`; nothing beyond the end.
    pub fn flip(&mut self, offset: u64) {
        if offset < self.len {
            self.block(offset / BLOCK)[(offset % BLOCK) as usize] ^= 0x10;
        }
    }

    fn block(&mut self, number: u64) -> &mut [u8; BLOCK as usize] {
        self.map.entry(number).or_insert_with(|| Box::new([0; BLOCK as usize]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Punch(u64, u64),
        Allocate(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = 0u64..20_000;
        prop_oneof![
            (place.clone(), prop::collection::vec(1u8.., 0..9000))
                .prop_map(|(at, data)| Step::Write(at, data)),
            place.clone().prop_map(Step::SetLen),
            (place.clone(), 0u64..9000).prop_map(|(at, len)| Step::Punch(at, len)),
            (place, 0u64..9000).prop_map(|(at, len)| Step::Allocate(at, len)),
        ]
    }

    proptest! {
        #[test]
        fn a_sparse_file_reads_like_a_plain_one(steps in prop::collection::vec(step(), 1..12)) {
            let (mut blocks, mut model) = (Blocks::default(), Vec::<u8>::new());
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let needed = blocks.allocated() + blocks.needed(at, data.len() as u64);
                        blocks.write(&data, at);
                        prop_assert_eq!(blocks.allocated(), needed);
                        let end = at as usize + data.len();
                        if !data.is_empty() && model.len() < end {
                            model.resize(end, 0);
                        }
                        if !data.is_empty() {
                            model[at as usize..end].copy_from_slice(&data);
                        }
                    }
                    Step::SetLen(len) => {
                        blocks.set_len(len);
                        model.resize(len as usize, 0);
                    }
                    Step::Punch(at, len) => {
                        blocks.punch(at, len);
                        let end = model.len().min((at + len) as usize);
                        if (at as usize) < end {
                            model[at as usize..end].fill(0);
                        }
                    }
                    Step::Allocate(at, len) => {
                        blocks.allocate(at, len);
                        if len > 0 && model.len() < (at + len) as usize {
                            model.resize((at + len) as usize, 0);
                        }
                    }
                }
                prop_assert_eq!(blocks.to_vec(), model.clone());
            }
        }
    }
}
