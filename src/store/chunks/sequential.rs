//! Detects readers of many small files in their stored order, which read one region after the other.
//!
//! Keeps true: it only predicts. In the worst case a region is decoded that nobody needs.
//!
//! Read-ahead within one file does not help if a region has thirty files: the reader would wait for each region, once
//! for the disk and once for the decoder.

use crate::chunk::ChunkId;
use crate::sync::Mutex;

/// Readers at different places that are distinguished.
const READERS: usize = 8;
/// Regions that are read ahead, if they take no more than half of the cache.
pub(super) const REGIONS_AHEAD: u64 = 4;

/// The ends of the regions that were read last, the latest last.
#[derive(Debug, Default)]
pub(super) struct SequentialDetector(Mutex<Vec<ChunkId>>);

impl SequentialDetector {
    /// Notes that a region with these ids was read. True if the previous region was read shortly before, and this one
    /// was not.
    pub fn note_read(&self, first: ChunkId, end: ChunkId) -> bool {
        let mut ends = self.0.lock();
        let (from_before, is_known) = (ends.contains(&first), ends.contains(&end));
        ends.retain(|known| *known != first && *known != end);
        if ends.len() == READERS {
            ends.remove(0);
        }
        ends.push(end);
        from_before && !is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of some visits answers. Region n has the ids from 10 n to 10 n + 9.
    fn visits(regions: &[u64]) -> Vec<bool> {
        let sequential = SequentialDetector::default();
        regions.iter().map(|n| sequential.note_read(ChunkId(n * 10), ChunkId(n * 10 + 10))).collect()
    }

    #[test]
    fn whoever_comes_from_the_region_before_is_led_on_once() {
        assert_eq!(visits(&[1, 2, 3, 4]), [false, true, true, true]);
        assert_eq!(visits(&[1, 1, 2, 2, 1, 2, 3]), [false, false, true, false, false, false, true]);
        assert_eq!(visits(&[1, 7, 2, 8, 3, 9]), [false, false, true, true, true, true], "two readers");
        assert_eq!(visits(&[5, 4, 3, 2, 1]), [false; 5], "backwards");
    }

    #[test]
    fn who_jumps_about_is_not_led_on_and_old_trails_are_forgotten() {
        let far: Vec<u64> = (0..20).map(|n| n * 7 % 40 * 3).collect();
        assert_eq!(visits(&far), vec![false; 20]);
        let mut regions: Vec<u64> = (0..READERS as u64 + 1).map(|n| 100 + n * 2).collect();
        regions.push(101);
        assert_eq!(visits(&regions).last(), Some(&false));
        *regions.last_mut().unwrap() = 103;
        assert_eq!(visits(&regions).last(), Some(&true));
    }
}
