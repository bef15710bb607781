//! The protections, each taken out once, with a configuration small enough to show at a glance what it was for.

use crate::properties::*;
use crate::protocol::{Act, Config, Mutant, PROMISES_HOLD, Store};
use crate::state::State;
use crate::trace;
use stateright::{Checker, Model};
use std::fmt::Write;

/// One protection taken out, and the promise that must break.
pub struct Case {
    pub mutant: Mutant,
    pub name: &'static str,
    pub config: Config,
    pub breaks: &'static str,
}

const Q: Config = Config::QUIET;
const ONE_PUT: Config = Config { puts: [1, 0], ..Q };
const TWO_PUTS: Config = Config { puts: [1, 1], ..Q };
const ONE_PRUNE: Config = Config { puts: [1, 0], prunes: 1, ..Q };
const CRASH: Config = Config { puts: [1, 0], crashes: 1, ..Q };
const CLONE: Config = Config { clones: [1, 0], prunes: 1, ..Q };
const OPEN: Config = Config { prunes: 1, opens: 1, ..Q };
const CACHE: Config = Config { puts: [2, 0], cache: true, prunes: 1, ..Q };

const fn case(mutant: Mutant, name: &'static str, config: Config, breaks: &'static str) -> Case {
    Case { mutant, name, config, breaks }
}

const LOG: Config = Config { cycles: 0, log: true, ..CRASH };
const LOG_RENAMED: Config = Config { renames: 3, cycles: 0, crashes: 1, log: true, ..Q };

/// Every mutant.
pub const CASES: [Case; 43] = [
    case(Mutant::NoMarkOnHit, "a hit does not mark its chunk", ONE_PUT, REACHABLE),
    case(Mutant::CondemnedReused, "a hit on a condemned chunk reuses it", ONE_PUT, REACHABLE),
    case(Mutant::ReadThenWrite, "the writer's compare-and-swap is a read, then a write", ONE_PUT, REACHABLE),
    case(Mutant::LookupBeforeJoin, "the lookup is made before joining the batch", ONE_PUT, REACHABLE),
    case(
        Mutant::NewerBatchSeen,
        "a member of a closed batch sees the rows of the batch after it",
        Config { cycles: 0, crashes: 1, ..TWO_PUTS },
        DURABLE,
    ),
    case(
        Mutant::SnapshotBeforeDrain,
        "the mark's snapshot is taken before the old batch is in",
        ONE_PUT,
        REACHABLE,
    ),
    case(
        Mutant::CommitWithoutDrain,
        "a commit does not wait for its members",
        Config { cycles: 0, ..TWO_PUTS },
        ROWS,
    ),
    case(
        Mutant::ArmedAfterDrain,
        "the barrier is armed after the drain, not at the flip",
        ONE_PUT,
        REACHABLE,
    ),
    case(Mutant::NoWatermark, "no watermark: ids given after the flip are swept too", ONE_PUT, REACHABLE),
    case(Mutant::WatermarkLate, "the watermark is read at the snapshot, not at the flip", ONE_PUT, REACHABLE),
    case(
        Mutant::NextIdEarly,
        "the next id is noted at the swap, before the members have left",
        Config { puts: [2, 0], crashes: 1, ..Q },
        REACHABLE,
    ),
    case(
        Mutant::LiveMark,
        "the mark reads the tables directory by directory, not from one snapshot",
        Config { renames: 1, ..Q },
        REACHABLE,
    ),
    case(Mutant::OrphansNotScanned, "files without a name are not marked", OPEN, REACHABLE),
    case(
        Mutant::DecodeErrorSkipped,
        "a row that does not decode is skipped",
        Config { errors: 1, ..Q },
        REACHABLE,
    ),
    case(Mutant::DigestRemovedBlindly, "the digest row is removed whatever it names", ONE_PUT, DIGEST),
    case(Mutant::DigestRowLeft, "the digest row of a condemned chunk is left behind", Q, FOUND),
    case(Mutant::ChunksBeforeDigests, "the rows of condemned chunks go before their digests do", Q, FOUND),
    case(Mutant::FreedBeforeDurable, "bytes are freed before the removal is durable", Q, FREED),
    case(Mutant::UnnamedBytesFreed, "bytes not yet named are taken for dead", ONE_PUT, REACHABLE),
    case(
        Mutant::OnlyOwnDeadFreed,
        "only what this cycle condemned is freed",
        Config { puts: [0, 0], cycles: 2, ..CRASH },
        GARBAGE,
    ),
    case(
        Mutant::NamesBeforeBytes,
        "the batch is durable before its bytes",
        Config { cycles: 0, ..CRASH },
        DURABLE,
    ),
    case(
        Mutant::CacheNotCleared,
        "the cache is not cleared before the barrier is disarmed",
        CACHE,
        REACHABLE,
    ),
    case(Mutant::NoGrace, "no grace period before the barrier is disarmed", ONE_PUT, REACHABLE),
    case(
        Mutant::GraceBeforeClear,
        "the grace period comes before the clearing of the cache",
        CACHE,
        REACHABLE,
    ),
    case(
        Mutant::RememberedBeforeBarrier,
        "an answer is remembered before it passed the barrier",
        CACHE,
        REACHABLE,
    ),
    case(
        Mutant::EarlyEndWithoutGrace,
        "a cycle that ends early skips the clearing and the grace period",
        Config { errors: 1, small_sweeps: true, ..ONE_PUT },
        REACHABLE,
    ),
    case(Mutant::CloneWithoutLock, "a clone reads its source without holding the lock", CLONE, REACHABLE),
    case(Mutant::CloneWithoutBarrier, "a clone does not pass the barrier", CLONE, REACHABLE),
    case(
        Mutant::CloneJoinsFirst,
        "a clone joins the batch before it locks its source",
        Config { puts: [0, 1], clones: [1, 0], cycles: 0, ..Q },
        DURABLE,
    ),
    case(Mutant::KernelIgnored, "the reaper does not ask whether the kernel remembers the file", OPEN, HELD),
    case(
        Mutant::ReaperIgnoresBatches,
        "the reaper does not wait for batches that write to the file",
        Config { puts: [2, 0], prunes: 1, opens: 1, digests: 2, ..Q },
        GARBAGE,
    ),
    case(
        Mutant::ReaperBeforeDurable,
        "the reaper does not wait until the deletion is durable",
        ONE_PRUNE,
        NAMED,
    ),
    case(
        Mutant::NamesBeforeBytes,
        "an entry of the log neither carries the bytes it names nor waits for their sync",
        LOG,
        DURABLE,
    ),
    case(
        Mutant::AnswerBeforeLogSynced,
        "a commit is acknowledged before the log is synced",
        LOG_RENAMED,
        ACKNOWLEDGED,
    ),
    case(Mutant::FoldBeforePacks, "the packs are not synced before the fold", LOG, DURABLE),
    case(
        Mutant::FoldWithoutCarried,
        "a fold syncs the bytes of its batch, not those that entries carry",
        LOG,
        DURABLE,
    ),
    case(Mutant::CutBeforeDurable, "the log is cut before the database is durable", LOG, ACKNOWLEDGED),
    case(
        Mutant::ShownBeforeSynced,
        "an opening shows the last entry without syncing it",
        Config { renames: 1, cycles: 0, crashes: 2, log: true, ..Q },
        ACKNOWLEDGED,
    ),
    case(Mutant::CarriedNotPutBack, "an opening does not put carried bytes back", LOG, REACHABLE),
    case(
        Mutant::FreedBeforeFold,
        "bytes are freed when the removal is in the log, before it is folded",
        Config { log: true, ..Q },
        FOLDED,
    ),
    case(
        Mutant::SnapshotWithoutFold,
        "the mark's snapshot is that of the database, without a fold before it",
        Config { log: true, ..ONE_PUT },
        REACHABLE,
    ),
    case(
        Mutant::FoldedEntryReplayed,
        "an opening replays entries that the database has already",
        LOG_RENAMED,
        ACKNOWLEDGED,
    ),
    case(
        Mutant::StaleEntryReplayed,
        "an opening takes what the lap before left in the log for entries",
        LOG_RENAMED,
        ACKNOWLEDGED,
    ),
];

