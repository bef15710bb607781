//! What SIGTERM, SIGINT and SIGHUP do to a mount.
//!
//! The first signal unmounts. Where programs still have files open, the mount point is detached at once (nobody new
//! gets in) and everything written so far is made durable; the process ends when the last file is closed. A second
//! signal cuts those programs off: the kernel ends the connection, their next request fails, and the store is closed.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Handle;

use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::fuse::{Detach, MountTable, Unmounter, detach};

/// Signals that are caught but not acted on yet.
pub(super) struct Signals(signal_hook::iterator::Signals);

/// The thread that acts on signals.
pub(super) struct Handling {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// From now on a signal does not end the process by itself.
    pub(super) fn catch() -> Result<Self> {
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
            .map(Self)
            .map_err(|e| Error::io("catching signals", e))
    }

    /// Unmounts `mountpoint` at the first signal, also at one that came before this call.
    pub(super) fn unmount_on_signal(
        mut self,
        mountpoint: &Path,
        unmounter: Unmounter,
        filesystem: Arc<Fs>,
    ) -> Handling {
        let handle = self.0.handle();
        let connection = Connection::of(mountpoint);
        let mountpoint = mountpoint.to_owned();
        let thread = thread::Builder::new().name("signals".into()).spawn(move || {
            let mut first = true;
            for signal in self.0.forever() {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                if first {
                    tracing::info!("{name}: unmounting {}", mountpoint.display());
                    leave(&mountpoint, &unmounter, &filesystem);
                    first = false;
                } else {
                    tracing::warn!("{name}: cutting off the programs that use the mount");
                    cut_off(&connection, &filesystem);
                }
            }
        });
        let thread = thread.inspect_err(|e| tracing::warn!("signals will not unmount: {e}")).ok();
        Handling { handle, thread }
    }
}

impl Handling {
    /// Stops acting on signals; they stay caught, so that one that comes late does not interrupt the closing.
    pub(super) fn finish(self) {
        self.handle.close();
        if self.thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the thread that acts on signals had panicked");
        }
    }
}

fn leave(mountpoint: &Path, unmounter: &Unmounter, filesystem: &Arc<Fs>) {
    let Err(e) = unmounter.unmount() else {
        return;
    };
    if !matches!(e, Error::Busy(_)) {
        tracing::warn!("{e}");
    }
    if let Err(e) = detach(mountpoint, Detach::Lazily) {
        tracing::error!("{e}");
        return;
    }
    match filesystem.sync() {
        Ok(()) => tracing::warn!(
            "{} is still used by a program; everything written so far is durable, the store is closed when the last \
             file is, and a second signal cuts the programs off",
            mountpoint.display()
        ),
        Err(e) => tracing::error!("{e}"),
    }
}

/// The kernel's side of a mount, as /sys/fs/fuse/connections names it.
struct Connection(Option<u32>);

impl Connection {
    /// Asks the table of mounts, not the mount: at this moment nobody answers there yet.
    fn of(mountpoint: &Path) -> Self {
        let table = MountTable::read();
        Self(table.ok().and_then(|t| t.at(mountpoint).map(|e| e.minor)))
    }

    fn abort(&self) -> std::result::Result<(), String> {
        let Some(minor) = self.0 else {
            return Err("the kernel's number of this mount is not known".into());
        };
        let path = format!("/sys/fs/fuse/connections/{minor}/abort");
        fs::write(&path, "1").map_err(|e| format!("writing {path}: {e}"))
    }
}

/// Ends the connection, or where the kernel does not offer that (no fusectl in a container), this process: the kernel
/// then ends the connection, and what was made durable here is all there was.
fn cut_off(connection: &Connection, filesystem: &Arc<Fs>) {
    let Err(why) = connection.abort() else {
        return;
    };
    tracing::warn!("{why}; ending without closing the store");
    if let Err(e) = filesystem.sync() {
        tracing::error!("{e}");
    }
    std::process::exit(1);
}
