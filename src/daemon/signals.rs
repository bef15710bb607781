//! What SIGTERM, SIGINT and SIGHUP do to a mount.
//!
//! On the first signal the daemon makes everything durable that was written so far, whatever the table of mounts says
//! and whoever uses the mount. A SIGKILL after that loses nothing. Then it unmounts at every place. If programs still
//! use the mount, no new program can enter, and the process ends when the last one has left. A second signal
//! disconnects these programs: the kernel aborts the connection, their next request fails, and the store is closed.
//!
//! SIGHUP means that the terminal of a foreground mount was closed. If SIGHUP is already ignored, as with nohup(1), it
//! stays ignored.

use std::fs;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Handle;

use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::fuse::{UnmountOutcome, Unmounter};
use crate::sabotage::{Protection, out};

/// Signals that are caught but not acted on yet.
pub(super) struct Signals(signal_hook::iterator::Signals);

/// The thread that acts on signals.
pub(super) struct Handling {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Catches the signals: from now on they do not end the process by themselves.
    pub(super) fn catch() -> Result<Self> {
        let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT].into_iter().chain(hangup))
            .map(Self)
            .map_err(|e| Error::io("catching signals", e))
    }

    /// Unmounts at the first signal, also at one that came before this call.
    pub(super) fn unmount_on_signal(mut self, unmounter: Unmounter, filesystem: Arc<Fs>) -> Handling {
        let handle = self.0.handle();
        let thread = thread::Builder::new().name("signals".into()).spawn(move || {
            let mut first = true;
            for signal in self.0.forever() {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                if first {
                    tracing::info!("{name}: making everything durable, then unmounting");
                    leave(&unmounter, &filesystem);
                    first = false;
                } else {
                    tracing::warn!("{name}: disconnecting the programs that use the mount");
                    cut_off(&unmounter, &filesystem);
                }
            }
        });
        let thread = thread.inspect_err(|e| tracing::warn!("signals will not unmount: {e}")).ok();
        Handling { handle, thread }
    }
}

impl Handling {
    /// Stops acting on signals. They stay caught, so that a late one does not interrupt the closing.
    pub(super) fn finish(self) {
        self.handle.close();
        if self.thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the thread that acts on signals had panicked");
        }
    }
}

/// Whether a signal was ignored when this program was started.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

fn leave(unmounter: &Unmounter, filesystem: &Arc<Fs>) {
    make_durable(filesystem);
    let left = unmounter.unmount();
    if unmounter.has_ended() {
        return;
    }
    // What was written between.
    let durable = if make_durable(filesystem) { "everything written so far is durable, " } else { "" };
    match left {
        UnmountOutcome::Complete => tracing::warn!(
            "the mount is still used by a program; {durable}the store is closed when the last one has left \
             it, and a second signal disconnects the programs"
        ),
        UnmountOutcome::Covered(places) => tracing::warn!(
            "the mount cannot be unmounted at {}, where something else is mounted over it; {durable}unmount \
             that first, or send a second signal, which ends the mount all the same",
            places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
        ),
    }
}

fn make_durable(filesystem: &Arc<Fs>) -> bool {
    if out(Protection::DurableBeforeLeave) {
        return false;
    }
    filesystem.sync().inspect_err(|error| tracing::error!("{error}")).is_ok()
}

/// Aborts the connection through /sys/fs/fuse/connections. If the kernel does not offer that (no fusectl in a
/// container), it ends this process, and the kernel then aborts the connection; everything was made durable before.
fn cut_off(unmounter: &Unmounter, filesystem: &Arc<Fs>) {
    let Err(why) = abort(unmounter) else {
        return;
    };
    tracing::warn!("{why}; ending without closing the store");
    make_durable(filesystem);
    std::process::exit(1);
}

fn abort(unmounter: &Unmounter) -> std::result::Result<(), String> {
    let Some(entry) = unmounter.entry() else {
        return Err("the kernel's number of this mount is not known".into());
    };
    let path = format!("/sys/fs/fuse/connections/{}/abort", entry.minor);
    fs::write(&path, "1").map_err(|e| format!("writing {path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rust's own start has SIGPIPE ignored.
    #[test]
    fn what_is_ignored_is_seen() {
        assert!(is_ignored(signal_hook::consts::SIGPIPE));
        assert!(!is_ignored(SIGTERM));
    }
}
