//! A backup program that stays in the foreground while it serves its mount.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::{Outcome, output};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Unmounted when dropped.
pub struct Mounted {
    child: Child,
    mount: PathBuf,
}

impl Mounted {
    pub fn spawn(command: &mut Command) -> Outcome<Child> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|e| format!("{:?}: {e}", command.get_program()))
    }

    /// Waits until something is mounted on `mount`: its device is another than its parent's.
    pub fn wait(mut child: Child, mount: &Path) -> Outcome<Self> {
        let started = Instant::now();
        loop {
            if is_mount_point(mount) {
                let mount = mount.to_owned();
                return Ok(Mounted { child, mount });
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("{} was not mounted: {status}", mount.display()));
            }
            if started.elapsed() > PATIENCE {
                let _ = child.kill();
                return Err(format!("{} is not mounted yet", mount.display()));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn is_mount_point(dir: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let parent = dir.parent().and_then(device);
    device(dir).is_some_and(|own| Some(own) != parent)
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = output(Command::new("umount").arg(&self.mount))
            .or_else(|_| output(Command::new("fusermount3").arg("-u").arg(&self.mount)));
        if let Err(problem) = unmounted {
            eprintln!("{problem}");
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
