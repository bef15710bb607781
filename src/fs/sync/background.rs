//! The threads of the background, and how what they do has gone.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::meta::rows::Timestamp;
use crate::retry::Retry;
use crate::sync::Mutex;
use crate::sync::channel::Sender;
use crate::sync::thread::JoinHandle;

/// How long the deletion queue waits after it failed, at first and at most.
const REAP_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The background threads, how they are woken, and their failures.
#[derive(Debug)]
pub struct Background {
    pub threads: Mutex<Vec<JoinHandle<()>>>,
    /// None once the background threads have to end; the same holds for `stop`.
    pub commit: Mutex<Option<Sender<()>>>,
    pub stop: Mutex<Option<Sender<()>>>,
    pub committing: Mutex<Retry>,
    pub reaping: Mutex<Retry>,
    writing_out: Mutex<Retry>,
}

impl Default for Background {
    fn default() -> Self {
        let at_once = |what| Mutex::new(Retry::new(what, Duration::ZERO, Duration::ZERO));
        Self {
            threads: Mutex::default(),
            commit: Mutex::default(),
            stop: Mutex::default(),
            committing: at_once("commit"),
            reaping: Mutex::new(Retry::new("deletion queue", REAP_AGAIN.0, REAP_AGAIN.1)),
            writing_out: at_once("writing out"),
        }
    }
}

impl Background {
    /// Notes the result of flushing a file; true if a failure is worth a line in the log.
    pub fn wrote_out(&self, result: &Result<()>) -> bool {
        note(&self.writing_out, Instant::now(), result)
    }
}

/// Notes the result of a background task; true if a failure is worth a line in the log.
pub(in crate::fs) fn note(retry: &Mutex<Retry>, now: Instant, result: &Result<()>) -> bool {
    let mut retry = retry.lock();
    match result {
        Ok(()) => {
            retry.succeeded();
            false
        }
        Err(error) => retry.failed(now, Timestamp::now().sec, &error.to_string()),
    }
}
