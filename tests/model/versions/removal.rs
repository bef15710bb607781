//! Reap, audit and contraction: what `meta/versions/reap.rs` and `fs/subvolumes/reap.rs` do, one key a step.
//!
//! Their transactions are not durable by themselves.

use super::protocol::{Act, Mutant, Store};
use super::rows::*;
use super::state::*;

pub fn actions(store: &Store, s: &State, out: &mut Vec<Act>) {
    if !s.candidates.is_empty() {
        out.push(Act::AuditRemoves);
    }
    let keys = 0..store.config.keys;
    if store.lacks(Mutant::AuditFromSnapshot) && s.left.audits > 0 && s.candidates.is_empty() {
        let sees = |k: &usize| !sweep(store, &s.db, *k, leaves(store, s, &s.db, false)).is_empty();
        keys.clone().filter(sees).for_each(|k| out.push(Act::AuditSees(k)));
    }
    if s.left.rots > 0 {
        let versions = s.db.versions().map(version);
        versions.chain(s.db.subs().map(|(n, _)| sub(n))).for_each(|at| out.push(Act::Rot(at)));
    }
    // An error ends reap and audit.
    if is_damaged(store, &s.db) {
        return;
    }
    for n in (1..SUBS as u8).filter(|n| is_ready(store, s, *n)) {
        let mut done = true;
        for k in keys.clone() {
            if !reaped(store, s, n, k).is_empty() {
                out.push(Act::Reap(n, k));
                done = false;
            }
        }
        if done && s.db.has(sub(n)) {
            out.push(Act::ReapEnds(n));
        }
    }
    if s.left.audits > 0 && !store.lacks(Mutant::AuditFromSnapshot) {
        keys.filter(|k| !audited(store, s, *k).is_empty()).for_each(|k| out.push(Act::Audit(k)));
    }
    if s.left.contractions > 0 {
        let all = leaves(store, s, &s.db, true);
        let may = |v: &u8| contracted(&s.db, *v, all).is_some();
        s.db.versions().filter(may).for_each(|v| out.push(Act::Contract(v)));
    }
}

pub fn step(store: &Store, s: &mut State, act: Act) {
    match act {
        Act::Reap(n, k) => {
            let gone = reaped(store, s, n, k);
            s.db.remove(gone);
        }
        Act::ReapEnds(n) => {
            let leaf = s.db.leaf(n);
            let all = leaves(store, s, &s.db, true);
            s.db.delete(sub(n));
            if let Some(db) = leaf.and_then(|leaf| contracted(&s.db, leaf, all)) {
                s.db = db;
            }
            s.since[n as usize] = Since::Live;
        }
        Act::Audit(k) => {
            s.left.audits -= 1;
            let gone = audited(store, s, k);
            s.db.remove(gone);
        }
        Act::AuditSees(k) => {
            s.left.audits -= 1;
            s.candidates = sweep(store, &s.db, k, leaves(store, s, &s.db, false));
        }
        Act::AuditRemoves => s.db.remove(std::mem::take(&mut s.candidates)),
        Act::Contract(v) => {
            s.left.contractions -= 1;
            if let Some(db) = contracted(&s.db, v, leaves(store, s, &s.db, true)) {
                s.db = db;
            }
        }
        Act::Rot(at) => {
            s.left.rots -= 1;
            for rows in [&mut s.db, &mut s.disk] {
                if let Some(value) = rows.get(at) {
                    rows.put(at, value | ROTTEN);
                }
            }
        }
        _ => unreachable!("no step of reap or audit: {act:?}"),
    }
}

/// Dropped, and nobody has used it since a batch that is durable.
fn is_ready(store: &Store, s: &State, n: u8) -> bool {
    let since = s.since[n as usize];
    let early = store.lacks(Mutant::ReapBeforeForgetDurable) || store.lacks(Mutant::ReapBeforeDropDurable);
    let long_enough = if early { since >= Since::Open } else { since == Since::Durable };
    let is_dropped = s.db.get(sub(n)).is_some_and(|value| value & DROPPED > 0);
    long_enough && (is_dropped || store.lacks(Mutant::ReapBeforeDropDurable) && s.db.has(sub(n)))
}

