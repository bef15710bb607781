//! cairnfs: a FUSE filesystem whose files are piles of shared chunks.
//!
//! A backup is a copy into the mount, and a prune is a delete. The collector in the background frees space and never
//! frees a chunk that something still needs. `docs/architecture.md` has the picture of the modules; imports go down
//! only.

pub mod check;
pub mod chunk;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod error;
pub mod fs;
pub mod fuse;
pub mod gc;
pub mod media;
pub mod meta;
pub mod pack;
pub mod retry;
pub mod sabotage;
pub mod snapshots;
pub mod store;
pub mod sync;

pub use error::{Error, Result};
