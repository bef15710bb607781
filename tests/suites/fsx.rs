//! fsx: random operations on one file, each read compared with what a plain array has.
//!
//! Every seed runs on the host and on the mount; the mount is then unmounted and mounted again, and the file there has
//! to be the host's, byte by byte. All the while cycles run one after the other, except where a configuration does
//! without. A seed belongs to one configuration, so that its number alone replays it.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tempfile::TempDir;

use crate::results::{Results, Verdict};
use crate::world::{Setup, World, cairnfs, tool};

/// What fsx does, and on what mount.
#[derive(Debug)]
pub struct Configuration {
    pub name: &'static str,
    mkfs: &'static [&'static str],
    options: &'static str,
    /// Bytes that the file may have.
    file: u32,
    /// Bytes that one operation may touch.
    most: u32,
    /// The file is mapped to memory, too.
    mapped: bool,
    /// What was written through a mapping is synced at once.
    msync: bool,
    /// copy_file_range(2) is used. It cannot be where fsx goes on in the middle: it copies even what it only pretends.
    copy: bool,
    /// In how many parts the operations are done; the mount is a new one in each.
    parts: u64,
    /// Cycles run without a break.
    cycles: bool,
}

const USUAL: Configuration = Configuration {
    name: "",
    mkfs: &["--reserve", "1M"],
    options: "gc=off,commit=1",
    file: 256 << 10,
    most: 64 << 10,
    mapped: true,
    msync: false,
    copy: true,
    parts: 1,
    cycles: true,
};

/// All of them. The seed decides which one is used, see [`Configuration::of`].
pub const CONFIGURATIONS: [Configuration; 8] = [
    Configuration { name: "plain", mapped: false, ..USUAL },
    Configuration { name: "mapped", ..USUAL },
    Configuration { name: "synced", msync: true, cycles: false, ..USUAL },
    Configuration { name: "writeback", options: "gc=off,commit=1,writeback", ..USUAL },
    Configuration { name: "remounted", copy: false, parts: 4, ..USUAL },
    Configuration {
        name: "small chunks",
        mkfs: &["--reserve", "1M", "--chunk-size", "4K"],
        options: "gc=off,commit=1,cache=1M,threads=1",
        ..USUAL
    },
    // More than may be staged of one file (4 MiB) and of all files together before a flush begins (16 MiB).
    Configuration { name: "4 MiB", file: 4 << 20, ..USUAL },
    // More than may be staged at all (64 MiB).
    Configuration { name: "96 MiB", file: 96 << 20, most: 256 << 10, options: "gc=off,commit=5", ..USUAL },
];

impl Configuration {
    /// The one that a seed belongs to. The last two, with files that are large, take ten times as long as the others and
    /// have a half and a quarter as many seeds.
    pub fn of(seed: u64) -> &'static Self {
        let turn = seed as usize;
        let at = match turn % CONFIGURATIONS.len() {
            6 if turn % 16 != 6 => turn / 8 % 6,
            7 if turn % 32 != 7 => turn / 8 % 6,
            at => at,
        };
        &CONFIGURATIONS[at]
    }

    /// As fsx wants to read it.
    fn text(&self) -> String {
        let mapped = if self.mapped { 10 } else { 0 };
        // fsx leaves each mapping that it reads from, and the kernel walks through all of them when a page goes.
        let mapread = mapped / 10;
        let copy = if self.copy { 6 } else { 0 };
        format!(
            "flen = {}\nnomsyncafterwrite = {}\n[opsize]\nmin = 1\nmax = {}\n\
             [weights]\nread = 10\nwrite = 10\nmapread = {mapread}\nmapwrite = {mapped}\ninvalidate = 1\n\
             truncate = 5\nclose_open = 2\nfsync = 0.2\nfdatasync = 0.2\nposix_fallocate = 3\npunch_hole = 6\n\
             sendfile = 3\nposix_fadvise = 3\ncopy_file_range = {copy}\n",
            self.file, !self.msync, self.most,
        )
    }
}

/// fsx with all that it needs.
pub struct Fsx {
    program: PathBuf,
    dir: TempDir,
    /// Operations of each seed.
    ops: u64,
}

