//! The data: reads every region that has a live chunk, and compares every live chunk with its digest.
//!
//! Regions come in the order of their ids, which is nearly the order in which they were written. A window of them is
//! sorted by place, so that the disk is read forwards even if a cycle has moved some. Two threads read and hash. The
//! calling thread goes through the rows, reports the progress, asks whether to go on and notes the position.

use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};
use crate::meta::Table;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::store::Store;

use super::findings::{Affected, Kind, sentence, span};
use super::packs::{MissingPacks, confirm_damage, newest};
use super::position::{Due, Pass};
use super::rows::Rows;
use super::run::CheckRun;

/// Threads that read.
const READERS: usize = 2;
/// Chunks whose regions are sorted by place at a time; this bounds the memory to about ten megabytes.
const SORTED_CHUNKS: usize = 1 << 18;
/// Regions that a reader takes at a time.
const REGIONS_AT_A_TIME: usize = 32;

/// The result of reading one group of regions.
#[derive(Default)]
struct ReadResult {
    /// The first chunks of the regions.
    regions: Vec<u64>,
    /// Plain bytes of live chunks.
    bytes: u64,
    faults: Vec<Fault>,
    /// Why the host refused to read one.
    refused: Option<Error>,
}

/// Chunks of one region that do not read back.
pub(super) struct Fault {
    pub row: RegionRow,
    pub chunks: Vec<ChunkId>,
    pub why: String,
    /// The host could not read it, but perhaps can another time.
    pub is_read_error: bool,
}

impl Fault {
    /// What is wrong, in one sentence.
    pub fn sentence(&self) -> String {
        let bad = self.chunks.len();
        format!(
            "{bad} of {} in {} {} not read back: {}",
            span(self.row.first.0, self.row.end().0),
            self.row.at,
            if bad == 1 { "does" } else { "do" },
            self.why
        )
    }
}

/// Reports chunks that are known to be bad and were not stored again since.
pub(super) fn known_bad(run: &mut CheckRun<'_>) -> Result<()> {
    let (mut rows, mut ids) = (Rows::open(run, Table::Bad), Vec::new());
    while let Some((id, _)) = rows.up_to(run, None)? {
        ids.push((id, id.saturating_add(1)));
    }
    if !ids.is_empty() {
        let what = format!("{} chunks did not read back when they were read last", ids.len());
        run.findings.add(Kind::Data, what, Affected::chunks(ids));
    }
    Ok(())
}

/// Reads everything, except regions in `lost` packs, and except what an interrupted check has already read if this one
/// resumes it.
pub(super) fn read(run: &mut CheckRun<'_>, lost: &MissingPacks) -> Result<Pass> {
    let store = run.store.clone();
    let mut pass = Pass::begin(run);
    // Small enough that a cancelled check ends soon: the readers finish what is in the queue.
    let (work, groups) = bounded::<Vec<RegionRow>>(READERS);
    let (report, outcome) = unbounded::<ReadResult>();
    let result = thread::scope(|scope| {
        for _ in 0..READERS {
            let (store, groups, report) = (&store, groups.clone(), report.clone());
            scope.spawn(move || read_groups(store, &groups, &report));
        }
        drop((groups, report));
        let mut result = dispatch(run, lost, &mut pass, (&work, &outcome));
        drop(work);
        // Also if the check ends early, so that nothing has to be read again.
        for outcome in &outcome {
            result = apply_result(run, &mut pass, outcome).and(result);
        }
        result
    });
    let result = result.and_then(|()| read_unread(run, &mut pass));
    if result.is_err() {
        pass.note();
    }
    result.map(|()| pass)
}

/// Reads once more what the host could not read; if that succeeds, it is no damage.
fn read_unread(run: &mut CheckRun<'_>, pass: &mut Pass) -> Result<()> {
    run.go_on()?;
    for ids in pass.take_unread() {
        run.go_on()?;
        for row in newest(run.store, ids)? {
            let first = row.first.0;
            let faults = verify_region(run.store, row)?;
            pass.was_read(&[first], faults.iter().map(|fault| fault.row.first.0), 0);
            faults.into_iter().for_each(|fault| found_bad(run, fault));
        }
    }
    Ok(())
}

