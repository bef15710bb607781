//! What users of the mount cause: puts, clones, names that come, move and go, files held open; and the reaper
//! that works off the queue of deleted files. What nobody needs any more may also go at once, in the open batch.
//!
//! Keeps true: a put is a member of a batch from before its lookup until its rows are placed; a clone holds
//! its source's lock from the reading of its rows until they are placed; whatever needs a file's lock is not
//! offered while another holds it.

use crate::log;
use crate::protocol::{Act, Mutant, Store};
use crate::state::*;

/// True if the writer can put to its own file: there is none yet, or it has a name, or it is still open.
fn writable(m: &Store, s: &State, view: &Rows, w: usize) -> bool {
    let f = w + 1;
    !locked(m, s, f) && (view.link[f] != ORPHAN || s.kernel & bit(f as u8) != 0)
}

/// True if a clone keeps others from writing this file, its source, and from removing it.
fn locked(m: &Store, s: &State, f: usize) -> bool {
    s.cloned(f) && !m.lacks(Mutant::CloneWithoutLock)
}

/// The steps that the writers can take.
pub fn writer_actions(m: &Store, s: &State, out: &mut Vec<Act>) {
    let view = s.view();
    for (w, writer) in s.writers.iter().enumerate() {
        match writer.pc {
            Pc::Idle if writable(m, s, &view, w) => {
                if writer.puts > 0 {
                    out.extend((0..m.config.digests).map(|d| Act::Begin(w, d)));
                }
                if writer.clones > 0 && m.lacks(Mutant::CloneJoinsFirst) {
                    out.push(Act::CloneJoin(w));
                } else if writer.clones > 0 {
                    clone_actions(m, s, &view, w, out);
                }
            }
            Pc::Joined if writer.digest == NONE => clone_actions(m, s, &view, w, out),
            Pc::Joined | Pc::Outside => {
                out.push(Act::Lookup { w, cached: false });
                if remembered(s, writer) < NONE {
                    out.push(Act::Lookup { w, cached: true });
                }
            }
            Pc::Holding => out.push(Act::Join(w)),
            Pc::Looked => out.push(Act::Barrier(w)),
            Pc::ReadWhite => out.push(Act::StoreMark(w)),
            Pc::Decided => {
                out.push(Act::Place { w, remember: false });
                if m.config.cache && writer.src == NONE && !m.lacks(Mutant::RememberedBeforeBarrier) {
                    out.push(Act::Place { w, remember: true });
                }
            }
            Pc::Idle => {}
        }
    }
}

/// The files that the writer can clone.
fn clone_actions(m: &Store, s: &State, view: &Rows, w: usize, out: &mut Vec<Act>) {
    let sources = (0..FILES).filter(|&f| f != w + 1 && readable(m, s, view, f));
    out.extend(sources.map(|f| Act::CloneRead(w, f)));
}

/// True if a clone can lock this file and read its extent.
fn readable(m: &Store, s: &State, view: &Rows, f: usize) -> bool {
    let there = match view.link[f] {
        NONE => false,
        ORPHAN => s.kernel & bit(f as u8) != 0,
        _ => true,
    };
    there && view.ext[f] < NONE && (!s.written(f) || m.lacks(Mutant::CloneWithoutLock))
}

/// The cache's answer, if it is one that this writer may use: the chunk must not have been named by a batch
/// younger than the writer's own, which could reach the disk after it.
fn remembered(s: &State, w: &Writer) -> u8 {
    let id = s.cache[w.digest as usize];
    if id < NONE && w.old && s.active.chunks & bit(id) != 0 { NONE } else { id }
}

/// The steps that change names, and those of the reaper.
pub fn name_actions(m: &Store, s: &State, out: &mut Vec<Act>) {
    let view = s.view();
    let batches_touch = |f: usize| s.active.touches(f) || s.sealed.touches(f);
    for f in 0..FILES {
        let open = s.kernel & bit(f as u8) != 0;
        let free = !s.written(f);
        let named = view.link[f] < ORPHAN;
        if named && free && s.left.prunes > 0 {
            out.push(Act::Unlink(f));
        }
        if named && free && s.left.renames > 0 {
            out.push(Act::Rename(f));
        }
        if named && !open && s.left.opens > 0 {
            out.push(Act::Open(f));
        }
        if open && free && !locked(m, s, f) {
            out.push(Act::Forget(f));
        }
        let held = open && !m.lacks(Mutant::KernelIgnored) || !free || locked(m, s, f);
        let ready = s.db.link[f] == ORPHAN && (!batches_touch(f) || m.lacks(Mutant::ReaperIgnoresBatches));
        let hasty = m.lacks(Mutant::ReaperBeforeDurable) && view.link[f] == ORPHAN && s.db.ext[f] < NONE;
        if !held && (ready || hasty) && !log::held(s) {
            out.push(Act::Reap(f));
        }
        if !held && view.link[f] == ORPHAN {
            out.push(Act::RemoveAtOnce(f));
        }
    }
}