/// What one call of fsx is to do.
struct Call<'a> {
    configuration: &'a Configuration,
    seed: u64,
    /// Which operations; those before are pretended.
    ops: RangeInclusive<u64>,
    file: &'a Path,
    /// More words for the command line.
    words: &'a [&'a str],
}

impl Fsx {
    pub fn new(program: PathBuf, ops: u64) -> Self {
        let dir = TempDir::with_prefix("cairnfs-fsx-").unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suites/zero_range.c");
        tool!("cc", "-shared", "-fPIC", "-O1", "-o", dir.path().join("zero_range.so"), source);
        for configuration in &CONFIGURATIONS {
            fs::write(dir.path().join(configuration.name), configuration.text()).unwrap();
        }
        Self { program, dir, ops }
    }

    /// Runs it to its end; what is wrong, or nothing.
    fn call(&self, call: &Call) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        command
            .stdin(Stdio::null())
            .env("LD_PRELOAD", self.dir.path().join("zero_range.so"))
            .arg("-f")
            .arg(self.dir.path().join(call.configuration.name))
            .args(["-S", &call.seed.to_string()])
            .args(["-b", &call.ops.start().to_string(), "-N", &call.ops.end().to_string()])
            .args(call.words)
            .arg("-P")
            .arg(self.dir.path())
            .arg(call.file);
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let zeroed = said.lines().find_map(|line| line.strip_prefix("ranges zeroed: ")?.parse::<u64>().ok());
        assert!(zeroed.is_some(), "the library was not loaded: {said}");
        if output.status.success() { Ok(()) } else { Err(format!("{}\n{said}", output.status)) }
    }

    /// One seed on the host and in the mount, part by part, with a new mount after each. With an odd seed the file is in a
    /// subvolume, and each part goes on in a clone of what the part before left, which is removed.
    fn seed(&self, seed: u64, host: &Path, mounted: &Mounted) -> Outcome {
        let configuration = Configuration::of(seed);
        let name = format!("fsx-{seed}");
        let in_clones = !seed.is_multiple_of(2);
        let mut dir = mounted.world.mnt.clone();
        if in_clones {
            let plain = dir.join(format!("plain-{seed}"));
            fs::create_dir(&plain).unwrap();
            dir.push(format!("clone-{seed}-0"));
            crate::clone(&plain, &dir);
        }
        let (there, mut here) = (host.join(&name), dir.join(&name));
        let part = self.ops.div_ceil(configuration.parts);
        let mut outcome = Outcome { host: Ok(()), ours: Ok(()) };
        for first in (1..=self.ops).step_by(part as usize) {
            let ops = first..=(first + part - 1).min(self.ops);
            let call =
                |file: &Path| self.call(&Call { configuration, seed, ops: ops.clone(), file, words: &[] });
            outcome.host = outcome.host.and_then(|()| call(&there));
            outcome.ours = outcome.ours.and_then(|()| call(&here));
            if outcome.ours.is_err() {
                break;
            }
            mounted.remount();
            if outcome.host.is_ok() {
                outcome.ours = same(&here, &there).map_err(|at| format!("mounted anew, byte {at} differs"));
            }
            if in_clones {
                let next = mounted.world.mnt.join(format!("clone-{seed}-{first}"));
                crate::clone(&dir, &next);
                let said = cairnfs(&["rm".as_ref(), dir.as_os_str()]);
                assert_eq!(said.code, 0, "{}", said.said());
                here = next.join(&name);
                dir = next;
            }
        }
        if outcome.ours.is_ok() {
            fs::remove_file(&here).unwrap();
        }
        let _ = fs::remove_file(&there);
        outcome
    }

    /// True if fsx notices that the mount did not do what it was told: it leaves one operation out and checks on.
    pub fn notices_a_lost_operation(&self, seed: u64, lost: u64, file: &Path) -> bool {
        let configuration = &CONFIGURATIONS[0];
        let call = |words| self.call(&Call { configuration, seed, ops: 1..=self.ops, file, words });
        call(&[]).expect("nothing is lost");
        call(&["--inject", &lost.to_string()]).is_err()
    }
}

