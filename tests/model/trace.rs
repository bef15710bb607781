//! Turns the steps of a counterexample into sentences.

use crate::properties;
use crate::protocol::{Act, Mutant, Store};
use crate::state::*;

const CONTENT: [&str; DIGESTS] = ["A", "B", "C"];
const FILE: [&str; FILES] = ["base", "new1", "new2"];

fn content(d: u8) -> &'static str {
    CONTENT.get(d as usize).copied().unwrap_or("?")
}

fn chunks(mask: u8) -> String {
    let ids: Vec<String> =
        (0..IDS).filter(|&id| mask & bit(id as u8) != 0).map(|id| id.to_string()).collect();
    match ids.len() {
        0 => "no chunk".into(),
        1 => format!("chunk {}", ids[0]),
        _ => format!("chunks {}", ids.join(", ")),
    }
}

/// What stands in the store before the first step.
pub const START: &str =
    "base (in group two) holds content A as chunk 0; content B is chunk 1, which no file uses";

/// One step as a sentence.
pub fn describe(m: &Store, before: &State, act: Act, after: &State) -> String {
    match act {
        Act::Begin(..)
        | Act::Join(_)
        | Act::Lookup { .. }
        | Act::Barrier(_)
        | Act::StoreMark(_)
        | Act::Place { .. }
        | Act::CloneJoin(_)
        | Act::CloneRead(..) => writer(m, before, act, after),
        Act::Unlink(f) => match before.kernel & bit(f as u8) {
            0 => format!("the pruner unlinks {}", FILE[f]),
            _ => format!("the pruner unlinks {}, which is still open", FILE[f]),
        },
        Act::Rename(f) => {
            let group = if after.active.link[f] == GROUP_ONE { "one" } else { "two" };
            format!("the pruner renames {} into group {group}", FILE[f])
        }
        Act::Open(f) => format!("a program opens {}: the kernel remembers it", FILE[f]),
        Act::Forget(f) => format!("the kernel forgets {}", FILE[f]),
        Act::RemoveAtOnce(f) => format!("the rows of {} are removed at once, in the open batch", FILE[f]),
        Act::Reap(f) => format!("the reaper removes the rows of {} from the database", FILE[f]),
        Act::Crash { whole } => reopened(m, before, whole),
        Act::Append | Act::SyncLog | Act::FoldSync { .. } | Act::FoldDurable | Act::FoldCut => {
            log(m, before, act, after)
        }
        _ => collector(m, before, act, after),
    }
}

fn reopened(m: &Store, before: &State, whole: bool) -> String {
    let entry = match before.log {
        Some(log) if log.unsynced && whole => "; the last entry of the log is whole",
        Some(log) if log.unsynced => "; the last entry of the log is not there",
        _ => "",
    };
    let how = match m.mutant {
        Some(Mutant::FoldedEntryReplayed) => "; entries are replayed although they are folded",
        Some(Mutant::StaleEntryReplayed) => "; entries of the lap before are replayed as well",
        Some(Mutant::ShownBeforeSynced) if whole => ", and NOT synced before it is shown",
        Some(Mutant::CarriedNotPutBack) => "; what entries carry is NOT put back",
        _ => "",
    };
    format!("CRASH, and restart from what is durable{entry}{how}")
}

fn log(m: &Store, before: &State, act: Act, after: &State) -> String {
    let what = |batch| if batch { ", with the batch" } else { "" };
    match act {
        Act::Append => {
            let carried = chunks(before.sealed.chunks & before.unsynced);
            let carried = match m.lacks(Mutant::NamesBeforeBytes) {
                true => format!("does NOT carry the bytes of {carried}"),
                false => format!("carries the bytes of {carried}"),
            };
            let answer = if after.commit == Commit::Idle { ", and is acknowledged" } else { "" };
            format!("commit: the batch is written to the log as an entry that {carried}{answer}")
        }
        Act::SyncLog if before.commit != Commit::Logged => "commit: the log is synced".into(),
        Act::SyncLog => "commit: the log is synced, and the commit acknowledged".into(),
        Act::FoldSync { batch } if m.lacks(Mutant::FoldBeforePacks) => {
            format!("fold{}: the packs are NOT synced", what(batch))
        }
        Act::FoldSync { batch } => {
            format!("fold{}: the bytes of {} are synced", what(batch), chunks(after.synced & !before.synced))
        }
        Act::FoldDurable => "fold: the database is durable, and says that it has every entry".into(),
        Act::FoldCut => "fold: the log is begun anew".into(),
        other => unreachable!("{other:?} is no step of the log"),
    }
}