/// Takes a user's step.
pub fn step(m: &Store, s: &mut State, act: Act) {
    match act {
        Act::Begin(w, digest) => {
            let writer = &mut s.writers[w];
            writer.puts -= 1;
            writer.digest = digest;
            writer.pc = if m.lacks(Mutant::LookupBeforeJoin) { Pc::Outside } else { Pc::Joined };
        }
        Act::Join(w) => s.writers[w].pc = Pc::Looked,
        Act::Lookup { w, cached } => lookup(m, s, w, cached),
        Act::Barrier(w) => barrier(m, s, w),
        Act::StoreMark(w) => {
            s.marked |= bit(s.writers[w].hand);
            s.condemned &= !bit(s.writers[w].hand);
            s.writers[w].pc = Pc::Decided;
        }
        Act::Place { w, remember } => place(s, w, remember),
        Act::CloneRead(w, src) => {
            let ext = s.view().ext[src];
            let (id, digest) = parts(ext).expect("only offered for files with an extent");
            let writer = &mut s.writers[w];
            if writer.pc == Pc::Joined {
                writer.pc = Pc::Looked;
            } else {
                writer.pc = Pc::Holding;
                writer.clones -= 1;
            }
            *writer = Writer { digest, src: src as u8, hand: id, ..*writer };
        }
        Act::CloneJoin(w) => {
            s.writers[w].clones -= 1;
            s.writers[w].pc = Pc::Joined;
        }
        Act::Unlink(f) => {
            s.left.prunes -= 1;
            s.active.link[f] = ORPHAN;
        }
        Act::Rename(f) => {
            s.left.renames -= 1;
            s.active.link[f] = if s.view().link[f] == GROUP_ONE { GROUP_TWO } else { GROUP_ONE };
        }
        Act::Open(f) => {
            s.left.opens -= 1;
            s.kernel |= bit(f as u8);
        }
        Act::Forget(f) => s.kernel &= !bit(f as u8),
        Act::Reap(f) => {
            // Not a durable transaction: the weaker assumption, since the next durable one makes it so.
            s.db.ext[f] = NONE;
            if s.db.link[f] == ORPHAN {
                s.db.link[f] = NONE;
            }
        }
        Act::RemoveAtOnce(f) => {
            s.active.ext[f] = NONE;
            s.active.link[f] = NONE;
        }
        other => unreachable!("{other:?} is no user's step"),
    }
}

/// The answer for a digest, from the cache or from the layers the writer may see.
fn lookup(m: &Store, s: &mut State, w: usize, cached: bool) {
    let writer = s.writers[w];
    let d = writer.digest as usize;
    let answer = if cached {
        s.cache[d]
    } else if writer.old && !m.lacks(Mutant::NewerBatchSeen) {
        s.old_view().dig[d]
    } else {
        s.view().dig[d]
    };
    s.writers[w].hand = answer;
    s.writers[w].pc = if writer.pc == Pc::Outside { Pc::Holding } else { Pc::Looked };
}

/// The barrier: decides between reuse and a new chunk (I4, I6).
fn barrier(m: &Store, s: &mut State, w: usize) {
    let id = s.writers[w].hand;
    s.writers[w].pc = Pc::Decided;
    if id >= NONE {
        return allocate(m, s, w);
    }
    if m.config.cache && m.lacks(Mutant::RememberedBeforeBarrier) {
        s.cache[s.writers[w].digest as usize] = id;
    }
    if !s.armed || s.young & bit(id) != 0 || s.marked & bit(id) != 0 {
        s.garbage &= !bit(id);
        return;
    }
    let clone = s.writers[w].src != NONE;
    if s.condemned & bit(id) != 0 {
        // A clone has no content to make a new chunk of. That it never comes here is for the checks to show.
        if !clone && !m.lacks(Mutant::CondemnedReused) {
            allocate(m, s, w);
        }
        return;
    }
    s.garbage &= !bit(id);
    match m.mutant {
        Some(Mutant::ReadThenWrite) => s.writers[w].pc = Pc::ReadWhite,
        Some(Mutant::NoMarkOnHit) => {}
        Some(Mutant::CloneWithoutBarrier) if clone => {}
        _ => s.marked |= bit(id),
    }
}

/// A new chunk: the next id, its bytes in the batch's open region.
fn allocate(m: &Store, s: &mut State, w: usize) {
    let writer = s.writers[w];
    // An id is given again only if the next one was noted too early, and a crash followed.
    let id = if s.again != 0 { s.again.trailing_zeros() as u8 } else { s.unused() };
    s.again &= !bit(id);
    if m.lacks(Mutant::NextIdEarly) && writer.old {
        s.late |= bit(id);
    }
    if s.armed && !m.lacks(Mutant::NoWatermark) {
        s.young |= bit(id);
    }
    s.unsynced |= bit(id);
    s.synced &= !bit(id);
    s.content[id as usize] = writer.digest;
    s.writers[w].hand = id;
    s.writers[w].fresh = true;
}

/// Puts the operation's rows into its batch, leaves it, and gives up its locks.
fn place(s: &mut State, w: usize, remember: bool) {
    let writer = s.writers[w];
    let (f, id, d) = (w + 1, writer.hand, writer.digest);
    if writer.old && s.commit == Commit::Idle {
        s.wrong |= wrong::ROWS_LOST;
    }
    let create = s.view().link[f] == NONE;
    let batch = if writer.old { &mut s.sealed } else { &mut s.active };
    batch.ext[f] = extent(id, d);
    if create {
        batch.link[f] = GROUP_ONE;
    }
    if writer.fresh {
        batch.chunks |= bit(id);
        batch.dig[d as usize] = id;
    }
    if remember {
        s.cache[d as usize] = id;
    }
    s.writers[w].rest();
}
