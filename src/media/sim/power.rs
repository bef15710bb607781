//! What is left of a simulated disk after a power cut.
//!
//! The log is replayed up to the cut. Everything that a sync or a directory sync covered is kept in full. Each other
//! change is kept, lost or torn by a seeded choice, independently of all others. So a later write may be kept while an
//! earlier one is lost, as on a disk that reorders writes. Names are different: the changes of one directory reach the
//! disk in order, as in a journal, so the first ones of them are kept.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::blocks::Blocks;
use super::disk::{Disk, Node, parent};

/// A disk's unit of atomic writing.
pub const SECTOR: u64 = 512;

/// A logged change. Files go by their inode number: names change.
#[derive(Clone, Debug)]
pub enum Change {
    Create {
        path: String,
        ino: u64,
    },
    Mkdir {
        dir: String,
    },
    Remove {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        node: Node,
    },
    Link {
        to: String,
        node: Node,
    },
    SyncDir {
        dir: String,
    },
    Data {
        ino: u64,
        edit: Edit,
    },
    Sync {
        ino: u64,
    },
    SyncFailed {
        ino: u64,
    },
    /// An operation that failed and changed nothing; it keeps its number.
    Nothing,
}

/// A change of a file's bytes.
#[derive(Clone, Debug)]
pub enum Edit {
    Write { offset: u64, data: Arc<[u8]> },
    SetLen(u64),
    Allocate { offset: u64, len: u64 },
    Punch { offset: u64, len: u64 },
    Flip(u64),
}

impl Edit {
    pub fn apply(&self, blocks: &mut Blocks) {
        match self {
            Self::Write { offset, data } => blocks.write(data, *offset),
            Self::SetLen(len) => blocks.set_len(*len),
            Self::Allocate { offset, len } => blocks.allocate(*offset, *len),
            Self::Punch { offset, len } => blocks.punch(*offset, *len),
            Self::Flip(offset) => blocks.flip(*offset),
        }
    }
}

impl Change {
    /// The directories whose names this changes.
    fn dirs(&self) -> Vec<&str> {
        match self {
            Self::Create { path, .. } | Self::Remove { path } => vec![parent(path)],
            Self::Mkdir { dir } => vec![parent(dir)],
            Self::Link { to, .. } => vec![parent(to)],
            Self::Rename { from, to, .. } => vec![parent(from), parent(to)],
            _ => Vec::new(),
        }
    }

    /// Changes the names. If the object of the change is missing, because the change that made it was lost, nothing
    /// happens.
    pub fn apply_names(&self, disk: &mut Disk) {
        match self {
            Self::Create { path, ino } => {
                disk.names.insert(path.clone(), Node::File(*ino));
                disk.files.entry(*ino).or_default();
            }
            Self::Mkdir { dir } => {
                disk.names.insert(dir.clone(), Node::Dir);
            }
            Self::Remove { path } => {
                disk.names.remove(path);
            }
            Self::Rename { from, to, node } => {
                disk.names.remove(from);
                disk.names.insert(to.clone(), *node);
            }
            Self::Link { to, node } => {
                disk.names.insert(to.clone(), *node);
            }
            _ => {}
        }
    }
}

/// Numbers from a seed, by splitmix64: small, and the same in every version of everything.
#[derive(Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// Begins anew; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// So many bytes, which do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.draw().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n.max(1)
    }
}

/// What a cut does with unsynced changes. The two extremes are chosen more often than random choices would: most
/// mistakes show at one of them.
#[derive(Copy, Clone, Eq, PartialEq)]
enum CutMode {
    LoseAll,
    KeepAll,
    Choose,
}

struct Replay {
    /// What is safe.
    disk: Disk,
    /// Changes of names that no directory sync covered, in order.
    names: Vec<Change>,
    /// Changes of bytes that no sync covered, by inode, in order.
    edits: BTreeMap<u64, Vec<Edit>>,
    mode: CutMode,
    rng: Rng,
}

/// The disk after power was cut right before the change that would follow `log`.
pub fn cut(base: &Disk, log: &[Change], seed: u64) -> Disk {
    let mut rng = Rng(seed);
    let mode = match rng.below(5) {
        0 => CutMode::LoseAll,
        1 => CutMode::KeepAll,
        _ => CutMode::Choose,
    };
    let mut replay = Replay { disk: base.clone(), names: Vec::new(), edits: BTreeMap::new(), mode, rng };
    for change in log {
        replay.step(change);
    }
    replay.end()
}

