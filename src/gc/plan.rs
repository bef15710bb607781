//! Decides what to do with each pack, from numbers alone.

use std::collections::HashSet;

use crate::chunk::ChunkId;
use crate::pack::{PackId, PackInfo};

use super::sweep::Usage;

/// A pack of which less than this part is live is rewritten: its few regions move and the pack goes.
const COMPACT_BELOW: f64 = 0.25;
/// The same where nothing can be punched out: there it is the only way, and it writes no more than it frees.
const REWRITE_BELOW: f64 = 0.5;
/// Dead bytes from which on punching a pack is worthwhile.
const PUNCH_FROM: u64 = 256 << 10;

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Nothing in them is live.
    pub remove: Vec<PackInfo>,
    /// Their live regions move.
    pub compact: Vec<PackInfo>,
    /// Dead regions are punched out of them.
    pub punch: Vec<PackInfo>,
    /// Regions that move although their packs stay, by their first chunks.
    pub sparse: HashSet<ChunkId>,
}

impl Plan {
    /// Decides for the sealed packs among `packs`, those with ids below `below`. Where nothing can be punched out, a pack
    /// is rewritten or left: a region that moved out of one that stays would free nothing.
    pub fn decide(packs: &[PackInfo], usage: &Usage, below: PackId, can_punch: bool) -> Self {
        let mut plan = Self::default();
        if can_punch {
            plan.sparse.extend(&usage.sparse);
        }
        for &pack in packs.iter().filter(|pack| pack.id < below) {
            let used = usage.packs.get(&pack.id);
            let live = used.map_or(0, |used| used.record_bytes);
            // Sparse regions have moved by the time holes are punched.
            let moves = used.filter(|_| can_punch).map_or(0, |used| used.sparse_bytes);
            let (stays, least) = (live - moves, if can_punch { COMPACT_BELOW } else { REWRITE_BELOW });
            if live == 0 {
                plan.remove.push(pack);
            } else if (stays as f64) < pack.len as f64 * least {
                plan.compact.push(pack);
            } else if can_punch && pack.taken > stays + PUNCH_FROM {
                plan.punch.push(pack);
            }
        }
        plan
    }

    /// The packs all of whose regions move.
    pub fn moving(&self) -> HashSet<PackId> {
        self.compact.iter().map(|pack| pack.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gc::sweep::PackUse;

    #[test]
    fn each_pack_gets_what_its_live_bytes_say() {
        let pack = |id, taken| PackInfo { id: PackId(id), len: 64 << 20, taken };
        let packs = [
            pack(1, 64 << 20),
            pack(2, 64 << 20),
            pack(3, 64 << 20),
            pack(4, 31 << 20),
            pack(5, 64 << 20),
            pack(7, 64 << 20),
            pack(8, 64 << 20),
            pack(9, 64 << 20),
        ];
        let mut usage = Usage::default();
        let whole = 64 << 20;
        for (id, record_bytes, sparse_bytes) in [
            (2, 4 << 20, 0),
            (3, 30 << 20, 0),
            (4, 31 << 20, 0),
            (5, whole, 0),
            (7, whole, 1 << 20),
            (8, whole, 60 << 20),
        ] {
            let (from, to) = (ChunkId(id * 100), ChunkId(id * 100 + 50));
            usage.packs.insert(PackId(id), PackUse { record_bytes, sparse_bytes, from, to });
        }
        usage.sparse = vec![ChunkId(700), ChunkId(800)];
        let ids = |packs: &[PackInfo]| packs.iter().map(|pack| pack.id.0).collect::<Vec<_>>();
        let plan = Plan::decide(&packs, &usage, PackId(9), true);
        assert_eq!(ids(&plan.remove), [1], "9 is still written to");
        assert_eq!(ids(&plan.compact), [2, 8], "little is left in 8 once its sparse regions have moved");
        assert_eq!(ids(&plan.punch), [3, 7], "4 was punched before, sparse regions of 7 move");
        assert_eq!(plan.sparse.len(), 2);

        let plan = Plan::decide(&packs, &usage, PackId(9), false);
        assert_eq!((ids(&plan.remove), ids(&plan.punch)), (vec![1], vec![]));
        assert_eq!(
            ids(&plan.compact),
            [2, 3, 4],
            "less than half of them is live; what is sparse in 7 and 8 stays"
        );
        assert!(plan.sparse.is_empty(), "to move it would free nothing");
    }
}
