//! A model of subvolumes and their versions, explored to the end, and each of their protections taken out once.
//!
//! # What is modelled
//!
//! Subvolumes with leaves in a tree of versions; files whose rows stand at versions, whiteouts among them, and whose
//! contents name chunks, in two stretches. Members join a batch with the leaf of that batch, act once and leave: they
//! write (a content that is not the leaf's own is copied first, whole or by stretches, through the barrier), change an
//! attribute, delete, copy a file between subvolumes, drop a subvolume. A clone is a swap of batches with the rows of
//! both sides in the new one, the wait until the old one is committed, and the name. The kernel remembers inodes and
//! forgets them; a dropped subvolume is noted when nobody uses it, reaped key by key, and its record goes last; audits
//! look at keys beside that. Batches are open, sealed, committed; what reap and audit change is committed and not
//! durable by itself. The collector flips, marks every content of the database, condemns, sweeps and ends, with cells
//! below a watermark. The power may go before every step, and what is opened then has lost the kernel's memory, numbers
//! that were not recorded, and names that were not given.
//!
//! # What is promised
//!
//! See `promises.rs`: each subvolume is a map of its own by each layer and after a power cut at that moment; no chunk that
//! a row names is freed; and where nobody does anything, reap and audit end with nothing left that nobody sees.
//!
//! # What is left out, and why that is sound
//!
//! * A name and an attribute are rows as the row of a file is; keys that begin with each other are told apart by what
//!   ends them, which `tests/filesystem/versions.rs` looks at (`without_an_end_of_names_one_is_taken_for_another`).
//! * The table `owned` has an entry for each row; that it does is looked at on the real tables (`versions.rs` there).
//! * A reap visits each of its keys in one step, and computes which versions it has to visit anew each time; the real one
//!   keeps the list. What an older list misses is left to an audit, and a row that is looked at without need stays.
//! * The log of commits: a commit is one durable step. `no_schedule_breaks_a_promise` has the log.
//! * Chunks are not freed as bytes; their rows going is the moment that counts, and the other model has the rest.
//! * Locals and public numbers, cookies, and what the kernel caches: tests on the mount.
//!
//! # Negative controls
//!
//! `cases.rs`: each protection that is taken out breaks a promise, and the same bounds with it do not. Three do not, and
//! all of them are questions to the barrier about chunks that a row names already: of the copy of extents for a first
//! write, of a file that is cloned into another subvolume, and of what is kept of an extent that is replaced. What they
//! refer to stands in the database until their own rows do, so the mark finds either the one or the other. But that rests
//! on reap being right, and I11 is to rest on nothing of that kind:
//! `the_barrier_is_asked_for_what_rows_name_already_so_that_no_chunk_depends_on_reap` has both halves.
//!
//! With `CAIRNFS_MODEL=deep` in the environment, larger bounds are explored.

mod cases;
mod cycle;
mod promises;
mod protocol;
mod removal;
mod rows;
mod state;
mod users;
mod words;

use std::fmt::Write;
use std::time::Instant;

use stateright::{Checker, Model};

use crate::explore::thousands;
use promises::Promise;
use protocol::{Act, Config, KEPT, Store};
use state::State;

/// Explores to the end; the shortest way to a broken promise if there is one, and how many states were looked at.
fn explore(store: &Store) -> (usize, Option<Broken>) {
    let run = store.clone().checker().threads(1).spawn_dfs().join();
    if run.discoveries().is_empty() { (run.unique_state_count(), None) } else { shortest(store) }
}

/// Breadth first in the strict order, so that the first way is a shortest one.
fn shortest(store: &Store) -> (usize, Option<Broken>) {
    let run = store.clone().checker().threads(1).spawn_bfs().join();
    let broken = run.discovery(KEPT).map(|path| Broken::of(store, path.into_vec()));
    (run.unique_state_count(), broken)
}

struct Broken {
    promise: Promise,
    listing: String,
    steps: usize,
}

impl Broken {
    fn of(store: &Store, path: Vec<(State, Option<Act>)>) -> Self {
        let (promise, what) =
            path.last().and_then(|(state, _)| store.broken(state)).expect("it was found broken");
        let acts = path.iter().filter_map(|(_, act)| *act);
        let mut listing = String::new();
        let mut steps = 0;
        for act in acts {
            steps += 1;
            let _ = writeln!(listing, "      {steps:>2}. {}", words::of(act));
        }
        let _ = writeln!(listing, "       => {what}");
        Self { promise, listing, steps }
    }
}

