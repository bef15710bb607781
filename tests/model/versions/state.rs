//! One moment: layers, members, the kernel, the barrier, and what every subvolume has to be.

use super::rows::*;

/// What a member does when it acts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    Nobody,
    /// Writes a second stretch; a content that is not the leaf's own is copied whole before that.
    Write,
    /// Copies the first stretch of a content that is not the leaf's own.
    First,
    /// Goes on with such a copy and writes.
    Rest,
    /// Changes the row and not the content.
    Touch,
    Delete,
    /// Lets the file be a clone of that of another subvolume.
    Copy,
    Drop,
}

/// A member of a batch: it has its locks and its leaf, acts once, and leaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Member {
    pub kind: Kind,
    /// Of the sealed batch.
    pub old: bool,
    pub n: u8,
    pub k: u8,
    /// A digest, or the subvolume that a copy is from.
    pub what: u8,
    pub leaf: u8,
}

impl Member {
    pub const NOBODY: Member = Member { kind: Kind::Nobody, old: false, n: 0, k: 0, what: 0, leaf: 0 };
}

/// How far a clone is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    None,
    /// Between the swap and the commit of the old batch; holds the lock of subvolumes.
    Cut,
    /// Waits for its name.
    Nameless,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cloning {
    pub stage: Stage,
    pub from: u8,
    pub to: u8,
    /// The leaf of the source before the swap.
    pub leaf: u8,
}

impl Cloning {
    pub const NONE: Cloning = Cloning { stage: Stage::None, from: 0, to: 0, leaf: 0 };
}

/// What is known of a dropped subvolume in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Since {
    /// It is not dropped, as far as is known.
    Live,
    /// Somebody may use it.
    Used,
    /// Nobody has since the batch that is open, that is sealed, that is durable.
    Open,
    Sealed,
    Durable,
}

/// The stages of a cycle.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stop {
    Idle,
    Flipped,
    Marked,
    Condemned,
    Swept,
    Ending,
}

/// The cycle with its barrier: chunks below the watermark have a cell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cycle {
    pub stop: Stop,
    pub watermark: u8,
    pub marked: u8,
    pub condemned: u8,
}

impl Cycle {
    pub const IDLE: Cycle = Cycle { stop: Stop::Idle, watermark: 0, marked: 0, condemned: 0 };
}

/// What each subvolume has to be: a map of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Maps {
    alive: u8,
    /// The digests of the two stretches, in four bits each; 0: no such file.
    files: [[u8; KEYS]; SUBS],
}

impl Maps {
    pub const NONE: Maps = Maps { alive: 0, files: [[0; KEYS]; SUBS] };

    pub fn is_alive(&self, n: u8) -> bool {
        self.alive >> n & 1 == 1
    }

    pub fn file(&self, n: u8, k: usize) -> u8 {
        self.files[n as usize][k]
    }

    pub fn begin(&mut self, n: u8) {
        self.alive |= 1 << n;
    }

    pub fn end(&mut self, n: u8) {
        self.alive &= !(1 << n);
        self.files[n as usize] = [0; KEYS];
    }

    pub fn set(&mut self, n: u8, k: usize, digests: u8) {
        self.files[n as usize][k] = digests;
    }

    pub fn copy(&mut self, from: u8, to: u8) {
        self.files[to as usize] = self.files[from as usize];
    }
}

/// The numbers that are given next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Numbers {
    pub version: u8,
    pub sub: u8,
    pub chunk: u8,
}

/// What may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Left {
    pub writes: u8,
    pub touches: u8,
    pub deletes: u8,
    /// Stretches copied in steps.
    pub stretches: u8,
    pub copies: u8,
    pub clones: u8,
    /// Names taken while a clone was made.
    pub taken: u8,
    pub drops: u8,
    pub opens: u8,
    pub seals: u8,
    pub audits: u8,
    /// Versions taken out of the middle of the tree.
    pub contractions: u8,
    pub cycles: u8,
    pub rots: u8,
    pub crashes: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// What everybody sees as committed.
    pub db: Rows,
    /// What a power cut leaves.
    pub disk: Rows,
    pub sealed: Rows,
    pub is_sealed: bool,
    pub open: Rows,
    pub members: [Member; 2],
    /// Subvolumes of which the kernel remembers an inode.
    pub kernel: u8,
    pub since: [Since; SUBS],
    pub cloning: Cloning,
    /// Subvolume, key and leaf of a copy by stretches.
    pub copying: Option<(u8, u8, u8)>,
    pub cycle: Cycle,
    /// In memory, and as the disk has them.
    pub next: Numbers,
    pub noted: Numbers,
    /// What an audit saw in a snapshot and has not removed yet; for a mutant.
    pub candidates: Set,
    /// By the database, with the sealed batch, with the open one.
    pub of_db: Maps,
    pub of_sealed: Maps,
    pub of_open: Maps,
    pub left: Left,
    /// A chunk of an extent that somebody sees was condemned.
    pub refused: bool,
}

impl State {
    /// All that is there for a member of the sealed batch.
    pub fn below(&self) -> Rows {
        let mut rows = self.db;
        rows.apply(&self.sealed);
        rows
    }

    /// All that is there.
    pub fn now(&self) -> Rows {
        let mut rows = self.below();
        rows.apply(&self.open);
        rows
    }

    pub fn remembers(&self, n: u8) -> bool {
        self.kernel >> n & 1 == 1
    }

    pub fn busy(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.kind != Kind::Nobody)
    }

    /// Somebody has an inode of this subvolume locked.
    pub fn is_busy(&self, n: u8) -> bool {
        self.busy().any(|member| member.n == n || member.kind == Kind::Copy && member.what == n)
    }

    /// The inode is locked.
    pub fn is_locked(&self, n: u8, k: usize) -> bool {
        let locks = |member: &&Member| member.kind != Kind::Drop && member.k as usize == k;
        self.busy().filter(locks).any(|m| m.n == n || m.kind == Kind::Copy && m.what == n)
    }

    pub fn is_draining(&self) -> bool {
        self.busy().any(|member| member.old)
    }

    pub fn join(&mut self, member: Member) {
        let free = self.members.iter_mut().find(|member| member.kind == Kind::Nobody);
        *free.expect("there is room, or the step would not be offered") = member;
        self.members.sort_unstable();
    }

    /// Lets the open batch be the sealed one.
    pub fn swap(&mut self) {
        assert!(!self.is_sealed, "one commit at a time");
        (self.sealed, self.open, self.is_sealed) = (self.open, Rows::layer(), true);
        self.of_sealed = self.of_open;
        self.members.iter_mut().filter(|member| member.kind != Kind::Nobody).for_each(|m| m.old = true);
        self.members.sort_unstable();
        for since in self.since.iter_mut().filter(|since| **since == Since::Open) {
            *since = Since::Sealed;
        }
    }

    /// The sealed batch is committed.
    pub fn commit(&mut self) {
        self.db.apply(&self.sealed);
        self.disk = self.db;
        (self.sealed, self.is_sealed) = (Rows::layer(), false);
        (self.of_db, self.of_sealed) = (self.of_sealed, Maps::NONE);
        for since in self.since.iter_mut().filter(|since| **since == Since::Sealed) {
            *since = Since::Durable;
        }
        if self.cloning.stage == Stage::Cut {
            self.cloning.stage = Stage::Nameless;
        }
    }
}
