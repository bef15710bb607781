//! Members of batches, clones, the kernel, and the power.

use super::protocol::{Act, Mutant, Store};
use super::rows::*;
use super::state::*;

/// Subvolumes with a name.
fn named(s: &State, rows: &Rows) -> Vec<u8> {
    (1..SUBS as u8).filter(|n| rows.is_named(*n) && s.of_open.is_alive(*n)).collect()
}

/// Who may join, and who may act and leave.
pub fn member_actions(store: &Store, s: &State, out: &mut Vec<Act>) {
    let mut last = Member::NOBODY;
    for member in s.busy().filter(|member| !member.old || s.is_sealed) {
        if *member != last {
            out.push(Act::Leave(*member));
        }
        last = *member;
    }
    if s.busy().count() == s.members.len() {
        return;
    }
    let rows = s.now();
    let with_name = named(s, &rows);
    for n in (1..SUBS as u8).filter(|n| with_name.contains(n) || s.remembers(*n)) {
        let Some(leaf) = rows.leaf(n) else { continue };
        let has_name = with_name.contains(&n);
        for k in (0..store.config.keys).filter(|k| !s.is_locked(n, *k)) {
            let join = |kind, what| Act::Join(Member { kind, old: false, n, k: k as u8, what, leaf });
            if let Some((of, at, to)) = s.copying
                && (of, at) == (n, k as u8)
                && to == leaf
            {
                // The lock of the inode is held until the copy is whole.
                out.push(join(Kind::Rest, 1));
                continue;
            }
            if s.left.writes > 0 {
                (1..=store.config.digests).for_each(|digest| out.push(join(Kind::Write, digest)));
            }
            let seen = rows.first(k, leaf, false).filter(|(_, names)| *names != WHITEOUT);
            if s.left.stretches > 0 && s.copying.is_none() && seen.is_some_and(|(_, names)| names != leaf) {
                out.push(join(Kind::First, 0));
            }
            if s.left.touches > 0 && has_name && seen.is_some() {
                out.push(join(Kind::Touch, 0));
            }
            if s.left.deletes > 0 && has_name && seen.is_some() {
                out.push(join(Kind::Delete, 0));
            }
            if s.left.copies > 0 && has_name {
                let sources = with_name.iter().filter(|from| **from != n && !s.is_locked(**from, k));
                sources.for_each(|from| out.push(join(Kind::Copy, *from)));
            }
        }
        // The lock of subvolumes.
        let is_held = s.cloning.stage == Stage::Cut || s.busy().any(|member| member.kind == Kind::Drop);
        let may = !is_held || store.lacks(Mutant::NoLock) && !s.busy().any(|m| m.kind == Kind::Drop);
        if s.left.drops > 0 && has_name && may {
            out.push(Act::Join(Member { kind: Kind::Drop, old: false, n, k: 0, what: 0, leaf }));
        }
    }
}

pub fn join(s: &mut State, member: Member) {
    let left = &mut s.left;
    match member.kind {
        Kind::Write => left.writes -= 1,
        Kind::First => left.stretches -= 1,
        Kind::Touch => left.touches -= 1,
        Kind::Delete => left.deletes -= 1,
        Kind::Copy => left.copies -= 1,
        Kind::Drop => left.drops -= 1,
        Kind::Rest | Kind::Nobody => {}
    }
    if member.kind != Kind::Drop && s.copying.is_some_and(|(n, k, _)| (n, k) == (member.n, member.k)) {
        // It is gone on with, or the leaf moved and it begins again.
        s.copying = None;
    }
    s.join(member);
}