fn sound(name: &str, config: Config) -> usize {
    let begun = Instant::now();
    let store = Store { config, out: Vec::new(), promises: Promise::ALL };
    let (states, broken) = explore(&store);
    println!("  {name:<40} {:>12} states, {:>6.1} s", thousands(states), begun.elapsed().as_secs_f64());
    if let Some(broken) = broken {
        panic!("{name}: {:?} breaks\n{}", broken.promise, broken.listing);
    }
    states
}

#[test]
fn no_schedule_of_subvolumes_breaks_a_promise() {
    println!("\nSubvolumes, explored to the end. Promised at every state:");
    Promise::ALL.iter().for_each(|promise| println!("  - {}", promise.words()));
    let mut states: usize = cases::CONFIGS.into_iter().map(|(name, config)| sound(name, config)).sum();
    if std::env::var("CAIRNFS_MODEL").is_ok_and(|word| word == "deep") {
        states += cases::DEEP.into_iter().map(|(name, config)| sound(name, config)).sum::<usize>();
    }
    println!("  no promise was broken in {} states", thousands(states));
    assert!(states > 1_000_000, "so few states cannot be all: {states}");
}

#[test]
fn every_mutant_of_subvolumes_is_caught() {
    let mut wrong = String::new();
    for case in &cases::CASES {
        let sound = Store { config: case.config, out: Vec::new(), promises: Promise::ALL };
        let mutant = Store { out: vec![case.mutant], ..sound.clone() };
        let (states, broken) = shortest(&mutant);
        println!("\n  MUTANT: {}", case.name);
        match broken {
            None => {
                let _ = writeln!(wrong, "{}: is not caught in {} states", case.name, thousands(states));
            }
            Some(broken) => {
                println!("      caught in {} steps, {} states looked at", broken.steps, thousands(states));
                println!("{}", broken.listing);
                if broken.promise != case.breaks {
                    let _ =
                        writeln!(wrong, "{}: breaks {:?}, not {:?}", case.name, broken.promise, case.breaks);
                }
            }
        }
        // The same bounds with the protection in place are among those of the other test.
        let is_explored = |config: &Config| format!("{config:?}") == format!("{:?}", case.config);
        if !cases::CONFIGS.iter().any(|(_, config)| is_explored(config))
            && let (_, Some(broken)) = explore(&sound)
        {
            let _ = writeln!(wrong, "{}: breaks with the protection in place\n{}", case.name, broken.listing);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// I11: whatever is wrong with what is seen and with what is removed, no cycle frees a chunk that a row names.
#[test]
fn no_fault_of_visibility_or_of_reap_frees_a_chunk_that_a_row_names() {
    for mutant in cases::SABOTAGED {
        for config in cases::REFERENCES_COME_AND_GO {
            let store = Store { config, out: vec![mutant], promises: &[Promise::Chunks] };
            let (states, broken) = explore(&store);
            println!("  without {mutant:?}: {} states", thousands(states));
            assert!(broken.is_none(), "without {mutant:?}:\n{}", broken.map_or(String::new(), |b| b.listing));
        }
    }
}

#[test]
fn the_barrier_is_asked_for_what_rows_name_already_so_that_no_chunk_depends_on_reap() {
    let config = cases::ASKED;
    for unasked in cases::UNASKED {
        // With a reap that is right, nothing is lost.
        let (_, broken) = explore(&Store { config, out: vec![unasked], promises: Promise::ALL });
        assert!(broken.is_none(), "{unasked:?} alone: {}", broken.map_or(String::new(), |b| b.listing));
        let lost = cases::SABOTAGED.into_iter().find_map(|mutant| {
            let store = Store { config, out: vec![unasked, mutant], promises: &[Promise::Chunks] };
            explore(&store).1.map(|broken| (mutant, broken))
        });
        let (mutant, broken) =
            lost.unwrap_or_else(|| panic!("{unasked:?} loses nothing with any fault of reap: why ask?"));
        println!("\n  MUTANTS: {unasked:?}, {mutant:?}\n{}", broken.listing);
    }
}
