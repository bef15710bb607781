//! A store of its own for each test, mounted by the real program.
//!
//! Keeps true: however a test ends, nothing stays mounted and no daemon stays behind; a daemon that hangs is killed
//! after a while, so that its test fails instead of waiting for ever.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::skip::need_fuse;
use crate::sys;

/// How long an event may take that must come.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a test may take before its daemon counts as hanging.
const TEST_LIMIT: Duration = Duration::from_secs(400);

/// The program under test.
pub fn program() -> PathBuf {
    match option_env!("CARGO_BIN_EXE_cairnfs") {
        Some(path) => path.into(),
        None => std::env::var_os("CAIRNFS_BIN").expect("CAIRNFS_BIN names the program to test").into(),
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// Both outputs, for messages.
    pub fn said(&self) -> String {
        format!("exit code {}\n{}{}", self.code, self.out, self.err)
    }
}

/// A command that is ended if it takes longer than anything here may.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "240"]).arg(program).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Outcome {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let outcome = Outcome {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert!(!matches!(outcome.code, 124 | 137), "{command:?} hangs: {}", outcome.said());
    outcome
}

/// Runs a tool that has to succeed; returns what it printed.
pub fn run_tool(name: &str, args: &[&OsStr]) -> String {
    let outcome = run(command(name).args(args));
    assert_eq!(outcome.code, 0, "{name} {args:?}: {}", outcome.said());
    outcome.out
}

/// `tool!("cp", "-a", from, to)`: words and paths mixed.
macro_rules! tool {
    ($name:expr $(, $arg:expr)* $(,)?) => {
        $crate::world::run_tool($name, &[$(std::ffi::OsStr::new(&$arg)),*])
    };
}
pub(crate) use tool;

/// Runs the program with these words.
pub fn cairnfs<S: AsRef<OsStr>>(words: &[S]) -> Outcome {
    run(command(program()).args(words))
}

/// Waits for an event that must come.
pub fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !happened() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// True if mounts are asked to get their requests over io_uring where a test does not say: by `CAIRNFS_TEST_IO_URING=on`.
pub fn has_rings() -> bool {
    match std::env::var("CAIRNFS_TEST_IO_URING").as_deref() {
        Ok("on") => true,
        Ok("off") | Err(_) => false,
        Ok(other) => panic!("CAIRNFS_TEST_IO_URING: {other:?} is neither `on` nor `off`"),
    }
}

/// The mount option for the way requests come. Always said, since one mount that switches io_uring on in the kernel would
/// change the others.
fn io_uring() -> &'static str {
    if has_rings() { "io_uring=on" } else { "io_uring=off" }
}

/// The kernel's switch for FUSE over io_uring.
pub const RING_SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// How many hold the switch, and what it was before the first of them.
static RING_SWITCH_HELD: Mutex<(usize, String)> = Mutex::new((0, String::new()));

/// Has the kernel's switch on while it is held; with the last one it is again what it was.
pub struct RingSwitch;

impl RingSwitch {
    pub fn hold() -> Self {
        let mut held = RING_SWITCH_HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0 == 0 {
            held.1 = fs::read_to_string(RING_SWITCH).unwrap_or_default();
            // A daemon that cannot have it says so.
            let _ = fs::write(RING_SWITCH, "Y");
        }
        held.0 += 1;
        Self
    }
}

impl Drop for RingSwitch {
    fn drop(&mut self) {
        let mut held = RING_SWITCH_HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.0 -= 1;
        if held.0 == 0 {
            let _ = fs::write(RING_SWITCH, held.1.trim());
        }
    }
}

/// What a test wants of its store and mount.
pub struct Setup {
    /// Words for `cairnfs mkfs`.
    pub mkfs: &'static [&'static str],
    /// Mount options.
    pub options: &'static str,
    /// Protections to be taken out.
    pub sabotage: &'static str,
    /// Variables of the daemon's environment.
    pub environment: Vec<(&'static str, OsString)>,
    /// How long the daemon may live before it counts as hanging.
    pub limit: Duration,
    /// Where the store is made; by default beside the mount point.
    pub below: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            mkfs: &["--chunk-size", "4K", "--reserve", "1M"],
            options: "gc=off,commit=1,cache=16M",
            sabotage: "",
            environment: Vec::new(),
            limit: TEST_LIMIT,
            below: None,
        }
    }
}

