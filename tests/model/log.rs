//! The log of commits: entries, the fold into the database, and what an opening makes of both.
//!
//! Keeps true: one at a time appends or folds, and meanwhile neither sweep nor reaper changes what is committed; a fold
//! is packs, then database, then log. The database on the disk changes by folds alone.

use crate::collector::no_members;
use crate::protocol::{Act, Mutant, Store};
use crate::state::*;

/// Entries for which the log has room; a commit that finds none is folded.
pub const SLOTS: usize = 2;

/// What one commit changes: final rows, and the bytes of chunks that no sync of a pack has covered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub rows: Rows,
    /// Chunks whose rows go.
    pub gone: u8,
    pub carried: u8,
}

impl Entry {
    const NOTHING: Entry = Entry { rows: Rows::layer(), gone: 0, carried: 0 };

    /// What leads from `old` to `new`.
    fn between(old: &Rows, new: &Rows, carried: u8) -> Self {
        let mut rows = Rows::layer();
        let set = |row: &mut u8, old: u8, new: u8| {
            if old != new {
                *row = new;
            }
        };
        for f in 0..FILES {
            set(&mut rows.ext[f], old.ext[f], new.ext[f]);
            set(&mut rows.link[f], old.link[f], new.link[f]);
        }
        for d in 0..DIGESTS {
            set(&mut rows.dig[d], old.dig[d], new.dig[d]);
        }
        rows.chunks = new.chunks & !old.chunks;
        Entry { rows, gone: old.chunks & !new.chunks, carried }
    }

    fn replay(&self, onto: &mut Rows) {
        onto.apply(&self.rows);
        onto.chunks &= !self.gone;
    }
}

/// Stages of a fold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fold {
    Idle,
    /// The packs are synced.
    Synced,
    /// The database is durable, and says that it has every entry.
    Durable,
    /// Only if the log is cut first: it is, and the database is not durable.
    Cut,
}

/// The log, and the database beneath it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    /// The database on the disk.
    pub base: Rows,
    /// The file. What is left of the lap before, behind the entries of this one, is kept only for the mutant that
    /// reads it; to all others it is as good as empty.
    pub slots: [Entry; SLOTS],
    /// Entries since the log was begun anew.
    pub len: u8,
    /// The last entry is not synced: a crash may leave it or not.
    pub unsynced: bool,
    pub fold: Fold,
    /// The fold takes the sealed batch along.
    pub batch: bool,
}

impl Log {
    /// An empty log over this database.
    pub fn over(base: Rows) -> Self {
        Log { base, slots: [Entry::NOTHING; SLOTS], len: 0, unsynced: false, fold: Fold::Idle, batch: false }
    }

    fn entries(&self) -> &[Entry] {
        &self.slots[..self.len as usize]
    }

    /// Chunks whose bytes an opening would put back.
    pub fn carried(&self) -> u8 {
        if self.fold == Fold::Durable {
            return 0;
        }
        let synced = self.len as usize - usize::from(self.unsynced);
        self.slots[..synced].iter().fold(0, |all, entry| all | entry.carried)
    }

    /// Chunks that anything in here names.
    pub fn named(&self) -> u8 {
        let entries = self.slots.iter().fold(0, |all, entry| all | entry.rows.named() | entry.carried);
        self.base.named() | entries
    }

    /// The rows that stand in the database and the entries.
    fn rows(&self) -> Rows {
        let mut rows = self.base;
        self.entries().iter().for_each(|entry| entry.replay(&mut rows));
        rows
    }

    fn begin_anew(&mut self, m: &Store) {
        self.len = 0;
        if !m.lacks(Mutant::StaleEntryReplayed) {
            self.slots = [Entry::NOTHING; SLOTS];
        }
    }

    /// The rows of every layer in here.
    pub fn layers_mut(&mut self) -> impl Iterator<Item = &mut Rows> {
        std::iter::once(&mut self.base).chain(self.slots.iter_mut().map(|entry| &mut entry.rows))
    }

    pub fn write(&self, out: &mut Packer) {
        self.base.write(out);
        for entry in &self.slots {
            entry.rows.write(out);
            out.put(&[entry.gone, entry.carried]);
        }
        let flags = u8::from(self.unsynced) << 1 | u8::from(self.batch);
        out.put(&[self.len << 4 | (self.fold as u8) << 2 | flags]);
    }
}

/// True while a commit or a fold is under way, so that nobody else may change what is committed.
pub fn held(s: &State) -> bool {
    s.log.is_some_and(|log| matches!(s.commit, Commit::Synced | Commit::Logged) || log.fold != Fold::Idle)
}

