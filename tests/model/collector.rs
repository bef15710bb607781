//! The group commit and the collector's cycle.
//!
//! Keeps true: one commit at a time; the order flip, drain, snapshot, mark, sweep, durable, reclaim, clear,
//! grace, disarm. The sweep and the reaper change the database beneath the batches.

use crate::log;
use crate::protocol::{Act, Mutant, Store};
use crate::state::*;

/// The steps of the group commit.
pub fn commit_actions(m: &Store, s: &State, out: &mut Vec<Act>) {
    if let Some(log) = &s.log {
        log::actions(m, s, log, out);
    }
    let drained = !s.draining() || m.lacks(Mutant::CommitWithoutDrain);
    match s.commit {
        Commit::Idle => {
            // The timer may fire at any time; a batch without rows and members would change nothing.
            let members = s.writers.iter().any(Writer::member);
            if members || s.active != Rows::layer() || s.db != s.disk {
                out.push(Act::Swap);
            }
        }
        _ if s.log.is_some() => {}
        Commit::Swapped if drained => {
            let bytes = s.sealed.chunks & s.unsynced != 0;
            if bytes {
                out.push(Act::SyncBytes);
            }
            if !bytes || m.lacks(Mutant::NamesBeforeBytes) {
                out.push(Act::Durable);
            }
        }
        Commit::Swapped => {}
        Commit::Synced => out.push(Act::Durable),
        Commit::Named => out.push(Act::SyncBytes),
        Commit::Logged => {}
    }
}

/// Chunks the sweep looks at: they have a row, are below the watermark, and white.
fn white(s: &State) -> u8 {
    s.db.chunks & !s.young & !s.marked & !s.condemned
}

/// The steps of the collector.
pub fn cycle_actions(m: &Store, s: &State, out: &mut Vec<Act>) {
    let fails = s.left.errors > 0;
    match s.gc {
        Gc::Idle if s.left.cycles > 0 && s.commit == Commit::Idle => out.push(Act::Flip),
        Gc::Idle => {}
        Gc::FlipWait if m.lacks(Mutant::SnapshotBeforeDrain) => out.push(Act::Snapshot),
        Gc::FlipWait | Gc::GraceWait => {}
        Gc::Drained if s.log.is_some() && !m.lacks(Mutant::SnapshotWithoutFold) => {}
        Gc::Drained | Gc::Folded => out.push(Act::Snapshot),
        Gc::Snapped => {
            out.push(Act::Mark);
            if fails {
                out.extend((0..FILES).filter(|&f| s.database().ext[f] < NONE).map(Act::MarkError));
            }
        }
        Gc::Sweep | Gc::Unnamed if log::held(s) => {}
        Gc::Sweep => {
            let white = white(s) != 0;
            if white && !(m.config.small_sweeps && s.doomed != 0) {
                out.push(Act::Condemn);
            }
            if !white || m.config.small_sweeps && s.doomed != 0 {
                out.push(Act::Unname);
            }
        }
        Gc::Unnamed => out.push(Act::Remove),
        Gc::Removed if s.log.is_some() => {
            if m.lacks(Mutant::FreedBeforeFold) && s.db == s.disk {
                out.push(Act::Reclaim);
            }
        }
        Gc::Removed => {
            let hasty = m.lacks(Mutant::FreedBeforeDurable);
            out.push(if hasty { Act::Reclaim } else { Act::RemovalDurable });
        }
        Gc::RemovedDurably => out.push(Act::Reclaim),
        Gc::Ending if m.lacks(Mutant::GraceBeforeClear) => {
            if s.commit == Commit::Idle {
                out.push(Act::Grace);
            }
        }
        Gc::Ending => out.push(Act::ClearCache),
        Gc::Cleared if m.lacks(Mutant::NoGrace) => out.push(Act::Disarm),
        Gc::Cleared if s.commit == Commit::Idle => out.push(Act::Grace),
        Gc::Cleared => {}
        Gc::GraceOver if m.lacks(Mutant::GraceBeforeClear) => out.push(Act::ClearCache),
        Gc::GraceOver => out.push(Act::Disarm),
    }
    if fails && matches!(s.gc, Gc::Sweep | Gc::Unnamed | Gc::Removed | Gc::RemovedDurably) {
        out.push(Act::EarlyEnd);
    }
}

