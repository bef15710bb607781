//! Polling the device for a moment before sleeping on it.
//!
//! A request thread that sleeps has to be woken, which on an idle core of a virtual machine costs more
//! than the request. fuser reads the device again at once when it says EAGAIN, so that setting
//! O_NONBLOCK on its open file description makes it poll; clearing it makes it sleep. Handlers set it
//! when a request arrives; this module's thread clears it when none has arrived for a while.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::counts::Counts;

/// Owned by the filesystem; told of every request.
pub struct Spinner {
    polling: Arc<AtomicBool>,
    device: Arc<OwnedFd>,
    calmer: Thread,
}

impl Spinner {
    pub fn start(device: OwnedFd, counts: Arc<Counts>, calm_after: Duration) -> Self {
        let polling = Arc::new(AtomicBool::new(false));
        let device = Arc::new(device);
        let calmer = {
            let (polling, device) = (Arc::clone(&polling), Arc::clone(&device));
            thread::spawn(move || calm(&polling, &device, &counts, calm_after))
        };
        Spinner { polling, device, calmer: calmer.thread().clone() }
    }

    pub fn request_arrived(&self) {
        if !self.polling.load(SeqCst) {
            self.polling.store(true, SeqCst);
            set_polling(&self.device, true);
            self.calmer.unpark();
        }
    }
}

fn calm(polling: &AtomicBool, device: &OwnedFd, counts: &Counts, calm_after: Duration) {
    loop {
        let before = counts.total();
        thread::sleep(calm_after);
        if counts.total() == before {
            polling.store(false, SeqCst);
            set_polling(device, false);
            while !polling.load(SeqCst) {
                thread::park();
            }
        }
    }
}

fn set_polling(device: &OwnedFd, on: bool) {
    // The device is gone only when the process is about to end.
    if let Ok(flags) = fcntl_getfl(device) {
        let flags = if on { flags | OFlags::NONBLOCK } else { flags - OFlags::NONBLOCK };
        let _ = fcntl_setfl(device, flags);
    }
}