/// How a seed ended on either side.
struct Outcome {
    host: Result<(), String>,
    ours: Result<(), String>,
}

/// The first byte in which two files differ, if they do.
pub fn same(a: &Path, b: &Path) -> Result<(), usize> {
    let (a, b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    if a == b {
        return Ok(());
    }
    let differs = a.iter().zip(&b).position(|(a, b)| a != b);
    Err(differs.unwrap_or(a.len().min(b.len())))
}

/// A mount on which cycles run. They stand still while it is made anew.
struct Mounted {
    world: World,
    cycling: Mutex<()>,
    over: AtomicBool,
    cycles: AtomicU64,
}

impl Mounted {
    fn new(world: World) -> Self {
        Self { world, cycling: Mutex::default(), over: AtomicBool::default(), cycles: AtomicU64::default() }
    }

    fn remount(&self) {
        let _still = self.cycling.lock();
        self.world.remount();
    }

    fn run_cycles(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let cycling = self.cycling.lock();
            self.world.gc();
            self.cycles.fetch_add(1, Ordering::Relaxed);
            // Otherwise this thread would have the lock again before who waits for it wakes up.
            MutexGuard::unlock_fair(cycling);
        }
    }
}

/// Ends the cycles however a run ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What all seeds came to.
#[derive(Default)]
pub struct Total {
    pub host: Results,
    pub ours: Results,
    pub cycles: u64,
}

impl Fsx {
    /// The seeds of one configuration, on one store. `None` where FUSE cannot be used.
    fn configuration(&self, configuration: &Configuration, seeds: &[u64], host: &Path) -> Option<Total> {
        // A hundred operations a second would be very slow.
        let limit = Duration::from_secs(600 + seeds.len() as u64 * self.ops / 100);
        let (mkfs, options) = (configuration.mkfs, configuration.options);
        let world = World::new(Setup { mkfs, options, limit, ..Setup::default() })?;
        let mounted = Mounted::new(world);
        let mut total = Total::default();
        thread::scope(|scope| {
            let _over = Over(&mounted.over);
            if configuration.cycles {
                scope.spawn(|| mounted.run_cycles());
            }
            for seed in seeds {
                let outcome = self.seed(*seed, host, &mounted);
                let name = format!("{}, seed {seed}", configuration.name);
                for (results, outcome) in [(&mut total.host, outcome.host), (&mut total.ours, outcome.ours)] {
                    let verdict = if outcome.is_ok() { Verdict::Pass } else { Verdict::Fail };
                    results.add(&name, verdict, outcome.err().unwrap_or_default());
                }
                let ours = &total.ours.0[&name];
                let cycles = mounted.cycles.load(Ordering::Relaxed);
                println!("fsx: {name}: {:?}, {cycles} cycles {}", ours.verdict, ours.why);
            }
        });
        total.cycles = mounted.cycles.into_inner();
        assert!(!configuration.cycles || total.cycles > 0, "no cycle ran");
        mounted.world.close();
        Some(total)
    }

    /// All seeds, two configurations at a time, the slowest ones first.
    pub fn run(&self, seeds: &[u64], host: &Path) -> Option<Total> {
        let todo = Mutex::new(CONFIGURATIONS.iter().collect::<Vec<_>>());
        let total = Mutex::new(Some(Total::default()));
        let work = || {
            while let Some(configuration) = { todo.lock().pop() } {
                let own: Vec<u64> = seeds
                    .iter()
                    .copied()
                    .filter(|seed| Configuration::of(*seed).name == configuration.name)
                    .collect();
                if own.is_empty() {
                    continue;
                }
                let part = self.configuration(configuration, &own, host);
                let mut total = total.lock();
                *total = total.take().zip(part).map(|(mut total, part)| {
                    total.host.0.extend(part.host.0);
                    total.ours.0.extend(part.ours.0);
                    total.cycles += part.cycles;
                    total
                });
            }
        };
        thread::scope(|scope| {
            scope.spawn(work);
            work();
        });
        total.into_inner()
    }
}
