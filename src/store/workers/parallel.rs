//! Runs independent pieces of work on the calling thread and on idle workers.
//!
//! Keeps true: the caller never waits for queued work, only for pieces that another thread has begun. A late helper
//! finds nothing and keeps nothing in memory. If the work panics on any thread, the call panics too, so that nobody
//! continues without the missing results.

use std::collections::VecDeque;

use crate::sync::{Arc, Condvar, Mutex};

use super::Pool;

/// The priority of the helpers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Before other work that is not urgent: somebody waits for it.
    High,
    /// After everything else.
    Low,
}

struct Shared<T, R> {
    work: Box<dyn Fn(&T) -> R + Send + Sync>,
    progress: Mutex<Progress<T, R>>,
    changed: Condvar,
}

struct Progress<T, R> {
    /// Pieces that nobody has begun, with their numbers.
    left: VecDeque<(usize, T)>,
    /// Pieces that are begun and not done.
    busy: usize,
    done: Vec<(usize, T, R)>,
    /// There are no more pieces.
    complete: bool,
}

impl Pool {
    /// Runs `work` on each of `items`, on at most `threads` threads, while the calling thread still produces the items.
    /// Returns the items with their results, in order.
    pub fn parallel_map<T: Send + 'static, R: Send + 'static>(
        &self,
        items: impl IntoIterator<Item = T>,
        (threads, priority): (usize, Priority),
        work: impl Fn(&T) -> R + Send + Sync + 'static,
    ) -> Vec<(T, R)> {
        let progress = Progress { left: VecDeque::new(), busy: 0, done: Vec::new(), complete: false };
        let (work, progress) = (Box::new(work), Mutex::new(progress));
        let shared = Arc::new(Shared { work, progress, changed: Condvar::new() });
        for _ in 1..threads.min(self.workers()) {
            let shared = Arc::downgrade(&shared);
            let help = move || {
                if let Some(shared) = shared.upgrade() {
                    shared.work();
                }
            };
            match priority {
                Priority::High => self.assist(help),
                Priority::Low => self.ordinary(help),
            }
        }
        let (mut count, complete) = (0, Complete(&shared));
        for item in items {
            shared.progress.lock().left.push_back((count, item));
            shared.changed.notify_one();
            count += 1;
        }
        drop(complete);
        shared.work();
        let done = shared.finish();
        assert_eq!(done.len(), count, "a worker has panicked over the others");
        done
    }
}

/// Dropped after the last item, or if producing an item panicked, so that no helper waits for more.
struct Complete<'a, T, R>(&'a Shared<T, R>);

impl<T, R> Drop for Complete<'_, T, R> {
    fn drop(&mut self) {
        self.0.progress.lock().complete = true;
        self.0.changed.notify_all();
    }
}

/// Dropped if the work on a piece panicked, so that nobody waits for it.
struct Busy<'a, T, R>(&'a Shared<T, R>);

impl<T, R> Drop for Busy<'_, T, R> {
    fn drop(&mut self) {
        self.0.progress.lock().busy -= 1;
        self.0.changed.notify_all();
    }
}

impl<T, R> Shared<T, R> {
    /// Works until all pieces are begun. Waits for more pieces only while there may be some.
    fn work(&self) {
        let mut progress = self.progress.lock();
        loop {
            if let Some((number, item)) = progress.left.pop_front() {
                progress.busy += 1;
                drop(progress);
                let busy = Busy(self);
                let result = (self.work)(&item);
                std::mem::forget(busy);
                progress = self.progress.lock();
                progress.busy -= 1;
                progress.done.push((number, item, result));
            } else if progress.complete {
                break;
            } else {
                self.changed.wait(&mut progress);
            }
        }
        drop(progress);
        self.changed.notify_all();
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
    use super::{Pool, Priority};
    use crate::sync::channel::bounded;

    /// Gives `test` so many workers, and waits for them.
    fn with_workers(workers: usize, test: impl FnOnce(&Pool)) {
        let pool = Pool::new(workers).unwrap();
        test(&pool);
        pool.close();
    }

    /// Does two pieces on two threads, and expects the call to panic.
    fn expect_panic(
        pool: &Pool,
        items: impl IntoIterator<Item = u8>,
        work: impl Fn(&u8) + Send + Sync + 'static,
    ) {
        let together = std::panic::AssertUnwindSafe(|| pool.parallel_map(items, (2, Priority::High), work));
        assert!(std::panic::catch_unwind(together).is_err());
    }

    #[test]
    fn everything_is_done_once_and_comes_back_in_order() {
        for workers in [1, 2, 5] {
            with_workers(workers, |pool| {
                for count in [0, 1, 2, 100] {
                    let done = pool.parallel_map(0..count, (9, Priority::Low), |number| number * 2);
                    assert_eq!(done, (0..count).map(|number| (number, number * 2)).collect::<Vec<_>>());
                }
            });
        }
    }

    /// The caller does one piece only if a worker does the other at the same time.
    #[test]
    fn a_free_worker_helps_and_busy_ones_are_not_waited_for() {
        with_workers(2, |pool| {
            let (met, meets) = bounded::<()>(0);
            let done = pool.parallel_map([true, false], (2, Priority::Low), move |sends| match sends {
                true => met.send(()).is_ok(),
                false => meets.recv().is_ok(),
            });
            assert_eq!(done, [(true, true), (false, true)]);

            let (go, held) = bounded::<()>(0);
            for _ in 0..2 {
                let held = held.clone();
                pool.urgent(move || assert!(held.recv().is_err(), "the sender goes"));
            }
            assert_eq!(pool.parallel_map([1, 2, 3], (3, Priority::Low), |number| *number).len(), 3);
            drop(go);
        });
    }

    /// The caller waits in its piece until a worker has begun the other, which panics.
    #[test]
    fn a_panic_of_a_worker_is_one_of_the_caller() {
        with_workers(2, |pool| {
            let caller = std::thread::current().id();
            let (begun, begins) = bounded::<()>(0);
            let work = move |_: &u8| {
                if std::thread::current().id() != caller {
                    begun.send(()).unwrap();
                    panic!("this one is meant");
                }
                begins.recv().unwrap();
            };
            expect_panic(pool, [0, 1], work);
        });
    }

    /// The second item panics once a worker has done the first, and is back to wait for more.
    #[test]
    fn a_panic_between_the_items_leaves_no_worker_waiting() {
        with_workers(2, |pool| {
            let (done, begun) = bounded::<()>(0);
            let items = (0..2).inspect(move |number| {
                if *number == 1 {
                    begun.recv().unwrap();
                    panic!("this one is meant");
                }
            });
            let work = move |_: &u8| done.send(()).unwrap();
            expect_panic(pool, items, work);
        });
    }
}
