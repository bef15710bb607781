//! Schedules of the real code: barrier, batches, commit, collector, deletion queue, files and names, run by
//! shuttle.
//!
//! This program compiles the sources of `src/` once more, with `sync.rs` beside this file in the place of
//! `src/sync.rs`, so that every lock, atomic operation, wait and message is a point at which the explorer chooses who
//! goes on. All threads of the program are coroutines of one thread here; nothing else of the sources is changed, and the
//! program that is shipped knows nothing of it: no feature, no generic parameter, no indirection. Another way, a
//! feature that swaps the primitives in the library itself, would need a second build of everything and could not be part
//! of `cargo test --features sim`.
//!
//! What is one step to the explorer: a call of the database (which has locks of its own, and is entered by one writer
//! at a time, see `meta/kv`), and an operation of the simulated disk. Reads and changes of packs have a point before
//! each (`disk.rs`), so that a pack can go away between two reads.
//!
//! The promises are those of the model in `tests/model`: every extent has its chunk, with the bytes that were written;
//! what was durable before a power cut is there after it; garbage is gone after two cycles. `oracle.rs` looks at them at
//! the end of every schedule. `controls.rs` takes each protection out once and expects a schedule that breaks one.
//!
//! A run takes schedules at random and by PCT, which favours mistakes that need few switches. The environment says how:
//! * `CAIRNFS_SCHEDULES=N`: schedules of each scenario. `cargo test` takes some hundreds; a million of one scenario
//!   takes an hour or two;
//! * `CAIRNFS_SEED=N`: where the random numbers begin; without it half of the schedules are those of each time, and half are
//!   fresh ones, whose seed is printed;
//! * `CAIRNFS_SCHEDULE=TEXT-OR-FILE` with the name of one scenario as argument: only this schedule, as it was printed last
//!   when it failed (or the seed that is printed for one at random).

#![allow(
    dead_code,
    unused_imports,
    unfulfilled_lint_expectations,
    reason = "the modules below are whole, their unit tests are run by the library, and not all of them is used here"
)]

#[path = "../../src/check/mod.rs"]
mod check;
#[path = "../../src/chunk/mod.rs"]
mod chunk;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/fs/mod.rs"]
mod fs;
#[path = "../../src/gc/mod.rs"]
mod gc;
#[path = "../../src/media/mod.rs"]
mod media;
#[path = "../../src/meta/mod.rs"]
mod meta;
#[path = "../../src/pack/mod.rs"]
mod pack;
#[path = "../../src/retry.rs"]
mod retry;
#[path = "../../src/sabotage.rs"]
mod sabotage;
#[path = "../../src/store/mod.rs"]
mod store;

mod sync;

#[path = "../filesystem/seed.rs"]
mod seed;

mod controls;
mod crash;
mod disk;
mod explore;
mod names;
mod oracle;
mod protect;
mod scenarios;
mod subvolumes;
mod world;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    explore::install_panic_hook();
    let scenarios = scenarios::ALL.iter().chain(names::ALL).chain(protect::ALL).chain(subvolumes::ALL);
    let kept = scenarios.map(|scenario| Trial::test(scenario.name, || explore::keeps(scenario)));
    let caught =
        controls::ALL.iter().map(|control| Trial::test(control.name, || controls::is_caught(control)));
    libtest_mimic::run(&arguments, kept.chain(caught).collect()).exit();
}
