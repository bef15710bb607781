//! What is measured, in the order in which it happens to a store.
//!
//! A phase is done by every contender before the next begins, and each run begins with another
//! contender, so that what else the machine does falls on all of them alike.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::contenders::{Contender, Way};
use crate::corpus::{BIG, Corpus};
use crate::guard::Work;
use crate::measure::{Cost, Outcome, drop_caches, quoted, shell};
use crate::random::Random;
use crate::results::{Better, Results};

/// How long random reads go on at most, and how many there are.
const READS_FOR: Duration = Duration::from_secs(5);
const READS: u64 = 5000;

pub struct World<'a> {
    pub corpus: &'a Corpus,
    pub work: &'a Work,
    /// Whether the kernel's caches may be dropped.
    pub cold: bool,
}

pub enum Phase {
    /// Makes a snapshot of a version.
    Ingest {
        version: usize,
        name: &'static str,
        way: Way<'static>,
    },
    /// Cold first, then again, warm: another's turn between the two would empty the caches.
    Walk {
        name: &'static str,
    },
    ReadAll {
        name: &'static str,
    },
    ReadRandom {
        name: &'static str,
        block: usize,
    },
    Restore {
        name: &'static str,
    },
    Prune {
        name: &'static str,
    },
    /// Makes an empty snapshot, for what is cloned from then on.
    Empty {
        name: &'static str,
    },
    Clone {
        from: &'static str,
        to: &'static str,
    },
    /// Removes a snapshot as fast as this contender can.
    Remove {
        name: &'static str,
    },
    Collect,
    Stored,
    /// By how much more is stored than when the phase of this title was done.
    Grown {
        since: &'static str,
    },
    /// Makes files without content, each process in a directory of its own.
    Create {
        name: &'static str,
        processes: u32,
    },
}

pub struct Step {
    pub title: &'static str,
    pub phase: Phase,
}

const fn step(title: &'static str, phase: Phase) -> Step {
    Step { title, phase }
}

const fn ingest(title: &'static str, version: usize, name: &'static str, way: Way<'static>) -> Step {
    step(title, Phase::Ingest { version, name, way })
}

const fn random(name: &'static str, block: usize) -> Phase {
    Phase::ReadRandom { name, block }
}

const TREE: &[Step] = &[
    ingest("first ingest", 0, "s1", Way::Full),
    ingest("second version", 1, "s2", Way::Full),
    step("stored after two versions", Phase::Stored),
    ingest("unchanged, full copy", 1, "s3", Way::Full),
    ingest("unchanged, rsync in place", 1, "s3", Way::Refresh("s3")),
    ingest("unchanged, clone inside", 1, "s4", Way::Clone("s3")),
    ingest("unchanged, rsync onto clone", 1, "s4", Way::Inplace("s4")),
    step("walk", Phase::Walk { name: "s2" }),
    step("read all", Phase::ReadAll { name: "s2" }),
    step("restore, cold", Phase::Restore { name: "s2" }),
    step("rm -rf of the first", Phase::Prune { name: "s1" }),
    step("cycle", Phase::Collect),
    step("stored in the end", Phase::Stored),
];

/// One snapshot a day, each begun as a clone of the one before.
const DAILY: &[Step] = &[
    step("an empty snapshot", Phase::Empty { name: "d1" }),
    ingest("first rsync", 0, "d1", Way::Sync),
    step("stored after the first", Phase::Stored),
    step("clone", Phase::Clone { from: "d1", to: "d2" }),
    ingest("rsync of the same", 0, "d2", Way::Sync),
    step("clone, and rsync of the same", Phase::Grown { since: "stored after the first" }),
    step("clone of the clone", Phase::Clone { from: "d2", to: "d3" }),
    ingest("rsync of the second version", 1, "d3", Way::Sync),
    step("find -ls of the first", Phase::Walk { name: "d1" }),
    step("find -ls of the newest", Phase::Walk { name: "d3" }),
    step("read all of the newest", Phase::ReadAll { name: "d3" }),
    ingest("rsync into an ordinary directory", 0, "plain", Way::Full),
    ingest("rsync of the same there", 0, "plain", Way::Sync),
    step("the first is removed", Phase::Remove { name: "d1" }),
    step("rm -rf of a clone", Phase::Prune { name: "d2" }),
    step("cycle", Phase::Collect),
    step("stored in the end", Phase::Stored),
];

