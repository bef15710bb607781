//! The data: every region that has a live chunk is read, and every live chunk held against its digest.
//!
//! Regions come in the order of their ids, which is nearly the order in which they were written; a window of them is
//! sorted by place, so that the disk is read forwards also where a cycle has moved some. Two threads read and hash,
//! while the calling one goes through the rows, tells the progress and asks whether to go on.

use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::chunk::{ChunkId, Digest};
use crate::error::{Error, Result};
use crate::meta::Table;
use crate::meta::rows::{RegionRow, chunk_of};
use crate::store::Store;

use super::findings::{Kind, Victims, sentence, span};
use super::packs::{Lost, settled};
use super::rows::Rows;
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

/// Reads everything but what is in `lost`.
pub(super) fn read(run: &mut Run<'_>, lost: &Lost) -> Result<()> {
    let store = run.store.clone();
    // Small enough that a cancelled check ends soon: readers finish what is in here.
    let (work, lots) = bounded::<Vec<RegionRow>>(READERS);
    let (tell, told) = unbounded::<Told>();
    thread::scope(|scope| {
        for _ in 0..READERS {
            let (store, lots, tell) = (&store, lots.clone(), tell.clone());
            scope.spawn(move || read_lots(store, &lots, &tell));
        }
        drop((lots, tell));
        let result = hand_out(run, lost, &work, &told);
        drop(work);
        result.and_then(|()| told.iter().try_for_each(|told| take_in(run, told)))
    })
}

/// Goes through the region rows and hands them to the readers, sorted by place.
fn hand_out(
    run: &mut Run<'_>,
    lost: &Lost,
    work: &Sender<Vec<RegionRow>>,
    told: &Receiver<Told>,
) -> Result<()> {
    let mut rows = Rows::open(run, Table::Regions);
    let (mut window, mut chunks) = (Vec::new(), 0);
    loop {
        let next = rows.next(run)?;
        let is_end = next.is_none();
        if let Some((key, value)) = next {
            // What cannot be read was told of when all rows were read.
            let row = value.and_then(|value| RegionRow::decode(ChunkId(chunk_of(&key)?), &value));
            let wanted = |row: &RegionRow| !lost.has(&row.at) && row.live().next().is_some();
            if let Some(row) = row.ok().filter(wanted) {
                chunks += row.entries.len();
                window.push(row);
            }
        }
        if chunks < SORTED_CHUNKS && !is_end {
            continue;
        }
        window.sort_unstable_by_key(|row: &RegionRow| row.at);
        chunks = 0;
        let mut sorted = window.drain(..).peekable();
        while sorted.peek().is_some() {
            let lot = sorted.by_ref().take(REGIONS_AT_A_TIME).collect();
            if work.send(lot).is_err() {
                return Err(Error::io("checking the data", std::io::Error::other("the readers have ended")));
            }
            told.try_iter().try_for_each(|told| take_in(run, told))?;
            run.go_on()?;
        }
        drop(sorted);
        if is_end {
            return Ok(());
        }
    }
}

fn take_in(run: &mut Run<'_>, told: Told) -> Result<()> {
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
            let suspects: Vec<ChunkId> =
                row.live().map(|(id, _)| id).filter(|id| store.is_bad(*id)).collect();
            match settled(store, row, |row| read_region(store, row)) {
                Some((row, (chunks, why))) => told.faults.push(Fault { row, chunks, why }),
                None => suspects.into_iter().for_each(|id| store.trust(id)),
            }
        }
        if tell.send(told).is_err() {
            return;
        }
    }
}

/// Reads a region and compares; the chunks that are wrong and why.
pub(super) fn read_region(store: &Store, row: &RegionRow) -> Result<(), (Vec<ChunkId>, String)> {
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