/// A clone, and what the kernel remembers.
pub fn subvolume_actions(store: &Store, s: &State, out: &mut Vec<Act>) {
    let rows = s.now();
    let with_name = named(s, &rows);
    let drops = |s: &State| s.busy().any(|member| member.kind == Kind::Drop);
    if s.left.clones > 0
        && s.cloning.stage == Stage::None
        && !s.is_sealed
        && (!drops(s) || store.lacks(Mutant::NoLock))
    {
        let sources = with_name.iter().filter(|n| s.since[**n as usize] == Since::Live);
        sources.for_each(|n| out.push(Act::CloneSwap(*n)));
    }
    let drained = match s.cloning.stage {
        Stage::None => false,
        Stage::Cut => store.lacks(Mutant::SeenBeforeDrained),
        Stage::Nameless => true,
    };
    if drained && !drops(s) {
        out.push(Act::CloneNamed);
        if s.left.taken > 0 && s.cloning.stage == Stage::Nameless {
            out.push(Act::CloneRefused);
        }
    }
    for n in 1..SUBS as u8 {
        if s.left.opens > 0 && with_name.contains(&n) && !s.remembers(n) {
            out.push(Act::Open(n));
        }
        if s.remembers(n) && !s.is_busy(n) {
            out.push(Act::Forget(n));
        }
        let ignored = store.lacks(Mutant::ReapWhileRemembered);
        if s.since[n as usize] == Since::Used && (ignored || !s.remembers(n)) && !s.is_busy(n) {
            out.push(Act::Note(n));
        }
    }
}

pub fn step(store: &Store, s: &mut State, act: Act) {
    match act {
        Act::CloneSwap(n) => clone(store, s, n),
        Act::CloneNamed => {
            let to = s.cloning.to;
            let rows = s.now();
            if let Some(value) = rows.get(sub(to)) {
                s.open.put(sub(to), value | NAMED);
                s.open.put(name(to), 1);
            }
            s.of_open.begin(to);
            s.cloning = Cloning::NONE;
        }
        Act::CloneRefused => {
            s.left.taken -= 1;
            let to = s.cloning.to;
            drop_nameless(s, to);
            s.of_open.end(to);
            s.cloning = Cloning::NONE;
        }
        Act::Open(n) => {
            s.left.opens -= 1;
            s.kernel |= 1 << n;
        }
        Act::Forget(n) => forget(s, n),
        Act::Note(n) => s.since[n as usize] = Since::Open,
        Act::Crash => crash(store, s),
        _ => unreachable!("not a step of users: {act:?}"),
    }
}

/// A subvolume that never had a name.
fn drop_nameless(s: &mut State, n: u8) {
    let rows = s.now();
    if let Some(value) = rows.get(sub(n)) {
        s.open.put(sub(n), value & NUMBER | DROPPED);
        s.since[n as usize] = Since::Used;
    }
}

fn clone(store: &Store, s: &mut State, from: u8) {
    s.left.clones -= 1;
    let rows = s.now();
    let leaf = rows.leaf(from).expect("a subvolume with a name has a row");
    let (moved, begun, to) = (s.next.version, s.next.version + 1, s.next.sub);
    s.next.version += 2;
    s.next.sub += 1;
    let of_source = [(version(moved), leaf), (sub(from), NAMED | moved)];
    let of_clone = [(version(begun), leaf), (sub(to), begun)];
    if store.lacks(Mutant::NoCut) {
        of_source.into_iter().chain(of_clone).for_each(|(at, value)| s.open.put(at, value));
        s.of_open.copy(from, to);
        s.cloning = Cloning { stage: Stage::Nameless, from, to, leaf: 0 };
        return;
    }
    s.swap();
    of_source.into_iter().for_each(|(at, value)| s.open.put(at, value));
    s.of_open.copy(from, to);
    let stage = Stage::Cut;
    s.cloning = Cloning { stage, from, to, leaf };
    if store.lacks(Mutant::CloneBeforeMove) {
        of_clone.into_iter().for_each(|(at, value)| s.sealed.put(at, value));
        s.sealed.put(sub(to), begun | NAMED);
        s.sealed.put(name(to), 1);
        s.of_sealed.copy(from, to);
        s.of_sealed.begin(to);
        s.of_open.begin(to);
    } else {
        of_clone.into_iter().for_each(|(at, value)| s.open.put(at, value));
    }
}

