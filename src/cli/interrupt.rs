//! What Ctrl-C, SIGTERM and SIGHUP do to a command that may take long. It prints a sentence about the consequences, and
//! with `--json` its one object, and then ends as the signal would have ended it.
//!
//! If the command has the store open itself, it stops its work and closes the store first. A second signal ends it at
//! once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::output::{self, Failure};
use crate::error::{Error, Result};
use crate::sync::Mutex;

/// Signals that are caught from now on, until the process ends.
pub(super) struct Interrupt(Arc<Shared>);

struct Shared {
    json: bool,
    /// The sentence about the consequences of the interruption.
    sentence: Mutex<&'static str>,
    /// The signal that came; 0 while there was none.
    caught: AtomicI32,
    /// Stops the work in an orderly way; none if the process can just end.
    orderly: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Interrupt {
    /// From now on a signal prints `sentence` and ends the process.
    pub(super) fn install(json: bool, sentence: &'static str) -> Result<Self> {
        let failed = |error| Error::io("catching signals", error);
        let shared = Arc::new(Shared {
            json,
            sentence: Mutex::new(sentence),
            caught: AtomicI32::new(0),
            orderly: Mutex::new(None),
        });
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in signals.forever() {
                    of_thread.act_on(signal);
                }
            })
            .map_err(failed)?;
        Ok(Self(shared))
    }

    /// From now on the first signal only calls `end`. The work then ends in order and calls
    /// [`Interrupt::end_if_signalled`].
    pub(super) fn end_in_order(&self, sentence: &'static str, end: impl Fn() + Send + 'static) {
        *self.0.sentence.lock() = sentence;
        *self.0.orderly.lock() = Some(Box::new(end));
        if self.was_signalled() {
            // The signal came just before and was not handled yet.
            self.end_if_signalled();
        }
    }

    /// The orderly work is done: ends the process if a signal came; otherwise the next signal does.
    pub(super) fn end_if_signalled(&self) {
        drop(self.0.orderly.lock().take());
        if self.was_signalled() {
            self.0.end(self.0.caught.load(Ordering::SeqCst));
        }
    }

    /// True once a signal has come.
    pub(super) fn was_signalled(&self) -> bool {
        self.0.caught.load(Ordering::SeqCst) != 0
    }
}

impl Shared {
    fn act_on(&self, signal: i32) {
        let first = self.caught.swap(signal, Ordering::SeqCst) == 0;
        match &*self.orderly.lock() {
            Some(end) if first => {
                end();
                eprintln!(
                    "cairnfs: {}: the store is being closed; a second signal ends this at once",
                    name(signal)
                );
            }
            _ => self.end(signal),
        }
    }

    /// Prints the sentence and ends the process as the signal would have.
    fn end(&self, signal: i32) {
        let text = format!("interrupted by {}; {}", name(signal), self.sentence.lock());
        eprintln!("cairnfs: {text}");
        if self.json {
            // If nobody reads the output any more, a failure does not matter.
            let _ = output::print_json(&Failure::by_signal(text, signal));
        }
        // It only fails for signals that do not exist.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
}

fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}
