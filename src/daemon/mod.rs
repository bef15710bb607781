//! The process that has a store open and mounted. It puts the parts together and takes them apart in the right order.

mod handler;
mod log;
mod maintenance;
mod pace;
mod run;
mod signals;

pub(crate) use handler::{run_check, run_cycle};
pub use log::{SharedLog, start_logging};
pub(crate) use run::collector;
pub use run::{Setup, serve};
