//! The floor as a process: what it serves, and the handle the benchmark holds on it.
//!
//! The child takes commands on its standard input, one a line, and answers each with one line. When the
//! input ends, for whatever reason, it unmounts and goes: no death of the benchmark leaves a mount.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use super::counts::Counts;
use super::negotiation::Negotiation;
use super::spin::Spinner;
use super::tree::Tree;
use super::{Floor, Shared};

/// The hidden subcommand: mounts, says so, and does what it is told until its input ends.
pub fn serve(mount: &Path, negotiation: &Negotiation) -> io::Result<()> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let counts = Arc::new(Counts::new());
    let shared = Arc::new(Shared { tree: Mutex::new(Tree::new(uid, gid)), counts: Arc::clone(&counts) });
    let mut session = mounted(mount, negotiation, &shared)?;
    answer("mounted")?;
    for line in io::stdin().lock().lines() {
        match line?.as_str() {
            "counts" => answer(&serde_json::json!(counts.take()).to_string())?,
            "remount" => {
                session.umount_and_join()?;
                shared.tree.lock().expect("no code that holds the tree panics").forget_all();
                session = mounted(mount, negotiation, &shared)?;
                answer("mounted")?;
            }
            other => answer(&format!("{other}: not a command of the floor"))?,
        }
    }
    session.umount_and_join()
}

fn answer(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn mounted(mount: &Path, negotiation: &Negotiation, shared: &Arc<Shared>) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("floor".into()), MountOption::Subtype("floor".into()), MountOption::NoAtime];
    if negotiation.permissions {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.acl = SessionACL::All;
    if !rustix::process::geteuid().is_root() {
        config.acl = SessionACL::Owner;
    }
    config.n_threads = Some(negotiation.threads);
    config.clone_fd = negotiation.clone_fd;
    let spinner = Arc::new(OnceLock::new());
    let floor = Floor::new(Arc::clone(shared), negotiation.clone(), Arc::clone(&spinner));
    let session = Session::new(floor, mount, &config)?;
    if negotiation.spin > 0 {
        let device = session.as_fd().try_clone_to_owned()?;
        let calm_after = Duration::from_micros(negotiation.spin);
        let _ = spinner.set(Spinner::start(device, Arc::clone(&shared.counts), calm_after));
    }
    let session = session.spawn()?;
    prime(mount, negotiation)?;
    Ok(session)
}

/// Provokes the requests that are answered with ENOSYS, so that the kernel stops sending them before
/// the first file is copied: while it still may OPEN it also sends RELEASE for what was CREATEd.
fn prime(mount: &Path, negotiation: &Negotiation) -> io::Result<()> {
    let probe = mount.join(".probe");
    std::fs::write(&probe, b"")?;
    drop(std::fs::File::open(&probe)?);
    std::fs::remove_file(&probe)?;
    let _ = std::fs::read_dir(mount)?.next();
    if negotiation.readahead > 0 {
        let device = std::fs::metadata(mount)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        std::fs::write(setting, negotiation.readahead.to_string())?;
    }
    Ok(())
}

/// A mounted floor. Dropping it unmounts.
pub struct FloorProcess {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub mount: PathBuf,
}

impl FloorProcess {
    pub fn start(mount: &Path, negotiation: &Negotiation) -> Result<Self, String> {
        let myself = std::env::current_exe().map_err(|e| format!("the benchmark itself: {e}"))?;
        let mut child = Command::new(myself)
            .arg("floor")
            .arg(mount)
            .arg(negotiation.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // An interrupt is for the benchmark; the floor then sees its input end.
            .process_group(0)
            .spawn()
            .map_err(|e| format!("cannot start the floor: {e}"))?;
        let commands = child.stdin.take();
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let mut floor =
            FloorProcess { child, commands, answers: BufReader::new(stdout), mount: mount.to_owned() };
        floor.expect_mounted()?;
        Ok(floor)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Requests since the last call.
    pub fn counts(&mut self) -> Result<BTreeMap<String, u64>, String> {
        let line = self.ask("counts")?;
        serde_json::from_str(&line).map_err(|e| format!("the floor counted {line:?}: {e}"))
    }

    /// Mounts the same tree anew: nothing of it is in the kernel's caches any more.
    pub fn remount(&mut self) -> Result<(), String> {
        self.send("remount")?;
        self.expect_mounted()
    }

    fn expect_mounted(&mut self) -> Result<(), String> {
        match self.receive()?.as_str() {
            "mounted" => Ok(()),
            other => Err(format!(
                "the floor did not mount on {}: {other:?} (is /dev/fuse there, and fusermount3?)",
                self.mount.display()
            )),
        }
    }

    fn ask(&mut self, command: &str) -> Result<String, String> {
        self.send(command)?;
        self.receive()
    }

    fn send(&mut self, command: &str) -> Result<(), String> {
        let commands = self.commands.as_mut().expect("open until the floor is dropped");
        writeln!(commands, "{command}").map_err(|e| format!("the floor is gone: {e}"))
    }

    fn receive(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|e| format!("the floor is gone: {e}"))?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for FloorProcess {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}
