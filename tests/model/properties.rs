//! What is promised, checked at every state.

use crate::state::*;

/// The promises, in the order in which they are checked.
pub const PROMISES: [(&str, &str); 11] = [
    (
        REACHABLE,
        "every extent that can be reached, of files with a name, open without one, or queued, has its chunk and its bytes",
    ),
    (DURABLE, "every durable extent has a durable chunk row and durable bytes of the right content"),
    (FREED, "bytes are freed only when no durable row names them (I3)"),
    (FOUND, "a digest row names a chunk that exists and has that content"),
    (NAMED, "a durable name has its content: what is queued goes only after the queue entry is durable"),
    (HELD, "an inode that the kernel remembers keeps its content"),
    (DIGEST, "a digest row goes only together with the chunk it names"),
    (GARBAGE, "what is garbage when a cycle begins, and stays it, is gone when the cycle ends"),
    (ROWS, "rows go only into a batch that is still to be written"),
    (ACKNOWLEDGED, "an opening after a crash finds what was committed, all of it and nothing older"),
    (FOLDED, "the database of the last fold, without the log, has durable bytes for every extent and chunk"),
];

pub const REACHABLE: &str = "a reachable extent lost its chunk";
pub const DURABLE: &str = "a durable extent lacks durable bytes";
pub const FREED: &str = "bytes freed before their names were durably gone";
pub const FOUND: &str = "a digest row names no such chunk";
pub const NAMED: &str = "a durable name lost its content";
pub const HELD: &str = "an open file lost its content";
pub const DIGEST: &str = "a digest row of a chunk that stays was removed";
pub const GARBAGE: &str = "garbage outlived a whole cycle";
pub const ROWS: &str = "rows were written to a batch already committed";
pub const ACKNOWLEDGED: &str = "what was acknowledged is not what an opening found";
pub const FOLDED: &str = "the database of the last fold lacks bytes";

/// The first promise that this state breaks.
pub fn broken(s: &State) -> Option<&'static str> {
    let noted = [
        (wrong::FREED_EARLY, FREED),
        (wrong::DIGEST_LOST, DIGEST),
        (wrong::GARBAGE_KEPT, GARBAGE),
        (wrong::ROWS_LOST, ROWS),
        (wrong::ACKNOWLEDGED_LOST, ACKNOWLEDGED),
    ];
    if let Some((_, name)) = noted.iter().find(|(flag, _)| s.wrong & flag != 0) {
        return Some(name);
    }
    let view = s.view();
    if !readable(s, &view, s.synced | s.unsynced) {
        return Some(REACHABLE);
    }
    if !readable(s, &s.disk, s.synced | s.log.map_or(0, |log| log.carried())) {
        return Some(DURABLE);
    }
    if s.log.is_some_and(|log| !whole(s, &log.base)) {
        return Some(FOLDED);
    }
    if !found(s, &view) || !found(s, &s.disk) {
        return Some(FOUND);
    }
    if (0..FILES).any(|f| s.disk.link[f] < ORPHAN && s.disk.ext[f] >= NONE) {
        return Some(NAMED);
    }
    if (0..FILES).any(|f| s.kernel & bit(f as u8) != 0 && view.ext[f] >= NONE) {
        return Some(HELD);
    }
    None
}

/// Every extent of an inode that exists names a chunk with a row, bytes and the right content.
fn readable(s: &State, rows: &Rows, bytes: u8) -> bool {
    (0..FILES)
        .filter(|&f| rows.link[f] != NONE)
        .filter_map(|f| parts(rows.ext[f]))
        .all(|(id, digest)| rows.chunks & bytes & bit(id) != 0 && s.content[id as usize] == digest)
}

/// A database that needs no log: all chunks that it has are there, durably.
fn whole(s: &State, base: &Rows) -> bool {
    base.chunks & !s.synced == 0 && readable(s, base, s.synced) && found(s, base)
}

/// Every digest row names a chunk with a row and that content.
fn found(s: &State, rows: &Rows) -> bool {
    (0..DIGESTS)
        .filter(|&d| rows.dig[d] < NONE)
        .all(|d| rows.chunks & bit(rows.dig[d]) != 0 && s.content[rows.dig[d] as usize] == d as u8)
}
