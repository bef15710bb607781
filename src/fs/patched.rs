//! The ranges of a file in which small changes stand as chunks of their own ([`recut`](super::recut) has why).
//!
//! Keeps true: ranges never touch each other; how many there may be is bounded by their bytes and patches together.

use std::collections::BTreeMap;

/// Patches of one file from which on it is recut while others go on changing it.
pub const MOST: u32 = 1024;
/// Bytes of its patched ranges from which on it is: a range is read as a whole.
const MOST_BYTES: u64 = 8 << 20;

/// The patched ranges of one file.
#[derive(Debug, Default)]
pub struct Patched {
    /// From each beginning to the end; none touches another.
    ranges: BTreeMap<u64, u64>,
    bytes: u64,
    /// How many patches there are in them.
    patches: u32,
    /// It was patched since the last look.
    fresh: bool,
}

impl Patched {
    /// Notes that there are `patches` more in `[from, to)`.
    pub fn add(&mut self, (from, to): (u64, u64), patches: u32) {
        let (mut start, mut end) = (from, to);
        let touches = |range: &(&u64, &u64)| *range.1 >= from;
        while let Some((&old_start, &old_end)) = self.ranges.range(..=end).next_back().filter(touches) {
            self.ranges.remove(&old_start);
            self.bytes -= old_end - old_start;
            (start, end) = (start.min(old_start), end.max(old_end));
        }
        self.ranges.insert(start, end);
        self.bytes += end - start;
        self.patches += patches;
        self.fresh = true;
    }

    /// Takes all ranges, if there is much of them.
    pub fn take_if_many(&mut self) -> Option<Patched> {
        (self.patches >= MOST || self.bytes >= MOST_BYTES).then(|| std::mem::take(self))
    }

    /// The ranges, each from its beginning to its end.
    pub fn into_ranges(self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.into_iter()
    }

    /// Takes all ranges, if there was no new one since the last call; `None` if there was.
    pub fn take_if_quiet(&mut self) -> Option<Patched> {
        if std::mem::take(&mut self.fresh) { None } else { Some(std::mem::take(self)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_the_union_of_what_was_noted(added in prop::collection::vec((0u64..300, 1u64..40), 1..30)) {
            let (mut patched, mut model) = (Patched::default(), [false; 400]);
            for (from, len) in added {
                patched.add((from, from + len), 1);
                model[from as usize..(from + len) as usize].fill(true);
            }
            prop_assert_eq!(patched.bytes, model.iter().filter(|is_in| **is_in).count() as u64);
            let ranges: Vec<_> = patched.into_ranges().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", ranges);
            for (from, to) in ranges {
                prop_assert!(model[from as usize..to as usize].iter().all(|is_in| *is_in));
            }
        }
    }

    #[test]
    fn a_file_is_due_when_it_is_quiet_or_has_many() {
        let mut patched = Patched::default();
        patched.add((5, 9), 1);
        assert!(patched.take_if_quiet().is_none() && patched.take_if_many().is_none());
        let taken = patched.take_if_quiet().unwrap();
        assert_eq!(taken.into_ranges().collect::<Vec<_>>(), [(5, 9)]);
        patched.add((0, 1), MOST);
        assert!(patched.take_if_many().is_some() && patched.take_if_many().is_none());
        patched.add((0, MOST_BYTES), 1);
        assert!(patched.take_if_many().is_some());
    }
}
