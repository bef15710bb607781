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
            let live = usage.packs.get(&file.id).map_or(0, |pack| pack.record_bytes);
            if live == 0 {
                plan.remove.push(file);
            } else if (live as f64) < file.len as f64 * COMPACT_BELOW {
                plan.compact.push(file);
            } else if file.allocated > live + PUNCH_FROM {
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
            file(6, 64 << 20),
        ];
        let mut usage = Usage::default();
        for (id, live) in [(2, 4 << 20), (3, 30 << 20), (4, 31 << 20), (5, 64 << 20)] {
            let ids = ChunkId(id * 100)..ChunkId(id * 100 + 50);
            usage.packs.insert(PackId(id), PackUse { record_bytes: live, from: ids.start, to: ids.end });
        }
        let plan = Plan::decide(&files, &usage, PackId(6));
        let ids = |files: &[PackFile]| files.iter().map(|file| file.id.0).collect::<Vec<_>>();
        assert_eq!(ids(&plan.remove), [1], "6 is still written to");
        assert_eq!(ids(&plan.compact), [2]);
        assert_eq!(ids(&plan.punch), [3], "4 was punched before");
    }
}