/// A mounted store.
pub struct World {
    dir: TempDir,
    setup: Setup,
    pub store: PathBuf,
    pub mnt: PathBuf,
    /// The daemon's process id; 0 while there is none.
    daemon: Arc<AtomicI32>,
    /// Dropped at the end: then the daemon is no longer watched.
    _watched: Sender<()>,
    /// Where requests come over io_uring.
    _switch: Option<RingSwitch>,
}

impl World {
    /// A new store, mounted. `None` where FUSE cannot be used.
    pub fn new(setup: Setup) -> Option<Self> {
        if !need_fuse() {
            return None;
        }
        let dir = TempDir::with_prefix("cairnfs-test-").expect("a directory for temporary files");
        let top = fs::canonicalize(dir.path()).unwrap();
        let store = setup.below.clone().unwrap_or_else(|| top.clone()).join("store");
        for name in ["mnt", "pauses", "host"] {
            fs::create_dir(top.join(name)).unwrap();
        }
        let made = run(command(program()).arg("mkfs").args(setup.mkfs).arg(&store));
        assert_eq!(made.code, 0, "mkfs: {}", made.said());
        let daemon = Arc::new(AtomicI32::new(0));
        let watched = watch(daemon.clone(), setup.limit);
        let over_rings = has_rings() || setup.options.contains("io_uring=on");
        let switch = over_rings.then(RingSwitch::hold);
        let mnt = top.join("mnt");
        let world = Self { setup, store, mnt, _watched: watched, _switch: switch, daemon, dir };
        world.mount();
        Some(world)
    }

    /// The usual store, mounted.
    pub fn usual() -> Option<Self> {
        Self::new(Setup::default())
    }

