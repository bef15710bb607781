//! Cutting and hashing, on as many threads as are free.
//!
//! Keeps true: the cuts are those of one thread alone, in the order of the data; whoever asked is never held up by work
//! that waits in a queue, only by a piece that another thread has begun; and a helper that comes too late finds nothing
//! and keeps nothing in memory.
//!
//! One large file is one stream, and its next flush waits for this one. On one thread, cutting and hashing would be all
//! that a fast copy waits for.

use crate::chunk::{Digest, is_zero};
use crate::sync::{Arc, Condvar, Mutex};

use super::Store;

/// A chunk that was cut and hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Its length.
    pub len: u32,
    /// Its digest; `None` if all its bytes are zero, which a hole says as well.
    pub digest: Option<Digest>,
}

/// Less than this is hashed sooner than another thread is awake.
const ALONE: usize = 512 << 10;
/// For each helper there is this much to do at least.
const EACH: usize = 1 << 20;

/// Pieces of `data`: found by one thread, hashed by all.
struct Shared {
    data: Arc<Vec<u8>>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// What was cut, in order; without its digest until it is hashed.
    cuts: Vec<Cut>,
    /// The first piece that nobody has begun: its number and its offset.
    next: (usize, usize),
    /// How many are hashed.
    hashed: usize,
    all_cut: bool,
}

fn hashed(piece: &[u8]) -> Cut {
    Cut { len: piece.len() as u32, digest: if is_zero(piece) { None } else { Some(Digest::of(piece)) } }
}

impl Store {
    /// Cuts and hashes. Pure: needs no lock and no membership.
    pub fn cut(&self, data: &[u8]) -> Vec<Cut> {
        self.cutter.cut(data).map(hashed).collect()
    }

    /// The same with the help of workers that have nothing else to do.
    pub fn cut_together(&self, data: &Arc<Vec<u8>>) -> Vec<Cut> {
        let helpers = data.len().div_ceil(EACH).min(self.pool.workers()).saturating_sub(1);
        if data.len() < ALONE || helpers == 0 {
            return self.cut(data);
        }
        let shared =
            Arc::new(Shared { data: data.clone(), progress: Mutex::default(), changed: Condvar::default() });
        for _ in 0..helpers {
            let shared = Arc::downgrade(&shared);
            self.pool.assist(move || {
                if let Some(shared) = shared.upgrade() {
                    shared.hash();
                }
            });
        }
        for piece in self.cutter.cut(data) {
            shared.progress.lock().cuts.push(Cut { len: piece.len() as u32, digest: None });
            shared.changed.notify_one();
        }
        shared.progress.lock().all_cut = true;
        shared.changed.notify_all();
        shared.hash();
        shared.finish()
    }
}

impl Shared {
    /// Hashes pieces until none is left that nobody has begun. Waits for more only while they are being cut.
    fn hash(&self) {
        let mut progress = self.progress.lock();
        loop {
            let (number, start) = progress.next;
            if let Some(cut) = progress.cuts.get(number).copied() {
                let end = start + cut.len as usize;
                progress.next = (number + 1, end);
                drop(progress);
                let cut = hashed(&self.data[start..end]);
                progress = self.progress.lock();
                progress.cuts[number] = cut;
                progress.hashed += 1;
            } else if progress.all_cut {
                break;
            } else {
                self.changed.wait(&mut progress);
            }
        }
        drop(progress);
        self.changed.notify_all();
    }

    /// Waits for what others have begun.
    fn finish(&self) -> Vec<Cut> {
        let mut progress = self.progress.lock();
        while progress.hashed < progress.cuts.len() {
            self.changed.wait(&mut progress);
        }
        std::mem::take(&mut progress.cuts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::sim::Rng;
    use crate::store::{MkfsOptions, OpenOptions, mkfs};
    use crate::sync::channel::bounded;

    fn with_store(workers: usize, test: impl FnOnce(&Arc<Store>)) {
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
                    assert_eq!(store.cut_together(&data), store.cut(&data), "{workers} workers, {len} bytes");
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
                store.pool.urgent(move || assert!(held.recv().is_err(), "the sender goes"));
            }
            let data = data(5 * EACH);
            assert_eq!(store.cut_together(&data), store.cut(&data));
            assert_eq!(Arc::strong_count(&data), 1, "a helper that waits in the queue has no data");
            drop(go);
        });
    }
}
