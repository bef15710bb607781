//! Nothing is left behind, however the benchmark ends.
//!
//! A second process, the keeper, waits for the end of a pipe that only the benchmark holds open. That
//! end comes with a normal return, a panic, an interrupt or a kill alike; the keeper then unmounts what
//! is mounted below the work directory, deepest first, and removes the directory.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::measure::Outcome;

const TRIES: u32 = 60;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// The work directory, with everything in it and mounted below it. Gone when dropped.
pub struct Work {
    pub path: PathBuf,
    keeper: Child,
}

impl Work {
    pub fn new(parent: &Path) -> Outcome<Self> {
        let path = tempfile::Builder::new()
            .prefix("backup-bench-")
            .tempdir_in(parent)
            .map_err(|e| format!("cannot make a work directory in {}: {e}", parent.display()))?
            .keep();
        let myself = std::env::current_exe().map_err(|e| format!("the benchmark itself: {e}"))?;
        let keeper = Command::new(myself)
            .arg("keeper")
            .arg(&path)
            .stdin(Stdio::piped())
            // Out of reach of the interrupt that ends the benchmark.
            .process_group(0)
            .spawn()
            .map_err(|e| format!("cannot start the process that cleans up: {e}"))?;
        Ok(Work { path, keeper })
    }

    /// A new directory in the work directory.
    pub fn dir(&self, name: &str) -> Outcome<PathBuf> {
        let dir = self.path.join(name);
        std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(dir)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The hidden subcommand: waits until the benchmark is gone, and cleans up after it.
pub fn keep(work: &Path) -> Outcome<()> {
    let mut nothing = Vec::new();
    // However the reading ends, the benchmark is not there any more.
    let _ = std::io::stdin().read_to_end(&mut nothing);
    // A program that the benchmark was running may not have noticed yet, and still write.
    let mut tried = 0;
    loop {
        let cleaned = clean(work);
        if cleaned.is_ok() || tried == TRIES {
            return cleaned;
        }
        tried += 1;
        std::thread::sleep(BETWEEN_TRIES);
    }
}

fn clean(work: &Path) -> Outcome<()> {
    for mount in mounts_below(work) {
        if !unmounted(&mount, &[]) && !unmounted(&mount, &["-l"]) {
            return Err(format!("cannot unmount {}", mount.display()));
        }
    }
    std::fs::remove_dir_all(work).map_err(|e| format!("cannot remove {}: {e}", work.display()))
}

fn unmounted(mount: &Path, options: &[&str]) -> bool {
    let quiet = |command: &mut Command| {
        let command = command.args(options).arg(mount).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    quiet(&mut Command::new("umount")) || quiet(Command::new("fusermount3").arg("-u"))
}

fn mounts_below(work: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read("/proc/self/mounts").unwrap_or_default();
    let mut below: Vec<PathBuf> = String::from_utf8_lossy(&mounts)
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| path.starts_with(work))
        .collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    below
}
