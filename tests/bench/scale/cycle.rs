//! Opening a store, and a cycle of the collector beside two writers.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cairnfs::fs::{Caller, Fs, FsOptions};
use cairnfs::gc::{Collector, CycleRecord, Options, Point};
use cairnfs::store::{MkfsOptions, OpenOptions, Store, mkfs};
use serde::{Deserialize, Serialize};

use super::probe::{Took, Watch, quantile};
use super::synthetic::{self, Size};
use crate::measure::Outcome;

const WRITERS: usize = 2;
/// Between two operations of a writer.
const PAUSE: Duration = Duration::from_micros(500);
const ROOT: u64 = 1;
pub const CALLER: Caller = Caller { uid: 0, gid: 0 };

/// What the child says of a cycle.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cycle {
    pub record: CycleRecord,
    pub whole: Took,
    /// Up to and with the flip, then the mark, the sweep, the reclaim, the end.
    pub stages: Vec<Took>,
    /// Bytes that the database takes on the disk before and after.
    pub database: (u64, u64),
    /// Bytes handed to the disk.
    pub written: u64,
    /// How long an operation of a writer took, in milliseconds: the median and the worst.
    pub operation_ms: (f64, f64),
    pub operations: usize,
}

pub fn told<T>(what: &str, result: cairnfs::Result<T>) -> Outcome<T> {
    result.map_err(|e| format!("{what}: {e}"))
}

pub fn open(dir: &Path) -> Outcome<Arc<Store>> {
    told("opening the store", Store::open(dir, &OpenOptions::default()))
}

pub fn new_store(dir: &Path) -> Outcome<Arc<Store>> {
    let options = MkfsOptions { reserve: 1 << 20, ..MkfsOptions::default() };
    told("mkfs", mkfs(dir, &options))?;
    open(dir)
}

pub fn build(dir: &Path, size: &Size) -> Outcome<Took> {
    let mut watch = Watch::start();
    let store = new_store(dir)?;
    synthetic::fill(&store, size)?;
    told("closing", store.close())?;
    Ok(watch.lap())
}

/// Opens the store and looks at its root; then closes it, or ends as if it were killed.
pub fn open_once(dir: &Path, kill: bool) -> Outcome<Took> {
    let mut watch = Watch::start();
    let store = open(dir)?;
    let fs = told("the filesystem", Fs::new(store.clone(), FsOptions::default()))?;
    told("the root", fs.getattr(ROOT))?;
    let took = watch.lap();
    if kill {
        told("a file", fs.mknod(ROOT, b"of the killed", CALLER, 0o644, 0, 0))?;
        told("sync", fs.sync())?;
        told("a file", fs.unlink(ROOT, b"of the killed"))?;
        super::tell(&took)?;
        std::process::abort();
    }
    told("ending the filesystem", fs.shutdown())?;
    told("closing", store.close())?;
    Ok(took)
}

pub fn cycle(dir: &Path) -> Outcome<Cycle> {
    let store = open(dir)?;
    let fs = told("the filesystem", Fs::new(store.clone(), FsOptions::default()))?;
    let collector = told("the collector", Collector::new(store.clone(), Options::default()))?;
    let laps = Arc::new(Mutex::new((Watch::start(), Vec::new())));
    let lap = laps.clone();
    collector.set_hook(Some(Arc::new(move |point| {
        if matches!(point, Point::Flipped | Point::Marked | Point::Swept | Point::Reclaimed) {
            let mut laps = lap.lock().expect("no code that holds it panics");
            let took = laps.0.lap();
            laps.1.push(took);
        }
    })));
    let database = || std::fs::metadata(dir.join("meta/cairnfs.redb")).map_or(0, |meta| meta.blocks() * 512);
    let (before, written) = (database(), written_bytes());
    let stop = AtomicBool::new(false);
    let mut whole = Watch::start();
    let (record, whole, mut times) = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                scope.spawn({
                    let (fs, stop) = (&fs, &stop);
                    move || write(fs, number, stop)
                })
            })
            .collect();
        *laps.lock().expect("no code that holds it panics") = (Watch::start(), Vec::new());
        let record = collector.run_cycle(false);
        let whole = whole.lap();
        stop.store(true, Ordering::Release);
        let times = writers
            .into_iter()
            .map(|writer| writer.join().unwrap_or_else(|_| Err("a writer panicked".into())));
        let times: Outcome<Vec<Vec<f64>>> = times.collect();
        (record, whole, times.map(|times| times.concat()))
    });
    let times = times.as_mut().map_err(|e| e.clone())?;
    let end = laps.lock().expect("no code that holds it panics").0.lap();
    let mut stages = laps.lock().expect("no code that holds it panics").1.clone();
    stages.push(end);
    collector.shutdown();
    let cycle = Cycle {
        record: told("the cycle", record)?,
        whole,
        stages,
        database: (before, database()),
        written: written_bytes() - written,
        operation_ms: (quantile(times, 0.5), quantile(times, 1.0)),
        operations: times.len(),
    };
    told("ending the filesystem", fs.shutdown())?;
    told("closing", store.close())?;
    Ok(cycle)
}

/// Makes and removes names until told to stop; how long each took, in milliseconds.
fn write(fs: &Arc<Fs>, number: usize, stop: &AtomicBool) -> Outcome<Vec<f64>> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let name = format!("writer-{number}-{}", times.len());
        let started = Instant::now();
        let attr = told("a file", fs.mknod(ROOT, name.as_bytes(), CALLER, 0o644, 0, 0))?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        told("a file", fs.unlink(ROOT, name.as_bytes()))?;
        fs.forget(attr.ino, 1);
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}

pub fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
