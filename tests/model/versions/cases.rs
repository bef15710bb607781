//! What is explored to the end, and each protection that is taken out.

use super::promises::Promise;
use super::protocol::{Config, Mutant};
use super::state::Left;

const Q: Config = Config::QUIET;
const L: Left = Q.left;

/// Explored to the end each time.
pub const CONFIGS: [(&str, Config); 16] = [
    ("a clone is a cut", CUT),
    ("two clones", TWO_CLONES),
    ("drop", DROP),
    ("reap", REAP),
    ("a clone late", LATE),
    ("versions in the middle go", CONTRACT),
    ("a key comes again", AGAIN),
    ("whiteouts", WHITEOUT),
    ("a row that does not decode", ROT),
    ("open files", OPEN),
    ("cycle, first write, copy", CYCLE),
    ("clones in a chain", CHAIN),
    ("two files", KEYS),
    ("cycle and clone", CYCLE_CLONE),
    ("a copy by stretches", STRETCHES),
    ("three subvolumes, two cycles, crash", THREE),
];

const CUT: Config = Config {
    left: Left { writes: 2, deletes: 1, touches: 1, clones: 1, taken: 1, seals: 2, crashes: 1, ..L },
    ..Q
};
const TWO_CLONES: Config = Config { left: Left { writes: 1, clones: 2, seals: 2, crashes: 1, ..L }, ..Q };
const DROP: Config = Config { left: Left { writes: 2, clones: 1, drops: 2, seals: 2, crashes: 1, ..L }, ..Q };
const REAP: Config = Config {
    two: true,
    left: Left { writes: 1, touches: 1, deletes: 1, drops: 1, seals: 2, audits: 1, crashes: 1, ..L },
    ..Q
};
const LATE: Config =
    Config { left: Left { writes: 1, clones: 1, seals: 1, audits: 1, crashes: 1, ..L }, ..Q };
const CONTRACT: Config = Config {
    two: true,
    left: Left {
        writes: 1,
        deletes: 1,
        touches: 1,
        drops: 1,
        clones: 1,
        seals: 1,
        contractions: 1,
        crashes: 1,
        ..L
    },
    ..Q
};
const AGAIN: Config = Config {
    two: true,
    left: Left { writes: 2, deletes: 1, drops: 1, seals: 2, audits: 1, crashes: 1, ..L },
    ..Q
};
const WHITEOUT: Config = Config {
    two: true,
    left: Left { writes: 1, deletes: 2, drops: 1, clones: 1, seals: 2, audits: 1, ..L },
    ..Q
};
const ROT: Config =
    Config { two: true, left: Left { writes: 1, drops: 1, seals: 1, rots: 1, audits: 1, ..L }, ..Q };
const OPEN: Config = Config {
    two: true,
    own: true,
    left: Left { writes: 1, deletes: 1, drops: 2, opens: 1, seals: 2, crashes: 1, ..L },
    ..Q
};
const CYCLE: Config = Config {
    two: true,
    own: true,
    left: Left { writes: 1, drops: 1, opens: 1, copies: 1, cycles: 1, seals: 1, crashes: 1, ..L },
    ..Q
};
const CHAIN: Config = Config {
    left: Left { writes: 1, deletes: 1, clones: 2, drops: 1, seals: 1, audits: 1, crashes: 1, ..L },
    ..Q
};
const KEYS: Config = Config {
    keys: 2,
    left: Left { writes: 2, deletes: 1, clones: 1, drops: 1, seals: 1, crashes: 1, ..L },
    ..Q
};
const CYCLE_CLONE: Config =
    Config { left: Left { writes: 2, clones: 1, drops: 1, cycles: 1, audits: 1, seals: 1, ..L }, ..Q };
const STRETCHES: Config =
    Config { two: true, left: Left { stretches: 3, clones: 1, seals: 2, audits: 1, crashes: 1, ..L }, ..Q };
const THREE: Config = Config {
    two: true,
    left: Left { writes: 1, deletes: 1, clones: 1, drops: 1, cycles: 2, audits: 1, crashes: 1, ..L },
    ..Q
};
/// References come into being and vanish, beside a cycle.
const REFERENCES: Config = Config {
    two: true,
    own: true,
    left: Left { writes: 1, deletes: 1, copies: 1, drops: 1, cycles: 1, audits: 1, crashes: 1, ..L },
    ..Q
};