/// Reports bad chunks. From now on, new data must not be shared with them.
fn found_bad(run: &mut CheckRun<'_>, fault: Fault) {
    run.store.healing.mark_bad(fault.chunks.iter().copied(), fault.row.at.pack);
    let ids = fault.chunks.iter().map(|id| (id.0, id.0 + 1));
    run.findings.add(Kind::Data, fault.sentence(), Affected::chunks(ids));
}

/// Regions that are to be read.
#[derive(Default)]
struct Window {
    regions: Vec<RegionRow>,
    chunks: usize,
}

impl Window {
    fn push(&mut self, row: RegionRow) {
        self.chunks += row.entries.len();
        self.regions.push(row);
    }

    fn is_full(&self) -> bool {
        self.chunks >= SORTED_CHUNKS
    }
}

/// The channels for groups of regions and for their results.
type Readers<'a> = (&'a Sender<Vec<RegionRow>>, &'a Receiver<ReadResult>);

/// Goes through the region rows and sends them to the readers; regions that were read before come last.
fn dispatch(
    run: &mut CheckRun<'_>,
    lost: &MissingPacks,
    pass: &mut Pass,
    readers: Readers<'_>,
) -> Result<()> {
    let (mut window, mut again, mut next) = (Window::default(), Vec::new(), Some(0));
    // This check leaves out what is written meanwhile, or it might never end.
    let end = run.store.next_chunk().0;
    while let Some(from) = next.filter(|from| *from < end) {
        let mut chunks = 0;
        let enough = |row: &RegionRow| {
            chunks += row.entries.len();
            chunks >= SORTED_CHUNKS
        };
        // Rows that cannot be read were reported when all rows were read.
        let (rows, behind) = next_regions(run.store, from, enough, |_, _| {});
        next = behind;
        for row in rows.into_iter().filter(|row| row.live().next().is_some()) {
            pass.dispatched_below(row.first.0.saturating_add(1));
            if lost.has(&row.at) {
                pass.note_missing(row.first.0);
                run.skip_bytes(row.live_bytes())?;
                continue;
            }
            match pass.due(&row) {
                Due::Now => window.push(row),
                Due::Again => again.push((row.first, row.end())),
                Due::Never => run.skip_bytes(row.live_bytes())?,
            }
        }
        send(run, pass, &mut window, readers)?;
    }
    for ids in again {
        newest(run.store, ids).into_iter().flatten().for_each(|row| window.push(row));
        if window.is_full() {
            send(run, pass, &mut window, readers)?;
        }
    }
    send(run, pass, &mut window, readers)
}

/// Returns region rows from `from` on until there are `enough`, and where the next rows begin, if there are any. The
/// view ends with this call. Rows that cannot be read are skipped and passed to `unreadable`, with the id after the
/// previous row.
pub(super) fn next_regions(
    store: &Store,
    from: u64,
    mut enough: impl FnMut(&RegionRow) -> bool,
    mut unreadable: impl FnMut(u64, Error),
) -> (Vec<RegionRow>, Option<u64>) {
    let view = store.layers().view.base().clone();
    let (mut regions, mut behind) = (Vec::new(), from);
    for row in view.readable_rows(Table::Regions, &id_key(from)) {
        let (key, value) = match row.and_then(|(key, value)| Ok((key, value?))) {
            Ok(row) => row,
            Err(error) => {
                unreadable(behind, error);
                continue;
            }
        };
        // The part of the check that reads all rows reports a row that does not decode.
        if let Ok(row) = chunk_of(&key).and_then(|first| RegionRow::decode(ChunkId(first), &value)) {
            behind = row.end().0;
            let is_last = enough(&row);
            regions.push(row);
            if is_last {
                return (regions, Some(behind));
            }
        }
    }
    (regions, None)
}

