//! Independent pieces of work, done by the calling thread and whichever workers are free.
//!
//! Keeps true: whoever asked is never held up by work that waits in a queue, only by a piece that another thread has
//! begun; a helper that comes too late finds nothing; and if the work panics on any thread, so does the call, so that
//! nobody goes on without what is missing.

use crate::sync::{Arc, Condvar, Mutex};

use super::Store;

struct Shared<T, R> {
    work: Box<dyn Fn(&T) -> R + Send + Sync>,
    progress: Mutex<Progress<T, R>>,
    changed: Condvar,
}

struct Progress<T, R> {
    /// What nobody has begun, with its number, the last first.
    left: Vec<(usize, T)>,
    /// Begun and not done.
    busy: usize,
    done: Vec<(usize, T, R)>,
}

impl Store {
    /// Does `work` on each of `items`; returns them with what came of them, in their order. In the queue of workers it
    /// comes after everything else.
    pub fn together<T: Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        work: impl Fn(&T) -> R + Send + Sync + 'static,
    ) -> Vec<(T, R)> {
        let count = items.len();
        let helpers = count.min(self.pool.workers()).saturating_sub(1);
        let left = items.into_iter().enumerate().rev().collect();
        let progress = Mutex::new(Progress { left, busy: 0, done: Vec::new() });
        let shared = Arc::new(Shared { work: Box::new(work), progress, changed: Condvar::new() });
        for _ in 0..helpers {
            let shared = Arc::downgrade(&shared);
            self.pool.ordinary(move || {
                if let Some(shared) = shared.upgrade() {
                    shared.work();
                }
            });
        }
        shared.work();
        let done = shared.finish();
        assert_eq!(done.len(), count, "a worker has panicked over the others");
        done
    }
}

/// Counts a piece as done, also if the work on it panicked: nobody waits for it then.
struct Busy<'a, T, R>(&'a Shared<T, R>);

impl<T, R> Drop for Busy<'_, T, R> {
    fn drop(&mut self) {
        self.0.progress.lock().busy -= 1;
        self.0.changed.notify_all();
    }
}

impl<T, R> Shared<T, R> {
    fn work(&self) {
        loop {
            let mut progress = self.progress.lock();
            let Some((number, item)) = progress.left.pop() else { return };
            progress.busy += 1;
            drop(progress);
            let busy = Busy(self);
            let result = (self.work)(&item);
            self.progress.lock().done.push((number, item, result));
            drop(busy);
        }
    }

    /// Waits for what others have begun.
    fn finish(&self) -> Vec<(T, R)> {
        let mut progress = self.progress.lock();
        while progress.busy > 0 {
            self.changed.wait(&mut progress);
        }
        let mut done = std::mem::take(&mut progress.done);
        done.sort_unstable_by_key(|(number, ..)| *number);
        done.into_iter().map(|(_, item, result)| (item, result)).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::store::{MkfsOptions, OpenOptions, Store, mkfs};
    use crate::sync::Arc;
    use crate::sync::channel::bounded;

    fn store(dir: &tempfile::TempDir, workers: usize) -> Arc<Store> {
        mkfs(dir.path(), &MkfsOptions { reserve: 1 << 20, ..MkfsOptions::default() }).unwrap();
        Store::open(dir.path(), &OpenOptions { cache_bytes: 12 << 20, workers, ..OpenOptions::default() })
            .unwrap()
    }

    #[test]
    fn everything_is_done_once_and_comes_back_in_order() {
        for workers in [1, 2, 5] {
            let dir = tempfile::tempdir().unwrap();
            let store = store(&dir, workers);
            for count in [0, 1, 2, 100] {
                let done = store.together((0..count).collect(), |number| number * 2);
                assert_eq!(done, (0..count).map(|number| (number, number * 2)).collect::<Vec<_>>());
            }
            store.close().unwrap();
        }
    }

    /// The caller does one piece only if a worker does the other at the same time.
    #[test]
    fn a_free_worker_helps_and_busy_ones_are_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir, 2);
        let (met, meets) = bounded::<()>(0);
        let done = store.together(vec![true, false], move |sends| match sends {
            true => met.send(()).is_ok(),
            false => meets.recv().is_ok(),
        });
        assert_eq!(done, [(true, true), (false, true)]);

        let (go, held) = bounded::<()>(0);
        for _ in 0..2 {
            let held = held.clone();
            store.pool.urgent(move || assert!(held.recv().is_err(), "the sender goes"));
        }
        assert_eq!(store.together(vec![1, 2, 3], |number| *number).len(), 3);
        drop(go);
        store.close().unwrap();
    }

    /// The caller waits in its piece until a worker has begun the other, which panics.
    #[test]
    fn a_panic_of_a_worker_is_one_of_the_caller() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir, 2);
        let caller = std::thread::current().id();
        let (begun, begins) = bounded::<()>(0);
        let work = move |_: &u8| {
            if std::thread::current().id() != caller {
                begun.send(()).unwrap();
                panic!("this one is meant");
            }
            begins.recv().unwrap();
        };
        let together = std::panic::AssertUnwindSafe(|| store.together(vec![0, 1], work));
        assert!(std::panic::catch_unwind(together).is_err());
        store.close().unwrap();
    }
}
