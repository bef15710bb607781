//! What it costs that something is durable, beside the host's own filesystem: `cargo bench --bench commits -- --help`.
//!
//! Everything is done on the host, on mounts of this program, and on those of an older one if there is one, in turns, so
//! that each figure has its neighbours from the same seconds. Tables show medians; ratios are medians of the ratios of
//! each round.

mod bytes;
#[path = "../guard.rs"]
mod guard;
mod image;
mod killed;
// Shared with the benchmark `backup`, which uses the rest.
#[allow(dead_code)]
#[path = "../measure.rs"]
mod measure;
mod options;
mod place;
#[path = "../random.rs"]
mod random;
mod rates;
// Shared with the benchmark `scale`, which looks at what is in the stores, too.
#[allow(dead_code)]
#[path = "../scale/synthetic.rs"]
mod synthetic;
#[path = "../table.rs"]
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};

use cairnfs::store::{MkfsOptions, OpenOptions, Store, mkfs};
use clap::Parser;

use guard::Work;
use image::Image;
use measure::{Outcome, output};
use options::{Command, Options, Run};
use place::Place;
use synthetic::Size;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.command {
        None => measure_all(&options.run),
        Some(Command::Build { dir, chunks }) => build(dir, *chunks),
        Some(Command::Keeper { work }) => guard::keep(work),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// A store of rows, ten chunks a file.
fn build(dir: &Path, chunks: u64) -> Outcome<()> {
    let fail = |e: cairnfs::Error| format!("{}: {e}", dir.display());
    mkfs(dir, &MkfsOptions::default()).map_err(fail)?;
    let store = Store::open(dir, &OpenOptions::default()).map_err(fail)?;
    let files = (chunks / 10).max(100);
    synthetic::fill(&store, &Size { files, chunks, snapshots: 100, copies: 1, garbage: 10 })?;
    store.close().map_err(fail)
}

/// The program that is measured, and the older one, with their names.
fn programs(run: &Run) -> Outcome<Vec<(&'static str, PathBuf)>> {
    let own = run.program.clone().or_else(|| option_env!("CARGO_BIN_EXE_cairnfs").map(PathBuf::from));
    let own = own.ok_or("cairnfs was not built with this; say --program PATH")?;
    let before = run.before.clone().map(|program| ("before", program));
    Ok(std::iter::once(("cairnfs", own)).chain(before).collect())
}

fn measure_all(run: &Run) -> Outcome<()> {
    if !Path::new("/dev/fuse").exists() {
        return Err("there is no /dev/fuse".to_owned());
    }
    let programs = programs(run)?;
    let below_target = option_env!("CARGO_TARGET_TMPDIR").map(PathBuf::from);
    let parent = run.work.clone().or(below_target).unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    let work = Work::new(&parent)?;
    if !run.no_rates {
        let below = work.dir("rates")?;
        let mut places = vec![Place::host(&below)?];
        for (name, program) in &programs {
            places.push(Place::mounted(&below, name, program)?);
        }
        rates::measure(run, &places)?;
    }
    match Image::new(&work.path) {
        Ok(image) => count(run, &image, &programs)?,
        Err(problem) => println!("\nbytes and flushes are not counted, without a loop device: {problem}"),
    }
    killed::measure(run, &work.path, &programs)
}

/// Counts what comes to the disk, in new stores and in those of rows.
fn count(run: &Run, image: &Image, programs: &[(&'static str, PathBuf)]) -> Outcome<()> {
    let mut places = vec![Place::host(&image.dir)?];
    for (name, program) in programs {
        places.push(Place::mounted(&image.dir, &format!("{name}, new store"), program)?);
    }
    for &chunks in &run.chunks {
        let (name, store) = (format!("cairnfs, {chunks} chunks"), image.dir.join(format!("rows-{chunks}")));
        let myself = std::env::current_exe().map_err(|e| format!("the benchmark itself: {e}"))?;
        output(Process::new(myself).arg("build").arg(&store).arg(chunks.to_string()))?;
        places.push(Place::of_store(&image.dir, &name, &programs[0].1, store)?);
    }
    // What was made is not to be written meanwhile.
    rustix::fs::sync();
    bytes::measure(run, image, &places)
}
