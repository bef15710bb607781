//! The protocol as a state machine: who may do what, and when. What a step does stands in `users.rs`
//! (writers, pruner, kernel, reaper), `collector.rs` (group commit, cycle) and `log.rs` (log, fold, opening).
//!
//! Keeps true: without a [`Mutant`] every step is one that the store takes; a mutant changes the one step it
//! is about and nothing else.

use crate::state::*;
use crate::{collector, log, properties, users};
use stateright::{Model, Property};

/// One protection taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    NoMarkOnHit,
    CondemnedReused,
    ReadThenWrite,
    LookupBeforeJoin,
    NewerBatchSeen,
    SnapshotBeforeDrain,
    CommitWithoutDrain,
    ArmedAfterDrain,
    NoWatermark,
    WatermarkLate,
    NextIdEarly,
    LiveMark,
    OrphansNotScanned,
    DecodeErrorSkipped,
    DigestRemovedBlindly,
    DigestRowLeft,
    ChunksBeforeDigests,
    FreedBeforeDurable,
    UnnamedBytesFreed,
    OnlyOwnDeadFreed,
    NamesBeforeBytes,
    CacheNotCleared,
    NoGrace,
    GraceBeforeClear,
    RememberedBeforeBarrier,
    EarlyEndWithoutGrace,
    CloneWithoutLock,
    CloneWithoutBarrier,
    CloneJoinsFirst,
    KernelIgnored,
    ReaperIgnoresBatches,
    ReaperBeforeDurable,
    AnswerBeforeLogSynced,
    FoldBeforePacks,
    FoldWithoutCarried,
    CutBeforeDurable,
    CarriedNotPutBack,
    ShownBeforeSynced,
    FreedBeforeFold,
    SnapshotWithoutFold,
    FoldedEntryReplayed,
    StaleEntryReplayed,
}

/// What an exploration contains.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Puts of each writer: a put of any content to the writer's own file, which it creates or overwrites.
    pub puts: [u8; WRITERS],
    /// Clones of each writer: of any file that can be read to the writer's own.
    pub clones: [u8; WRITERS],
    /// Contents that are written.
    pub digests: u8,
    /// Unlinks, renames between two directories, opens.
    pub prunes: u8,
    pub renames: u8,
    pub opens: u8,
    /// Cycles begun, crashes, errors met by the collector.
    pub cycles: u8,
    pub crashes: u8,
    pub errors: u8,
    /// A locality cache.
    pub cache: bool,
    /// Commits are entries of a log that is folded into the database (else: durable transactions).
    pub log: bool,
    /// Rows are removed after each condemned chunk (else: after all).
    pub small_sweeps: bool,
    /// Check that nobody waits for ever (which costs as much again as all else).
    pub stuck: bool,
}

impl Config {
    /// Nobody does anything.
    pub const QUIET: Config = Config {
        puts: [0, 0],
        clones: [0, 0],
        digests: 3,
        prunes: 0,
        renames: 0,
        opens: 0,
        cycles: 1,
        crashes: 0,
        errors: 0,
        cache: false,
        log: false,
        small_sweeps: false,
        stuck: false,
    };

    /// True if the two writers may do the same things, so that exchanging them changes nothing.
    pub fn symmetric(&self) -> bool {
        self.puts[0] == self.puts[1] && self.clones[0] == self.clones[1]
    }
}

/// The two properties the checker is given; which promise broke is told by [`properties::broken`].
pub const PROMISES_HOLD: &str = "every promise holds";
pub const NOBODY_STUCK: &str = "nobody waits for ever";

/// One step of one actor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Begin(usize, u8),
    Join(usize),
    Lookup {
        w: usize,
        cached: bool,
    },
    Barrier(usize),
    StoreMark(usize),
    Place {
        w: usize,
        remember: bool,
    },
    CloneJoin(usize),
    CloneRead(usize, usize),
    Unlink(usize),
    Rename(usize),
    Open(usize),
    Forget(usize),
    Reap(usize),
    RemoveAtOnce(usize),
    Swap,
    SyncBytes,
    Durable,
    Append,
    SyncLog,
    FoldSync {
        batch: bool,
    },
    FoldDurable,
    FoldCut,
    Flip,
    Snapshot,
    Mark,
    MarkError(usize),
    Condemn,
    EarlyEnd,
    Unname,
    Remove,
    RemovalDurable,
    Reclaim,
    ClearCache,
    Grace,
    Disarm,
    /// With an entry that is not synced: found `whole` afterwards, or not at all.
    Crash {
        whole: bool,
    },
}

