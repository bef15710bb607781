//! Borg, as Debian ships it: no encryption, zstd at the level of the others, and its FUSE mount.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::repository::Repository;
use super::{Contender, Stage, Way};
use crate::measure::{Cost, Outcome, output};

/// 0 is success, 1 a warning, as for a file that changed while it was read.
const FINE: &[i32] = &[0, 1];

pub struct Borg {
    repository: Repository,
    base: PathBuf,
    mount: PathBuf,
    level: i32,
}

impl Borg {
    pub fn new(stage: &Stage<'_>) -> Outcome<Self> {
        let borg = Borg {
            repository: Repository::new(stage, "borg")?,
            base: stage.dir("borg-base")?,
            mount: stage.dir("borg-mount")?,
            level: stage.level,
        };
        output(borg.command().args(["init", "-e", "none"]).arg(&borg.repository.dir))?;
        Ok(borg)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("borg");
        command
            .env("BORG_BASE_DIR", &self.base)
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
            .env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
        command
    }

    fn archive(&self, name: &str) -> String {
        format!("{}::{name}", self.repository.dir.display())
    }
}

impl Contender for Borg {
    fn name(&self) -> &'static str {
        "borg"
    }

    fn daemon(&self) -> Option<u32> {
        self.repository.daemon()
    }

    fn ingest(&mut self, source: &Path, name: &str, way: Way<'_>) -> Outcome<Option<Cost>> {
        let mut create = self.command();
        create.current_dir(source).args(["create", "--compression", &format!("zstd,{}", self.level)]);
        match way {
            Way::Full => create.arg("--files-cache=disabled"),
            Way::Refresh(_) | Way::Sync => &mut create,
            Way::Clone(_) | Way::Inplace(_) => return Ok(None),
        };
        // An archive is never changed, and no two have the same name.
        let archive = if matches!(way, Way::Refresh(_)) {
            format!("{}-again", self.archive(name))
        } else {
            self.archive(name)
        };
        create.arg(archive).arg(".");
        self.repository.run(&mut create, FINE).map(Some)
    }

    fn view(&mut self, name: &str) -> Outcome<Option<PathBuf>> {
        let mut mount = self.command();
        mount.args(["mount", "--foreground"]).arg(&self.repository.dir).arg(&self.mount);
        self.repository.mount(&mut mount, &self.mount)?;
        Ok(Some(self.mount.join(name)))
    }

    fn restore(&mut self, name: &str, into: &Path) -> Outcome<Option<Cost>> {
        let mut extract = self.command();
        extract.current_dir(into).arg("extract").arg(self.archive(name));
        self.repository.run(&mut extract, FINE).map(Some)
    }

    fn prune(&mut self, name: &str) -> Outcome<Option<Cost>> {
        self.cool()?;
        let mut delete = self.command();
        delete.arg("delete").arg(self.archive(name));
        let delete = self.repository.run(&mut delete, FINE)?;
        let mut compact = self.command();
        compact.arg("compact").arg(&self.repository.dir);
        let compact = self.repository.run(&mut compact, FINE)?;
        Ok(Some(Cost {
            seconds: delete.seconds + compact.seconds,
            cpu: delete.cpu + compact.cpu,
            peak: delete.peak.max(compact.peak),
        }))
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