fn forget(s: &mut State, n: u8) {
    s.kernel &= !(1 << n);
    let is_dropped = |rows: &Rows| rows.get(sub(n)).is_none_or(|value| value & DROPPED > 0);
    if is_dropped(&s.now()) {
        s.of_open.end(n);
    }
    if is_dropped(&s.below()) {
        s.of_sealed.end(n);
    }
    if is_dropped(&s.db) {
        s.of_db.end(n);
    }
}

/// The power goes, and the store is opened again.
fn crash(store: &Store, s: &mut State) {
    s.left.crashes -= 1;
    let nothing = Store::start(store);
    *s = State {
        db: s.disk,
        disk: s.disk,
        next: s.noted,
        noted: s.noted,
        of_db: s.of_db,
        left: s.left,
        refused: s.refused,
        of_sealed: Maps::NONE,
        ..nothing
    };
    s.of_open = s.of_db;
    for (n, value) in s.disk.subs().collect::<Vec<_>>() {
        if value & (NAMED | DROPPED) == NAMED {
            continue;
        }
        // What was open, or never had a name.
        s.of_db.end(n);
        s.of_open.end(n);
        if value & DROPPED > 0 {
            s.since[n as usize] = Since::Used;
        } else if !store.lacks(Mutant::NamelessKept) {
            drop_nameless(s, n);
        }
    }
}

/// Lets a member do what it joined for.
pub fn leave(store: &Store, s: &mut State, member: Member) {
    let place = s.members.iter_mut().find(|other| **other == member);
    *place.expect("it is a member") = Member::NOBODY;
    s.members.sort_unstable();
    let rows = if member.old { s.below() } else { s.now() };
    if member.kind == Kind::Drop {
        return drop_subvolume(s, member);
    }
    let Some(done) = change(store, s, &rows, member) else { return };
    let batch = if member.old { &mut s.sealed } else { &mut s.open };
    batch.apply(&done.rows);
    let Some(digests) = done.digests else { return };
    let (n, k) = (member.n, member.k as usize);
    if s.of_open.is_alive(n) {
        s.of_open.set(n, k, digests(s.of_open.file(n, k)));
    }
    if !member.old {
        return;
    }
    if s.of_sealed.is_alive(n) {
        s.of_sealed.set(n, k, digests(s.of_sealed.file(n, k)));
    }
    // What the cut waits for is in the clone, too.
    let Cloning { stage, from, to, leaf } = s.cloning;
    if stage == Stage::Cut && (from, leaf) == (n, member.leaf) {
        s.of_open.set(to, k, digests(s.of_open.file(to, k)));
        if s.of_sealed.is_alive(to) {
            s.of_sealed.set(to, k, digests(s.of_sealed.file(to, k)));
        }
    }
}

fn drop_subvolume(s: &mut State, member: Member) {
    let n = member.n;
    let value = s.now().get(sub(n)).unwrap_or(member.leaf);
    let batch = if member.old { &mut s.sealed } else { &mut s.open };
    batch.put(sub(n), value & NUMBER | DROPPED);
    batch.delete(name(n));
    s.since[n as usize] = Since::Used;
    if s.remembers(n) {
        return;
    }
    s.of_open.end(n);
    if member.old {
        s.of_sealed.end(n);
    }
}

/// What a member puts into its batch, and what becomes of the digests of its file.
struct Done {
    rows: Rows,
    digests: Option<Box<dyn Fn(u8) -> u8>>,
}

impl Done {
    fn rows(rows: Rows) -> Option<Self> {
        Some(Self { rows, digests: None })
    }

    fn new(rows: Rows, digests: impl Fn(u8) -> u8 + 'static) -> Option<Self> {
        Some(Self { rows, digests: Some(Box::new(digests)) })
    }
}