/// The leaves of all subvolumes but those that are being reaped.
fn leaves(store: &Store, s: &State, rows: &Rows, reaps: bool) -> Versions {
    let mut all = Versions::default();
    for (n, value) in rows.subs() {
        let is_dropped = value & DROPPED > 0 && store.lacks(Mutant::DroppedIsDead);
        let is_absent = value & ROTTEN > 0 && store.lacks(Mutant::AbsenceIsDrop);
        if !(reaps && is_ready(store, s, n) || is_dropped || is_absent) {
            all.add(value & NUMBER);
        }
    }
    all
}

/// The rows of a key that a reap of a subvolume removes.
fn reaped(store: &Store, s: &State, n: u8, k: usize) -> Set {
    let rows = if store.lacks(Mutant::ReapFromMemtables) { s.now() } else { s.db };
    let all = leaves(store, s, &rows, true);
    let Some(leaf) = rows.leaf(n) else { return Set::default() };
    let has = |v: u8| rows.has(row(k, v));
    if !visited(&rows, leaf, all).all().any(has) {
        return Set::default();
    }
    there(sweep(store, &rows, k, all), &s.db)
}

fn audited(store: &Store, s: &State, k: usize) -> Set {
    let rows = if store.lacks(Mutant::ReapFromMemtables) { s.now() } else { s.db };
    there(sweep(store, &rows, k, leaves(store, s, &rows, false)), &s.db)
}

fn there(gone: Set, db: &Rows) -> Set {
    let mut found = Set::default();
    gone.all().filter(|at| db.has(*at)).for_each(|at| found.add(at));
    found
}

/// A row that reap and audit need does not decode, or is not there.
pub fn is_damaged(store: &Store, db: &Rows) -> bool {
    let is_rotten = |at| db.get(at).is_some_and(|value| value & ROTTEN > 0);
    let rotten = db.versions().any(|v| is_rotten(version(v))) || db.subs().any(|(n, _)| is_rotten(sub(n)));
    let lacks = |v: &u8| !db.has(version(*v));
    let stray = |v: &u8| lacks(v) && (0..KEYS).any(|k| db.has(row(k, *v)));
    rotten && !store.lacks(Mutant::AbsenceIsDrop)
        || db.subs().any(|(_, value)| lacks(&(value & NUMBER)))
        || (1..VERSIONS as u8).any(|v| stray(&v))
}

/// How many leaves are at or below a version.
fn count(rows: &Rows, v: u8, leaves: Versions) -> usize {
    leaves.all().filter(|leaf| rows.upwards(*leaf, false).any(|above| above == v)).count()
}

/// The versions whose keys the reap of a leaf looks at: those that nobody reaches any more, and if one branch is left
/// below the next one, that branch.
pub fn visited(rows: &Rows, leaf: u8, leaves: Versions) -> Versions {
    let mut all = Versions::default();
    all.add(leaf);
    for above in rows.upwards(leaf, false).skip(1) {
        if count(rows, above, leaves) == 0 {
            all.add(above);
            continue;
        }
        let mut at = above;
        while all.all().count() < VERSIONS - 1 {
            let is_branch = |v: &u8| {
                rows.get(version(*v)).is_some_and(|value| value & NUMBER == at) && count(rows, *v, leaves) > 0
            };
            let branches: Vec<u8> = rows.versions().filter(is_branch).collect();
            let [only] = branches.as_slice() else { break };
            all.add(*only);
            at = *only;
        }
        break;
    }
    all
}

