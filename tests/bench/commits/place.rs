//! Where things are made durable: a directory of the host, or a mount.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::measure::{Outcome, output, timed};

/// How often is looked whether a process is gone.
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub struct Place {
    pub name: String,
    /// Where files can be made.
    pub dir: PathBuf,
    mount: Option<Mount>,
}

/// Unmounted when dropped.
struct Mount {
    program: PathBuf,
    store: PathBuf,
    daemon: u32,
}

impl Place {
    pub fn host(below: &Path) -> Outcome<Self> {
        Ok(Place { name: "host".to_owned(), dir: new_dir(below, "host")?, mount: None })
    }

    /// A mount of a new store, both in a directory.
    pub fn mounted(below: &Path, name: &str, program: &Path) -> Outcome<Self> {
        let store = below.join(format!("{name}.store"));
        if store.exists() {
            std::fs::remove_dir_all(&store).map_err(|e| format!("{}: {e}", store.display()))?;
        }
        output(Command::new(program).arg("mkfs").arg(&store))?;
        Self::of_store(below, name, program, store)
    }

    pub fn of_store(below: &Path, name: &str, program: &Path, store: PathBuf) -> Outcome<Self> {
        let (dir, program) = (new_dir(below, &format!("{name}.mount"))?, program.to_owned());
        let daemon = mount(&program, &store, &dir)?;
        Ok(Place { name: name.to_owned(), dir, mount: Some(Mount { program, store, daemon }) })
    }

    pub fn daemon(&self) -> Option<u32> {
        self.mount.as_ref().map(|mount| mount.daemon)
    }

    /// The file of the store that changes with a fold.
    pub fn database(&self) -> Option<PathBuf> {
        self.mount.as_ref().map(|mount| mount.store.join("meta/cairnfs.redb"))
    }

    /// Kills the daemon and mounts its store again; the seconds of that.
    pub fn kill_and_mount(&mut self) -> Outcome<f64> {
        let Some(served) = self.mount.as_mut() else { return Ok(0.0) };
        let pid =
            i32::try_from(served.daemon).ok().and_then(Pid::from_raw).ok_or("a daemon without a pid")?;
        kill_process(pid, Signal::KILL).map_err(|e| format!("killing the daemon: {e}"))?;
        while Path::new(&format!("/proc/{}/io", served.daemon)).exists() {
            thread::sleep(LOOK_EVERY);
        }
        output(Command::new("umount").arg(&self.dir))?;
        let (daemon, seconds) = timed(|| mount(&served.program, &served.store, &self.dir))?;
        served.daemon = daemon;
        Ok(seconds)
    }
}

fn new_dir(below: &Path, name: &str) -> Outcome<PathBuf> {
    let dir = below.join(name);
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(dir)
}

/// Mounts a store; the process that serves it.
fn mount(program: &Path, store: &Path, at: &Path) -> Outcome<u32> {
    // A cycle that started by itself would fall into what is measured.
    output(Command::new(program).arg("mount").arg(store).arg(at).args(["-o", "gc=off"]))?;
    let status = output(Command::new(program).args(["status", "--json"]).arg(at))?;
    let status: serde_json::Value = serde_json::from_str(&status).map_err(|e| e.to_string())?;
    let pid = status.pointer("/holder/pid").and_then(serde_json::Value::as_u64);
    pid.and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| format!("no pid in {status}"))
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mount) = &self.mount
            && let Err(problem) = output(Command::new(&mount.program).arg("umount").arg(&self.dir))
        {
            eprintln!("{problem}");
        }
    }
}