    /// A directory on the host, for sources and copies.
    pub fn host(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    /// Where files stand that hold cycles.
    pub fn pauses(&self) -> PathBuf {
        self.dir.path().join("pauses")
    }

    /// The command that mounts the store, as this world's setup wants it.
    pub fn mount_command(&self) -> Command {
        let mut command = command("env");
        command.args(self.setup.environment.iter().map(|(name, value)| {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            word
        }));
        command
            .arg(program())
            .env("CAIRNFS_PAUSE_DIR", self.pauses())
            .env("CAIRNFS_SABOTAGE", self.setup.sabotage)
            .args(["mount", "-v", "-o", io_uring(), "-o", self.setup.options])
            .args([&self.store, &self.mnt]);
        command
    }

    /// Mounts; returns what was said on standard error.
    pub fn mount(&self) -> String {
        assert_eq!(self.daemon.load(Ordering::SeqCst), 0, "it is mounted");
        let mounted = run(&mut self.mount_command());
        assert_eq!(mounted.code, 0, "mount: {}", mounted.said());
        let pid = mounted.out.split_whitespace().last().and_then(|word| word.parse().ok());
        self.daemon.store(pid.expect("`mount -v` tells the process"), Ordering::SeqCst);
        mounted.err
    }

    /// The daemon's process id.
    pub fn pid(&self) -> i32 {
        self.daemon.load(Ordering::SeqCst)
    }

    /// Unmounts; afterwards everything is durable and the daemon about to be gone.
    pub fn umount(&self) {
        // In use it may still be for a moment: where another test starts a program, that has copies of all files that are
        // open here until it is executed.
        wait_for("the end of the mount", || {
            let outcome = cairnfs(&[OsStr::new("umount"), self.mnt.as_os_str()]);
            assert!([0, 4].contains(&outcome.code), "umount: {}", outcome.said());
            outcome.code == 0
        });
        self.forget_daemon();
    }

    /// Nothing that was cached, by the kernel or the daemon, is there afterwards.
    pub fn remount(&self) {
        self.umount();
        self.mount();
    }

    /// The daemon was ended by other means: waits until it is gone.
    pub fn forget_daemon(&self) {
        let pid = self.take_daemon();
        wait_for("the end of the daemon", || !sys::is_alive(pid));
    }

    /// The daemon is about to end by itself; nobody waits for it.
    pub fn take_daemon(&self) -> i32 {
        self.daemon.swap(0, Ordering::SeqCst)
    }

    /// The store was mounted by other means.
    pub fn adopt_daemon(&self) {
        let status = self.ask_json(&["status"]);
        let pid = status["holder"]["pid"].as_i64().unwrap_or_else(|| panic!("no holder: {status}"));
        self.daemon.store(pid as i32, Ordering::SeqCst);
    }

    /// Kills the daemon in the middle of whatever it does, and does not wait.
    pub fn kill(&self) {
        sys::kill(self.take_daemon(), libc::SIGKILL);
    }

    /// Runs the program with this word on this store.
    pub fn ask(&self, words: &[&str]) -> Outcome {
        run(command(program()).args(words).arg(&self.store))
    }

    /// The same with `--json`; it has to succeed. A status may tell of damage and of what else is wrong.
    pub fn ask_json(&self, words: &[&str]) -> Value {
        let outcome = run(command(program()).args(words).arg("--json").arg(&self.store));
        let told = words == ["status"] && [6, 8].contains(&outcome.code);
        assert!(outcome.code == 0 || told, "{words:?}: {}", outcome.said());
        serde_json::from_str(&outcome.out).expect("exactly one JSON object")
    }

    /// A number of the store's status.
    pub fn figure(&self, name: &str) -> u64 {
        let status = self.ask_json(&["status"]);
        status["store"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// Makes everything durable.
    pub fn sync(&self) {
        let outcome = self.ask(&["sync"]);
        assert_eq!(outcome.code, 0, "sync: {}", outcome.said());
    }

    /// Runs a whole cycle; returns its record.
    pub fn gc(&self) -> Value {
        self.ask_json(&["gc"])
    }

    /// Waits until deleted files refer to nothing any more.
    pub fn deletions_done(&self) {
        self.sync();
        wait_for("an empty deletion queue", || self.figure("deletion_queue") == 0);
        // The kernel forgets what was in a subvolume a moment after its name went.
        wait_for("removed subvolumes to be reaped", || self.figure("subvolumes_dropped") == 0);
    }

    /// What is wrong with the store, all data read; empty if it is sound.
    pub fn damage(&self) -> String {
        let outcome = self.ask(&["check", "--data", "--json"]);
        if outcome.code != 0 {
            return outcome.said();
        }
        let report: Value = serde_json::from_str(&outcome.out).expect("exactly one JSON object");
        let read = report["data"] == true && (report["chunks"] == 0 || report["bytes_read"] != 0);
        assert!(read && report["inodes"] != 0, "a check that did not look: {report}");
        String::new()
    }

    /// Checks all of the store, which has to be sound.
    pub fn assert_clean(&self) {
        assert_eq!(self.damage(), "", "check --data");
    }

    /// Bytes that the store takes on the host.
    pub fn disk_usage(&self) -> u64 {
        let said = tool!("du", "-s", "--block-size=1", self.store);
        said.split_whitespace().next().and_then(|word| word.parse().ok()).expect("du prints a number")
    }

    /// The last check of a test: unmounted, the store is sound.
    pub fn close(self) {
        self.umount();
        self.assert_clean();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Whoever hangs in the mount is let go before the directory is removed.
        let pid = self.take_daemon();
        if pid != 0 {
            sys::kill(pid, libc::SIGKILL);
        }
        while is_mounted(&self.mnt) {
            let _ = Command::new("umount").arg("-l").arg(&self.mnt).output();
        }
    }
}

/// True if anything is mounted at this path, which has no characters that the table would escape.
pub fn is_mounted(path: &Path) -> bool {
    mount_table().lines().any(|line| line.split(' ').nth(1).map(Path::new) == Some(path))
}

/// The kernel's table of mounts. Paths in it that are no UTF-8, which other tests have, are not as they are.
pub fn mount_table() -> String {
    let table = fs::read("/proc/self/mounts").expect("the table of mounts");
    String::from_utf8_lossy(&table).into_owned()
}

/// Kills the daemon if its test takes too long, so that the test fails.
fn watch(daemon: Arc<AtomicI32>, limit: Duration) -> Sender<()> {
    let (watched, end) = channel();
    thread::spawn(move || {
        if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            let pid = daemon.load(Ordering::SeqCst);
            if pid != 0 {
                eprintln!("this takes too long; the daemon {pid} is killed");
                sys::kill(pid, libc::SIGKILL);
            }
        }
    });
    watched
}
