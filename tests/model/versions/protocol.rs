//! Who may do what, and when. What a step does stands in `users.rs` (members, clone, kernel, crash), `removal.rs` (reap
//! and audit) and `cycle.rs` (commit and cycle).
//!
//! Keeps true: without a [`Mutant`] every step is one that the store takes; a mutant changes the one step it is about.

use stateright::{Model, Property};

use super::promises::Promise;
use super::rows::*;
use super::state::*;
use super::{cycle, removal, users};

/// One protection taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// The source of a clone moves in the open batch, without a swap.
    NoCut,
    CloneBeforeMove,
    SeenBeforeDrained,
    NoLock,
    NamelessKept,
    SharedNumber,
    NoWhiteout,
    WhiteoutIsNothing,
    FirstWriteUnasked,
    CopyUnasked,
    KeptUnasked,
    CopyIsGarbage,
    HidesFromAll,
    ReapFromMemtables,
    AuditFromSnapshot,
    AbsenceIsDrop,
    ReapBeforeDropDurable,
    ReapWhileRemembered,
    ReapBeforeForgetDurable,
    DroppedIsDead,
}

/// What an exploration contains.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The store has a clone at its beginning.
    pub two: bool,
    /// That clone has written to its file.
    pub own: bool,
    pub keys: usize,
    pub digests: u8,
    pub left: Left,
}

impl Config {
    /// Nobody does anything.
    pub const QUIET: Config = Config {
        two: false,
        own: false,
        keys: 1,
        digests: 1,
        left: Left {
            writes: 0,
            touches: 0,
            deletes: 0,
            stretches: 0,
            copies: 0,
            clones: 0,
            taken: 0,
            drops: 0,
            opens: 0,
            seals: 0,
            audits: 0,
            contractions: 0,
            cycles: 0,
            rots: 0,
            crashes: 0,
        },
    };
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Join(Member),
    Leave(Member),
    Seal,
    Commit,
    CloneSwap(u8),
    CloneNamed,
    CloneRefused,
    Open(u8),
    Forget(u8),
    Note(u8),
    Reap(u8, usize),
    ReapEnds(u8),
    Audit(usize),
    AuditSees(usize),
    AuditRemoves,
    Contract(u8),
    Flip,
    Mark,
    Condemn,
    Sweep,
    End,
    Disarm,
    Rot(At),
    Crash,
}

/// A configuration, the protections that are out of it, and the promise that is looked at.
#[derive(Clone, Debug)]
pub struct Store {
    pub config: Config,
    pub out: Vec<Mutant>,
    pub promises: &'static [Promise],
}

impl Store {
    pub fn lacks(&self, mutant: Mutant) -> bool {
        self.out.contains(&mutant)
    }

    /// A subvolume with a file of one chunk; and perhaps a clone of it, that may have written to the file.
    pub fn start(&self) -> State {
        let mut db = Rows::database();
        let mut maps = Maps::NONE;
        let mut next = Numbers { version: 2, sub: 2, chunk: 2 };
        for (at, value) in [(version(1), 0), (sub(1), NAMED | 1), (name(1), 1), (row(0, 1), 1)] {
            db.put(at, value);
        }
        db.put(content(0, 1), 1 << 4);
        db.put(chunk(1), 1);
        maps.begin(1);
        maps.set(1, 0, 1 << 4);
        if self.config.two {
            next = Numbers { version: 4, sub: 3, chunk: 2 };
            let rows =
                [(version(2), 1), (version(3), 1), (sub(1), NAMED | 2), (sub(2), NAMED | 3), (name(2), 1)];
            rows.into_iter().for_each(|(at, value)| db.put(at, value));
            maps.begin(2);
            maps.copy(1, 2);
        }
        if self.config.own {
            next.chunk = 3;
            for (at, value) in [(row(0, 3), 3), (content(0, 3), 2 << 4), (chunk(2), 2)] {
                db.put(at, value);
            }
            maps.set(2, 0, 2 << 4);
        }
        State {
            db,
            disk: db,
            sealed: Rows::layer(),
            is_sealed: false,
            open: Rows::layer(),
            members: [Member::NOBODY; 2],
            kernel: 0,
            since: [Since::Live; SUBS],
            cloning: Cloning::NONE,
            copying: None,
            cycle: Cycle::IDLE,
            next,
            noted: next,
            candidates: Set::default(),
            of_db: maps,
            of_sealed: Maps::NONE,
            of_open: maps,
            left: self.config.left,
            refused: false,
        }
    }
}

impl Model for Store {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, s: &State, out: &mut Vec<Act>) {
        users::member_actions(self, s, out);
        users::subvolume_actions(self, s, out);
        removal::actions(self, s, out);
        cycle::actions(s, out);
        if s.left.crashes > 0 {
            out.push(Act::Crash);
        }
    }

    fn next_state(&self, before: &State, act: Act) -> Option<State> {
        let mut s = *before;
        match act {
            Act::Join(member) => users::join(&mut s, member),
            Act::Leave(member) => users::leave(self, &mut s, member),
            Act::CloneSwap(_)
            | Act::CloneNamed
            | Act::CloneRefused
            | Act::Open(_)
            | Act::Forget(_)
            | Act::Note(_)
            | Act::Crash => users::step(self, &mut s, act),
            Act::Reap(..)
            | Act::ReapEnds(_)
            | Act::Audit(_)
            | Act::AuditSees(_)
            | Act::AuditRemoves
            | Act::Contract(_)
            | Act::Rot(_) => removal::step(self, &mut s, act),
            _ => cycle::step(self, &mut s, act),
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(KEPT, |store: &Store, s| store.broken(s).is_none())]
    }
}

/// The property the checker is given; which promise broke is told by [`Store::broken`].
pub const KEPT: &str = "every promise is kept";
