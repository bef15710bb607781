//! What administrators call groups and snapshots, above the files and the rows: lists of them, and the settings that
//! count for them.
//!
//! Keeps true: nothing here walks through a snapshot; what is shown stands in the rows of subvolumes.

mod list;
mod settings;
mod task;

pub use list::{Group, Listing, Snapshot, list};
pub use settings::{OwnedSetting, settings};
pub use task::{Answer, Place, Task, perform};
