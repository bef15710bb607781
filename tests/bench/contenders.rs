//! Who is compared: filesystems, on which a backup is a copy, and backup programs.
//!
//! A contender says what it cannot do by `None`, and its place in the table stays empty. Everything
//! that a filesystem does is written once, here: it is the same commands for all of them.

mod borg;
mod btrfs;
mod cairnfs;
mod floor;
mod host;
mod repository;
mod restic;
mod rustic;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guard::Work;
use crate::measure::{Cost, Outcome, output, peak_memory, quoted, shell, timed};

/// How a backup is made when there are others already.
#[derive(Clone, Copy, PartialEq)]
pub enum Way<'a> {
    /// All files are read and copied.
    Full,
    /// What is known to be unchanged is not read: rsync over the named snapshot, or what a program does
    /// by itself.
    Refresh(&'a str),
    /// A copy of the named snapshot, made inside the filesystem.
    Clone(&'a str),
    /// rsync --inplace over the named snapshot, which is a clone.
    Inplace(&'a str),
    /// rsync into what is there: what changed is sent, what is gone is removed.
    Sync,
}

pub trait Contender {
    fn name(&self) -> &'static str;

    /// Where snapshots are directories, for a filesystem.
    fn root(&self) -> Option<&Path> {
        None
    }

    /// The process that does a filesystem's work, if there is one now.
    fn daemon(&self) -> Option<u32> {
        None
    }

    /// Makes the snapshot `name` of `source`.
    fn ingest(&mut self, source: &Path, name: &str, way: Way<'_>) -> Outcome<Option<Cost>> {
        let Some(root) = self.root() else {
            return Ok(None);
        };
        let (from, to) = (quoted(source), quoted(&root.join(name)));
        let line = match way {
            Way::Full => format!("cp -a {from} {to}"),
            Way::Refresh(_) => format!("rsync -a {from}/ {to}/"),
            Way::Clone(old) => format!("cp -a {} {to}", quoted(&root.join(old))),
            Way::Inplace(_) => format!("rsync -a --inplace {from}/ {to}/"),
            Way::Sync => format!("rsync -a --delete {from}/ {to}/"),
        };
        self.with_daemon(&line).map(Some)
    }

    /// Makes a snapshot with nothing in it, which can be cloned as fast as this contender can.
    fn empty(&mut self, name: &str) -> Outcome<Option<Cost>> {
        let Some(root) = self.root() else {
            return Ok(None);
        };
        self.with_daemon(&format!("mkdir {}", quoted(&root.join(name)))).map(Some)
    }

    /// Makes the snapshot `to` as `from` is, without looking at the source.
    fn clone_of(&mut self, from: &str, to: &str) -> Outcome<Option<Cost>> {
        let Some(root) = self.root() else {
            return Ok(None);
        };
        let line = format!("cp -a {} {}", quoted(&root.join(from)), quoted(&root.join(to)));
        self.with_daemon(&line).map(Some)
    }

    /// Removes a snapshot by whatever is fastest.
    fn remove(&mut self, name: &str) -> Outcome<Option<Cost>> {
        self.prune(name)
    }

    /// The seconds until all that was written is on the disk.
    fn durable(&mut self) -> Outcome<Option<f64>> {
        let Some(root) = self.root() else {
            return Ok(None);
        };
        let ((), seconds) = timed(|| {
            let dir = std::fs::File::open(root).map_err(|e| format!("{}: {e}", root.display()))?;
            rustix::fs::syncfs(&dir).map_err(|e| format!("syncfs {}: {e}", root.display()))
        })?;
        Ok(Some(seconds))
    }

    /// A directory in which the files of a snapshot can be read.
    fn view(&mut self, name: &str) -> Outcome<Option<PathBuf>> {
        Ok(self.root().map(|root| root.join(name)))
    }

    /// Copies a snapshot out into the empty directory `into`.
    fn restore(&mut self, name: &str, into: &Path) -> Outcome<Option<Cost>> {
        let Some(root) = self.root() else {
            return Ok(None);
        };
        let line = format!("cp -a {} {}", quoted(&root.join(name)), quoted(into));
        self.with_daemon(&line).map(Some)
    }

    /// Removes a snapshot, and gives its space back as far as that is one command's work.
    fn prune(&mut self, name: &str) -> Outcome<Option<Cost>> {
        let Some(root) = self.root() else {
            return Ok(None);
        };
        let line = format!("rm -rf {}", quoted(&root.join(name)));
        self.with_daemon(&line).map(Some)
    }

    /// Gives back what the removed snapshots alone had.
    fn collect(&mut self) -> Outcome<Option<Cost>> {
        Ok(None)
    }

    /// Bytes on the disk.
    fn stored(&mut self) -> Outcome<Option<u64>> {
        Ok(None)
    }

    /// Forgets what its own process has cached; the kernel's caches are dropped by the caller.
    fn cool(&mut self) -> Outcome<()> {
        Ok(())
    }

    /// The most memory it has used, in bytes, beyond what the commands' own figures say.
    fn peak(&mut self) -> Option<u64> {
        self.daemon().and_then(peak_memory)
    }

    /// Requests of each kind since the last call, where they are counted.
    fn requests(&mut self) -> Option<Vec<(String, u64)>> {
        None
    }

    /// Runs a line of shell; what the daemon did meanwhile is part of the cost.
    fn with_daemon(&self, line: &str) -> Outcome<Cost> {
        let cpu = |pid: Option<u32>| pid.and_then(crate::measure::process_cpu).unwrap_or(0.0);
        let daemon = self.daemon();
        let before = cpu(daemon);
        let mut cost = shell(line)?;
        cost.cpu += cpu(daemon) - before;
        // Memory of cp or rsync is not the filesystem's.
        cost.peak = 0;
        Ok(cost)
    }
}

/// What contenders are made from.
pub struct Stage<'a> {
    pub work: &'a Work,
    pub cairnfs: Option<&'a Path>,
    /// An older cairnfs.
    pub before: Option<&'a Path>,
    /// Beyond those that the benchmark needs itself.
    pub mount_options: &'a str,
    pub floor: &'a str,
    pub level: i32,
}

impl Stage<'_> {
    fn dir(&self, of: &str) -> Outcome<PathBuf> {
        self.work.dir(of)
    }
}