/// The steps of commit and fold.
pub fn actions(m: &Store, s: &State, log: &Log, out: &mut Vec<Act>) {
    match log.fold {
        Fold::Idle => {}
        Fold::Synced if m.lacks(Mutant::CutBeforeDurable) => return out.push(Act::FoldCut),
        Fold::Synced | Fold::Cut => return out.push(Act::FoldDurable),
        Fold::Durable => return out.push(Act::FoldCut),
    }
    if log.unsynced {
        return out.push(Act::SyncLog);
    }
    let drained = !s.draining();
    if s.commit == Commit::Swapped && drained {
        let room = (log.len as usize) < SLOTS;
        if room && s.sealed.chunks & s.unsynced != 0 {
            out.push(Act::SyncBytes);
        }
        if room {
            out.push(Act::Append);
        }
        out.push(Act::FoldSync { batch: true });
    }
    if s.commit == Commit::Synced {
        out.push(Act::Append);
    }
    let asked = matches!(s.gc, Gc::Drained | Gc::Removed);
    if s.commit != Commit::Synced && (asked || log.len > 0 || s.db != log.base) {
        out.push(Act::FoldSync { batch: false });
    }
}

/// Takes a step of commit or fold.
pub fn step(m: &Store, s: &mut State, act: Act) {
    let mut log = s.log.expect("only offered with a log");
    let batch = log.batch;
    match act {
        Act::Append => {
            let carried = s.sealed.chunks & s.unsynced;
            let carried = if m.lacks(Mutant::NamesBeforeBytes) { 0 } else { carried };
            log.slots[log.len as usize] = Entry::between(&log.rows(), &committed(s, true), carried);
            log.len += 1;
            log.unsynced = true;
            s.commit = Commit::Logged;
            if m.lacks(Mutant::AnswerBeforeLogSynced) {
                publish(s, true);
            }
        }
        Act::SyncLog => {
            log.unsynced = false;
            if s.commit == Commit::Logged {
                publish(s, true);
            }
        }
        Act::FoldSync { batch } => {
            if !m.lacks(Mutant::FoldBeforePacks) {
                let carried = if m.lacks(Mutant::FoldWithoutCarried) { 0 } else { log.carried() };
                let done = s.unsynced & (carried | if batch { s.sealed.chunks } else { 0 });
                s.synced |= done;
                s.unsynced &= !done;
            }
            (log.fold, log.batch) = (Fold::Synced, batch);
        }
        Act::FoldDurable => {
            log.base = committed(s, batch);
            s.disk = log.base;
            if log.fold == Fold::Cut {
                (log.fold, log.batch) = (Fold::Idle, false);
                folded(s, batch);
            } else {
                log.fold = Fold::Durable;
            }
        }
        Act::FoldCut => {
            log.begin_anew(m);
            if log.fold == Fold::Synced {
                log.fold = Fold::Cut;
            } else {
                (log.fold, log.batch) = (Fold::Idle, false);
                folded(s, batch);
            }
        }
        other => unreachable!("{other:?} is no step of the log"),
    }
    s.log = Some(log);
}

/// What is committed, and with it the sealed batch or not.
fn committed(s: &State, batch: bool) -> Rows {
    if batch { s.old_view() } else { s.db }
}

/// Everybody sees what is durable now, and whoever waited for it is told.
fn publish(s: &mut State, batch: bool) {
    s.db = committed(s, batch);
    s.disk = s.db;
    if batch {
        s.commit = Commit::Idle;
        s.sealed = Rows::layer();
        if s.gc == Gc::FlipWait {
            s.gc = Gc::Drained;
        }
    }
    no_members(s);
}

/// The fold is over, and so may be what the collector waited for.
fn folded(s: &mut State, batch: bool) {
    publish(s, batch);
    match s.gc {
        Gc::Drained => s.gc = Gc::Folded,
        Gc::Removed => s.gc = Gc::RemovedDurably,
        _ => {}
    }
}

/// An opening after a crash: finds what is durable, the last entry also if it is `whole` although no sync covered it.
pub fn reopen(m: &Store, s: &mut State, whole: bool) {
    let Some(mut log) = s.log else { return };
    let promised = if whole && s.commit == Commit::Logged { committed(s, true) } else { s.disk };
    if log.unsynced && !whole {
        log.len -= 1;
        log.slots[log.len as usize] = Entry::NOTHING;
    }
    let carried = log.entries().iter().fold(0, |all, entry| all | entry.carried);
    let carried = if log.fold == Fold::Durable { 0 } else { carried };
    // A killed process leaves what only the host remembers: it is written once more, and synced.
    log.unsynced &= whole && m.lacks(Mutant::ShownBeforeSynced);
    let replayed = log.fold != Fold::Durable || m.lacks(Mutant::FoldedEntryReplayed);
    let mut rows = if replayed { log.rows() } else { log.base };
    if m.lacks(Mutant::StaleEntryReplayed) && log.len > 0 {
        log.slots[log.len as usize..].iter().for_each(|entry| entry.replay(&mut rows));
    }
    if rows != promised {
        s.wrong |= wrong::ACKNOWLEDGED_LOST;
    }
    if !m.lacks(Mutant::CarriedNotPutBack) {
        s.synced |= carried;
    }
    if log.fold == Fold::Durable {
        log.begin_anew(m);
    }
    (log.fold, log.batch) = (Fold::Idle, false);
    s.disk = rows;
    s.log = Some(log);
}
