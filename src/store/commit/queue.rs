//! The one queue through which rows change: an entry of the log, or what it is folded into.
//!
//! Keeps true:
//! * whoever holds the queue is the only one who changes what is committed, so final rows are computed from rows that
//!   nobody else changes meanwhile, and everybody who reads sees the changes of one commit at once;
//! * what is acknowledged stands in an entry that was synced, or in the database; its records are carried by that
//!   entry, or their packs were synced before (I1);
//! * the database is durable before the log is begun anew, and the packs are before the database (I1): see [`fold`];
//! * what is not durable yet and was seen by others goes into the next entry, before what is newer.
//!
//! [`fold`]: Queue::fold

use crate::error::{Error, Result};
use crate::meta::log::{Carried, Entry, FOLDED_KEY, FoldedRow, Log, Position};
use crate::meta::{Memtable, Meta, Run, Sums, Table, View, WriteTxn};
use crate::sabotage::{Protection, out};
use crate::sync::{Arc, Mutex, MutexGuard};

use super::super::packs::Packs;
use super::super::space::SpaceManager;
use super::figures::{Figures, LogStatus};

/// Bytes of changes above which they go into the database at once: they would be written twice, and an opening would
/// have to replay them.
const LARGE: u64 = 1 << 20;
/// Bytes of changes above the database from which on they are folded into it: what an opening has to read, and memory.
const FOLD_BYTES: u64 = 4 << 20;

/// The queue of one store.
pub(super) struct Queue {
    meta: Arc<Meta>,
    packs: Arc<Packs>,
    space: Arc<SpaceManager>,
    /// Held by the one who changes something.
    head: Mutex<Head>,
    figures: Figures,
}

/// What the next commit goes on from.
pub(super) struct Head {
    log: Log,
    /// The last entry, or what was folded instead of one.
    last: Position,
    /// The sums of what is committed.
    pub sums: Sums,
    /// Changes that everybody sees and that stand in no entry yet, in their order.
    pending: Vec<Arc<Run>>,
}

/// What one step changes.
pub(super) struct Changed<'a> {
    /// The batch that is committed, if one is.
    pub batch: Option<&'a Memtable>,
    /// Rows that stand above those of the batch.
    pub own: &'a Memtable,
    /// The store's sums afterwards.
    pub sums: Sums,
}

impl Changed<'_> {
    fn bytes(&self) -> u64 {
        self.batch.map_or(0, Memtable::bytes) + self.own.bytes()
    }

    fn run(&self) -> Arc<Run> {
        Arc::new(Run::of(self.batch, self.own))
    }
}

impl Queue {
    /// Goes on behind the `last` entry of `log`, with the sums of everything up to there.
    pub fn new(
        (log, last): (Log, Position),
        sums: Sums,
        (meta, packs, space): (Arc<Meta>, Arc<Packs>, Arc<SpaceManager>),
    ) -> Self {
        let figures = Figures::default();
        figures.note(log.room());
        Self { meta, packs, space, head: Mutex::new(Head { log, last, sums, pending: Vec::new() }), figures }
    }

    /// Waits until nobody else changes anything; and what is committed by then.
    pub fn lock(&self) -> (MutexGuard<'_, Head>, Arc<View>) {
        let head = self.head.lock();
        let view = self.meta.layers().view.clone();
        (head, view)
    }

    /// Makes changes durable and seen.
    pub fn enter(&self, head: &mut Head, view: &View, changed: &Changed<'_>) -> Result<()> {
        if changed.bytes() > LARGE {
            return self.fold_with(head, view, changed);
        }
        let run = changed.run();
        let above = view.with(run.clone());
        let rows = head.pending.iter().fold(None, |all: Option<Run>, next| {
            Some(all.map_or_else(|| next.as_ref().clone(), |all| Run::merge(next, &all)))
        });
        let rows = rows.map_or_else(|| run.as_ref().clone(), |before| Run::merge(&run, &before));
        if above.run_bytes() <= FOLD_BYTES && self.log(head, rows)? {
            head.pending.clear();
            head.sums = changed.sums;
            self.meta.publish(above, changed.sums, changed.batch.is_some());
            return Ok(());
        }
        self.fold_with(head, view, changed)
    }

    /// Lets changes be seen; they are durable with the next entry.
    pub fn enter_undurable(&self, head: &mut Head, view: &View, changed: &Changed<'_>) -> Result<()> {
        let run = changed.run();
        let above = view.with(run.clone());
        if above.run_bytes() > FOLD_BYTES {
            return self.fold_with(head, view, changed);
        }
        head.pending.push(run);
        head.sums = changed.sums;
        self.meta.publish(above, changed.sums, changed.batch.is_some());
        Ok(())
    }