/// In the order of the table.
pub const NAMES: &[&str] = &["cairnfs", "before", "floor", "cp", "restic", "borg", "rustic", "btrfs"];

/// Why a contender cannot take part here, and what to do about it.
/// `cairnfs` is the program to run, of the contenders that are one.
pub fn missing(name: &str, cairnfs: Option<&Path>) -> Option<String> {
    match name {
        "cairnfs" | "before" => cairnfs::missing(name, cairnfs),
        "floor" => floor::missing(),
        "cp" => None,
        "restic" => program_missing("restic", "apt-get install restic"),
        "borg" => program_missing("borg", "apt-get install borgbackup"),
        "rustic" => program_missing("rustic", "cargo install --locked rustic-rs"),
        "btrfs" => btrfs::missing(),
        _ => Some(format!("unknown; say one of {}", NAMES.join(", "))),
    }
}

pub fn new(name: &str, stage: &Stage<'_>) -> Outcome<Box<dyn Contender>> {
    Ok(match name {
        "cairnfs" => Box::new(cairnfs::Cairnfs::new("cairnfs", stage.cairnfs, stage)?),
        "before" => Box::new(cairnfs::Cairnfs::new("before", stage.before, stage)?),
        "floor" => Box::new(floor::Floor::new(stage)?),
        "cp" => Box::new(host::Host::new(stage)?),
        "restic" => Box::new(restic::Restic::new(stage)?),
        "borg" => Box::new(borg::Borg::new(stage)?),
        "rustic" => Box::new(rustic::Rustic::new(stage)?),
        "btrfs" => Box::new(btrfs::Btrfs::new(stage)?),
        other => return Err(format!("{other}: no such contender")),
    })
}

fn program_missing(program: &str, install: &str) -> Option<String> {
    let found = output(Command::new("which").arg(program)).is_ok();
    (!found).then(|| format!("{program} is not installed; {install}"))
}

/// What the files below a directory take on the disk.
fn disk_usage(dir: &Path) -> Outcome<u64> {
    let said = output(Command::new("du").args(["-s", "-B1"]).arg(dir))?;
    said.split_whitespace()
        .next()
        .and_then(|bytes| bytes.parse().ok())
        .ok_or_else(|| format!("du said {said:?}"))
}
