//! The control socket: how a command speaks with the process that has a store open.
//!
//! The protocol is one JSON object a line, over `STORE/control.sock`, or over an abstract socket for clients that found
//! the daemon through the mount. The client sends a request. The server sends any number of progress lines and then
//! exactly one final reply. An error keeps its kind on the way, so that a command ends with the same sentence and the
//! same exit code whether it opened the store itself or asked the daemon.
//!
//! Nothing here decides who may have a store open: the lock does. The socket only leads to the holder of the lock, so
//! the holder may replace a stale socket file.

mod client;
mod problems;
mod process;
mod protocol;
mod server;
mod socket;

pub use client::{Client, is_unresponsive};
pub use problems::{Problem, ProblemKind};
pub use protocol::{
    CheckRequest, DroppedSubvolume, HeldBack, Holder, Presence, Progress, Reply, Request, StatusReport,
    WireError,
};
pub use server::{Closing, ControlHandler, Server};
pub use socket::closed_in_order;