/// Sends a window to the readers, sorted by place.
fn send(
    run: &mut CheckRun<'_>,
    pass: &mut Pass,
    window: &mut Window,
    (work, outcome): Readers<'_>,
) -> Result<()> {
    window.regions.iter().for_each(|row| pass.dispatch(row.first.0));
    window.regions.sort_unstable_by_key(|row| row.at);
    window.chunks = 0;
    let mut sorted = window.regions.drain(..).peekable();
    while sorted.peek().is_some() {
        let group = sorted.by_ref().take(REGIONS_AT_A_TIME).collect();
        if work.send(group).is_err() {
            return Err(Error::io("checking the data", std::io::Error::other("the readers have ended")));
        }
        outcome.try_iter().try_for_each(|outcome| apply_result(run, pass, outcome))?;
        run.go_on()?;
    }
    Ok(())
}

fn apply_result(run: &mut CheckRun<'_>, pass: &mut Pass, outcome: ReadResult) -> Result<()> {
    pass.was_read(&outcome.regions, outcome.faults.iter().map(|fault| fault.row.first.0), outcome.bytes);
    if let Some(error) = outcome.refused {
        return Err(error);
    }
    for fault in outcome.faults {
        if fault.is_read_error {
            run.store.healing.suspect(fault.row.at.pack);
            pass.reread_later((fault.row.first, fault.row.end()));
            continue;
        }
        found_bad(run, fault);
    }
    run.read_bytes(outcome.bytes)
}

fn read_groups(store: &Store, groups: &Receiver<Vec<RegionRow>>, report: &Sender<ReadResult>) {
    for group in groups {
        let mut outcome = ReadResult::default();
        for row in group {
            let (first, bytes) = (row.first.0, row.live_bytes());
            match verify_region(store, row) {
                Ok(faults) => outcome.faults.extend(faults),
                Err(error) => {
                    outcome.refused = Some(error);
                    break;
                }
            }
            outcome.bytes += bytes;
            outcome.regions.push(first);
        }
        if report.send(outcome).is_err() {
            return;
        }
    }
}

/// Reads the region of a row, or of the rows that have replaced it, and compares its chunks. Known bad chunks that can
/// be read are no longer bad. Fails if the host refuses to read.
pub(super) fn verify_region(store: &Store, row: RegionRow) -> Result<Vec<Fault>> {
    let suspects: Vec<ChunkId> =
        row.live().map(|(id, _)| id).filter(|id| store.healing.is_bad(*id)).collect();
    let found = confirm_damage(store, row, |row| read_region(store, row))?;
    let fault = |(row, Wrong { chunks, why, is_read_error })| Fault { row, chunks, why, is_read_error };
    let faults: Vec<Fault> = found.into_iter().map(fault).collect();
    for id in suspects {
        if !faults.iter().any(|fault| fault.chunks.contains(&id)) {
            store.healing.clear_bad(id);
        }
    }
    Ok(faults)
}

/// The chunks of a region that are wrong, and why.
struct Wrong {
    chunks: Vec<ChunkId>,
    why: String,
    is_read_error: bool,
}

/// Reads a region and compares.
fn read_region(store: &Store, row: &RegionRow) -> Result<Result<(), Wrong>> {
    let (_, region) = match store.packs.record(&row.at) {
        Ok(found) => found,
        Err(error) if error.is_access_error() => return Err(error),
        Err(error) => {
            let (chunks, is_read_error) = (row.live().map(|(id, _)| id).collect(), error.is_read_error());
            return Ok(Err(Wrong { chunks, why: sentence(&error), is_read_error }));
        }
    };
    let mut why = String::new();
    let mut wrong = Vec::new();
    for (id, entry) in row.live() {
        let fault = match region.chunk(id) {
            None => "the region in the pack does not have it",
            Some(bytes) if bytes.len() != entry.len as usize => "its length is not what its row says",
            Some(bytes) if Digest::of(bytes) != entry.digest => "its bytes do not match its digest",
            Some(_) => continue,
        };
        wrong.push(id);
        if why.is_empty() {
            why = format!("chunk {id}: {fault}");
        }
    }
    Ok(if wrong.is_empty() { Ok(()) } else { Err(Wrong { chunks: wrong, why, is_read_error: false }) })
}
