//! Runs programs for the demo, so that a signal can end them at any time.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::progress::Display;
use crate::cli::show;
use crate::control::Client;
use crate::error::{Error, Result};
use crate::gc::CycleRecord;

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The progress is reported at every so many looks.
const TELL_EVERY: u32 = 10;

/// Runs programs until one fails or a signal came.
pub(super) struct Runner {
    stop: Arc<AtomicBool>,
}

impl Runner {
    pub(super) fn new() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stop))
                .map_err(|e| Error::io("catching signals", e))?;
        }
        Ok(Self { stop })
    }

    /// An error after a signal came.
    pub(super) fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::SeqCst) {
            return Err(Error::io(
                "the demo was stopped",
                io::Error::new(io::ErrorKind::Interrupted, "by a signal"),
            ));
        }
        Ok(())
    }

    /// Shows a text while something is done.
    pub(super) fn quietly<T>(&self, text: &str, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let _display = Display::new(text);
        work(self)
    }

    /// This program with other arguments.
    pub(super) fn cairnfs(&self, words: &[&OsStr]) -> Result<()> {
        self.finish(&mut this_program(words)?, &mut || {})
    }

    /// The same for cleaning up: also after a signal.
    pub(super) fn cairnfs_whatever(&self, words: &[&OsStr]) -> Result<()> {
        let calm = Self { stop: Arc::new(AtomicBool::new(false)) };
        calm.cairnfs(words)
    }

    /// A copy of everything in a directory, as a new directory.
    pub(super) fn copy(&self, from: &Path, to: &Path, look: &mut dyn FnMut()) -> Result<()> {
        std::fs::create_dir(to).map_err(|e| Error::io(format!("making {}", show(to)), e))?;
        let mut command = Command::new("cp");
        command.arg("-a").arg("--").arg(from.join(".")).arg(to);
        self.finish(&mut command, look)
    }

    pub(super) fn remove(&self, dir: &Path) -> Result<()> {
        let mut command = Command::new("rm");
        command.arg("-rf").arg("--").arg(dir);
        self.finish(&mut command, &mut || {})
    }

    /// Runs a program to its end. Its complaints are the error.
    pub(super) fn finish(&self, command: &mut Command, look: &mut dyn FnMut()) -> Result<()> {
        self.go_on()?;
        let name = command.get_program().to_string_lossy().into_owned();
        let failed = |e| Error::io(format!("running {name}"), e);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let complaints = child.stderr.take().map(|pipe| {
            // Read while the program runs, so that one with much output does not block.
            thread::spawn(move || {
                let mut text = String::new();
                let _ = pipe.take(1 << 16).read_to_string(&mut text);
                text
            })
        });
        let status = self.wait(&mut child, look)?;
        if status.success() {
            return Ok(());
        }
        let text = complaints.and_then(|t| t.join().ok()).unwrap_or_default();
        let line = text.lines().next().unwrap_or("it said nothing");
        let line = line.strip_prefix("cairnfs: ").unwrap_or(line);
        Err(Error::Environment(format!("{} failed ({status}): {line}", show_command(command))))
    }

    fn wait(&self, child: &mut Child, look: &mut dyn FnMut()) -> Result<std::process::ExitStatus> {
        let mut looks = 0;
        loop {
            if let Some(status) = child.try_wait().map_err(|e| Error::io("waiting for a program", e))? {
                return Ok(status);
            }
            if let Err(stopped) = self.go_on() {
                let _ = child.kill();
                let _ = child.wait();
                return Err(stopped);
            }
            looks += 1;
            if looks % TELL_EVERY == 0 {
                look();
            }
            thread::sleep(POLL);
        }
    }
}

fn this_program(words: &[&OsStr]) -> Result<Command> {
    let myself = std::env::current_exe().map_err(|e| Error::io("finding this program's file", e))?;
    let mut command = Command::new(myself);
    command.args(words);
    Ok(command)
}

fn show_command(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for word in command.get_args() {
        text.push(' ');
        text.push_str(&word.to_string_lossy());
    }
    text
}

/// One cycle after the other, until stopped.
pub(super) struct Cycles {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<CycleRecord>>>,
}

impl Cycles {
    pub(super) fn start(mut client: Client) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let thread = thread::spawn(move || {
            let mut records = Vec::new();
            loop {
                records.push(client.gc(false, &mut |_| {})?);
                if told.load(Ordering::SeqCst) {
                    return Ok(records);
                }
            }
        });
        Self { enough, thread }
    }

    /// Waits for the running cycle and returns the records of all.
    pub(super) fn stop(self) -> Result<Vec<CycleRecord>> {
        self.enough.store(true, Ordering::SeqCst);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(Error::Environment("the collecting thread panicked".into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_named_with_its_complaint() {
        let runner = Runner::new().unwrap();
        let error = runner
            .copy(Path::new("/nonexistent"), &tempfile::tempdir().unwrap().path().join("to"), &mut || {})
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("cp -a"), "{text}");
        assert!(text.contains("/nonexistent"), "{text}");
    }

    #[test]
    fn a_signal_ends_what_runs() {
        let runner = Runner::new().unwrap();
        let mut command = Command::new("sleep");
        command.arg("1000");
        let stop = Arc::clone(&runner.stop);
        let error = runner.finish(&mut command, &mut || stop.store(true, Ordering::SeqCst)).unwrap_err();
        assert!(error.to_string().contains("by a signal"));
        assert!(runner.go_on().is_err());
    }
}
