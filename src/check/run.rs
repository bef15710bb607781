//! What all parts of one check share: the view, the report, the progress.

use crate::error::{Error, Result};
use crate::meta::rows::State;
use crate::meta::{Counter, ReadView, Table};
use crate::pack::PackId;
use crate::store::Store;
use crate::sync::Arc;

use super::findings::{Affected, Findings, Kind, MAX_NAMES, sentence};
use super::options::{Options, Progress};
use super::report::CheckReport;

/// Steps between two checks for cancellation.
const CANCEL_CHECK_EVERY: u64 = 4096;

/// How a table could be read.
#[derive(Clone, Copy, Default)]
struct Reading {
    /// Not every row of it: sums over it say nothing.
    partial: bool,
    /// The engine could not read it to its end, which is told once.
    broken: bool,
    /// It was read from its beginning.
    begun: bool,
}

/// One check.
pub(super) struct CheckRun<'a> {
    pub store: &'a Arc<Store>,
    /// The view that is judged; none while data is read.
    view: Option<Arc<ReadView>>,
    /// The host refused access to something: the check cannot be done.
    refused: Option<Error>,
    /// Places in packs from here on may have been written since that moment.
    pub append_position: (PackId, u64),
    pub report: CheckReport,
    pub findings: Findings,
    /// The expected sums of the state row, by [`Counter`].
    pub sums: [i64; Counter::ALL.len()],
    /// Ids at or above these were never given out, if the state row can be read.
    pub next_chunk: u64,
    pub next_ino: u64,
    options: &'a Options<'a>,
    /// How each table could be read, by [`Table`].
    readings: [Reading; Table::ALL.len()],
    done: u64,
    total: u64,
    reads_data: bool,
    since_check: u64,
}

impl<'a> CheckRun<'a> {
    pub fn new(store: &'a Arc<Store>, options: &'a Options<'a>) -> Self {
        // In this order: a region that moves between the two steps moves behind the frontier.
        let append_position = store.packs.append_position();
        Self {
            store,
            append_position,
            view: Some(store.layers().view.base().clone()),
            refused: None,
            report: CheckReport { data: options.data, ..CheckReport::default() },
            findings: Findings::new(if options.all_names { usize::MAX } else { MAX_NAMES }),
            sums: [0; Counter::ALL.len()],
            next_chunk: u64::MAX,
            next_ino: u64::MAX,
            options,
            readings: [Reading::default(); Table::ALL.len()],
            done: 0,
            total: 0,
            reads_data: false,
            since_check: 0,
        }
    }

    /// The view that is judged; if none is held, the newest one.
    pub fn view(&self) -> Arc<ReadView> {
        self.view.clone().unwrap_or_else(|| self.store.layers().view.base().clone())
    }

    /// Releases the view. While one is held, the database cannot reuse its pages and grows by everything that is
    /// committed, so nothing reads data or waits under a view.
    pub fn let_go(&mut self) {
        self.view = None;
    }

    /// Goes on with the newest state.
    pub fn look_at_newest(&mut self) {
        self.view = Some(self.store.layers().view.base().clone());
    }

    /// Takes the expected sums and numbers from the state row.
    pub fn expect(&mut self, state: Option<&State>) {
        if let Some(state) = state {
            self.next_chunk = state.next_chunk;
            self.next_ino = state.next_ino;
            // Each inode is met twice and has a name; each chunk has an entry and a digest.
            self.total = 3 * state.counter(Counter::Inodes) + 2 * state.counter(Counter::Chunks);
        }
    }

    /// From here on the progress counts data.
    pub fn begin_data(&mut self, state: Option<&State>) {
        (self.done, self.reads_data) = (0, true);
        self.total = state.map_or(0, |state| state.counter(Counter::PlainBytes));
    }

    /// Notes that not every row of a table could be read.
    pub fn set_partial(&mut self, table: Table) {
        self.readings[table as usize].partial = true;
    }

    /// The engine could not read a table to its end.
    pub fn set_broken(&mut self, table: Table, error: Error) {
        self.set_partial(table);
        if error.is_access_error() {
            self.refused.get_or_insert(error);
            return;
        }
        if !std::mem::replace(&mut self.readings[table as usize].broken, true) {
            let what = format!("the table {} cannot be read to its end: {}", table.name(), sentence(&error));
            self.findings.add(Kind::Row, what, Affected::default());
        }
    }

    /// True the first time it is asked of a table.
    pub fn is_first_reading(&mut self, table: Table) -> bool {
        !std::mem::replace(&mut self.readings[table as usize].begun, true)
    }

    pub fn is_partial(&self, table: Table) -> bool {
        self.readings[table as usize].partial
    }

    pub fn count(&mut self, counter: Counter, more: u64) {
        self.sums[counter as usize] += more as i64;
    }

    /// Counts work that is part of the total.
    pub fn step(&mut self, steps: u64) -> Result<()> {
        self.done += steps;
        self.extra_work(steps)
    }

    /// Plain bytes were read and compared.
    pub fn read_bytes(&mut self, bytes: u64) -> Result<()> {
        self.report.bytes_read += bytes;
        self.step(bytes)?;
        // Each time: a caller with a rate limit waits in this call.
        self.report_progress();
        Ok(())
    }

    /// Counts plain bytes that are not read, since an earlier check has read them or their pack is missing.
    pub fn skip_bytes(&mut self, bytes: u64) -> Result<()> {
        self.step(bytes)
    }

    /// True if this check should resume an interrupted one.
    pub fn resumes(&self) -> bool {
        self.options.resume
    }

    /// How many files are reported for one finding.
    pub fn named(&self) -> usize {
        if self.options.all_names { usize::MAX } else { MAX_NAMES }
    }

    /// Counts work that is not part of the total, and checks for cancellation.
    pub fn extra_work(&mut self, steps: u64) -> Result<()> {
        self.since_check += steps;
        if self.since_check >= CANCEL_CHECK_EVERY || self.refused.is_some() {
            self.since_check = 0;
            self.report_progress();
            self.go_on()?;
        }
        Ok(())
    }

    /// Fails if the check was cancelled or cannot read something.
    pub fn go_on(&mut self) -> Result<()> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        if (self.options.cancelled)() { Err(Error::Posix(libc::EINTR)) } else { Ok(()) }
    }

    pub fn report_progress(&self) {
        let (done, bytes) = (self.done.min(self.total), self.report.bytes_read);
        (self.options.progress)(Progress { done, total: self.total, reads_data: self.reads_data, bytes });
    }

    /// Everything is done.
    pub fn report_end(&mut self) {
        self.done = self.total;
        self.report_progress();
    }
}