/// Takes a step of the commit or of the collector.
pub fn step(m: &Store, s: &mut State, act: Act) {
    match act {
        Act::Swap => {
            s.late = 0;
            s.swap();
            no_members(s);
        }
        Act::SyncBytes => sync_bytes(s),
        Act::Durable => durable(s),
        Act::Flip => flip(m, s),
        Act::Snapshot => {
            s.armed = true;
            if m.lacks(Mutant::WatermarkLate) {
                s.young = 0;
            }
            s.snap = snapshot(m, s);
            s.gc = Gc::Snapped;
        }
        Act::Mark => {
            if m.lacks(Mutant::LiveMark) {
                s.snap |= s.db.marks(|f| s.db.link[f] == GROUP_TWO);
            }
            s.marked |= s.snap;
            s.snap = 0;
            s.gc = Gc::Sweep;
        }
        Act::MarkError(f) => mark_error(m, s, f),
        Act::Condemn => {
            let id = bit(white(s).trailing_zeros() as u8);
            s.condemned |= id;
            s.doomed |= id;
        }
        Act::EarlyEnd => early_end(m, s),
        Act::Unname => {
            if m.lacks(Mutant::ChunksBeforeDigests) {
                remove_chunks(s)
            } else {
                remove_digests(m, s)
            }
            s.gc = Gc::Unnamed;
        }
        Act::Remove => remove(m, s),
        Act::RemovalDurable => {
            s.disk = s.db;
            s.gc = Gc::RemovedDurably;
        }
        Act::Reclaim => reclaim(m, s),
        Act::ClearCache => {
            if !m.lacks(Mutant::CacheNotCleared) {
                s.cache = [NONE; DIGESTS];
            }
            s.gc = Gc::Cleared;
            if m.lacks(Mutant::GraceBeforeClear) {
                finish(s);
            }
        }
        Act::Grace => {
            s.swap();
            s.gc = Gc::GraceWait;
            no_members(s);
        }
        Act::Disarm => finish(s),
        other => unreachable!("{other:?} is no step of the collector"),
    }
}

/// The packs that hold the sealed batch's chunks are synced.
fn sync_bytes(s: &mut State) {
    let done = s.sealed.chunks & s.unsynced;
    s.synced |= done;
    s.unsynced &= !done;
    if s.commit == Commit::Named {
        s.commit = Commit::Idle;
        s.sealed = Rows::layer();
    } else {
        s.commit = Commit::Synced;
    }
    no_members(s);
}

/// The extent row of a file does not decode: the cycle ends (I7). Nothing was condemned, so nobody can hold an
/// answer that is about to be wrong, and no grace is needed.
fn mark_error(m: &Store, s: &mut State, f: usize) {
    s.left.errors -= 1;
    if m.lacks(Mutant::DecodeErrorSkipped) {
        s.marked |= s.database().marks(|g| g != f) & s.snap;
        s.snap = 0;
        s.gc = Gc::Sweep;
    } else {
        s.disarm();
    }
}

/// An error after chunks were condemned: nothing more is removed or freed, but the cycle ends like any other.
fn early_end(m: &Store, s: &mut State) {
    s.left.errors -= 1;
    s.doomed = 0;
    s.garbage = 0;
    s.gc = Gc::Ending;
    if m.lacks(Mutant::EarlyEndWithoutGrace) {
        s.disarm();
    }
}

/// The grace period is over as soon as nobody of the batch swapped out for it is left.
pub fn no_members(s: &mut State) {
    if s.gc == Gc::GraceWait && !s.draining() {
        s.gc = Gc::GraceOver;
    }
}

