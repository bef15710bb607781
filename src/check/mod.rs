//! The check: finds out whether everything in the store is as it should be, and if not, which files are affected.
//!
//! Keeps true: the structure is judged under one view of the database, so neither writers nor a cycle can make two rows
//! contradict each other. While data is read, no view is held, since the database would grow by everything that is
//! committed meanwhile; regions come in steps, each under a view of its own. Packs are not part of a view. So a fault
//! at a place in a pack is checked again in the newest view before it is called damage ([`packs::confirm_damage`]). A
//! check changes nothing but the note of its position (`position`). Damage is a finding, never an error. A check fails
//! only if it cannot read something; then it says so and reports no findings
//! ([`Error::is_access_error`](crate::error::Error::is_access_error)).
//!
//! Tables with the same order are read side by side (`tree`). Digests and regions have different orders and are
//! compared by sums (`chunks`). Only the references to chunks are looked up one by one (`extents`). Memory, beside the
//! caches of the store: 7 bytes for each inode and 40 for each directory (70 MB for ten million files); two bits for
//! each chunk (25 MB for a hundred million chunks); and if anything is found, about 100 bytes more for each directory,
//! to name the files.

mod backups;
mod chunks;
mod data;
mod extents;
mod findings;
mod ids;
pub mod names;
mod options;
mod packs;
mod paths;
mod position;
pub mod repair;
mod report;
mod rows;
mod run;
mod scrub;
mod subvolumes;
mod tree;

#[cfg(test)]
mod tests;

use crate::error::Result;
use crate::meta::kv::CheckedRow;
use crate::meta::log::FOLDED_KEY;
use crate::meta::rows::{STATE_KEY, State};
use crate::meta::{Counter, Table};
use crate::store::Store;
use crate::sync::Arc;

pub use names::{shown, shown_name};
pub use options::{Options, Progress};
pub use report::{CheckReport, Finding, Resumed};
pub use scrub::{Scrub, ScrubStatus};

use findings::{Affected, Findings, Kind, sentence};
use run::CheckRun;

/// Checks what is durable in the store at this moment.
pub fn check(store: &Arc<Store>, options: &Options<'_>) -> Result<CheckReport> {
    if store.batches.writable().is_ok()
        && let Err(error) = store.commits.commit().and_then(|()| store.commits.fold())
    {
        // On a full disk, say: what is in the database can be checked all the same.
        tracing::warn!("what is not durable yet could not be made so and is not checked: {error}");
    }
    let mut run = CheckRun::new(store, options);
    let state = state(&mut run);
    run.expect(state.as_ref());
    let mut regions = chunks::regions(&mut run)?;
    chunks::digests(&mut run, &mut regions)?;
    let lost = packs::check(&mut run, &regions)?;
    let referred = tree::check(&mut run, &regions)?;
    chunks::found(&mut run, &regions, &referred)?;
    if let Some(state) = &state {
        compare_counters(&mut run, state);
    }
    run.go_on()?;
    run.let_go();
    backups::check(&mut run)?;
    let pass = if options.data {
        run.begin_data(state.as_ref());
        Some(data::read(&mut run, &lost)?)
    } else {
        data::known_bad(&mut run)?;
        None
    };
    // Whoever keeps to a pace waits here, before a view is held again.
    run.report_progress();
    run.look_at_newest();
    let findings = std::mem::replace(&mut run.findings, Findings::new(0));
    let findings = paths::resolve(&mut run, findings);
    if let Some(mut pass) = pass {
        // What was found and not told is looked at once more by who goes on.
        if findings.is_ok() { pass.finish() } else { pass.note() }
    }
    run.report.findings = findings?;
    run.report_end();
    Ok(run.report)
}

/// The state row; none in a store nothing was ever written to, or if it is damaged.
fn state(run: &mut CheckRun<'_>) -> Option<State> {
    let found = rows::get(&run.view(), Table::State, STATE_KEY);
    let state = found.and_then(|row| row.map(|row| State::decode(&row)).transpose());
    match state {
        Ok(Some(state)) => Some(state),
        Ok(None) => {
            // The first batch of all wrote it; only a store without any row has none.
            for table in Table::ALL {
                let is_any = |row: Result<CheckedRow>| row.map_or(true, |(key, _)| key != FOLDED_KEY);
                if run.view().rows(table).is_ok_and(|mut rows| rows.any(is_any)) {
                    let what = format!("the state row is missing, and the table {} has rows", table.name());
                    run.findings.add(Kind::Counter, what, Affected::default());
                    break;
                }
            }
            None
        }
        Err(error) => {
            let what = format!("the state row cannot be read: {}", sentence(&error));
            run.findings.add(Kind::Row, what, Affected::default());
            None
        }
    }
}

/// The sums stand in the same snapshot as what they are the sums of, so they must be right at every moment.
fn compare_counters(run: &mut CheckRun<'_>, state: &State) {
    let counted = [
        (Counter::Inodes, Table::Inodes, "inodes"),
        (Counter::Chunks, Table::Regions, "chunks"),
        (Counter::PlainBytes, Table::Regions, "plain bytes of all chunks"),
        (Counter::StoredBytes, Table::Regions, "bytes of all regions"),
        (Counter::ReferencedBytes, Table::Extents, "bytes that files refer to"),
        (Counter::Orphans, Table::Orphans, "inodes in the deletion queue"),
    ];
    for (counter, table, name) in counted {
        let (says, are) = (state.counters[counter as usize], run.sums[counter as usize]);
        if says != are && !run.is_partial(table) {
            let what = format!("the state row counts {says} {name}, there are {are}");
            run.findings.add(Kind::Counter, what, Affected::default());
        }
    }
}
