//! The control socket: how a command speaks with the process that has a store open.
//!
//! One JSON object a line, over `STORE/control.sock` or over an abstract socket for those who come through the mount: a request goes in, any number of progress lines and then exactly
//! one final reply come back. An error keeps its kind on the way, so that a command ends with the same sentence and
//! the same exit code whether it opened the store itself or asked the daemon.
//!
//! Nothing here decides who may have a store: that is the lock's business. The socket is only a way to the holder of
//! the lock, which is why a stale socket file can be replaced without asking.

mod client;
mod problems;
mod process;
mod protocol;
mod server;
mod socket;

pub use client::{Client, is_silence};
pub use problems::{Problem, ProblemKind};
pub use protocol::{CheckRequest, Holder, Presence, Progress, Reply, Request, StatusReport, WireError};
pub use server::{Closing, ControlHandler, Server};
pub use socket::closed_in_order;
