//! The benchmark: `cargo bench --bench backup -- --help`.
//!
//! It uses cairnfs as its users do, by the built program and through a mount, and nothing of its code.
//! Contenders take turns phase by phase, so that figures of one run can be compared with each other;
//! figures of different runs or machines cannot.

mod contenders;
mod corpus;
mod cpu;
mod floor;
mod guard;
mod measure;
mod mounted;
mod options;
mod phases;
mod random;
mod results;
mod table;
mod variants;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use indicatif::ProgressBar;

use contenders::{Contender, Stage};
use corpus::{Corpus, Wanted};
use cpu::CpuFloor;
use guard::Work;
use measure::Outcome;
use options::{Command, Options, Run};
use phases::World;
use results::{Better, Results};
use table::Table;

/// What the floor was asked in each phase.
type Requests = Vec<(&'static str, Vec<(String, u64)>)>;

fn main() -> ExitCode {
    let options = Options::parse();
    match act(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn act(options: Options) -> Outcome<()> {
    match options.command {
        Some(Command::Floor { mount, choices }) => floor::process::serve(&mount, &choices.parse()?)
            .map_err(|e| format!("floor on {}: {e}", mount.display())),
        Some(Command::Create { dir, files }) => phases::create_files(&dir, files),
        Some(Command::Keeper { work }) => guard::keep(&work),
        Some(Command::Negotiate { source, only }) => {
            let work = Work::new(&work_parent(&options.run))?;
            variants::compare(&variants::Plan {
                source: &source,
                work: &work.path,
                runs: options.run.runs.unwrap_or(5),
                only: &only,
                count_requests: options.run.count_requests,
            })
        }
        None => compare(&options.run),
    }
}

/// Where cargo lets benchmarks keep what they make.
fn corpus_dir(run: &Run) -> PathBuf {
    let below_target = || option_env!("CARGO_TARGET_TMPDIR").map(PathBuf::from);
    let parent = below_target().unwrap_or_else(std::env::temp_dir);
    run.corpus.clone().unwrap_or_else(|| parent.join("bench-corpus"))
}

fn work_parent(run: &Run) -> PathBuf {
    run.work.clone().unwrap_or_else(|| corpus_dir(run))
}

fn compare(run: &Run) -> Outcome<()> {
    let cairnfs = run.cairnfs.clone().or_else(|| option_env!("CARGO_BIN_EXE_cairnfs").map(PathBuf::from));
    let (contenders, with_cpu) = taking_part(run, cairnfs.as_deref());
    let corpus_dir = corpus_dir(run);
    let corpora = if run.corpora.is_empty() {
        corpus::NAMES.iter().map(|name| (*name).to_owned()).collect()
    } else {
        run.corpora.clone()
    };
    let mut all = serde_json::Map::new();
    for name in &corpora {
        let corpus =
            Corpus::get(name, &Wanted { dir: &corpus_dir, quick: run.quick, package: &run.package })?;
        let results = one_corpus(run, &corpus, &contenders, with_cpu, cairnfs.as_deref())?;
        all.insert(name.clone(), results.json());
    }
    if let Some(path) = &run.json {
        let text = serde_json::Value::Object(all).to_string();
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// Who is wanted and can; the others are named with what they lack.
fn taking_part(run: &Run, cairnfs: Option<&Path>) -> (Vec<&'static str>, bool) {
    let named = |name: &str| run.contenders.iter().any(|wanted| wanted == name);
    let wanted = |name: &str| match name {
        "before" => named(name) || (run.contenders.is_empty() && run.before.is_some()),
        _ => named(name) || run.contenders.is_empty(),
    };
    for name in &run.contenders {
        if name != "cpu" && !contenders::NAMES.contains(&name.as_str()) {
            println!("{name}: no such contender");
        }
    }
    let mut taking_part = Vec::new();
    for name in contenders::NAMES.iter().filter(|name| wanted(name)) {
        let program = if *name == "before" { run.before.as_deref() } else { cairnfs };
        match contenders::missing(name, program) {
            Some(why) => println!("{name} does not take part: {why}"),
            None => taking_part.push(*name),
        }
    }
    (taking_part, wanted("cpu"))
}

fn one_corpus(
    run: &Run,
    corpus: &Corpus,
    names: &[&'static str],
    with_cpu: bool,
    cairnfs: Option<&Path>,
) -> Outcome<Results> {
    let runs = run.runs.unwrap_or(if run.quick { 1 } else { 3 });
    println!(
        "\n## {}: {} files, {:.2} GB\n\n{}\n",
        corpus.name,
        corpus.files,
        corpus.bytes as f64 / 1e9,
        corpus.about
    );
    let mut results = Results::default();
    let mut cpu = CpuFloor::new();
    let mut requests = Requests::new();
    for number in 1..=runs {
        results.run = number;
        let work = Work::new(&work_parent(run))?;
        let world = World { corpus, work: &work, cold: !run.no_cold };
        let stage = Stage {
            work: &work,
            cairnfs,
            before: run.before.as_deref(),
            mount_options: &run.mount_options,
            floor: &run.floor,
            level: run.level,
        };
        let mut playing =
            names.iter().map(|name| contenders::new(name, &stage)).collect::<Outcome<Vec<_>>>()?;
        // Another one begins each time.
        playing.rotate_left((number - 1) % names.len().max(1));
        one_run(run, &world, &mut playing, &mut results, &mut requests)?;
        if with_cpu {
            cpu.run(corpus)?;
        }
    }
    println!("Medians of {runs}; in brackets, times cairnfs's figure of the same run.\n");
    println!("{}", results.table(&corpus.name, names));
    println!("{}", results.cpu_table(names));
    if let Some(fractions) = results.fractions() {
        println!("{fractions}");
    }
    if with_cpu {
        println!("{}", cpu.table(corpus));
    }
    if run.count_requests {
        println!("{}", request_table(&requests, corpus.files));
    }
    Ok(results)
}

/// All phases, each by all contenders. A contender that fails is out of this run, and says so.
fn one_run(
    run: &Run,
    world: &World<'_>,
    playing: &mut Vec<Box<dyn Contender>>,
    results: &mut Results,
    requests: &mut Requests,
) -> Outcome<()> {
    let steps: Vec<_> =
        phases::steps(world.corpus).iter().filter(|step| phases::wanted(step, &run.phases)).collect();
    let progress = ProgressBar::new((steps.len() * playing.len()) as u64).with_style(progress_style());
    for step in steps {
        phases::warm(world, step)?;
        let mut failed = Vec::new();
        for contender in playing.iter_mut() {
            let name = contender.name();
            progress.set_message(format!("{}: {name}", step.title));
            let _ = contender.requests();
            if let Err(problem) = phases::take_turn(world, step, contender.as_mut(), results) {
                progress.suspend(|| println!("{}: {name} failed: {problem}\n", step.title));
                failed.push(name);
            }
            if let Some(counted) = contender.requests() {
                requests.retain(|(title, _)| *title != step.title);
                requests.push((step.title, counted));
            }
            progress.inc(1);
        }
        playing.retain(|contender| !failed.contains(&contender.name()));
    }
    for contender in playing.iter_mut() {
        let peak = contender.peak().map(|bytes| bytes as f64 / f64::from(1 << 20));
        results.add(contender.name(), "peak memory, MiB", Better::Less, peak);
    }
    progress.finish_and_clear();
    Ok(())
}

fn progress_style() -> indicatif::ProgressStyle {
    indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar())
}

fn request_table(requests: &Requests, files: u64) -> Table {
    let mut table = Table::new(["requests per file on the floor", "which"]);
    for (title, counted) in requests {
        let which: Vec<String> = counted
            .iter()
            .filter(|(kind, _)| !kind.starts_with("bytes"))
            .map(|(kind, count)| (kind, *count as f64 / files as f64))
            .filter(|(_, each)| *each >= 0.05)
            .map(|(kind, each)| format!("{kind} {each:.2}"))
            .collect();
        if !which.is_empty() {
            table.row([(*title).to_owned(), which.join(" ")]);
        }
    }
    table
}
