//! btrfs with zstd on a loop file: what a filesystem in the kernel does with the same copies.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Contender, Stage, program_missing};
use crate::measure::{Cost, Outcome, output, run};

/// Sparse: only what is written takes space.
const SIZE: &str = "40G";

pub struct Btrfs {
    mount: PathBuf,
}

pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("a loop mount needs root".into());
    }
    let kernel = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !kernel.contains("btrfs") && output(Command::new("modprobe").arg("btrfs")).is_err() {
        return Some("not in this kernel".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no loop devices here".into());
    }
    program_missing("mkfs.btrfs", "apt-get install btrfs-progs")
}

impl Btrfs {
    pub fn new(stage: &Stage<'_>) -> Outcome<Self> {
        let mount = stage.dir("btrfs")?;
        let disk = stage.dir("btrfs-disk")?.join("disk");
        output(Command::new("truncate").args(["-s", SIZE]).arg(&disk))?;
        output(Command::new("mkfs.btrfs").arg("-q").arg(&disk))?;
        let options = format!("loop,compress=zstd:{}", stage.level);
        output(Command::new("mount").args(["-o", &options]).arg(&disk).arg(&mount))?;
        Ok(Btrfs { mount })
    }

    fn subvolume(&self, word: &str, names: &[&str]) -> Outcome<Option<Cost>> {
        let mut command = Command::new("btrfs");
        command.args(["subvolume", word]).args(names.iter().map(|name| self.mount.join(name)));
        run(&mut command).map(Some)
    }
}

impl Contender for Btrfs {
    fn name(&self) -> &'static str {
        "btrfs"
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.mount)
    }

    fn empty(&mut self, name: &str) -> Outcome<Option<Cost>> {
        self.subvolume("create", &[name])
    }

    fn clone_of(&mut self, from: &str, to: &str) -> Outcome<Option<Cost>> {
        self.subvolume("snapshot", &[from, to])
    }

    fn remove(&mut self, name: &str) -> Outcome<Option<Cost>> {
        self.subvolume("delete", &[name])
    }

    fn stored(&mut self) -> Outcome<Option<u64>> {
        self.durable()?;
        let stat = rustix::fs::statvfs(&self.mount).map_err(|e| e.to_string())?;
        Ok(Some((stat.f_blocks - stat.f_bfree) * stat.f_frsize))
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        if let Err(problem) = output(Command::new("umount").arg(&self.mount)) {
            eprintln!("{problem}");
        }
    }
}