/// One durable transaction writes the sealed batch, and with it all earlier ones that were not durable.
fn durable(s: &mut State) {
    s.db.apply(&s.sealed);
    s.disk = s.db;
    if s.commit == Commit::Swapped && s.sealed.chunks & s.unsynced != 0 {
        s.commit = Commit::Named;
    } else {
        s.commit = Commit::Idle;
        s.sealed = Rows::layer();
    }
    if s.gc == Gc::FlipWait {
        s.gc = Gc::Drained;
    }
    no_members(s);
}

/// Under the swap lock: watermark, white cells, armed barrier, new batch.
fn flip(m: &Store, s: &mut State) {
    s.left.cycles -= 1;
    s.late = 0;
    let view = s.view();
    let used = view.marks(|f| view.link[f] != NONE) | s.hands();
    s.garbage = (s.synced | s.unsynced) & !used;
    s.armed = !m.lacks(Mutant::ArmedAfterDrain);
    s.swap();
    s.gc = Gc::FlipWait;
}

/// Chunks named by the extents in the database: of files with a name, open without one, and queued alike.
fn snapshot(m: &Store, s: &State) -> u8 {
    match m.mutant {
        Some(Mutant::OrphansNotScanned) => s.db.marks(|f| s.db.link[f] != ORPHAN),
        Some(Mutant::LiveMark) => s.db.marks(|f| s.db.link[f] != GROUP_TWO),
        _ => s.database().marks(|_| true),
    }
}

/// Takes the condemned chunks out of the rows of their digests, visibly and not yet durably.
fn remove_digests(m: &Store, s: &mut State) {
    for id in (0..IDS as u8).filter(|&id| s.doomed & bit(id) != 0) {
        let d = s.content[id as usize] as usize;
        let named = s.db.dig[d];
        let lost = named < NONE && s.doomed & bit(named) == 0;
        if m.lacks(Mutant::DigestRemovedBlindly) && lost {
            s.wrong |= wrong::DIGEST_LOST;
        }
        if named == id && !m.lacks(Mutant::DigestRowLeft) || m.lacks(Mutant::DigestRemovedBlindly) {
            s.db.dig[d] = NONE;
        }
    }
}

fn remove_chunks(s: &mut State) {
    s.db.chunks &= !s.doomed;
}

/// Removes the rows of the condemned chunks from the database, visibly and not yet durably.
fn remove(m: &Store, s: &mut State) {
    if m.lacks(Mutant::ChunksBeforeDigests) {
        remove_digests(m, s)
    } else {
        remove_chunks(s)
    }
    s.doomed = 0;
    s.gc = if white(s) == 0 { Gc::Removed } else { Gc::Sweep };
}

/// Frees all bytes below the watermark that no row names: what this cycle condemned, and what earlier cycles
/// or batches cut off by a crash left behind.
fn reclaim(m: &Store, s: &mut State) {
    let mut dead = s.synced & !s.db.chunks;
    if !m.lacks(Mutant::UnnamedBytesFreed) {
        dead &= !s.young;
    }
    if m.lacks(Mutant::OnlyOwnDeadFreed) {
        dead &= s.condemned;
    }
    if dead & s.disk.named() != 0 {
        s.wrong |= wrong::FREED_EARLY;
    }
    s.synced &= !dead;
    // These are gone as promised; their ids may be given again.
    s.garbage &= !dead;
    for id in (0..IDS as u8).filter(|&id| dead & bit(id) != 0) {
        s.content[id as usize] = NONE;
    }
    s.gc = Gc::Ending;
}

/// The end of a cycle: what was garbage at its flip, and stayed it, must be gone.
fn finish(s: &mut State) {
    let kept = s.garbage & (s.synced | s.unsynced | s.db.chunks);
    s.disarm();
    if kept != 0 {
        s.wrong |= wrong::GARBAGE_KEPT;
        s.garbage = kept;
    }
}