const IMAGE: &[Step] = &[
    ingest("first ingest", 0, "s1", Way::Full),
    ingest("second version", 1, "s2", Way::Full),
    ingest("third version", 2, "s3", Way::Full),
    step("stored after three versions", Phase::Stored),
    ingest("unchanged, full copy", 2, "s4", Way::Full),
    ingest("unchanged, clone inside", 2, "s5", Way::Clone("s3")),
    step("read in order", Phase::ReadAll { name: "s2" }),
    step("random 64 KiB", random("s3", 64 << 10)),
    step("random 4 KiB", random("s3", 4 << 10)),
    step("restore, cold", Phase::Restore { name: "s2" }),
    step("rm -rf of the first", Phase::Prune { name: "s1" }),
    step("cycle", Phase::Collect),
    step("stored in the end", Phase::Stored),
];

/// For data that is extreme and has one version.
const EXTREME: &[Step] = &[
    ingest("first ingest", 0, "s1", Way::Full),
    step("stored", Phase::Stored),
    ingest("unchanged, full copy", 0, "s2", Way::Full),
    step("read in order", Phase::ReadAll { name: "s1" }),
    step("stored in the end", Phase::Stored),
];

/// For files without content: what making names costs, and whether processes keep each other from it.
const CREATES: &[Step] = &[
    step("40,000 creates, 1 process", Phase::Create { name: "c1", processes: 1 }),
    step("40,000 creates, 4 processes", Phase::Create { name: "c4", processes: 4 }),
    step("walk", Phase::Walk { name: "c4" }),
    step("rm -rf of the first", Phase::Prune { name: "c1" }),
];

/// Files of one step of [`CREATES`], of all its processes.
const CREATED: u32 = 40_000;

pub fn steps(corpus: &Corpus) -> &'static [Step] {
    match corpus.name.as_str() {
        "tree" => TREE,
        "daily" => DAILY,
        "image" => IMAGE,
        "creates" => CREATES,
        _ => EXTREME,
    }
}

/// All are if none is named; a snapshot that a later phase reads must be made.
pub fn wanted(step: &Step, words: &[String]) -> bool {
    let named = words.iter().any(|word| step.title.contains(word.as_str()));
    let makes = matches!(
        step.phase,
        Phase::Ingest { way: Way::Full | Way::Sync, .. }
            | Phase::Create { .. }
            | Phase::Empty { .. }
            | Phase::Clone { .. }
    );
    words.is_empty() || named || makes
}

/// Brings the source into the kernel's cache, so that every ingest reads it from there.
pub fn warm(world: &World<'_>, step: &Step) -> Outcome<()> {
    if let Phase::Ingest { version, .. } = step.phase {
        let source = quoted(&world.corpus.versions[version]);
        shell(&format!("tar cf - -C {source} . | cat >/dev/null"))?;
    }
    Ok(())
}

/// One contender's turn at one step. What it cannot do leaves no figure.
pub fn take_turn(
    world: &World<'_>,
    step: &Step,
    contender: &mut dyn Contender,
    results: &mut Results,
) -> Outcome<()> {
    let title = step.title;
    match &step.phase {
        Phase::Ingest { version, name, way } => {
            let source = &world.corpus.versions[*version];
            let cost = contender.ingest(source, name, *way)?;
            written(title, cost, contender, results)
        }
        Phase::Prune { name } => {
            let cost = contender.prune(name)?;
            written(title, cost, contender, results)
        }
        Phase::Empty { name } => {
            contender.empty(name)?;
            contender.durable().map(drop)
        }
        Phase::Clone { from, to } => {
            let cost = contender.clone_of(from, to)?;
            written(title, cost, contender, results)
        }
        Phase::Remove { name } => {
            let cost = contender.remove(name)?;
            written(title, cost, contender, results)
        }
        Phase::Grown { since } => {
            let name = contender.name();
            let (now, then) = (contender.stored()?, results.figure(name, &stored_row(since)));
            let grown = now.zip(then).map(|(now, then)| now as f64 / 1e3 - then * 1e3);
            results.add(name, &format!("{title}, KB more"), Better::Less, grown);
            Ok(())
        }
        Phase::Collect => {
            let cost = contender.collect()?;
            results.add_cost(contender.name(), title, cost);
            Ok(())
        }
        Phase::Stored => {
            let stored = contender.stored()?.map(|bytes| bytes as f64 / 1e6);
            results.add(contender.name(), &stored_row(title), Better::Less, stored);
            Ok(())
        }
        Phase::Walk { name } => {
            read_twice(world, title, name, contender, results, &|view| format!("find {view} -ls >/dev/null"))
        }
        Phase::ReadAll { name } => read_twice(world, title, name, contender, results, &|view| {
            format!("tar cf - -C {view} . | cat >/dev/null")
        }),
        Phase::ReadRandom { name, block } => random_twice(world, title, (name, *block), contender, results),
        Phase::Create { name, processes } => {
            let cost = create(contender, name, *processes)?;
            written(title, cost, contender, results)
        }
        Phase::Restore { name } => restore(world, title, name, contender, results),
    }
}

