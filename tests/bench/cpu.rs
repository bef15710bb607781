//! The other floor: cutting, hashing and compressing the same bytes, with nothing around it.
//!
//! Files are read from the kernel's cache, cut by FastCDC, hashed with SHA-256; chunks not seen before
//! are compressed in regions. Two threads share the work by taking the next piece each.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use fastcdc::v2020::FastCDC;
use sha2::{Digest, Sha256};

use crate::corpus::Corpus;
use crate::measure::{Outcome, median};
use crate::table::Table;

const MIN: usize = 16 << 10;
const AVERAGE: usize = 64 << 10;
const MAX: usize = 256 << 10;
const REGION: usize = 256 << 10;
/// Longer files are shared out in pieces of this size.
const PIECE: u64 = 16 << 20;

#[derive(Clone, Copy, PartialEq)]
enum Work {
    Cut,
    Hash,
    Compress(i32),
}

const WORKS: &[(&str, Work)] = &[
    ("read + cut", Work::Cut),
    ("+ SHA-256", Work::Hash),
    ("+ zstd-1", Work::Compress(1)),
    ("+ zstd-3", Work::Compress(3)),
];

struct Shared<'a> {
    pieces: &'a [(PathBuf, u64, u64)],
    next: AtomicUsize,
    seen: Mutex<HashSet<[u8; 32]>>,
    stored: AtomicU64,
}

/// Seconds for each kind of work and number of threads, over all runs.
pub struct CpuFloor {
    seconds: Vec<Vec<f64>>,
    stored: Vec<u64>,
}

impl CpuFloor {
    pub fn new() -> Self {
        CpuFloor { seconds: vec![Vec::new(); WORKS.len() * 2], stored: vec![0; WORKS.len()] }
    }

    /// One more run over the first version of a corpus.
    pub fn run(&mut self, corpus: &Corpus) -> Outcome<()> {
        let pieces = pieces(&corpus.versions[0])?;
        for (i, (_, work)) in WORKS.iter().enumerate() {
            for threads in 1..=2 {
                let (seconds, stored) = once(&pieces, *work, threads)?;
                self.seconds[i * 2 + threads - 1].push(seconds);
                self.stored[i] = stored;
            }
        }
        Ok(())
    }

    pub fn table(&self, corpus: &Corpus) -> Table {
        let mut table = Table::new([
            "CPU floor",
            "1 thread, s",
            "2 threads, s",
            "1 thread, MB/s",
            "2 threads, MB/s",
            "stored, MB",
        ]);
        for (i, (name, work)) in WORKS.iter().enumerate() {
            let seconds = |threads: usize| median(&self.seconds[i * 2 + threads - 1]);
            let rate = |threads| seconds(threads).map(|s| corpus.bytes as f64 / 1e6 / s);
            let shown = |figure: Option<f64>, digits: usize| {
                figure.map_or("-".into(), |figure| format!("{figure:.digits$}"))
            };
            let stored = matches!(work, Work::Compress(_)).then(|| self.stored[i] as f64 / 1e6);
            table.row([
                (*name).to_owned(),
                shown(seconds(1), 2),
                shown(seconds(2), 2),
                shown(rate(1), 0),
                shown(rate(2), 0),
                shown(stored, 0),
            ]);
        }
        table
    }
}

fn pieces(dir: &Path) -> Outcome<Vec<(PathBuf, u64, u64)>> {
    let mut pieces = Vec::new();
    for (path, size) in crate::corpus::walk(dir)? {
        for offset in (0..size).step_by(PIECE as usize) {
            pieces.push((path.clone(), offset, PIECE.min(size - offset)));
        }
    }
    Ok(pieces)
}

fn once(pieces: &[(PathBuf, u64, u64)], work: Work, threads: usize) -> Outcome<(f64, u64)> {
    let shared = Shared {
        pieces,
        next: AtomicUsize::new(0),
        seen: Mutex::new(HashSet::new()),
        stored: AtomicU64::new(0),
    };
    let started = Instant::now();
    let results: Vec<Outcome<()>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| worker(&shared, work))).collect();
        let ended = workers.into_iter().map(|worker| worker.join());
        ended.map(|result| result.unwrap_or_else(|_| Err("a worker panicked".into()))).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    results.into_iter().collect::<Outcome<()>>()?;
    Ok((seconds, shared.stored.load(Relaxed)))
}

fn worker(shared: &Shared<'_>, work: Work) -> Outcome<()> {
    let mut buffer = Vec::new();
    let mut region = Vec::with_capacity(REGION + MAX);
    let mut compressor = match work {
        Work::Compress(level) => Some(zstd::bulk::Compressor::new(level).map_err(|e| e.to_string())?),
        _ => None,
    };
    let mut compress = |region: &mut Vec<u8>| -> Outcome<()> {
        if let Some(compressor) = compressor.as_mut().filter(|_| !region.is_empty()) {
            let packed = compressor.compress(region).map_err(|e| e.to_string())?;
            shared.stored.fetch_add(packed.len() as u64, Relaxed);
        }
        region.clear();
        Ok(())
    };
    while let Some((path, offset, length)) = shared.pieces.get(shared.next.fetch_add(1, Relaxed)) {
        let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
        buffer.resize(*length as usize, 0);
        file.read_exact_at(&mut buffer, *offset).map_err(|e| format!("{}: {e}", path.display()))?;
        for chunk in FastCDC::new(&buffer, MIN, AVERAGE, MAX) {
            let bytes = &buffer[chunk.offset..chunk.offset + chunk.length];
            if work == Work::Cut {
                continue;
            }
            let digest: [u8; 32] = Sha256::digest(bytes).into();
            let new = shared.seen.lock().expect("no code that holds the set panics").insert(digest);
            if new && work != Work::Hash {
                region.extend_from_slice(bytes);
                if region.len() >= REGION {
                    compress(&mut region)?;
                }
            }
        }
    }
    compress(&mut region)
}
