//! The workers that cut, hash and compress beside the threads that answer requests.
//!
//! Keeps true: regions that wait to be written come first, so the pending bytes drain. A worker never waits for queued
//! work, so the pool cannot deadlock. A panic in a job does not end its worker; the job itself has to notify those who
//! wait for it.

mod parallel;

use std::collections::VecDeque;

use crate::sync::thread::{Builder, JoinHandle, caught};
use crate::sync::{Arc, Condvar, Mutex};

pub use parallel::Priority;

/// The priority of the workers; see nice(2).
const NICE: i32 = 5;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queues {
    urgent: VecDeque<Job>,
    ordinary: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    more: Condvar,
}

/// The pool.
pub struct Pool {
    shared: Arc<Shared>,
    workers: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts `threads` workers.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut running = Vec::new();
        for number in 0..threads {
            let shared = shared.clone();
            let worker = Builder::new().name(format!("cairn-work-{number}")).spawn(move || {
                lower_priority();
                shared.work();
            })?;
            running.push(worker);
        }
        Ok(Self { shared, workers: threads, threads: Mutex::new(running) })
    }

    /// Queues a region to be written.
    pub fn urgent<J: FnOnce() + Send + 'static>(&self, job: J) {
        self.shared.queues.lock().urgent.push_back(Box::new(job));
        self.shared.more.notify_one();
    }

    /// Queues other work.
    pub fn ordinary<J: FnOnce() + Send + 'static>(&self, job: J) {
        self.shared.queues.lock().ordinary.push_back(Box::new(job));
        self.shared.more.notify_one();
    }

    /// Queues help for running work, before other work that is not urgent.
    pub fn assist<J: FnOnce() + Send + 'static>(&self, job: J) {
        self.shared.queues.lock().ordinary.push_front(Box::new(job));
        self.shared.more.notify_one();
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Does one urgent job in the calling thread; false if there is none.
    pub fn help(&self) -> bool {
        let job = self.shared.queues.lock().urgent.pop_front();
        match job {
            Some(job) => {
                run(job);
                true
            }
            None => false,
        }
    }

    /// Lets the workers finish the queued work, and ends them.
    pub fn close(&self) {
        self.shared.queues.lock().closed = true;
        self.shared.more.notify_all();
        for thread in self.threads.lock().drain(..) {
            // A panic in a worker was reported; the others are still waited for.
            let _ = thread.join();
        }
    }
}

/// Lowers the priority below the threads that answer requests. If that is not allowed, everything still works.
fn lower_priority() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let job = {
                let mut queues = self.queues.lock();
                loop {
                    let next = queues.urgent.pop_front().or_else(|| queues.ordinary.pop_front());
                    match next {
                        Some(job) => break job,
                        None if queues.closed => return,
                        None => self.more.wait(&mut queues),
                    }
                }
            };
            run(job);
        }
    }
}

fn run(job: Job) {
    if caught(job).is_none() {
        tracing::error!("a worker's job panicked; please report this");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::channel::bounded;

    #[test]
    fn a_job_that_panics_takes_no_worker_along() {
        let pool = Pool::new(1).unwrap();
        for queue in [Pool::urgent::<fn()>, Pool::ordinary::<fn()>, Pool::assist::<fn()>] {
            queue(&pool, || panic!("this one is meant"));
        }
        let (done, waits) = bounded(1);
        pool.ordinary(move || done.send(()).unwrap());
        waits.recv().unwrap();
        pool.close();
    }

    #[test]
    fn who_helps_survives_a_job_that_panics() {
        let pool = Pool::new(0).unwrap();
        pool.urgent(|| panic!("this one is meant"));
        assert!(pool.help() && !pool.help());
    }
}
