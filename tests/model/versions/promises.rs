//! What is promised, checked at every state.

use super::protocol::Store;
use super::removal;
use super::rows::*;
use super::state::*;

/// A promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// Each subvolume is a map of its own.
    Own,
    /// No chunk that a row names is freed (I11).
    Chunks,
    /// Nothing that is dropped stays.
    Reaped,
}

impl Promise {
    pub const ALL: &'static [Promise] = &[Promise::Own, Promise::Chunks, Promise::Reaped];

    pub fn words(self) -> &'static str {
        match self {
            Promise::Own => {
                "in memory, in what is being committed, in the database and after a power cut, each subvolume that is there or is still used has what a map of its own would have"
            }
            Promise::Chunks => "no chunk is freed that a row names, whoever may see that row (I11)",
            Promise::Reaped => {
                "once nobody uses anything, reap and audit come to their end and leave no row that nobody sees, and no subvolume without a name"
            }
        }
    }
}

impl Store {
    /// The first promise that this state breaks, and how.
    pub fn broken(&self, s: &State) -> Option<(Promise, String)> {
        self.promises.iter().find_map(|promise| {
            let what = match promise {
                Promise::Own => self.own(s),
                Promise::Chunks => self.chunks(s),
                Promise::Reaped => self.reaped(s),
            };
            what.map(|what| (*promise, what))
        })
    }

    fn own(&self, s: &State) -> Option<String> {
        if s.refused {
            return Some("a chunk of a file that somebody sees was condemned".to_owned());
        }
        let after = layer(self, "the database", &s.db, &s.of_db);
        after
            .or_else(|| layer(self, "what a power cut leaves", &s.disk, &s.of_db))
            .or_else(|| {
                if s.is_sealed { layer(self, "the sealed batch", &s.below(), &s.of_sealed) } else { None }
            })
            .or_else(|| layer(self, "the open batch", &s.now(), &s.of_open))
    }

    fn chunks(&self, s: &State) -> Option<String> {
        let lost = |rows: &Rows| {
            let gone = |(k, v, content): (usize, u8, u8)| {
                let id = chunks(content).find(|id| !rows.has(chunk(*id)))?;
                Some(format!("chunk {id} is gone, which content {v} of file {k} names"))
            };
            rows.contents().find_map(gone)
        };
        lost(&s.db).or_else(|| lost(&s.disk)).or_else(|| lost(&s.below())).or_else(|| lost(&s.now()))
    }

    fn reaped(&self, s: &State) -> Option<String> {
        let nobody = s.busy().next().is_none() && s.kernel == 0 && s.cloning.stage == Stage::None;
        let is_quiet = nobody && !s.is_sealed && s.open.is_empty() && s.cycle.stop == Stop::Idle;
        (is_quiet && removal::left(self, s)).then(|| "something stays for ever that nobody sees".to_owned())
    }
}

fn layer(store: &Store, what: &str, rows: &Rows, maps: &Maps) -> Option<String> {
    for n in 1..SUBS as u8 {
        if !maps.is_alive(n) {
            if rows.is_named(n) {
                return Some(format!("by {what}, subvolume {n} is there, and should not be"));
            }
            continue;
        }
        let Some(leaf) = rows.leaf(n) else { return Some(format!("by {what}, subvolume {n} is gone")) };
        for k in 0..store.config.keys {
            let wanted = maps.file(n, k);
            let names = rows.first(k, leaf, false).map(|(_, names)| names).filter(|names| *names != WHITEOUT);
            let found = match names {
                None => Some(0),
                Some(names) => rows.get(content(k, names)).and_then(|content| digests(rows, content)),
            };
            if found != Some(wanted) {
                let found = found.map_or("a hole".to_owned(), |found| format!("{found:02x}"));
                return Some(format!("by {what}, file {k} of subvolume {n} is {found}, not {wanted:02x}"));
            }
        }
    }
    None
}

fn digests(rows: &Rows, content: u8) -> Option<u8> {
    let digest = |id: u8| if id == 0 { Some(0) } else { rows.get(chunk(id)) };
    Some(digest(content >> 4)? << 4 | digest(content & 0x0f)?)
}