/// The rows of a key that none of these leaves sees, and contents that no row names.
pub fn sweep(store: &Store, rows: &Rows, k: usize, leaves: Versions) -> Set {
    let absent = store.lacks(Mutant::AbsenceIsDrop);
    let mut reached = Versions::default();
    for leaf in leaves.all() {
        if let Some((at, _)) = rows.first(k, leaf, absent) {
            reached.add(at);
        }
    }
    let all: Vec<(u8, u8)> = (1..VERSIONS as u8).filter_map(|v| Some((v, rows.get(row(k, v))?))).collect();
    let (mut seen, mut named, mut gone) = (Versions::default(), Versions::default(), Set::default());
    // Parents come first.
    for (v, value) in &all {
        let hides = || rows.upwards(*v, absent).skip(1).any(|above| seen.has(above));
        let hidden = || all.iter().any(|(w, _)| w != v && rows.upwards(*w, absent).any(|above| above == *v));
        let is_reached = reached.has(*v) && !(store.lacks(Mutant::HidesFromAll) && hidden());
        if is_reached && (*value != WHITEOUT || hides()) {
            seen.add(*v);
            named.add(*value);
        } else {
            gone.add(row(k, *v));
        }
    }
    for v in (1..VERSIONS as u8).filter(|v| rows.has(content(k, *v))) {
        // What a leaf has may be a copy that is not finished.
        let is_copy = leaves.has(v) && !store.lacks(Mutant::CopyIsGarbage);
        if !named.has(v) && !is_copy {
            gone.add(content(k, v));
        }
    }
    gone
}

/// The tree without a version that has no rows, no leaf and no more than one child.
fn contracted(db: &Rows, v: u8, leaves: Versions) -> Option<Rows> {
    let has_leaf = db.subs().any(|(_, value)| value & NUMBER == v) || leaves.has(v);
    let parent = db.get(version(v))?;
    let children: Vec<u8> = db.versions().filter(|w| db.get(version(*w)) == Some(v)).collect();
    if has_leaf || children.len() > 1 || (0..KEYS).any(|k| db.has(row(k, v))) {
        return None;
    }
    let mut after = *db;
    children.iter().for_each(|child| after.put(version(*child), parent));
    after.delete(version(v));
    Some(after)
}

/// What is left once everything is committed, reaped and audited, and nobody uses anything: what should not be.
pub fn left(store: &Store, s: &State) -> bool {
    let mut s = *s;
    if s.db.subs().any(|(_, value)| value & ROTTEN > 0)
        || s.db.versions().any(|v| s.db.get(version(v)).is_some_and(|p| p & ROTTEN > 0))
    {
        return false;
    }
    if is_damaged(store, &s.db) {
        return true;
    }
    for n in 1..SUBS as u8 {
        if s.db.get(sub(n)).is_some_and(|value| value & DROPPED > 0) {
            s.since[n as usize] = Since::Durable;
        }
    }
    for n in (1..SUBS as u8).filter(|n| is_ready(store, &s, *n)).collect::<Vec<_>>() {
        for k in 0..store.config.keys {
            step(store, &mut s, Act::Reap(n, k));
        }
        step(store, &mut s, Act::ReapEnds(n));
    }
    for _ in 0..2 {
        for k in 0..store.config.keys {
            let gone = audited(store, &s, k);
            s.db.remove(gone);
        }
    }
    let all = leaves(store, &s, &s.db, false);
    let nameless = s.db.subs().any(|(n, _)| !s.db.is_named(n));
    let has = |k: usize, v: u8| {
        let sees = |leaf| s.db.first(k, leaf, false).is_some_and(|(at, _)| at == v);
        s.db.has(row(k, v)) && !all.all().any(sees)
    };
    let names = |k: usize, v: u8| (1..VERSIONS as u8).any(|w| s.db.get(row(k, w)) == Some(v));
    let unnamed = s.db.contents().any(|(k, v, _)| !names(k, v) && !all.has(v));
    nameless || unnamed || (0..KEYS).any(|k| (1..VERSIONS as u8).any(|v| has(k, v)))
}
