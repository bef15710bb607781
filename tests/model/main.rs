//! A model of the collection protocol, explored to the end, and each of its protections taken out once.
//!
//! # What is modelled
//!
//! Two writers put contents (join the open batch, look the digest up, pass the barrier, place the rows, leave),
//! also both the same content at once, and overwrite; or they clone (lock the source, read its rows, join, pass
//! the barrier with what they read, place, leave). A pruner unlinks, a renamer moves names between directories,
//! programs open and the kernel forgets, a reaper works off the queue of deleted files. The group commit swaps
//! the batch, waits for its members, and writes one durable transaction after it synced the bytes, or one entry of the
//! log that may carry them; a fold takes what the log has into the database. The collector flips,
//! waits for the batch of the earlier generation, takes its snapshot, marks, condemns chunk by chunk, removes
//! rows, makes that durable, frees, clears the cache, waits for the members from before, disarms; it may meet
//! an error in the mark, the sweep, and before and in the reclaim. The power may go before every step, and an entry
//! that was not synced is there afterwards or not; a second cycle follows the first. No configuration has all of this at once: each row of the printed table names what
//! it has, and within it all orders of all steps are tried. `users.rs`, `collector.rs` and `log.rs` hold one small
//! function for each step.
//!
//! The database is modelled in four layers, as in the store: the active batch over the sealed one over what
//! readers of the database see over what a power cut would leave. The sweep and the reaper write to the third
//! directly, beneath the batches. With a log, the third is the entries above the database, and the fourth is what
//! an opening must find; it is compared with what the opening makes of the database and the entries.
//!
//! # What is promised
//!
//! See `properties.rs`, at every state: what can be reached has its chunk and bytes, durably if the reference
//! is durable; nothing is freed before its names are durably gone; and, for liveness, what was garbage when a
//! cycle began and stayed so is gone when that cycle ends. Since garbage that comes up within one cycle waits for
//! the next, that is "gone after two cycles", and stricter. In one configuration: nobody waits for ever.
//!
//! # What is left out, and why that is sound
//!
//! * A file has one extent, a put one chunk. Extents are marked, and chunks decided on, one by one and
//!   independently; no step reads two of them together.
//! * Chunks have rows and bytes of their own instead of sharing regions and packs. Freeing them one by one frees
//!   more, and earlier, than whole packs could. Compaction moves bytes and no names, and is not in here.
//! * The watermark is kept as the set of ids given since the flip, and an id of which no trace is left anywhere
//!   may be given again. That is counting upwards, up to the names of the chunks, and keeps the model finite.
//! * Bytes in memory, and appended but not synced, are one thing: a crash loses both, which is the worst case.
//! * Marking the snapshot is one step: marks only turn white cells to marked, as writers do, and nothing tells
//!   these apart before the sweep. Freeing is one step: nothing names those chunks any more, or a promise is
//!   broken at that very step.
//! * Unlink, rename and the reaper's transaction are one step each: they decide nothing by what chunks there are.
//!   The reaper's transaction is not durable by itself, which is the weaker assumption.
//! * The two writers do alike; where their bounds are the same, states that differ only in who is who count once.
//! * Each actor does a bounded number of things. Every known way to lose data (`mutants.rs`) needs no more. The
//!   larger bounds under `--ignored` ask for more.
//! * The log has room for two entries, and a fold may come whenever there is something to fold. Entries are counted
//!   from the last fold: that an old one is told from a new one by its number, its digest and its key is assumed,
//!   and `mutants.rs` has what happens otherwise. A crash in an opening leaves the log as it was, so an opening is
//!   one step. Damage of the log is not a step either: what the database is worth without it is a promise.
//! * A failed sync or commit is not in here: it makes the store read-only until it is opened anew, which is a
//!   crash as far as this model is concerned.
//!
//! # Negative controls
//!
//! Each protection is taken out once, which must break the promise that it upholds; the shortest way is
//! printed as numbered sentences. The same configuration with the protection in place is explored to the end.
//! So is the collector of Proxmox Backup Server up to 3.3 and of 3.4.0 (`pbs.rs`), which lose a snapshot's
//! chunks, and of 3.4.1, which does not.
//!
//! Subvolumes and their versions have a model of their own: `versions.rs`.
//!
//! Run with `cargo test --test model -- --nocapture`; add `--ignored` for larger bounds.

mod collector;
mod explore;
mod log;
mod mutants;
mod pbs;
mod properties;
mod protocol;
mod state;
mod trace;
mod users;
mod versions;

use std::fmt::Write;

#[test]
fn no_schedule_breaks_a_promise() {
    println!("\nThe protocol, explored to the end. Promised at every state:");
    for (_, promise) in properties::PROMISES {
        println!("  - {promise}");
    }
    let required = explore::explore(explore::REQUIRED);
    let others: usize = explore::OTHERS.into_iter().map(explore::explore).sum();
    println!("  no promise was broken in {} states", explore::thousands(required + others));
    assert!(required > 1_000_000, "so few states cannot be all: {required}");
}

#[test]
#[ignore = "hundreds of millions of states, and some GiB of memory"]
fn no_schedule_breaks_a_promise_with_larger_bounds() {
    println!();
    explore::DEEP.into_iter().map(explore::explore).for_each(drop);
}

#[test]
fn every_mutant_is_caught() {
    let mut out = format!("\nOne protection taken out at a time. At first, {}.\n", trace::START);
    let mut wrong = String::new();
    for (n, case) in mutants::CASES.iter().enumerate() {
        let _ = writeln!(out, "\n  {:>2}  MUTANT: {}", n + 1, case.name);
        match mutants::hunt(case) {
            Ok(caught) => {
                let _ = writeln!(
                    out,
                    "      caught in {} steps, {} states looked at ({} to the end with the protection, none wrong)",
                    caught.steps.len(),
                    explore::thousands(caught.states),
                    explore::thousands(caught.control),
                );
                out += &mutants::listing(&caught.steps, &caught.verdict);
                if caught.breaks != case.breaks {
                    let _ = writeln!(
                        wrong,
                        "{}: breaks \"{}\", not \"{}\"",
                        case.name, caught.breaks, case.breaks
                    );
                }
            }
            Err(why) => {
                let _ = writeln!(wrong, "{}: {why}", case.name);
            }
        }
    }
    println!("{out}\n  {} mutants", mutants::CASES.len());
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_collectors_of_pbs_up_to_3_4_0_lose_chunks() {
    let mut out = String::from("\nProxmox Backup Server, PSA-2025-00019-1.\n");
    for (version, name) in [
        (pbs::Version::V33, "up to 3.3: list taken once"),
        (pbs::Version::V340, "3.4.0: list taken at each group"),
    ] {
        let outcome = pbs::explore(version);
        let (steps, verdict) =
            outcome.loss.unwrap_or_else(|| panic!("{name}: no loss in {} states", outcome.states));
        let _ = writeln!(out, "\n  MUTANT: PBS {name}\n      caught in {} steps", steps.len());
        out += &mutants::listing(&steps, &verdict);
        if version == pbs::Version::V340 {
            let at = |what: &str| steps.iter().position(|s| s.starts_with(what)).expect(what);
            assert!(
                at("the collection reaches group two") < at("S0 is pruned"),
                "only that window was left in 3.4.0"
            );
        }
    }
    let fixed = pbs::explore(pbs::Version::V341);
    assert!(fixed.loss.is_none(), "3.4.1 was to be clean: {:?}", fixed.loss);
    println!(
        "{out}\n  CONTROL: PBS 3.4.1, newest first and listed again: {} states, none wrong",
        fixed.states
    );
}