/// A mutant's shortest counterexample.
pub struct Caught {
    pub breaks: &'static str,
    /// States looked at before it was found; states of the same configuration with the protection in place.
    pub states: usize,
    pub control: usize,
    pub steps: Vec<String>,
    pub verdict: String,
}

/// Looks for the shortest way in which the mutant breaks a promise, and explores the same configuration to the
/// end with the protection in place, where nothing may break.
pub fn hunt(case: &Case) -> Result<Caught, String> {
    let sound = Store { config: case.config, mutant: None }.checker().spawn_dfs().join();
    if let Some(path) = sound.discovery(PROMISES_HOLD) {
        return Err(format!("breaks even with the protection in place: {:?}", path.into_actions()));
    }
    let store = Store { config: case.config, mutant: Some(case.mutant) };
    // One thread: breadth first in the strict order, so that the first counterexample is a shortest one.
    let run = store.checker().threads(1).spawn_bfs().join();
    let Some(path) = run.discovery(PROMISES_HOLD) else {
        return Err(format!("is not caught in {} states", run.unique_state_count()));
    };
    let last = *path.last_state();
    Ok(Caught {
        breaks: broken(&last).expect("the checker found it broken"),
        states: run.unique_state_count(),
        control: sound.unique_state_count(),
        steps: sentences(&store, path.into_vec()),
        verdict: trace::verdict(&last),
    })
}

/// The steps of a path as sentences.
pub fn sentences(store: &Store, path: Vec<(State, Option<Act>)>) -> Vec<String> {
    path.windows(2)
        .map(|pair| {
            let act = pair[0].1.expect("every state but the last has a next step");
            trace::describe(store, &pair[0].0, act, &pair[1].0)
        })
        .collect()
}

/// A counterexample as numbered lines.
pub fn listing(steps: &[String], verdict: &str) -> String {
    let mut out = String::new();
    for (n, step) in steps.iter().enumerate() {
        let _ = writeln!(out, "      {:>2}. {step}", n + 1);
    }
    let _ = writeln!(out, "       => {verdict}");
    out
}
