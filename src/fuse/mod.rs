//! The protocol adapter: what the kernel asks over `/dev/fuse` or io_uring, turned into calls of [`crate::fs`].
//!
//! Only this module names the crate `fuser`. It keeps no state about files: it converts each request, calls one method
//! of [`Fs`], and converts the result back. The tree under `/.cairnfs` is the exception: it is made here
//! ([`control_dir`]), because it is not in the store.
//!
//! What the rest relies on:
//! - `Fs` counts every reference that the kernel gets (an entry reply, a readdirplus row with attributes); a FORGET
//!   returns it. Nothing else tells `Fs` that a file is open, since the kernel sends no OPEN.
//! - The daemon is the only writer, so the kernel may cache names (also missing ones), attributes, directory contents
//!   and pages as long as it wants. Code inside the daemon that changes the tree (retention) must notify the kernel
//!   through [`Notifier`].

mod adapter;
mod answer;
mod child_task;
mod control_dir;
mod convert;
mod init;
mod ioctl;
mod mount;
mod mount_table;
mod operations;
mod options;
mod protect;
mod replies;
mod requester;
mod requests;
mod ring;
mod session;
mod users;
mod xattr;

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::fs::Fs;

pub use child_task::{ChildTask, MountAnswer, PathInfo, ask};
pub use control_dir::ControlFiles;
pub use mount::{UnmountMode, can_mount, detach, nobody_answers, remount};
pub use mount_table::{Entry, MountTable};
pub use options::{IoUring, MountOptions, Remount};
pub use protect::write_out_all;
pub use session::{Notifier, Session, UnmountOutcome, Unmounter};
pub use users::{User, is_alive, list_users};
pub use xattr::{CLONE as CLONE_ATTRIBUTE, DROP as DROP_ATTRIBUTE};

/// Mounts `fs` at `mountpoint` and negotiates the protocol with the kernel. Requests wait until [`Session::run`].
pub fn mount(
    fs: Arc<Fs>,
    control: Arc<dyn ControlFiles>,
    mountpoint: &Path,
    opts: &MountOptions,
) -> Result<Session> {
    session::start(adapter::Adapter::new(fs, control, opts), mountpoint, opts)
}
