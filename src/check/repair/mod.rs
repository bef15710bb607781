//! The repair of a store whose metadata database is lost or damaged, or that has lost packs.
//!
//! Keeps true: a repair changes nothing before everything has been rebuilt. It makes the new database as
//! `meta/cairnfs.redb.new`, from the readable part of the old one, the newest complete backup and the packs. Only then,
//! and only if asked to, it gives the old database a second name, and one rename puts the new one in its place. So a
//! database exists at every moment. If the host has no hard links, the old one is renamed instead; a run that finds no
//! database reads what the interrupted run has left ([`source::find`]). If not asked to change anything, the repair
//! removes the new database again, so the report says what a repair does, and not what it might do.
//!
//! Numbers that may have been given out since the backup are not used again: the next ones begin far above.

mod log;
mod packs;
mod report;
mod sink;
mod source;
mod subvolumes;
mod tree;

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::media::{Media, StoreLock, has_no_links, recreate};
use crate::meta::log::{FOLDED_KEY, FoldedRow};
use crate::meta::rows::{STATE_KEY, State};
use crate::meta::versions::FIRST_VERSION;
use crate::meta::{Counter, Kv, Table};
use crate::pack::PackStore;
use crate::sabotage::{Protection, out};
use crate::store::packs::pack_store;
use crate::store::{META_FILE, StoreConfig, open_dir, real_path};
use crate::sync::Arc;

pub use report::{Database, Paths, RepairReport};

use sink::Sink;

/// Where the new database is made.
const NEW: &str = "meta/cairnfs.redb.new";
/// Where it is made while a database at the other name, which an interrupted repair had finished, is being read.
const NEWER: &str = "meta/cairnfs.redb.newer";
/// Numbers that are skipped where the database's own are not known.
const UNKNOWN_GAP: u64 = 1 << 32;
/// The same for inodes, of which there are fewer.
const INO_GAP: u64 = 1 << 28;
/// And for subvolumes.
const SUBVOLUME_GAP: u64 = 1 << 16;
/// Generations that are skipped then: a cycle takes one.
const GENERATION_GAP: u64 = 1 << 16;
/// Memory for the new database while it is made.
const CACHE: usize = 128 << 20;

/// Repairs the store in `dir`; without `apply`, only reports what a repair would do. Takes the store's lock.
pub fn repair_store(dir: &Path, apply: bool) -> Result<RepairReport> {
    let media = open_dir(&real_path(dir)?)?;
    let config = StoreConfig::read(&media)?;
    let _lock = StoreLock::acquire(&media, Duration::from_secs(2), "cairnfs repair")?;
    repair(&(Arc::new(media) as Arc<dyn Media>), &config, apply)
}

/// The same on any media; nobody else may have the store open.
pub fn repair(media: &Arc<dyn Media>, config: &StoreConfig, apply: bool) -> Result<RepairReport> {
    repair_with((media, &pack_store(media.clone())), config, apply)
}

/// The same, with the packs elsewhere.
pub fn repair_with(
    (media, packs): (&Arc<dyn Media>, &Arc<dyn PackStore>),
    config: &StoreConfig,
    apply: bool,
) -> Result<RepairReport> {
    let mut report = RepairReport::default();
    let found = source::find((media.as_ref(), packs.as_ref()), *config.uuid.as_bytes(), &mut report)?;
    let name = if found.is_at(NEW) { NEWER } else { NEW };
    let failed = |error| Error::io(format!("making {name}"), error);
    media.mkdir("meta").map_err(failed)?;
    let file = recreate(media.as_ref(), name).map_err(failed)?;
    let begin = FoldedRow::begin(uuid::Uuid::new_v4().into_bytes()).encode();
    let rows: [(Table, &[u8], &[u8]); 1] = [(Table::State, FOLDED_KEY, &begin)];
    let made = Kv::create(file.clone(), &rows).and_then(|()| Kv::open(file, CACHE));
    let built = made.and_then(|kv| {
        build(packs, config, &kv, found, &mut report)?;
        kv.close()
    });
    let replace = apply && built.is_ok() && report.is_needed();
    if !replace {
        media.remove(name).map_err(failed)?;
        return built.map(|()| report);
    }
    // The position of an interrupted check does not fit the new database.
    super::position::forget(media.as_ref());
    put_in_place(media.as_ref(), name, &mut report)?;
    log::empty(media.as_ref())?;
    report.done = true;
    Ok(report)
}