/// A configuration, with one protection taken out or none.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    pub config: Config,
    pub mutant: Option<Mutant>,
}

impl Store {
    pub fn lacks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// True if no step is left although somebody is in the midst of something.
    fn stuck(&self, s: &State) -> bool {
        let busy = s.writers.iter().any(|w| w.pc != Pc::Idle) || s.commit != Commit::Idle || s.gc != Gc::Idle;
        let busy = busy || log::held(s);
        if !busy {
            return false;
        }
        let mut steps = Vec::new();
        self.actions(s, &mut steps);
        steps.iter().all(|act| matches!(act, Act::Crash { .. }))
    }

    /// A store in use: file 0 in group two holds content A as chunk 0; content B is chunk 1 of a file deleted
    /// long ago; content C was never seen. The writers' files do not exist yet.
    pub fn start(&self) -> State {
        let c = &self.config;
        let writer = |w: usize| Writer {
            pc: Pc::Idle,
            old: false,
            digest: NONE,
            src: NONE,
            hand: NONE,
            fresh: false,
            puts: c.puts[w],
            clones: c.clones[w],
        };
        let mut db = Rows::database();
        db.ext[0] = extent(0, 0);
        db.link[0] = GROUP_TWO;
        db.dig = [0, 1, NONE];
        db.chunks = bit(0) | bit(1);
        let mut content = [NONE; IDS];
        content[..2].copy_from_slice(&[0, 1]);
        State {
            writers: [writer(0), writer(1)],
            active: Rows::layer(),
            sealed: Rows::layer(),
            db,
            disk: db,
            log: c.log.then(|| log::Log::over(db)),
            unsynced: 0,
            synced: db.chunks,
            content,
            commit: Commit::Idle,
            gc: Gc::Idle,
            armed: false,
            young: 0,
            marked: 0,
            condemned: 0,
            doomed: 0,
            snap: 0,
            cache: [NONE; DIGESTS],
            kernel: 0,
            garbage: 0,
            late: 0,
            again: 0,
            wrong: 0,
            left: Budget {
                prunes: c.prunes,
                renames: c.renames,
                opens: c.opens,
                cycles: c.cycles,
                crashes: c.crashes,
                errors: c.errors,
            },
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
        users::writer_actions(self, s, out);
        users::name_actions(self, s, out);
        collector::commit_actions(self, s, out);
        collector::cycle_actions(self, s, out);
        if s.left.crashes > 0 {
            out.push(Act::Crash { whole: false });
            if s.log.is_some_and(|log| log.unsynced) {
                out.push(Act::Crash { whole: true });
            }
        }
    }

    fn next_state(&self, before: &State, act: Act) -> Option<State> {
        let mut s = *before;
        match act {
            Act::Crash { whole } => {
                s.left.crashes -= 1;
                log::reopen(self, &mut s, whole);
                s.crash();
            }
            Act::Swap
            | Act::SyncBytes
            | Act::Durable
            | Act::Flip
            | Act::Snapshot
            | Act::Mark
            | Act::MarkError(_)
            | Act::Condemn
            | Act::EarlyEnd
            | Act::Unname
            | Act::Remove
            | Act::RemovalDurable
            | Act::Reclaim
            | Act::ClearCache
            | Act::Grace
            | Act::Disarm => collector::step(self, &mut s, act),
            Act::Append | Act::SyncLog | Act::FoldSync { .. } | Act::FoldDurable | Act::FoldCut => {
                log::step(self, &mut s, act);
            }
            _ => users::step(self, &mut s, act),
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![Property::always(PROMISES_HOLD, |_, s| properties::broken(s).is_none())];
        if self.config.stuck {
            all.push(Property::always(NOBODY_STUCK, |m: &Store, s| !m.stuck(s)));
        }
        all
    }
}
