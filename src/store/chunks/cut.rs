//! Cutting and hashing, on as many threads as are free.
//!
//! Keeps true: the cuts are those that a single thread would make, in the order of the data. Nobody waits for a worker
//! that is busy with something else ([`Pool::parallel_map`](super::super::workers::Pool::parallel_map)).
//!
//! One large file is one stream, and its next flush waits for this one. With one thread, cutting and hashing would
//! limit the speed of a copy.

use std::ops::Range;

use crate::chunk::{Digest, is_zero};
use crate::sync::Arc;

use super::super::workers::Priority;
use super::{Chunks, Cut};

/// Hashing less than this is faster than waking another thread.
const ALONE: usize = 512 << 10;
/// Each helper gets at least this many bytes.
const EACH: usize = 1 << 20;

fn hashed(piece: &[u8]) -> Cut {
    Cut { len: piece.len() as u32, digest: if is_zero(piece) { None } else { Some(Digest::of(piece)) } }
}

impl Chunks {
    /// Cuts and hashes. Pure: needs no lock and no membership.
    pub fn cut(&self, data: &[u8]) -> Vec<Cut> {
        self.cutter.cut(data).map(hashed).collect()
    }

    /// The same with the help of idle workers.
    pub fn cut_together(&self, data: &Arc<Vec<u8>>) -> Vec<Cut> {
        let threads = data.len().div_ceil(EACH).min(self.workers.workers());
        if data.len() < ALONE || threads < 2 {
            return self.cut(data);
        }
        let pieces = self.cutter.cut(data).scan(0, |end, piece| {
            let start = *end;
            *end += piece.len();
            Some(start..*end)
        });
        let shared = data.clone();
        let hash = move |piece: &Range<usize>| hashed(&shared[piece.clone()]);
        let cuts = self.workers.parallel_map(pieces, (threads, Priority::High), hash);
        cuts.into_iter().map(|(_, cut)| cut).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::sim::Rng;
    use crate::store::{MkfsOptions, OpenOptions, Store, mkfs};
    use crate::sync::channel::bounded;

    /// Gives `test` a new store with so many workers, and waits for them.
    fn with_store(workers: usize, test: impl FnOnce(&Store)) {
        let dir = tempfile::tempdir().unwrap();
        mkfs(dir.path(), &MkfsOptions { reserve: 1 << 20, ..MkfsOptions::default() }).unwrap();
        let options = OpenOptions { cache_bytes: 12 << 20, workers, ..OpenOptions::default() };
        let store = Store::open(dir.path(), &options).unwrap();
        test(&store);
        store.close().unwrap();
    }

    /// Noise with zeros in it, of which no cut has a digest.
    fn data(len: usize) -> Arc<Vec<u8>> {
        let mut bytes = Rng::new(len as u64).bytes(len);
        bytes.chunks_mut(700 << 10).skip(1).step_by(3).for_each(|zeros| zeros.fill(0));
        Arc::new(bytes)
    }

    #[test]
    fn many_cut_as_one_does() {
        for workers in [1, 2, 5] {
            with_store(workers, |store| {
                for len in [0, 1, ALONE - 1, ALONE, EACH, EACH + 1, 9 * EACH + 77] {
                    let data = data(len);
                    assert_eq!(
                        store.chunks.cut_together(&data),
                        store.chunks.cut(&data),
                        "{workers} workers, {len} bytes"
                    );
                }
            });
        }
    }

    /// Every worker is busy until after the cut: nobody helps, nobody is waited for, and nothing is kept.
    #[test]
    fn a_late_helper_finds_nothing() {
        with_store(2, |store| {
            let (go, held) = bounded::<()>(0);
            for _ in 0..2 {
                let held = held.clone();
                store.workers.urgent(move || assert!(held.recv().is_err(), "the sender goes"));
            }
            let data = data(5 * EACH);
            assert_eq!(store.chunks.cut_together(&data), store.chunks.cut(&data));
            assert_eq!(Arc::strong_count(&data), 1, "a helper that waits in the queue has no data");
            drop(go);
        });
    }
}
