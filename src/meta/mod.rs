//! The metadata of a store: typed rows in an embedded key-value database, with the newest changes in memory before it.
//!
//! Keeps true: a reader always sees one moment of everything (see [`layers`]). A batch enters the database whole or not
//! at all. A row that does not decode is an error and never counts as missing.

pub mod backup;
pub mod kv;
pub mod layers;
pub mod log;
pub mod memtable;
pub mod pages;
pub mod rows;
pub mod run;
mod txn;
pub(crate) mod varint;
pub mod versions;
mod view;

pub use kv::{Kv, ReadView, Table, WriteTxn};
pub use layers::{Layers, Meta, Sums};
pub use memtable::{Counter, Memtable};
pub use run::Run;
pub use txn::Txn;
pub use view::View;
