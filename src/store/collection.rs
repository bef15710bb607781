//! What the collector does to a store beside changing rows and freeing packs: the flip, and the end of a cycle.
//!
//! `gc/` decides the order of these calls; this file says what each of them keeps true.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::meta::{Counter, Meta, ReadView};
use crate::pack::PackId;
use crate::sabotage::{Protection, out};
use crate::sync::Arc;

use super::barrier::Barrier;
use super::barrier::cells::Cells;
use super::batches::{Batches, Numbers};
use super::chunks::Chunks;
use super::commit::Commits;
use super::packs::Packs;

/// The result of a flip.
pub struct FlipInfo {
    /// The generation that begins.
    pub generation: u64,
    /// The cells of the cycle; ids below their watermark are swept.
    pub cells: Arc<Cells>,
    /// Packs below this are sealed, and all their regions have rows in the database.
    pub packs_below: PackId,
    /// How long writers had to wait.
    pub held: Duration,
}

/// The collector's side of a store.
pub struct Collection {
    /// Asked before a chunk is reused.
    pub barrier: Arc<Barrier>,
    /// The rows.
    pub meta: Arc<Meta>,
    /// Swapped by the flip.
    pub batches: Arc<Batches>,
    /// Sealed by the flip.
    pub packs: Arc<Packs>,
    /// Have the cache of digests, which the end of a cycle clears.
    pub chunks: Arc<Chunks>,
    /// Commit the batch before the flip.
    pub commits: Arc<Commits>,
    /// Have the generation.
    pub numbers: Arc<Numbers>,
}

impl Collection {
    /// True while a cycle runs.
    pub fn is_running(&self) -> bool {
        self.barrier.is_armed()
    }

    /// Raises the generation, arms the barrier, and takes the read snapshot when every batch of the previous generation
    /// is in the database. The snapshot has all references from before the flip (I5). Drop it after the mark: while it
    /// is held, the database cannot reuse the pages that change.
    pub fn flip(&self) -> Result<(FlipInfo, ReadView)> {
        if self.barrier.is_armed() {
            // An earlier cycle could not finish its grace period; that has to happen before the next one begins.
            self.end_cycle()?;
        }
        self.packs.seal()?;
        let packs_below = self.packs.sealed_below();
        let early = self.view_before_drain()?;
        let mut armed = None;
        let held = self.commits.commit_with(|_| {
            let generation = self.numbers.raise_generation();
            let cells = Arc::new(Cells::new(self.numbers.next_chunk().offset(beyond_watermark())));
            self.barrier.arm(cells.clone());
            armed = Some((generation, cells));
        })?;
        // I5: the batch of the previous generation has drained and is in the database.
        let view = match early {
            Some(view) => view,
            None => {
                self.commits.fold()?;
                self.meta.kv().read()?
            }
        };
        let (generation, cells) =
            armed.ok_or_else(|| Error::CycleEnded("the flip did not happen".to_owned()))?;
        Ok((FlipInfo { generation, cells, packs_below, held }, view))
    }

    /// Subtracts `bytes` from the deleted bytes: a cycle has found all garbage of that time, so they are no reason for
    /// another cycle. This is recorded with the end of the cycle; after a crash the reason is still there.
    pub fn forget_deleted(&self, bytes: u64) -> Result<()> {
        self.batches.join()?.rows.count(Counter::Deleted, -(bytes as i64));
        Ok(())
    }

    /// Ends a cycle (I9): clears cached answers, waits for members that may hold one, then disarms the barrier. If that
    /// fails, the barrier stays armed, which only costs memory.
    pub fn end_cycle(&self) -> Result<()> {
        self.clear_digest_cache();
        self.wait_for_grace()?;
        self.barrier.disarm();
        Ok(())
    }

    fn clear_digest_cache(&self) {
        if !out(Protection::ClearDigestCache) {
            self.chunks.clear_digest_cache();
        }
    }

    fn wait_for_grace(&self) -> Result<()> {
        if !out(Protection::Grace) {
            self.commits.commit_with(|_| {})?;
        }
        Ok(())
    }

    /// None, unless the snapshot is to be one that lacks what is still in batches.
    fn view_before_drain(&self) -> Result<Option<ReadView>> {
        out(Protection::DrainBeforeSnapshot).then(|| self.meta.kv().read()).transpose()
    }
}

/// How many of the chunks that are about to be born are looked at like old ones.
fn beyond_watermark() -> u64 {
    if out(Protection::Watermark) { 4096 } else { 0 }
}