    /// Appends an entry with these rows; false where there is no room for it.
    fn log(&self, head: &mut Head, rows: Run) -> Result<bool> {
        let carried = if names_come_first() { Vec::new() } else { self.carried()? };
        let Some(position) = head.log.append(&head.last, &Entry { rows, carried })? else { return Ok(false) };
        head.last = position;
        self.figures.note(head.log.room());
        Ok(true)
    }

    /// The records that no sync covers, if they are few; otherwise their packs are synced (I1).
    fn carried(&self) -> Result<Vec<Carried>> {
        match self.packs.take_few()? {
            Some(records) => Ok(records.into_iter().map(|(at, record)| Carried { at, record }).collect()),
            None => self.packs.sync().map(|()| Vec::new()),
        }
    }

    /// Brings everything that is committed into the database, and begins the log anew.
    pub fn fold(&self) -> Result<()> {
        let (mut head, view) = self.lock();
        self.fold_all(&mut head, &view)
    }

    fn fold_all(&self, head: &mut Head, view: &View) -> Result<()> {
        if view.runs().is_empty() {
            return Ok(());
        }
        let changed = Changed { batch: None, own: &Memtable::default(), sums: head.sums };
        self.fold_with(head, view, &changed)
    }

    /// The same, with changes that stand in no entry.
    fn fold_with(&self, head: &mut Head, view: &View, changed: &Changed<'_>) -> Result<()> {
        self.figures.timed(|| self.fold_now(head, view, changed))?;
        self.figures.note(head.log.room());
        Ok(())
    }

    /// The log in numbers; it takes so many bytes on the host.
    pub fn status(&self, bytes_on_disk: u64) -> LogStatus {
        let rows = self.meta.layers().view.run_bytes();
        self.figures.status(bytes_on_disk, FOLD_BYTES.saturating_sub(rows))
    }

    fn fold_now(&self, head: &mut Head, view: &View, changed: &Changed<'_>) -> Result<()> {
        self.space.prepare_fold(view.run_bytes() + changed.bytes());
        if !packs_stay_unsynced() {
            // Also what entries carry: those are about to go.
            self.packs.sync()?;
        }
        let mut txn = self.meta.kv().write()?;
        let runs = view.runs().iter().rev().fold(None, |all: Option<Run>, before| {
            Some(all.map_or_else(|| before.as_ref().clone(), |all| Run::merge(&all, before)))
        });
        for table in Table::ALL {
            if let Some(runs) = &runs {
                txn.apply(table, runs.changes(table))?;
            }
            for memtable in changed.batch.into_iter().chain([changed.own]) {
                apply(&mut txn, table, memtable)?;
            }
        }
        drop(runs);
        let last = head.last.next_folded();
        txn.put(Table::State, FOLDED_KEY, &FoldedRow { folded: last, key: head.log.key() }.encode())?;
        txn.commit(!is_cut_first())?;
        (head.last, head.sums) = (last, changed.sums);
        head.pending.clear();
        head.log.begin_anew();
        let base = Arc::new(self.meta.kv().read()?);
        self.meta.publish(View::new(base, Vec::new()), changed.sums, changed.batch.is_some());
        Ok(())
    }

    /// Brings everything that is committed into the database, and gives the log's room back. In one step: what is
    /// committed in between would go with the log.
    pub fn end(&self) -> Result<()> {
        let (mut head, view) = self.lock();
        self.fold_all(&mut head, &view)?;
        head.log.empty().map_err(|error| Error::io("emptying the log of commits", error))
    }
}

/// Taken out: rows are durable before the bytes that they name.
fn names_come_first() -> bool {
    out(Protection::BytesBeforeNames)
}

/// Taken out: records that entries carried go with them.
fn packs_stay_unsynced() -> bool {
    names_come_first() || out(Protection::PacksBeforeFold)
}

/// Taken out: the log is begun anew before the database is durable.
fn is_cut_first() -> bool {
    out(Protection::FoldBeforeCut)
}

fn apply(txn: &mut WriteTxn<'_>, table: Table, memtable: &Memtable) -> Result<()> {
    memtable.with_changes(table, |changes| {
        txn.apply(table, changes.iter().map(|(key, value)| (key, value.as_ref())))
    })
}
