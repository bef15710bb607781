//! The data: every region that has a live chunk is read, and every live chunk held against its digest.
//!
//! Regions come in the order of their ids, which is nearly the order in which they were written; a window of them is
//! sorted by place, so that the disk is read forwards also where a cycle has moved some. Two threads read and hash,
//! while the calling one goes through the rows, tells the progress, asks whether to go on and notes how far it is.

use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};
use crate::meta::Table;
use crate::meta::rows::{RegionRow, chunk_of, id_key};
use crate::store::Store;

use super::findings::{Kind, Victims, sentence, span};
use super::packs::{Lost, settled};
use super::position::{Due, Pass};
use super::rows::{Rows, get};
use super::run::Run;

/// Threads that read.
const READERS: usize = 2;
/// Chunks whose regions are sorted by place at a time; bounds the memory that takes to about ten megabytes.
const SORTED_CHUNKS: usize = 1 << 18;
/// Regions that a reader takes at a time.
const REGIONS_AT_A_TIME: usize = 32;

/// What a reader tells of one lot of regions.
#[derive(Default)]
struct Told {
    /// The first chunks of the regions.
    regions: Vec<u64>,
    /// Plain bytes of live chunks.
    bytes: u64,
    faults: Vec<Fault>,
}

/// Chunks of one region that do not read back.
pub(super) struct Fault {
    pub row: RegionRow,
    pub chunks: Vec<ChunkId>,
    pub why: String,
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

/// Tells of chunks that did not read back when somebody read them, and were not stored once more since.
pub(super) fn known_bad(run: &mut Run<'_>) -> Result<()> {
    let (mut rows, mut ids) = (Rows::open(run, Table::Bad), Vec::new());
    while let Some((id, _)) = rows.up_to(run, None)? {
        ids.push((id, id.saturating_add(1)));
    }
    if !ids.is_empty() {
        let what = format!("{} chunks did not read back when they were read last", ids.len());
        run.findings.add(Kind::Data, what, Victims::chunks(ids));
    }
    Ok(())
}

/// Reads everything but what is in `lost`, and what an interrupted check has read if this one is to go on with it.
pub(super) fn read(run: &mut Run<'_>, lost: &Lost) -> Result<Pass> {
    let store = run.store.clone();
    let mut pass = Pass::begin(run);
    // Small enough that a cancelled check ends soon: readers finish what is in here.
    let (work, lots) = bounded::<Vec<RegionRow>>(READERS);
    let (tell, told) = unbounded::<Told>();
    let result = thread::scope(|scope| {
        for _ in 0..READERS {
            let (store, lots, tell) = (&store, lots.clone(), tell.clone());
            scope.spawn(move || read_lots(store, &lots, &tell));
        }
        drop((lots, tell));
        let mut result = hand_out(run, lost, &mut pass, (&work, &told));
        drop(work);
        // Also of a check that ends early: what was read need not be read again.
        for told in &told {
            result = take_in(run, &mut pass, told).and(result);
        }
        result
    });
    if result.is_err() {
        pass.note();
    }
    result.map(|()| pass)
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

/// Where lots of regions go to, and where what was found in them comes from.
type Readers<'a> = (&'a Sender<Vec<RegionRow>>, &'a Receiver<Told>);

/// Goes through the region rows and hands them to the readers; those that were read before come last.
fn hand_out(run: &mut Run<'_>, lost: &Lost, pass: &mut Pass, readers: Readers<'_>) -> Result<()> {
    let wanted = |row: &RegionRow| row.live().next().is_some();
    let mut rows = Rows::open(run, Table::Regions);
    let (mut window, mut again, mut seen_below) = (Window::default(), Vec::new(), 0);
    while let Some((key, value)) = rows.next(run)? {
        // What cannot be read was told of when all rows were read.
        let row = value.and_then(|value| RegionRow::decode(ChunkId(chunk_of(&key)?), &value));
        let Some(row) = row.ok().filter(wanted) else { continue };
        seen_below = row.first.0.saturating_add(1);
        if lost.has(&row.at) {
            pass.is_gone(row.first.0);
            continue;
        }
        match pass.due(&row) {
            Due::Now => window.push(row),
            Due::Again => again.push(row.first),
            Due::Never => run.skip_bytes(row.live_bytes())?,
        }
        if window.is_full() {
            pass.handed_out_below(seen_below);
            send(run, pass, &mut window, readers)?;
        }
    }
    pass.handed_out_below(seen_below);
    for first in again {
        let row = get(&run.view, Table::Regions, &id_key(first.0));
        let row = row.and_then(|row| row.map(|row| RegionRow::decode(first, &row)).transpose());
        row.ok().flatten().into_iter().for_each(|row| window.push(row));
        if window.is_full() {
            send(run, pass, &mut window, readers)?;
        }
    }
    send(run, pass, &mut window, readers)
}

/// Hands a window to the readers, sorted by place.
fn send(run: &mut Run<'_>, pass: &mut Pass, window: &mut Window, (work, told): Readers<'_>) -> Result<()> {
    window.regions.iter().for_each(|row| pass.hand_out(row.first.0));
    window.regions.sort_unstable_by_key(|row| row.at);
    window.chunks = 0;
    let mut sorted = window.regions.drain(..).peekable();
    while sorted.peek().is_some() {
        let lot = sorted.by_ref().take(REGIONS_AT_A_TIME).collect();
        if work.send(lot).is_err() {
            return Err(Error::io("checking the data", std::io::Error::other("the readers have ended")));
        }
        told.try_iter().try_for_each(|told| take_in(run, pass, told))?;
        run.go_on()?;
    }
    Ok(())
}

fn take_in(run: &mut Run<'_>, pass: &mut Pass, told: Told) -> Result<()> {
    pass.was_read(&told.regions, told.faults.iter().map(|fault| fault.row.first.0), told.bytes);
    for fault in told.faults {
        // Whatever is stored from now on must not be shared with what cannot be read.
        run.store.distrust(fault.chunks.iter().copied(), fault.row.at.pack);
        let ids = fault.chunks.iter().map(|id| (id.0, id.0 + 1));
        run.findings.add(Kind::Data, fault.sentence(), Victims::chunks(ids));
    }
    run.read_bytes(told.bytes)
}

fn read_lots(store: &Store, lots: &Receiver<Vec<RegionRow>>, tell: &Sender<Told>) {
    for lot in lots {
        let mut told = Told::default();
        for row in lot {
            told.bytes += row.live_bytes();
            told.regions.push(row.first.0);
            told.faults.extend(look(store, row));
        }
        if tell.send(told).is_err() {
            return;
        }
    }
}

/// Reads what a row names, or what has come of it, and compares. Chunks that were bad and read well are trusted again.
pub(super) fn look(store: &Store, row: RegionRow) -> Vec<Fault> {
    let suspects: Vec<ChunkId> = row.live().map(|(id, _)| id).filter(|id| store.is_bad(*id)).collect();
    let found = settled(store, row, |row| read_region(store, row));
    let faults: Vec<Fault> =
        found.into_iter().map(|(row, (chunks, why))| Fault { row, chunks, why }).collect();
    for id in suspects {
        if !faults.iter().any(|fault| fault.chunks.contains(&id)) {
            store.trust(id);
        }
    }
    faults
}

/// Reads a region and compares; the chunks that are wrong and why.
fn read_region(store: &Store, row: &RegionRow) -> Result<(), (Vec<ChunkId>, String)> {
    let (_, region) = match store.region_record(&row.at) {
        Ok(found) => found,
        Err(error) => return Err((row.live().map(|(id, _)| id).collect(), sentence(&error))),
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
    if wrong.is_empty() { Ok(()) } else { Err((wrong, why)) }
}
