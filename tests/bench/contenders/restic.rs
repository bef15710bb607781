//! restic, as Debian ships it, with its defaults: a repository on the same disk, and its FUSE mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::repository::Repository;
use super::{Contender, Stage, Way};
use crate::measure::{Cost, Outcome, output};

pub struct Restic {
    repository: Repository,
    cache: PathBuf,
    mount: PathBuf,
}

impl Restic {
    pub fn new(stage: &Stage<'_>) -> Outcome<Self> {
        let restic = Restic {
            repository: Repository::new(stage, "restic")?,
            cache: stage.dir("restic-cache")?,
            mount: stage.dir("restic-mount")?,
        };
        output(restic.command().arg("init"))?;
        Ok(restic)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("restic");
        command
            .arg("--quiet")
            .env("RESTIC_REPOSITORY", &self.repository.dir)
            .env("RESTIC_CACHE_DIR", &self.cache)
            .env("RESTIC_PASSWORD", "benchmark");
        command
    }

    fn snapshot(&self, name: &str) -> Outcome<String> {
        let list = output(self.command().args(["snapshots", "--json", "--tag", name]))?;
        let list: serde_json::Value =
            serde_json::from_str(&list).map_err(|e| format!("restic snapshots said {list:?}: {e}"))?;
        list[0]["id"].as_str().map(str::to_owned).ok_or_else(|| format!("restic has no snapshot {name}"))
    }
}

impl Contender for Restic {
    fn name(&self) -> &'static str {
        "restic"
    }

    fn daemon(&self) -> Option<u32> {
        self.repository.daemon()
    }

    fn ingest(&mut self, source: &Path, name: &str, way: Way<'_>) -> Outcome<Option<Cost>> {
        let mut backup = self.command();
        backup.current_dir(source).args(["backup", ".", "--tag", name]);
        match way {
            Way::Full => backup.arg("--force"),
            Way::Refresh(_) | Way::Sync => &mut backup,
            Way::Clone(_) | Way::Inplace(_) => return Ok(None),
        };
        self.repository.run(&mut backup, &[0]).map(Some)
    }

    fn view(&mut self, name: &str) -> Outcome<Option<PathBuf>> {
        let mut mount = self.command();
        mount.arg("mount").arg(&self.mount);
        self.repository.mount(&mut mount, &self.mount)?;
        Ok(Some(self.mount.join("ids").join(&self.snapshot(name)?[..8])))
    }

    fn restore(&mut self, name: &str, into: &Path) -> Outcome<Option<Cost>> {
        let snapshot = self.snapshot(name)?;
        let mut restore = self.command();
        restore.args(["restore", &snapshot, "--target"]).arg(into);
        self.repository.run(&mut restore, &[0]).map(Some)
    }

    fn prune(&mut self, name: &str) -> Outcome<Option<Cost>> {
        self.cool()?;
        let snapshot = self.snapshot(name)?;
        let mut forget = self.command();
        forget.args(["forget", "--prune", &snapshot]);
        self.repository.run(&mut forget, &[0]).map(Some)
    }

    fn stored(&mut self) -> Outcome<Option<u64>> {
        self.repository.stored().map(Some)
    }

    fn cool(&mut self) -> Outcome<()> {
        self.repository.umount();
        Ok(())
    }

    fn peak(&mut self) -> Option<u64> {
        Some(self.repository.peak())
    }
}