impl Replay {
    fn step(&mut self, change: &Change) {
        match change {
            Change::Data { ino, edit } => self.edits.entry(*ino).or_default().push(edit.clone()),
            Change::Sync { ino } => {
                let edits = self.edits.remove(ino).unwrap_or_default();
                let blocks = self.disk.files.entry(*ino).or_default();
                edits.iter().for_each(|edit| edit.apply(blocks));
            }
            Change::SyncFailed { ino } => {
                // The kernel may have thrown the pages away: no later sync brings them back.
                if let Some(edits) = self.edits.get_mut(ino) {
                    edits.retain(|edit| matches!(edit, Edit::Flip(_)) || self.rng.below(2) == 0);
                }
            }
            Change::SyncDir { dir } => self.sync_dir(dir),
            Change::Nothing => {}
            Change::Create { .. }
            | Change::Mkdir { .. }
            | Change::Remove { .. }
            | Change::Rename { .. }
            | Change::Link { .. } => self.names.push(change.clone()),
        }
    }

    /// Makes the changes of a directory safe. For each rename from another directory, it also makes the earlier changes
    /// of that directory safe.
    fn sync_dir(&mut self, dir: &str) {
        let mut dirs = HashSet::from([dir.to_owned()]);
        let mut safe = Vec::new();
        let mut rest = Vec::new();
        for change in self.names.drain(..).rev() {
            if change.dirs().iter().any(|touched| dirs.contains(*touched)) {
                dirs.extend(change.dirs().into_iter().map(str::to_owned));
                safe.push(change);
            } else {
                rest.push(change);
            }
        }
        for change in safe.iter().rev() {
            change.apply_names(&mut self.disk);
        }
        rest.reverse();
        self.names = rest;
    }

    fn end(mut self) -> Disk {
        let mut ended: HashSet<String> = HashSet::new();
        for change in std::mem::take(&mut self.names) {
            let open = !change.dirs().iter().any(|dir| ended.contains(*dir));
            let kept = match self.mode {
                CutMode::LoseAll => false,
                CutMode::KeepAll => true,
                CutMode::Choose => open && self.rng.below(4) != 0,
            };
            if kept {
                change.apply_names(&mut self.disk);
            } else {
                ended.extend(change.dirs().into_iter().map(str::to_owned));
            }
        }
        for (ino, edits) in std::mem::take(&mut self.edits) {
            let mut blocks = self.disk.files.remove(&ino).unwrap_or_default();
            for edit in &edits {
                self.resolve_unsynced(edit, &mut blocks);
            }
            self.disk.files.insert(ino, blocks);
        }
        self.disk.drop_unreachable();
        self.disk
    }

    /// Decides what is left of one unsynced change of bytes.
    fn resolve_unsynced(&mut self, edit: &Edit, blocks: &mut Blocks) {
        match (edit, self.mode) {
            // A flipped bit does not depend on the power.
            (Edit::Flip(_), _) | (_, CutMode::KeepAll) => edit.apply(blocks),
            (_, CutMode::LoseAll) => {}
            (Edit::Write { offset, data }, CutMode::Choose) => {
                self.tear(*offset, data, blocks);
            }
            (_, CutMode::Choose) => {
                if self.rng.below(2) == 0 {
                    edit.apply(blocks);
                }
            }
        }
    }

    fn tear(&mut self, offset: u64, data: &[u8], blocks: &mut Blocks) {
        match self.rng.below(5) {
            0 => {}
            1 => blocks.write(data, offset),
            // A beginning of it.
            2 => {
                let len = self.rng.below(data.len() as u64 + 1) as usize;
                blocks.write(&data[..len], offset);
            }
            // The length was written, the bytes were not.
            3 => {
                let end = offset + data.len() as u64;
                if blocks.len() < end {
                    blocks.set_len(end);
                }
            }
            // Any of its sectors.
            _ => {
                let end = offset + data.len() as u64;
                let mut at = offset;
                while at < end {
                    let next = ((at / SECTOR + 1) * SECTOR).min(end);
                    if self.rng.below(2) == 0 {
                        let piece = (at - offset) as usize..(next - offset) as usize;
                        blocks.write(&data[piece], at);
                    }
                    at = next;
                }
            }
        }
    }
}
