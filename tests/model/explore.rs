//! The configurations in which the protocol is explored to the end.

use crate::mutants::{listing, sentences};
use crate::protocol::{Config, NOBODY_STUCK, PROMISES_HOLD, Store};
use crate::state::State;
use crate::trace;
use stateright::{Checker, Model};
use std::time::Instant;

const Q: Config = Config::QUIET;

/// The configuration that is asked for at least: two writers, one pruner, three contents, two cycles, a crash.
pub const REQUIRED: (&str, Config) = (
    "hits, misses, overwrites, prune, crash",
    Config { puts: [2, 1], prunes: 1, cycles: 2, crashes: 1, ..Q },
);

/// Smaller ones, each about something more.
pub const OTHERS: [(&str, Config); 12] = [
    ("two prunes, crash", Config { puts: [1, 1], prunes: 2, cycles: 2, crashes: 1, ..Q }),
    ("clone, prune, crash", Config { puts: [1, 0], clones: [0, 1], prunes: 2, cycles: 2, crashes: 1, ..Q }),
    ("clone of a clone", Config { puts: [1, 0], clones: [1, 1], prunes: 1, ..Q }),
    ("rename", Config { puts: [1, 0], clones: [0, 1], prunes: 1, renames: 1, cycles: 2, crashes: 1, ..Q }),
    ("unlinked but open", Config { puts: [2, 0], prunes: 1, opens: 1, cycles: 2, crashes: 1, ..Q }),
    (
        "clone of an unlinked, open file",
        Config { puts: [1, 0], clones: [0, 1], prunes: 1, opens: 1, crashes: 1, ..Q },
    ),
    ("cache, two writers", Config { puts: [1, 1], prunes: 1, cycles: 2, cache: true, ..Q }),
    ("cache, errors, sweep in small batches", Config { errors: 1, small_sweeps: true, ..CACHED }),
    ("nobody waits for ever", Config { puts: [1, 1], prunes: 1, errors: 1, cycles: 2, stuck: true, ..Q }),
    ("log, two writers, crash", Config { puts: [1, 1], crashes: 1, ..LOG }),
    ("log, two cycles, two crashes", Config { crashes: 2, ..LOG_CRASH }),
    (
        "log, errors, nobody waits for ever",
        Config { errors: 1, small_sweeps: true, stuck: true, ..LOG_CRASH },
    ),
];

const LOG: Config = Config { log: true, ..Q };
const LOG_CRASH: Config = Config { puts: [1, 0], prunes: 1, cycles: 2, crashes: 1, ..LOG };

const CACHED: Config = Config { puts: [1, 1], prunes: 1, cycles: 2, cache: true, ..Q };

/// Larger ones, for a long evening.
pub const DEEP: [(&str, Config); 7] = [
    ("two puts each, crash", Config { puts: [2, 2], prunes: 1, cycles: 2, crashes: 1, ..Q }),
    ("puts and clones of both", Config { puts: [1, 1], clones: [1, 1], prunes: 1, cycles: 2, ..Q }),
    (
        "unlinked but open, both write",
        Config { puts: [2, 1], prunes: 1, opens: 1, cycles: 1, crashes: 1, ..Q },
    ),
    (
        "cache, crash, three cycles",
        Config { puts: [1, 1], prunes: 2, cycles: 3, crashes: 1, cache: true, ..Q },
    ),
    ("log, two writers, prune, crash", Config { puts: [1, 1], prunes: 1, crashes: 1, ..LOG }),
    ("log, clone, crash", Config { puts: [1, 0], clones: [0, 1], prunes: 1, crashes: 1, ..LOG }),
    ("log, overwrites, crash", Config { puts: [2, 0], prunes: 1, crashes: 1, ..LOG }),
];

/// The bounds of a configuration, in one line.
fn bounds(c: &Config) -> String {
    let mut out = format!("puts {}+{}", c.puts[0], c.puts[1]);
    if c.clones != [0, 0] {
        out += &format!(", clones {}+{}", c.clones[0], c.clones[1]);
    }
    for (n, what) in [
        (c.prunes, "prunes"),
        (c.renames, "renames"),
        (c.opens, "opens"),
        (c.digests, "digests"),
        (c.cycles, "cycles"),
        (c.crashes, "crashes"),
        (c.errors, "errors"),
    ] {
        if n > 0 {
            out += &format!(", {what} {n}");
        }
    }
    out + if c.cache { ", cache" } else { "" } + if c.log { ", log" } else { "" }
}

/// Of a state and its mirror image, always the same one.
fn representative(s: &State) -> State {
    let mirrored = s.mirrored();
    if mirrored.packed() < s.packed() { mirrored } else { *s }
}

/// Explores one configuration to the end and prints a row of the table. Panics with the shortest
/// counterexample if a promise breaks.
pub fn explore((name, config): (&str, Config)) -> usize {
    let begun = Instant::now();
    let store = Store { config, mutant: None };
    let builder = store.checker().threads(2);
    let builder = if config.symmetric() { builder.symmetry_fn(representative) } else { builder };
    let run = builder.spawn_dfs().join();
    println!(
        "  {name:<40} {:>12} states {:>12} steps, depth {:>2}, {:>6.1} s   ({})",
        thousands(run.unique_state_count()),
        thousands(run.state_count()),
        run.max_depth(),
        begun.elapsed().as_secs_f64(),
        bounds(&config),
    );
    if !run.discoveries().is_empty() {
        panic!("{}", counterexample(&store, name));
    }
    run.unique_state_count()
}

/// The shortest counterexample of a configuration that has one.
fn counterexample(store: &Store, name: &str) -> String {
    let run = store.checker().threads(1).spawn_bfs().join();
    for property in [PROMISES_HOLD, NOBODY_STUCK] {
        if let Some(path) = run.discovery(property) {
            let verdict = trace::verdict(path.last_state());
            let steps = sentences(store, path.into_vec());
            return format!("{name}: the protocol breaks\n{}", listing(&steps, &verdict));
        }
    }
    format!("{name}: the protocol breaks, but the search for the shortest way found none")
}

/// 1234567 as "1 234 567".
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}
