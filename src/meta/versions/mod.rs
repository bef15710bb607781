//! Versions: which row of a key a subvolume sees.
//!
//! A subvolume reads and writes at its *leaf*, a version without children. A clone makes two versions below that leaf,
//! one for each side, so both see what was there and neither sees what the other changes from then on. A row stands at
//! the version that wrote it; what a leaf sees of a key is the row at the first version on its way up that has one. A
//! *whiteout* is a row that says that there is none. The ideas are those of bcachefs.
//!
//! Keeps true:
//! * rows come into being at leaves of live subvolumes only, so what a version without children above it sees never
//!   changes by what others do;
//! * a row that a leaf sees is removed by that leaf's own delete alone: [`reap`] removes what no leaf sees, and decides
//!   that from one state of all rows and of the tree;
//! * for each row there is one of the table `owned`, so that what a version has is found without a walk over all keys;
//! * a version that is not in the tree is damage and never a reason to remove anything.
//!
//! The content of a file is named by its inode's row: the version at which it was written for the first time. Extents
//! have that name in their keys and are not versioned otherwise: a leaf that writes to a content that is not its own
//! copies the extents first.

pub mod reap;
mod see;
pub mod subvolumes;
mod tree;
pub mod usage;

pub use see::{Rows, delete, get, put, read_tree, scan, seek};
pub use subvolumes::{Subvolume, Subvolumes};
pub use tree::{FIRST_VERSION, Version, VersionTree};
