//! cairnfs itself, as its users have it: the built program, a store, a mount.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::fsync;

use super::{Contender, Stage, disk_usage};
use crate::measure::{Cost, Outcome, output, peak_memory, process_cpu, run, timed};

pub struct Cairnfs {
    name: &'static str,
    program: PathBuf,
    store: PathBuf,
    mount: PathBuf,
    options: String,
    daemon: Option<u32>,
    /// Of the daemons that were there before this one.
    peak: u64,
}

pub fn missing(name: &str, program: Option<&Path>) -> Option<String> {
    match program {
        None => Some(format!("no program; say --{name} PATH")),
        Some(program) if !program.exists() => {
            Some(format!("{} is not there; cargo build", program.display()))
        }
        Some(_) => super::floor::missing(),
    }
}

impl Cairnfs {
    pub fn new(name: &'static str, program: Option<&Path>, stage: &Stage<'_>) -> Outcome<Self> {
        let program = program.ok_or_else(|| format!("{name}: no program"))?.to_owned();
        let mut cairnfs = Cairnfs {
            name,
            program,
            store: stage.dir(&format!("{name}-store"))?,
            mount: stage.dir(name)?,
            // A cycle that started by itself would fall into another phase's time.
            options: format!("gc=off,{}", stage.mount_options),
            daemon: None,
            peak: 0,
        };
        let compression = format!("zstd-{}", stage.level);
        run(cairnfs.command("mkfs").arg(&cairnfs.store).args(["--compression", &compression]))?;
        cairnfs.start()?;
        Ok(cairnfs)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(name);
        command
    }

    /// Runs one of its own commands; what the daemon did meanwhile is part of the cost.
    fn measured(&self, name: &str, paths: &[&Path]) -> Outcome<Cost> {
        let cpu = |pid: Option<u32>| pid.and_then(process_cpu).unwrap_or(0.0);
        let before = cpu(self.daemon);
        let mut cost = run(self.command(name).args(paths))?;
        cost.cpu += cpu(self.daemon) - before;
        Ok(cost)
    }

    fn start(&mut self) -> Outcome<()> {
        let mut mount = self.command("mount");
        mount.arg(&self.store).arg(&self.mount).args(["-o", &self.options]);
        output(&mut mount)?;
        self.daemon = daemon_of(&self.store);
        Ok(())
    }

    fn stop(&mut self) -> Outcome<()> {
        self.peak = self.peak.max(self.daemon.and_then(peak_memory).unwrap_or(0));
        self.daemon = None;
        output(Command::new("umount").arg(&self.mount)).map(drop)
    }
}

/// The process that was started to mount `store`, which is the one that serves it.
fn daemon_of(store: &Path) -> Option<u32> {
    let wanted = store.as_os_str().as_encoded_bytes();
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.filter_map(Result::ok).find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        let names_store = words.split(|byte| *byte == 0).any(|word| word == wanted);
        names_store.then_some(pid)
    })
}

impl Contender for Cairnfs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.mount)
    }

    fn daemon(&self) -> Option<u32> {
        self.daemon
    }

    /// One fsync makes everything durable; syncfs does not reach a FUSE daemon.
    fn durable(&mut self) -> Outcome<Option<f64>> {
        let ((), seconds) = timed(|| {
            let root = std::fs::File::open(&self.mount).map_err(|e| e.to_string())?;
            fsync(&root).map_err(|e| format!("fsync {}: {e}", self.mount.display()))
        })?;
        Ok(Some(seconds))
    }

    /// A clone of a directory with nothing in it.
    fn empty(&mut self, name: &str) -> Outcome<Option<Cost>> {
        let (nothing, made) = (self.mount.join("nothing"), self.mount.join(name));
        std::fs::create_dir(&nothing).map_err(|e| format!("{}: {e}", nothing.display()))?;
        let cost = self.measured("clone", &[&nothing, &made])?;
        std::fs::remove_dir(&nothing).map_err(|e| format!("{}: {e}", nothing.display()))?;
        Ok(Some(cost))
    }

    fn clone_of(&mut self, from: &str, to: &str) -> Outcome<Option<Cost>> {
        self.measured("clone", &[&self.mount.join(from), &self.mount.join(to)]).map(Some)
    }

    fn remove(&mut self, name: &str) -> Outcome<Option<Cost>> {
        self.measured("rm", &[&self.mount.join(name)]).map(Some)
    }

    fn collect(&mut self) -> Outcome<Option<Cost>> {
        self.measured("gc", &[&self.mount]).map(Some)
    }

    /// Without the reserve, which is room on the disk that is kept free, whatever is stored.
    fn stored(&mut self) -> Outcome<Option<u64>> {
        self.durable()?;
        let reserve = std::fs::metadata(self.store.join("reserve")).map_or(0, |file| file.blocks() * 512);
        Ok(Some(disk_usage(&self.store)?.saturating_sub(reserve)))
    }

    fn cool(&mut self) -> Outcome<()> {
        self.stop()?;
        self.start()
    }

    fn peak(&mut self) -> Option<u64> {
        let now = self.daemon.and_then(peak_memory).unwrap_or(0);
        Some(self.peak.max(now)).filter(|peak| *peak > 0)
    }
}

impl Drop for Cairnfs {
    fn drop(&mut self) {
        if let Err(problem) = self.stop() {
            eprintln!("{problem}");
        }
    }
}
