//! The daemon's wall clock, moved by years under its hands.
//!
//! libfaketime stands between the daemon and the C library, so all libraries in the process see the same moved time,
//! read anew from a file at each call. The monotonic clock is left alone: that one no administrator and no battery can
//! move. Whether the daemon really sees the time is asked of the daemon: a file that it makes gets its mtime.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cairnfs::media::sim::Rng;

use crate::skip::need;

const YEAR: i64 = 31_556_952;
/// The daemon may have been asked this many seconds after the file was written.
const SLACK: i64 = 600;

pub struct Clock {
    library: PathBuf,
    /// Read by the library: how many seconds the clock is off.
    file: PathBuf,
    offset: i64,
    random: Rng,
    pub jumps: u64,
    /// The farthest that the daemon was seen to be off, in years.
    pub seen: (i64, i64),
}

/// The library that moves clocks, if it is there.
fn library() -> Option<PathBuf> {
    let dirs = ["x86_64-linux-gnu", "aarch64-linux-gnu", ""].map(|dir| Path::new("/usr/lib").join(dir));
    let also = [PathBuf::from("/usr/lib64"), PathBuf::from("/usr/local/lib")];
    let names = ["faketime/libfaketimeMT.so.1", "faketime/libfaketime.so.1"];
    let places = dirs.iter().chain(&also).flat_map(|dir| names.map(|name| dir.join(name)));
    places.into_iter().find(|path| path.exists())
}

impl Clock {
    /// `None`, with a sentence, where there is no libfaketime.
    pub fn new(dir: &Path, seed: u64) -> Option<Self> {
        let library = library();
        need(library.is_some(), "the clock does not jump, since there is no libfaketime (package faketime)");
        let library = library?;
        let clock = Self {
            library,
            file: dir.join("clock"),
            offset: 0,
            random: Rng::new(seed ^ 0xc10c),
            jumps: 0,
            seen: (0, 0),
        };
        clock.write();
        Some(clock)
    }

    /// What the daemon has to be started with.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    fn write(&self) {
        // Whole or not at all: the daemon reads it at any time.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{:+}\n", self.offset)).expect("the clock's file can be written");
        fs::rename(&new, &self.file).expect("the clock's file can be replaced");
    }

    /// Moves the clock by years, now here and now there, and has the daemon make a file in `dir` to see it.
    pub fn jump(&mut self, dir: &Path) -> Result<(), String> {
        let years = match self.random.below(3) {
            0 => -1 - self.random.below(45) as i64,
            1 => 1 + self.random.below(200) as i64,
            _ => 0,
        };
        self.offset = years * YEAR;
        self.write();
        self.jumps += 1;
        let name = dir.join(format!("clock-{}", self.jumps));
        let made = File::create(&name)
            .and_then(|file| file.metadata())
            .map_err(|e| format!("{}: {e}", name.display()))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        let off = made.mtime() - now;
        if (off - self.offset).abs() > SLACK {
            return Err(format!(
                "the clock was set off by {} s, but the daemon's is off by {off} s",
                self.offset
            ));
        }
        self.seen = (self.seen.0.min(off / YEAR), self.seen.1.max(off / YEAR));
        fs::remove_file(&name).map_err(|e| format!("{}: {e}", name.display()))
    }
}
