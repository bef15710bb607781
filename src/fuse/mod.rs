//! The protocol adapter: what the kernel asks over `/dev/fuse` or io_uring, turned into calls of [`crate::fs`].
//!
//! The only module that names the crate `fuser`. It keeps no state about files: each request is converted, one
//! method of [`Fs`] is called, its result is converted back. The tree under `/.cairnfs` is the exception: it is made
//! here ([`control_dir`]), because no store holds it.
//!
//! What the rest relies on:
//! - Every reference the kernel is told of (an entry reply, a readdirplus row with attributes) is one that `Fs` has
//!   counted; a FORGET gives it back. Nothing else tells `Fs` that a file is open, since OPEN is not asked for.
//! - The daemon is the only writer, so the kernel may keep names (also missing ones), attributes, directory contents
//!   and pages for as long as it likes. Whoever changes the tree from inside the daemon (retention) must say so
//!   through [`Notifier`].

mod adapter;
mod answer;
mod asker;
mod control_dir;
mod convert;
mod errand;
mod init;
mod ioctl;
mod mount;
mod mount_table;
mod operations;
mod options;
mod protect;
mod replies;
mod requests;
mod ring;
mod session;
mod users;
mod xattr;

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::fs::Fs;

pub use control_dir::ControlFiles;
pub use errand::{Errand, Found, Heard, ask};
pub use mount::{Detach, can_mount, detach, nobody_answers, remount};
pub use mount_table::{Entry, MountTable};
pub use options::{IoUring, MountOptions, Remount};
pub use session::{Left, Notifier, Session, Unmounter};
pub use users::{User, holders, is_held};

/// Mounts `fs` at `mountpoint` and agrees with the kernel on the protocol. Requests wait until [`Session::run`].
pub fn mount(
    fs: Arc<Fs>,
    control: Arc<dyn ControlFiles>,
    mountpoint: &Path,
    opts: &MountOptions,
) -> Result<Session> {
    session::start(adapter::Adapter::new(fs, control, opts), mountpoint, opts)
}
