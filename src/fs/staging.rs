//! Written bytes that are not chunks yet.
//!
//! Keeps true: the last write of a byte counts; segments never overlap; the count of staged bytes is exact, since it
//! bounds the memory.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A segment grows up to this size; longer ranges are several adjacent segments.
const SEGMENT: usize = 1 << 20;

/// A stretch of bytes of a file.
#[derive(Debug, Clone)]
pub struct Run {
    /// Where it begins.
    pub offset: u64,
    /// Its bytes.
    pub data: Arc<Vec<u8>>,
}

impl Run {
    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// The staged bytes of one file.
#[derive(Debug, Default)]
pub struct Staging {
    segments: BTreeMap<u64, Vec<u8>>,
    bytes: u64,
}

impl Staging {
    /// How many bytes are staged.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True if nothing is staged.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Stages a write.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u64;
        if let Some((&start, segment)) = self.segments.range_mut(..=offset).next_back()
            && start + segment.len() as u64 >= end
        {
            let at = (offset - start) as usize;
            segment[at..at + data.len()].copy_from_slice(data);
            return;
        }
        // The common case: the write continues a segment.
        if let Some((&start, segment)) = self.segments.range_mut(..=offset).next_back()
            && start + segment.len() as u64 == offset
            && segment.len() + data.len() <= SEGMENT
        {
            segment.extend_from_slice(data);
            self.bytes += data.len() as u64;
            self.clear_others(offset, end, start);
            return;
        }
        self.discard(offset, end);
        self.segments.insert(offset, data.to_vec());
        self.bytes += data.len() as u64;
    }

    /// Takes `[from, to)` out of all segments but the one at `keep`.
    fn clear_others(&mut self, from: u64, to: u64, keep: u64) {
        if self.segments.range(from..to).all(|(&start, _)| start == keep) {
            return;
        }
        let Some(kept) = self.segments.remove(&keep) else {
            return;
        };
        self.discard(from, to);
        self.segments.insert(keep, kept);
    }

    /// Stages bytes only where nothing newer is staged.
    pub fn write_below(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let mut gaps = Vec::new();
        let mut at = offset;
        for (&start, segment) in self.overlapping(offset, end) {
            if start > at {
                gaps.push((at, start));
            }
            at = at.max(start + segment.len() as u64);
        }
        if at < end {
            gaps.push((at, end));
        }
        for (from, to) in gaps {
            let part = &data[(from - offset) as usize..(to - offset) as usize];
            self.segments.insert(from, part.to_vec());
            self.bytes += part.len() as u64;
        }
    }

    fn overlapping(&self, from: u64, to: u64) -> impl Iterator<Item = (&u64, &Vec<u8>)> {
        let first = self.segments.range(..=from).next_back().map_or(from, |(&start, _)| start);
        self.segments
            .range(first..to.max(first))
            .filter(move |(start, segment)| **start + segment.len() as u64 > from)
    }

    /// Drops what is staged in `[from, to)`.
    pub fn discard(&mut self, from: u64, to: u64) {
        let hit: Vec<u64> = self.overlapping(from, to).map(|(&start, _)| start).collect();
        for start in hit {
            let Some(mut segment) = self.segments.remove(&start) else {
                continue;
            };
            self.bytes -= segment.len() as u64;
            let end = start + segment.len() as u64;
            if end > to {
                let right = segment.split_off((to - start) as usize);
                self.bytes += right.len() as u64;
                self.segments.insert(to, right);
            }
            if start < from {
                segment.truncate((from - start) as usize);
                self.bytes += segment.len() as u64;
                self.segments.insert(start, segment);
            }
        }
    }

    /// Takes everything, in file order; runs may be adjacent.
    pub fn take(&mut self) -> Vec<Run> {
        self.bytes = 0;
        let run = |(offset, segment)| Run { offset, data: Arc::new(segment) };
        std::mem::take(&mut self.segments).into_iter().map(run).collect()
    }

    /// Copies of what is staged in `[from, to)`.
    pub fn copies(&self, from: u64, to: u64) -> Vec<(u64, Vec<u8>)> {
        let parts = self.overlapping(from, to).map(|(&start, segment)| {
            let (low, high) = (from.max(start), to.min(start + segment.len() as u64));
            (low, segment[(low - start) as usize..(high - start) as usize].to_vec())
        });
        parts.collect()
    }

    /// The stretches that are staged in `[from, to)`, joined where they touch.
    pub fn ranges(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let parts = self.overlapping(from, to);
        parts.map(|(&start, segment)| (start.max(from), (start + segment.len() as u64).min(to))).collect()
    }
}

/// Copies the overlapping part of `data`, which begins at `start` of the file, into `out`, which begins at `offset`.
pub fn copy_part(start: u64, data: &[u8], offset: u64, out: &mut [u8]) {
    let (low, high) = (start.max(offset), (start + data.len() as u64).min(offset + out.len() as u64));
    if low < high {
        let from = &data[(low - start) as usize..(high - start) as usize];
        out[(low - offset) as usize..(high - offset) as usize].copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Write(u64, Vec<u8>),
        Below(u64, Vec<u8>),
        Discard(u64, u64),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let data = prop::collection::vec(any::<u8>(), 1..200);
        prop_oneof![
            (0u64..2000, data.clone()).prop_map(|(at, data)| Op::Write(at, data)),
            (0u64..2000, data).prop_map(|(at, data)| Op::Below(at, data)),
            (0u64..2000, 0u64..2000).prop_map(|(a, b)| Op::Discard(a.min(b), a.max(b))),
        ]
    }

    proptest! {
        #[test]
        fn staging_is_an_array_of_optional_bytes(ops in prop::collection::vec(any_op(), 1..40)) {
            let mut staging = Staging::default();
            let mut model = vec![None; 2400];
            for op in ops {
                match op {
                    Op::Write(at, data) => {
                        staging.write(at, &data);
                        for (index, byte) in data.iter().enumerate() {
                            model[at as usize + index] = Some(*byte);
                        }
                    }
                    Op::Below(at, data) => {
                        staging.write_below(at, &data);
                        for (index, byte) in data.iter().enumerate() {
                            model[at as usize + index].get_or_insert(*byte);
                        }
                    }
                    Op::Discard(from, to) => {
                        staging.discard(from, to);
                        model[from as usize..to as usize].fill(None);
                    }
                }
                prop_assert_eq!(staging.bytes(), model.iter().flatten().count() as u64);
                let mut out = vec![7; 2400];
                for (start, data) in staging.copies(0, 2400) {
                    copy_part(start, &data, 0, &mut out);
                }
                let expected: Vec<u8> = model.iter().map(|byte| byte.unwrap_or(7)).collect();
                prop_assert_eq!(&out, &expected);
            }
            let runs = staging.take();
            prop_assert!(runs.windows(2).all(|pair| pair[0].end() <= pair[1].offset));
            let mut out = vec![7; 2400];
            for run in &runs {
                copy_part(run.offset, &run.data, 0, &mut out);
            }
            let expected: Vec<u8> = model.iter().map(|byte| byte.unwrap_or(7)).collect();
            prop_assert_eq!(&out, &expected);
        }
    }
}
