//! How cairnfs grows: `cargo bench --bench scale -- --help`.
//!
//! It measures what must not depend on the size of a store (opening it, how long writers are held), and how what must
//! grow does (a cycle: time and memory), on stores made of rows: `synthetic.rs` says what in them is real. Each
//! step is a process of its own, so that its peak memory is its own. CPU seconds stand beside the seconds of the
//! clock: on a machine that does other things as well, only they can be compared.

mod cycle;
#[path = "../guard.rs"]
mod guard;
mod history;
// Shared with the benchmark `backup`, which uses the rest.
#[allow(dead_code)]
#[path = "../measure.rs"]
mod measure;
mod mounted;
mod options;
mod probe;
#[path = "../random.rs"]
mod random;
mod report;
mod synthetic;
#[path = "../table.rs"]
mod table;
mod tree;

use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode, Stdio};

use clap::Parser;
use serde::Serialize;
use serde::de::DeserializeOwned;

use cycle::Cycle;
use guard::Work;
use history::{History, Seen};
use measure::Outcome;
use options::{Command, Options, Run};
use probe::Took;
use report::Grown;
use synthetic::Size;
use tree::Step;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.command {
        None => measure_all(&options.run),
        Some(command) => child(command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn child(command: &Command) -> Outcome<()> {
    match command {
        Command::Build { dir, size } => tell(&cycle::build(dir, &size.size())?),
        Command::Open { dir, kill } => tell(&cycle::open_once(dir, *kill)?),
        Command::Cycle { dir } => tell(&cycle::cycle(dir)?),
        Command::Directory { dir, size } => tell(&tree::directory(dir, &size.size())?),
        Command::MakeFile { dir, bytes, sparse } => tell(&tree::make_file(dir, *bytes, *sparse)?),
        Command::File { dir } => tell(&tree::file(dir)?),
        Command::History { dir, files, days, changed } => {
            tell(&history::measure(dir, History { files: *files, days: *days, changed: *changed })?)
        }
        Command::Keeper { work } => guard::keep(work),
    }
}

/// A child's answer.
fn tell(what: &impl Serialize) -> Outcome<()> {
    let text = serde_json::to_string(what).map_err(|e| e.to_string())?;
    println!("{text}");
    Ok(())
}

/// Runs this program again, for one step.
fn ask<T: DeserializeOwned>(run: &Run, words: &[&str], dir: &Path, rest: &[String]) -> Outcome<T> {
    let myself = std::env::current_exe().map_err(|e| format!("the benchmark itself: {e}"))?;
    let mut command = Process::new(myself);
    command.args(words).arg(dir).args(rest).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|e| format!("{}: {e}", words.join(" ")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if run.json {
        println!("{} {} {}", words.join(" "), rest.join(" "), text.trim());
    }
    // One that was told to end as if killed has answered before.
    serde_json::from_str(&text).map_err(|e| format!("{}: {}: {e}", words.join(" "), output.status))
}

fn words(size: &Size) -> Vec<String> {
    [size.files, size.chunks, size.snapshots, size.copies, size.garbage]
        .map(|number| number.to_string())
        .to_vec()
}

fn measure_all(run: &Run) -> Outcome<()> {
    let sizes = run.sizes()?;
    let below_target = option_env!("CARGO_TARGET_TMPDIR").map(PathBuf::from);
    let parent = run.work.clone().or(below_target).unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    let work = Work::new(&parent)?;
    let mut grown = Vec::new();
    for size in &sizes {
        grown.push(one_size(run, &work, size)?);
        if sizes.len() > 1 {
            eprintln!("{} chunks, {} files: done", size.chunks, size.files);
        }
    }
    report::growth(&grown);
    if run.directory > 0 {
        let size = Size { files: run.directory, chunks: 0, snapshots: 1, copies: 1, garbage: 10 };
        let dir = work.path.join("directory");
        let _: Took = ask(run, &["build"], &dir, &words(&size))?;
        let steps: Vec<Step> = ask(run, &["directory"], &dir, &words(&size))?;
        report::steps(&format!("a directory of {} entries", run.directory), &steps);
        remove(&dir)?;
    }
    for (kind, option) in [("sparse", Some("--sparse")), ("dense by repeats", None)] {
        if run.file > 0 {
            let dir = work.path.join("file");
            let words: Vec<&str> = std::iter::once("make-file").chain(option).collect();
            let _: Took = ask(run, &words, &dir, &[run.file.to_string()])?;
            let steps: Vec<Step> = ask(run, &["file"], &dir, &[])?;
            report::steps(&format!("a file of {:.0} GB, {kind}", run.file as f64 / 1e9), &steps);
            remove(&dir)?;
        }
    }
    if run.days > history::KEPT {
        let dir = work.path.join("history");
        let words = [run.tree, run.days, run.changed].map(|number| number.to_string());
        let seen: Seen = ask(run, &["history"], &dir, &words)?;
        report::history(&History { files: run.tree, days: run.days, changed: run.changed }, &seen);
        remove(&dir)?;
    }
    if run.idle > 0 {
        match mounted::missing() {
            Some(why) => println!("nothing is mounted: {why}"),
            None => mounted::measure(&work, run.idle)?,
        }
    }
    Ok(())
}

fn one_size(run: &Run, work: &Work, size: &Size) -> Outcome<Grown> {
    let dir = work.path.join("store");
    let built: Took = ask(run, &["build"], &dir, &words(size))?;
    let database = std::fs::metadata(dir.join("meta/cairnfs.redb")).map_or(0, |meta| meta.len());
    let open: Took = ask(run, &["open"], &dir, &[])?;
    let _: Took = ask(run, &["open", "--kill"], &dir, &[])?;
    let after_kill: Took = ask(run, &["open"], &dir, &[])?;
    let freeing: Cycle = ask(run, &["cycle"], &dir, &[])?;
    let idle: Cycle = ask(run, &["cycle"], &dir, &[])?;
    remove(&dir)?;
    Ok(Grown { size: *size, built, database, open, after_kill, freeing, idle })
}

fn remove(dir: &Path) -> Outcome<()> {
    std::fs::remove_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))
}
