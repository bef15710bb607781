//! What to do about each pack: decided first, from numbers alone, done afterwards.

use std::collections::HashSet;

use crate::pack::PackId;

use super::sweep::Usage;

/// A pack of which less than this part is live is rewritten: its few regions move and the file goes.
const COMPACT_BELOW: f64 = 0.25;
/// Dead bytes for which punching a pack is worth the while.
const PUNCH_FROM: u64 = 256 << 10;

/// A pack as the host's file system has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackFile {
    pub id: PackId,
    /// Length in bytes.
    pub len: u64,
    /// Bytes it takes on the disk.
    pub allocated: u64,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Nothing in them is live.
    pub remove: Vec<PackFile>,
    /// Their live regions move.
    pub compact: Vec<PackFile>,
    /// Dead regions are punched out of them.
    pub punch: Vec<PackFile>,
}

impl Plan {
    /// Decides for the sealed packs among `files`, those with ids below `below`.
    pub fn decide(files: &[PackFile], usage: &Usage, below: PackId) -> Self {
        let mut plan = Self::default();
        for &file in files.iter().filter(|file| file.id < below) {
            let pack = usage.packs.get(&file.id);
            let live = pack.map_or(0, |pack| pack.record_bytes);
            // What is sparse has moved by the time holes are punched.
            let stays = live - pack.map_or(0, |pack| pack.sparse_bytes);
            if live == 0 {
                plan.remove.push(file);
            } else if (stays as f64) < file.len as f64 * COMPACT_BELOW {
                plan.compact.push(file);
            } else if file.allocated > stays + PUNCH_FROM {
                plan.punch.push(file);
            }
        }
        plan
    }

    /// The packs all of whose regions move.
    pub fn moving(&self) -> HashSet<PackId> {
        self.compact.iter().map(|file| file.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::ChunkId;
    use crate::gc::sweep::PackUse;

    #[test]
    fn each_pack_gets_what_its_live_bytes_say() {
        let file = |id, allocated| PackFile { id: PackId(id), len: 64 << 20, allocated };
        let files = [
            file(1, 64 << 20),
            file(2, 64 << 20),
            file(3, 64 << 20),
            file(4, 31 << 20),
            file(5, 64 << 20),
            file(7, 64 << 20),
            file(8, 64 << 20),
            file(9, 64 << 20),
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
        let plan = Plan::decide(&files, &usage, PackId(9));
        let ids = |files: &[PackFile]| files.iter().map(|file| file.id.0).collect::<Vec<_>>();
        assert_eq!(ids(&plan.remove), [1], "9 is still written to");
        assert_eq!(ids(&plan.compact), [2, 8], "little is left in 8 once its sparse regions have moved");
        assert_eq!(ids(&plan.punch), [3, 7], "4 was punched before, sparse regions of 7 move");
    }
}