fn stored_row(title: &str) -> String {
    format!("{title}, MB")
}

/// Notes what writing cost, and how long it took after that until all was on the disk.
fn written(
    title: &str,
    cost: Option<Cost>,
    contender: &mut dyn Contender,
    results: &mut Results,
) -> Outcome<()> {
    results.add_cost(contender.name(), title, cost);
    let until_durable = contender.durable()?;
    let row = format!("{title}, then until durable, s");
    results.add(contender.name(), &row, Better::Less, until_durable);
    Ok(())
}

/// Processes that begin at the same time, each with a directory of its own below `name`.
fn create(contender: &dyn Contender, name: &str, processes: u32) -> Outcome<Option<Cost>> {
    let Some(root) = contender.root() else {
        return Ok(None);
    };
    let myself = std::env::current_exe().map_err(|e| format!("the benchmark itself: {e}"))?;
    let (myself, top) = (quoted(&myself), quoted(&root.join(name)));
    let files = CREATED / processes;
    let line = format!(
        "mkdir {top} && pids=() && for n in $(seq {processes}); do {myself} create {top}/$n {files} & pids+=($!); done \
         && for pid in ${{pids[@]}}; do wait $pid || exit 1; done"
    );
    contender.with_daemon(&line).map(Some)
}

/// What one such process does.
pub fn create_files(dir: &Path, files: u32) -> Outcome<()> {
    let fail = |e: std::io::Error| format!("{}: {e}", dir.display());
    std::fs::create_dir(dir).map_err(fail)?;
    for number in 0..files {
        File::create_new(dir.join(format!("file-{number:06}"))).map_err(fail)?;
    }
    Ok(())
}

fn read_twice(
    world: &World<'_>,
    title: &str,
    snapshot: &str,
    contender: &mut dyn Contender,
    results: &mut Results,
    line: &dyn Fn(&str) -> String,
) -> Outcome<()> {
    let is_cold = chill(world, contender)?;
    let Some(view) = contender.view(snapshot)? else {
        return Ok(());
    };
    let line = line(&quoted(&view));
    let first = contender.with_daemon(&line)?;
    if is_cold {
        results.add_cost(contender.name(), &format!("{title}, cold"), Some(first));
    }
    let second = contender.with_daemon(&line)?;
    results.add_cost(contender.name(), &format!("{title}, warm"), Some(second));
    Ok(())
}

fn random_twice(
    world: &World<'_>,
    title: &str,
    (snapshot, block): (&str, usize),
    contender: &mut dyn Contender,
    results: &mut Results,
) -> Outcome<()> {
    let is_cold = chill(world, contender)?;
    let Some(view) = contender.view(snapshot)? else {
        return Ok(());
    };
    let first = random_reads(&view.join(BIG), block)?;
    let name = contender.name();
    if is_cold {
        let row = format!("{title}, cold, /s");
        results.add(name, &row, Better::More, Some(first));
    }
    let second = random_reads(&view.join(BIG), block)?;
    let row = format!("{title}, warm, /s");
    results.add(name, &row, Better::More, Some(second));
    Ok(())
}

fn restore(
    world: &World<'_>,
    title: &str,
    snapshot: &str,
    contender: &mut dyn Contender,
    results: &mut Results,
) -> Outcome<()> {
    if chill(world, contender)? {
        let into = world.work.dir("restored")?;
        let cost = contender.restore(snapshot, &into)?;
        results.add_cost(contender.name(), title, cost);
        std::fs::remove_dir_all(&into).map_err(|e| format!("{}: {e}", into.display()))?;
    }
    Ok(())
}

/// Makes everything cold. False if that is not allowed here.
fn chill(world: &World<'_>, contender: &mut dyn Contender) -> Outcome<bool> {
    if world.cold {
        contender.cool()?;
        drop_caches()?;
    }
    Ok(world.cold)
}

/// Blocks a second, read at random places, the same ones each time.
fn random_reads(path: &Path, block: usize) -> Outcome<f64> {
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = File::open(path).map_err(fail)?;
    let blocks = file.metadata().map_err(fail)?.len() / block as u64;
    let mut random = Random::new(block as u64);
    let mut buffer = vec![0; block];
    let started = Instant::now();
    let mut done = 0;
    while done < READS && started.elapsed() < READS_FOR {
        let offset = random.next() % blocks.max(1) * block as u64;
        file.read_exact_at(&mut buffer, offset).map_err(fail)?;
        done += 1;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}