fn writer(m: &Store, before: &State, act: Act, after: &State) -> String {
    match act {
        Act::Begin(w, d) => {
            let how = if m.lacks(Mutant::LookupBeforeJoin) { "without joining" } else { "joins" };
            format!(
                "writer {} is to write content {} to {}: {how} the open batch",
                w + 1,
                content(d),
                FILE[w + 1]
            )
        }
        Act::Join(w) => format!("writer {} joins the open batch", w + 1),
        Act::Lookup { w, cached } => lookup(w, cached, after),
        Act::Barrier(w) => format!("writer {} passes the barrier: {}", w + 1, barrier(m, before, w, after)),
        Act::StoreMark(w) => {
            let id = before.writers[w].hand;
            let over = if before.condemned & bit(id) != 0 { ", over \"condemned\"" } else { "" };
            format!("writer {} stores \"marked\" in the cell of chunk {id}{over}", w + 1)
        }
        Act::Place { w, remember } => {
            let who = &before.writers[w];
            let batch = if who.old { "the batch being committed" } else { "the open batch" };
            let cache = if remember { ", remembers the answer" } else { "" };
            format!(
                "writer {} places {} -> chunk {} in {batch}{cache}, and leaves it",
                w + 1,
                FILE[w + 1],
                who.hand
            )
        }
        other => clone(m, other, after),
    }
}

fn clone(m: &Store, act: Act, after: &State) -> String {
    match act {
        Act::CloneJoin(w) => {
            format!("writer {} is to clone a file to {}: joins the open batch", w + 1, FILE[w + 1])
        }
        Act::CloneRead(w, src) => {
            let id = after.writers[w].hand;
            let lock =
                if m.lacks(Mutant::CloneWithoutLock) { "without its lock" } else { "holding its lock" };
            format!("writer {} is to clone {} to {}: reads chunk {id}, {lock}", w + 1, FILE[src], FILE[w + 1])
        }
        other => unreachable!("{other:?} is no writer's step"),
    }
}

fn lookup(w: usize, cached: bool, after: &State) -> String {
    let who = &after.writers[w];
    let place = if cached { " in the cache" } else { "" };
    let answer = match who.hand {
        NONE => "finds nothing".into(),
        id if who.old && after.active.chunks & bit(id) != 0 => {
            format!("finds chunk {id}, named only by the batch after its own")
        }
        id => format!("finds chunk {id}"),
    };
    format!("writer {} looks up digest {}{place}: {answer}", w + 1, content(who.digest))
}

fn barrier(m: &Store, before: &State, w: usize, after: &State) -> String {
    let (was, now) = (before.writers[w].hand, &after.writers[w]);
    let id = now.hand;
    if was >= NONE {
        return format!("content not found, it makes chunk {id}");
    }
    if now.fresh {
        return format!("chunk {was} is condemned, it makes chunk {id}");
    }
    let clone = before.writers[w].src != NONE;
    if clone && m.lacks(Mutant::CloneWithoutBarrier) {
        return format!("left out, so chunk {id} is not marked");
    }
    let reason = match bit(id) {
        _ if !before.armed => "no cycle runs",
        b if before.young & b != 0 => "it is above the watermark",
        b if before.marked & b != 0 => "it is marked already",
        b if before.condemned & b != 0 && clone => "it is condemned, but a clone has nothing else to name",
        b if before.condemned & b != 0 => "it is condemned, and nobody minds",
        _ if now.pc == Pc::ReadWhite => "its cell reads white",
        b if after.marked & b != 0 => "it was white, now it is marked",
        _ => "it is white, and stays white",
    };
    format!("reuse chunk {id}, {reason}")
}

