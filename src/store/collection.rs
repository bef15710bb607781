//! What the collector may do to a store beside rewriting rows and freeing packs: the flip, and the end of a cycle.
//!
//! The order in which these are called is `gc/`'s; what each of them keeps true by itself is said here.

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

/// What a flip led to.
pub struct FlipInfo {
    /// The generation that begins.
    pub generation: u64,
    /// The cells of the cycle; ids below their watermark are looked at.
    pub cells: Arc<Cells>,
    /// Packs below this are sealed, and all their regions have rows in the database.
    pub packs_below: PackId,
    /// How long writers were held.
    pub held: Duration,
}

/// The collector's side of a store.
pub struct Collection {
    /// Asked before a chunk is reused.
    pub barrier: Arc<Barrier>,
    /// The rows.
    pub meta: Arc<Meta>,
    /// Cut by the flip.
    pub batches: Arc<Batches>,
    /// Sealed by the flip.
    pub packs: Arc<Packs>,
    /// Forget what they remember.
    pub chunks: Arc<Chunks>,
    /// Drain the batch before the flip.
    pub commits: Arc<Commits>,
    /// The generation is one of them.
    pub numbers: Arc<Numbers>,
}

impl Collection {
    /// True while a cycle runs.
    pub fn is_running(&self) -> bool {
        self.barrier.is_armed()
    }

    /// Raises the generation, arms the barrier, and takes the read snapshot once every batch of the generation before
    /// is in the database: all references from before the flip (I5). Let go of it after the mark: while it is held, no
    /// page of the database that changes can be used again.
    pub fn flip(&self) -> Result<(FlipInfo, ReadView)> {
        if self.barrier.is_armed() {
            // An earlier cycle could not wait for its grace period; it has to before the next one begins.
            self.end_cycle()?;
        }
        self.packs.seal()?;
        let packs_below = self.packs.sealed_below();
        let early = self.view_before_drain()?;
        let mut armed = None;
        let held = self.commits.commit_with(|| {
            let generation = self.numbers.raise_generation();
            let cells = Arc::new(Cells::new(self.numbers.next_chunk().offset(beyond_watermark())));
            self.barrier.arm(cells.clone());
            armed = Some((generation, cells));
        })?;
        // I5: the batch of the generation before has drained and is in the database.
        let view = match early {
            Some(view) => view,
            None => self.meta.kv().read()?,
        };
        let (generation, cells) =
            armed.ok_or_else(|| Error::CycleEnded("the flip did not happen".to_owned()))?;
        Ok((FlipInfo { generation, cells, packs_below, held }, view))
    }

    /// A cycle has found all that was garbage when `bytes` were counted as deleted: they are a reason for another no
    /// more. It is recorded with the end of the cycle, and after a crash the reason still stands.
    pub fn forget_deleted(&self, bytes: u64) -> Result<()> {
        self.batches.join()?.rows.count(Counter::Deleted, -(bytes as i64));
        Ok(())
    }

    /// Ends a cycle (I9): forgets remembered answers, waits for members that may hold one, then disarms the barrier.
    /// If that fails, the barrier stays armed, which costs memory and nothing else.
    pub fn end_cycle(&self) -> Result<()> {
        self.forget_remembered();
        self.wait_for_grace()?;
        self.barrier.disarm();
        Ok(())
    }

    fn forget_remembered(&self) {
        if !out(Protection::ForgetRemembered) {
            self.chunks.forget_remembered();
        }
    }

    fn wait_for_grace(&self) -> Result<()> {
        if !out(Protection::Grace) {
            self.commits.commit_with(|| {})?;
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