fn build(
    packs: &Arc<dyn PackStore>,
    config: &StoreConfig,
    kv: &Kv,
    found: source::Sources,
    report: &mut RepairReport,
) -> Result<()> {
    let view = found.old.as_ref().map(|old| &old.view);
    let is_whole_truth =
        found.newer.is_empty() && found.old.as_ref().is_some_and(|old| old.name == META_FILE);
    let mut sink = Sink::new(kv);
    let mut copied = source::copy(view, found.backup, &mut sink, report)?;
    source::copy_newer(&found.newer, &mut sink, &mut copied)?;
    let uuid = *config.uuid.as_bytes();
    let chunks = packs::rebuild((packs, config.codec()?), uuid, (view, is_whole_truth), &mut sink, report)?;
    sink.flush()?;
    let mut sums = [0; Counter::ALL.len()];
    packs::digests(kv, &mut sink, &mut sums)?;
    report.chunks = sums[Counter::Chunks as usize].max(0) as u64;
    let mut state = first_state(&copied, &chunks);
    let subvolumes = subvolumes::Subvolumes::rebuild(kv, &mut sink, report)?;
    state.next_version = state.next_version.min(subvolumes.lowest.saturating_sub(1));
    state.next_subvolume = state.next_subvolume.max(subvolumes.next_number());
    let next_ino = state.next_ino.max(subvolumes.next_local);
    let parts = (kv, &mut sink, report, subvolumes);
    let tree_repair = tree::TreeRepair::new(parts, config.name_seed, (next_ino, state.generation));
    state.next_ino = tree_repair.run(&chunks, &mut sums)?;
    // This counter is not a sum of rows; the reason for a cycle stays.
    sums[Counter::Deleted as usize] = state.counters[Counter::Deleted as usize];
    state.counters = sums;
    // The last row: a new database that has it is complete.
    sink.put(Table::State, STATE_KEY, &state.encode())?;
    sink.finish()
}

/// Numbers that were certainly never given.
fn first_state(copied: &source::Copied, chunks: &packs::Chunks) -> State {
    let none = State {
        generation: 1,
        next_chunk: 1,
        next_ino: crate::store::FIRST_INO,
        next_pack: 1,
        next_version: FIRST_VERSION,
        next_subvolume: 1,
        counters: [0; Counter::ALL.len()],
    };
    let older = copied.older_state.as_ref().unwrap_or(&none);
    let mut state = copied.state.as_ref().unwrap_or(older).clone();
    if copied.state.is_none() {
        state.generation += GENERATION_GAP;
        state.next_chunk += UNKNOWN_GAP;
        state.next_ino += INO_GAP;
        state.next_version = state.next_version.saturating_sub(UNKNOWN_GAP);
        state.next_subvolume += SUBVOLUME_GAP;
    }
    state.next_chunk = state.next_chunk.max(chunks.next_chunk);
    state.next_pack = state.next_pack.max(chunks.next_pack);
    state
}

/// Puts the old database aside and the new one, which is at `name`, in its place.
fn put_in_place(media: &dyn Media, name: &str, report: &mut RepairReport) -> Result<()> {
    let failed = |error| Error::io(format!("putting {META_FILE} aside"), error);
    // The new database is complete and synced before it gets its name.
    media.sync_dir("meta").map_err(failed)?;
    if media.exists(META_FILE).map_err(failed)? {
        report.kept_aside = Some(put_aside(media).map_err(failed)?);
    }
    media.rename(name, META_FILE).map_err(failed)?;
    media.sync_dir("meta").map_err(failed)?;
    for left in [NEW, NEWER] {
        if media.exists(left).map_err(failed)? {
            media.remove(left).map_err(failed)?;
        }
    }
    Ok(())
}

fn give_second_name(media: &dyn Media, name: &str) -> io::Result<()> {
    match out(Protection::OldStaysInPlace) {
        true => media.rename(META_FILE, name),
        false => media.link(META_FILE, name),
    }
}

/// Gives the old database the name that it keeps, durable.
fn put_aside(media: &dyn Media) -> io::Result<String> {
    let old = media.open(META_FILE, false)?.identity()?;
    let mut number = 1u64;
    loop {
        let name = source::aside(number);
        if !media.exists(&name)? {
            match give_second_name(media, &name) {
                Err(error) if has_no_links(&error) => media.rename(META_FILE, &name)?,
                other => other?,
            }
            media.sync_dir("meta")?;
            return Ok(name);
        }
        // A repair that was interrupted after this step has linked it.
        if media.open(&name, false).and_then(|file| file.identity()).is_ok_and(|other| other == old) {
            return Ok(name);
        }
        number += 1;
    }
}
