//! Requests over io_uring: the second transport, beside `/dev/fuse`, where the kernel offers it (Linux 6.14).
//!
//! The kernel has a queue for each processor, and puts a request into the queue of the processor on which it was made.
//! The threads of a queue stay on its processor. So a request and its reply wake no thread on another processor, which
//! is the main cost of a small request. A thread submits a reply and waits for the next request in one system call.
//!
//! Each thread has one entry, that is, memory for one request. While a thread waits for the disk, the other threads of
//! its queue serve requests; the kernel prefers the entry that was used last.
//!
//! The start of the protocol, FORGET, interrupts and notifications still go over `/dev/fuse`, where fuser serves them.
//! The protocol: `Documentation/filesystems/fuse-io-uring.rst` of Linux.

mod abi;
mod entry;
mod serve;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::adapter::Adapter;
use super::options::IoUring;
use crate::error::{Error, Result};
use crate::media::max_open_files_now;
use entry::Entry;

/// The switch of the kernel's module.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Threads for each queue, and fewer where there are many queues.
const THREADS_PER_QUEUE: usize = 4;
const MANY_QUEUES: usize = 8;

/// Whether a new mount should take its requests over io_uring. If that is wanted but switched off in the kernel, this
/// switches it on, for all FUSE filesystems that ask for it.
pub(super) fn wanted(wish: IoUring) -> Result<bool> {
    match wish {
        IoUring::Off => Ok(false),
        IoUring::Auto => Ok(is_switched_on() && has_descriptors() && entry::new_ring().is_ok()),
        IoUring::On => {
            if !is_switched_on() {
                fs::write(SWITCH, "Y")
                    .map_err(|error| refused(&format!("{SWITCH} cannot be set ({error})")))?;
            }
            if !has_descriptors() {
                return Err(refused(
                    "each thread takes a file descriptor, and there are too few (`ulimit -n`)",
                ));
            }
            entry::new_ring().map_err(|error| refused(&format!("io_uring cannot be used ({error})")))?;
            Ok(true)
        }
    }
}

fn is_switched_on() -> bool {
    fs::read_to_string(SWITCH).is_ok_and(|text| text.trim() == "Y")
}

fn depth(queues: usize) -> usize {
    if queues > MANY_QUEUES { 2 } else { THREADS_PER_QUEUE }
}

/// Whether a descriptor for each thread leaves at least as many descriptors for everything else.
fn has_descriptors() -> bool {
    let queues = possible_processors();
    max_open_files_now() / 2 >= (queues * depth(queues)) as u64
}

fn refused(why: &str) -> Error {
    Error::Environment(format!(
        "the mount option io_uring=on needs Linux 6.14 with FUSE over io_uring: {why}; io_uring=auto uses it where it can"
    ))
}

/// The threads that serve the queues.
pub(super) struct Rings {
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Rings {
    /// Registers entries for every queue; from then on requests arrive. If a thread cannot go on, it calls `failed`,
    /// which has to end the connection, since its requests would wait for ever.
    pub(super) fn start(
        adapter: &Arc<Adapter>,
        connection: &OwnedFd,
        failed: impl Fn() + Clone + Send + 'static,
    ) -> Result<Self> {
        let connection = Arc::new(connection.try_clone().map_err(not_started)?);
        let queues = possible_processors();
        let depth = depth(queues);
        let (offered, answers) = mpsc::channel();
        let mut threads = Vec::with_capacity(queues * depth);
        for number in 0..queues * depth {
            let queue = (number % queues) as u16;
            let (adapter, connection) = (Arc::clone(adapter), Arc::clone(&connection));
            let (offered, failed) = (offered.clone(), failed.clone());
            let serve = move || {
                let outcome = serve(&adapter, connection, queue, &offered);
                if let Err(error) = &outcome {
                    tracing::error!("serving requests over io_uring: {error}; mount with -o io_uring=off");
                    failed();
                }
                outcome
            };
            threads.push(
                thread::Builder::new()
                    .name(format!("cairn-ring-{queue}"))
                    .spawn(serve)
                    .map_err(not_started)?,
            );
        }
        // Each thread sends exactly one message.
        for outcome in answers.iter().take(threads.len()) {
            outcome.map_err(not_started)?;
        }
        Ok(Self { threads })
    }

    /// Waits until the connection has ended and no request is being served.
    pub(super) fn join(self) -> Result<()> {
        let mut first = Ok(());
        for thread in self.threads {
            let outcome = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            if let Err(error) = outcome
                && first.is_ok()
            {
                first = Err(Error::io("serving requests over io_uring", error));
            }
        }
        first
    }
}

fn not_started(error: io::Error) -> Error {
    Error::io("starting to serve requests over io_uring (-o io_uring=off does without)", error)
}

/// One thread: registers its entry, reports that, and serves requests until the connection ends.
fn serve(
    adapter: &Adapter,
    connection: Arc<OwnedFd>,
    queue: u16,
    offered: &mpsc::Sender<io::Result<()>>,
) -> io::Result<()> {
    stay_on(queue);
    let mut entry = match Entry::new(connection, queue).and_then(|mut entry| entry.register().map(|()| entry))
    {
        Ok(entry) => entry,
        Err(error) => {
            let same = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
            let _ = offered.send(Err(error));
            return Err(same);
        }
    };
    let _ = offered.send(Ok(()));
    while let Some(request) = entry.wait()? {
        let outcome = serve::answer(adapter, &request, entry.payload());
        entry.commit(&request, outcome)?;
    }
    Ok(())
}

/// If the processor does not exist or may not be used, the thread runs anywhere.
fn stay_on(processor: u16) {
    let mut only = CpuSet::new();
    if usize::from(processor) < CpuSet::MAX_CPU {
        only.set(processor.into());
        if let Err(error) = sched_setaffinity(None, &only) {
            tracing::debug!(processor, "staying on a processor: {error}");
        }
    }
}

/// How many queues the kernel has: one for each processor that there could be.
fn possible_processors() -> usize {
    let listed = fs::read_to_string("/sys/devices/system/cpu/possible").ok();
    let last =
        listed.as_deref().and_then(|text| text.trim().rsplit([',', '-']).next()?.parse::<usize>().ok());
    last.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), |last| last + 1)
}
