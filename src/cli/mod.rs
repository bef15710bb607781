//! The command line: one program with several names. This is the only place where an error becomes a sentence on
//! standard error and an exit code.

mod args;
mod demo;
mod environment;
mod inspect;
mod interrupt;
mod location;
mod mkfs;
mod mount;
mod mount_options;
mod output;
mod progress;
mod protect;
mod remove;
mod repair;
mod size;
mod snapshots;
mod subvolumes;
mod target;
mod umount;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use clap::error::ErrorKind;

use crate::daemon::start_logging;
use crate::error::Result;
use args::{Cli, Command};

/// Runs the program with its command line, name included, and returns its exit code.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    refuse_to_be_killed_by_a_limit();
    let words: Vec<OsString> = words.into_iter().collect();
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let parsed = Cli::try_parse_from(args::by_program_name(words));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to standard output and are no failure; clap knows which. A closed pipe is no error.
            let _ = e.print();
            let asked_for = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            if json && !asked_for {
                let _ = output::print_json(&output::Failure::of_usage(&e.to_string()));
            }
            return ExitCode::from(if asked_for { 0 } else { 2 });
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("cairnfs: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// If a file may not grow (`ulimit -f`), the write fails, instead of killing the process.
fn refuse_to_be_killed_by_a_limit() {
    // Nobody reads the flag; the handler only has to exist.
    let noted = Arc::new(AtomicBool::new(false));
    if let Err(error) = signal_hook::flag::register(libc::SIGXFSZ, noted) {
        eprintln!("cairnfs: a limit of the size of files will end this process: {error}");
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Mkfs(args) => mkfs::run(&args),
        Command::Mount(args) => mount::run(&args),
        Command::Umount(args) => umount::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::ChildTask(args) => args.child_task.run(&args.path),
        Command::Status(args) => reported(args.json, || inspect::status(&args)),
        Command::Gc(args) => reported(args.json, || inspect::gc(&args)),
        Command::Check(args) => reported(args.json, || inspect::check(&args)),
        Command::Repair(args) => reported(args.json, || repair::run(&args)),
        Command::Sync(args) => reported(false, || inspect::sync(&args)),
        Command::Set(args) => reported(false, || snapshots::set(&args)),
        Command::Get(args) => reported(args.json, || snapshots::get(&args)),
        Command::Ls(args) => reported(args.json, || snapshots::ls(&args)),
        Command::Seal(args) => reported(false, || snapshots::seal(&args)),
        Command::Clone(args) => subvolumes::clone(&args),
        Command::Rm(args) => reported(args.json, || subvolumes::rm(&args)),
        Command::Protect(args) => protect::protect(&args.snapshots),
        Command::Unprotect(args) => protect::unprotect(&args.snapshots),
    }
}

/// With `--json` a failure is also exactly one object on standard output; its sentence still goes to standard error.
fn reported(json: bool, work: impl FnOnce() -> Result<()>) -> Result<()> {
    // The commands print their results themselves; from the layers below only errors are logged.
    let outcome = start_logging(tracing::Level::WARN).and_then(|_| work());
    if json && let Err(e) = &outcome {
        output::print_json(&output::Failure::of(e))?;
    }
    outcome
}

/// A path for a message.
fn show(path: &Path) -> std::path::Display<'_> {
    path.display()
}
