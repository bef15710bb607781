//! The metadata of a store: typed rows in an embedded key-value database, with the newest changes in memory before it.
//!
//! What this module keeps true: a reader always sees one moment of the whole (see [`layers`]), a batch enters the
//! database whole or not at all, and a row that does not decode is an error, never "not there".

pub mod backup;
pub mod kv;
pub mod layers;
pub mod memtable;
pub mod pages;
pub mod rows;
pub(crate) mod varint;

pub use kv::{Kv, ReadView, Table, WriteTxn};
pub use layers::{Layers, Meta};
pub use memtable::{Counter, Memtable};