fn change(store: &Store, s: &mut State, rows: &Rows, member: Member) -> Option<Done> {
    let Member { kind, k, what, leaf, .. } = member;
    let k = k as usize;
    let mut into = Rows::layer();
    let seen = rows.first(k, leaf, false).map(|(_, names)| names).filter(|names| *names != WHITEOUT);
    match kind {
        Kind::Write | Kind::Rest => write(store, s, rows, member),
        Kind::First => {
            let names = seen.filter(|names| *names != leaf)?;
            let first = rows.get(content(k, names))? >> 4;
            births(s, store.lacks(Mutant::FirstWriteUnasked), [first])?;
            into.put(content(k, leaf), first << 4);
            s.copying = Some((member.n, member.k, leaf));
            Done::rows(into)
        }
        Kind::Touch => {
            into.put(row(k, leaf), seen?);
            Done::rows(into)
        }
        Kind::Delete => {
            seen?;
            into.delete(row(k, leaf));
            if rows.has(content(k, leaf)) {
                into.delete(content(k, leaf));
            }
            let parent = rows.upwards(leaf, false).nth(1);
            let above = parent.and_then(|parent| rows.first(k, parent, false));
            let hides = match above {
                None => false,
                Some((_, WHITEOUT)) => !store.lacks(Mutant::WhiteoutIsNothing),
                Some(_) => true,
            };
            if hides && !store.lacks(Mutant::NoWhiteout) {
                into.put(row(k, leaf), WHITEOUT);
            }
            Done::new(into, |_| 0)
        }
        Kind::Copy => {
            let names = rows.first(k, rows.leaf(what)?, false).map(|(_, names)| names);
            let source = rows.get(content(k, names.filter(|names| *names != WHITEOUT)?))?;
            births(s, store.lacks(Mutant::CopyUnasked), chunks(source))?;
            into.put(row(k, leaf), leaf);
            into.put(content(k, leaf), source);
            let digest = |id: u8| rows.get(chunk(id)).unwrap_or(0);
            let copied = digest(source >> 4) << 4 | digest(source & 0x0f);
            Done::new(into, move |_| copied)
        }
        Kind::Drop | Kind::Nobody => None,
    }
}

fn write(store: &Store, s: &mut State, rows: &Rows, member: Member) -> Option<Done> {
    let Member { kind, k, what: digest, leaf, .. } = member;
    let k = k as usize;
    let mut into = Rows::layer();
    let seen = rows.first(k, leaf, false).map(|(_, names)| names).filter(|names| *names != WHITEOUT);
    let names = if kind == Kind::Rest { Some(leaf) } else { seen };
    let old = names.and_then(|names| rows.get(content(k, names)));
    if let Some(old) = old {
        // The first stretch is copied, or it is what is kept of an extent that is replaced.
        let mutant = if names == Some(leaf) { Mutant::KeptUnasked } else { Mutant::FirstWriteUnasked };
        births(s, store.lacks(mutant), [old >> 4])?;
    }
    let found = (1..s.next.chunk).find(|id| rows.get(chunk(*id)) == Some(digest) && may_reuse(s, *id));
    let new = match found {
        Some(id) => {
            mark(s, id);
            id
        }
        None => {
            let id = s.next.chunk;
            s.next.chunk += 1;
            into.put(chunk(id), digest);
            id
        }
    };
    into.put(row(k, leaf), leaf);
    into.put(content(k, leaf), old.map_or(new << 4, |old| old & 0xf0 | new));
    Done::new(into, move |before| if before > 0 { before & 0xf0 | digest } else { digest << 4 })
}

/// References to chunks that a row names already: `None` if the barrier refuses one, which nobody should ever see.
fn births(s: &mut State, unasked: bool, ids: impl IntoIterator<Item = u8>) -> Option<()> {
    for id in ids.into_iter().filter(|_| !unasked) {
        if !may_reuse(s, id) {
            s.refused = true;
            return None;
        }
        mark(s, id);
    }
    Some(())
}

fn may_reuse(s: &State, id: u8) -> bool {
    s.cycle.condemned >> id & 1 == 0
}

fn mark(s: &mut State, id: u8) {
    if s.cycle.stop != Stop::Idle && id < s.cycle.watermark {
        s.cycle.marked |= 1 << id;
    }
}