fn collector(m: &Store, before: &State, act: Act, after: &State) -> String {
    match act {
        Act::Swap => "commit: a new batch is opened, the old one is to be written".into(),
        Act::SyncBytes => {
            format!("commit: the bytes of {} are synced", chunks(before.sealed.chunks & before.unsynced))
        }
        Act::Durable => "commit: the batch is in the database, durably".into(),
        Act::Flip => {
            let armed = if after.armed { "the barrier is armed" } else { "the barrier is NOT armed yet" };
            format!("the collector flips: {armed}, a new batch is opened, the old one is to be written")
        }
        Act::Snapshot if m.lacks(Mutant::LiveMark) => "the collector reads the files of group one".into(),
        Act::Mark if m.lacks(Mutant::LiveMark) => {
            format!("the collector reads the files of group two: it has marked {}", chunks(after.marked))
        }
        Act::Snapshot => "the collector takes the read snapshot of the database".into(),
        Act::Mark => format!("the collector marks {}", chunks(after.marked & !before.marked)),
        Act::MarkError(f) if m.lacks(Mutant::DecodeErrorSkipped) => {
            format!(
                "the extent row of {} does not decode: skipped; the collector marks {}",
                FILE[f],
                chunks(after.marked)
            )
        }
        Act::MarkError(f) => format!("the extent row of {} does not decode: the cycle ends", FILE[f]),
        Act::Condemn => format!("the sweep condemns {}", chunks(after.condemned & !before.condemned)),
        Act::EarlyEnd => "the collector meets an error: the cycle ends early".into(),
        Act::Unname => format!("the sweep takes {} out of their digests", chunks(before.doomed)),
        Act::Remove => format!("the sweep removes the rows of {}", chunks(before.doomed)),
        Act::RemovalDurable => "the removal is made durable".into(),
        Act::Reclaim => format!("the collector frees the bytes of {}", chunks(before.synced & !after.synced)),
        Act::ClearCache if m.lacks(Mutant::CacheNotCleared) => "the cache is NOT cleared".into(),
        Act::ClearCache => "the collector clears the cache".into(),
        Act::Grace => "the collector opens a new batch and waits for the members of the old one".into(),
        Act::Disarm => "the collector disarms the barrier: the cycle is over".into(),
        other => unreachable!("{other:?} is no step of the collector"),
    }
}

/// What is wrong with this state, with the file or chunk it is about.
pub fn verdict(s: &State) -> String {
    let name = properties::broken(s).unwrap_or("nothing is broken");
    let (rows, bytes) = match name {
        properties::REACHABLE => (s.view(), s.synced | s.unsynced),
        properties::DURABLE => (s.disk, s.synced | s.log.map_or(0, |log| log.carried())),
        properties::FOLDED => return format!("{name}: {}", chunks(s.database().chunks & !s.synced)),
        properties::GARBAGE => return format!("{name}: {}", chunks(s.garbage)),
        _ => return name.into(),
    };
    for f in (0..FILES).filter(|&f| rows.link[f] != NONE) {
        let Some((id, digest)) = parts(rows.ext[f]) else {
            continue;
        };
        let fate = if rows.chunks & bit(id) == 0 {
            "whose row is gone".into()
        } else if bytes & bit(id) == 0 {
            "whose bytes are not there".into()
        } else if s.content[id as usize] != digest {
            format!("which now holds content {}", content(s.content[id as usize]))
        } else {
            continue;
        };
        return format!("{name}: {} names chunk {id} for content {}, {fate}", FILE[f], content(digest));
    }
    name.into()
}