/// With larger bounds, for a long evening.
pub const DEEP: [(&str, Config); 4] = [
    (
        "three subvolumes, all at once",
        Config {
            two: true,
            left: Left { writes: 2, deletes: 1, clones: 1, drops: 1, cycles: 2, seals: 1, crashes: 1, ..L },
            ..Q
        },
    ),
    (
        "two drops, two crashes",
        Config {
            two: true,
            left: Left {
                writes: 1,
                deletes: 1,
                clones: 1,
                drops: 2,
                opens: 1,
                seals: 2,
                audits: 1,
                crashes: 2,
                ..L
            },
            ..Q
        },
    ),
    (
        "chains and whiteouts",
        Config {
            left: Left { writes: 2, deletes: 2, clones: 2, drops: 1, seals: 2, audits: 1, crashes: 1, ..L },
            ..Q
        },
    ),
    (
        "copies, two cycles, crash",
        Config {
            two: true,
            own: true,
            left: Left { writes: 2, copies: 1, drops: 1, opens: 1, cycles: 2, seals: 1, crashes: 1, ..L },
            ..Q
        },
    ),
];

/// A protection taken out, and the promise that must break.
pub struct Case {
    pub mutant: Mutant,
    pub name: &'static str,
    pub config: Config,
    pub breaks: Promise,
}

const fn case(mutant: Mutant, name: &'static str, config: Config, breaks: Promise) -> Case {
    Case { mutant, name, config, breaks }
}

use Promise::{Own, Reaped};

/// Every mutant that breaks a promise by itself.
pub const CASES: [Case; 17] = [
    case(Mutant::NoCut, "a leaf moves while members are inside", CUT, Own),
    case(
        Mutant::CloneBeforeMove,
        "a clone with its name is in the batch before the move of its source",
        CUT,
        Own,
    ),
    case(Mutant::SeenBeforeDrained, "a clone is seen before the old batch has drained", CUT, Own),
    case(Mutant::NoLock, "a subvolume is dropped while it is cloned", DROP, Reaped),
    case(Mutant::NamelessKept, "an opening leaves a clone without a name", CUT, Reaped),
    case(Mutant::SharedNumber, "a number of a version is given twice", TWO_CLONES, Own),
    case(Mutant::NoWhiteout, "a delete leaves no whiteout", WHITEOUT, Own),
    case(Mutant::WhiteoutIsNothing, "a delete below a whiteout leaves none", WHITEOUT, Own),
    case(Mutant::CopyIsGarbage, "an audit takes a copy that is not finished for garbage", STRETCHES, Own),
    case(Mutant::HidesFromAll, "a row that any row below hides is taken for dead", REAP, Own),
    case(Mutant::ReapFromMemtables, "a reap decides from what is not committed", REAP, Own),
    case(Mutant::AuditFromSnapshot, "an audit removes what it saw in the snapshot of the mark", AGAIN, Own),
    case(
        Mutant::AbsenceIsDrop,
        "a row of a version or subvolume that does not decode is taken for a drop",
        ROT,
        Own,
    ),
    case(Mutant::ReapBeforeDropDurable, "a reap comes before the drop is durable", REAP, Own),
    case(Mutant::ReapWhileRemembered, "a reap does not ask the kernel", OPEN, Own),
    case(
        Mutant::ReapBeforeForgetDurable,
        "a reap does not wait for the batch of the last FORGET",
        DROP,
        Reaped,
    ),
    case(Mutant::DroppedIsDead, "another's reap takes a dropped leaf that is used for dead", OPEN, Own),
];

/// Each of these removes rows that somebody sees, or shows what is not there. No chunk that a row names is freed with
/// any of them: the barrier and the mark ask nobody what is seen (I11).
pub const SABOTAGED: [Mutant; 11] = [
    Mutant::NoCut,
    Mutant::NoLock,
    Mutant::NoWhiteout,
    Mutant::WhiteoutIsNothing,
    Mutant::CopyIsGarbage,
    Mutant::HidesFromAll,
    Mutant::ReapFromMemtables,
    Mutant::ReapBeforeDropDurable,
    Mutant::ReapWhileRemembered,
    Mutant::ReapBeforeForgetDurable,
    Mutant::DroppedIsDead,
];

/// Where that is explored.
pub const REFERENCES_COME_AND_GO: [Config; 2] = [REFERENCES, CYCLE_CLONE];

/// The same without the power going, and with digests that are not those of what is copied.
pub const ASKED: Config = Config { digests: 2, left: Left { crashes: 0, ..REFERENCES.left }, ..REFERENCES };

/// References to chunks that rows name already. The barrier is asked for each of them, and none of these alone loses
/// anything.
pub const UNASKED: [Mutant; 3] = [Mutant::FirstWriteUnasked, Mutant::CopyUnasked, Mutant::KeptUnasked];
