//! The record that each cycle leaves behind, and the stages it passes through.
//!
//! Records are for people and for tests; the collector makes no decision from them. The database keeps the last one.

use serde::{Deserialize, Serialize};

use crate::meta::Table;
use crate::store::Store;

/// The key of the last record in the table `state`.
const CYCLE_KEY: &[u8] = b"cycle";

/// Where a running cycle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// No cycle runs.
    Idle,
    /// The queue of deleted files is being worked off before the flip.
    Drain,
    /// The generation is being raised.
    Flip,
    /// References are being marked.
    Mark,
    /// Unmarked chunks are being condemned and their rows removed.
    Sweep,
    /// Space is being given back.
    Reclaim,
}

/// What one cycle did. Times are in milliseconds and serve display only (I10).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CycleRecord {
    /// The generation the cycle's flip began.
    pub generation: u64,
    /// Ids below this were looked at.
    pub watermark: u64,
    /// Inodes whose extents were marked.
    pub roots: u64,
    /// Extent rows read.
    pub extents: u64,
    /// Chunks found in use.
    pub marked: u64,
    /// Chunks condemned.
    pub condemned: u64,
    /// Plain bytes of the condemned chunks.
    pub condemned_bytes: u64,
    /// Packs unlinked.
    pub packs_removed: u64,
    /// Packs rewritten without their dead regions.
    pub packs_compacted: u64,
    /// Packs in which dead regions were punched out.
    pub packs_punched: u64,
    /// Bytes given back to the host file system.
    pub freed_bytes: u64,
    /// Bytes of packs that were rewritten for it: the live parts of mostly dead packs and regions.
    #[serde(default)]
    pub moved_bytes: u64,
    /// The longest time that a writer waited for the flip, in microseconds.
    pub longest_hold_us: u64,
    /// When the cycle began, seconds since 1970.
    pub started: i64,
    /// When it ended, seconds since 1970; 0 in a record of an earlier program.
    #[serde(default)]
    pub ended: i64,
    /// Time spent working off deleted files, milliseconds.
    pub drain_ms: u64,
    /// Time of the flip, milliseconds.
    pub flip_ms: u64,
    /// Time of the mark, milliseconds.
    pub mark_ms: u64,
    /// Time of the sweep, milliseconds.
    pub sweep_ms: u64,
    /// Time of the reclaim, milliseconds.
    pub reclaim_ms: u64,
    /// True if nothing was to be changed (`--dry-run`).
    pub dry_run: bool,
    /// Why the cycle ended early, if it did.
    pub ended_early: Option<String>,
}

impl CycleRecord {
    /// The record of the last cycle of a store. None if there was none or it cannot be read: it is for display only.
    pub fn last_of(store: &Store) -> Option<Self> {
        let row = store.layers().get(Table::State, CYCLE_KEY).ok().flatten()?;
        serde_json::from_slice(&row).ok()
    }

    /// Puts the record into the open batch; the next commit makes it durable. A store that refuses changes keeps the
    /// earlier record.
    pub(super) fn keep(&self, store: &Store) {
        if let (Ok(row), Ok(member)) = (serde_json::to_vec(self), store.batches.join()) {
            member.rows.put(Table::State, CYCLE_KEY, &row);
        }
    }
}
