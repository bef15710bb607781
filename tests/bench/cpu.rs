//! The other floor: cutting, hashing and compressing the same bytes, with nothing around it.
//!
//! Files are read from the kernel's cache, cut by FastCDC, hashed with SHA-256; chunks not seen before
//! are compressed in regions, and these decompressed again. Two threads share the work by taking the next
//! piece or region each.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
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

/// Compressed regions, with the lengths of their plain bytes.
type Packed = Vec<(Vec<u8>, usize)>;

struct Shared<'a> {
    pieces: &'a [(PathBuf, u64, u64)],
    packed: Mutex<Packed>,
    next: AtomicUsize,
    seen: Mutex<HashSet<[u8; 32]>>,
}

/// Seconds for each kind of work and number of threads, over all runs.
pub struct CpuFloor {
    seconds: Vec<Vec<f64>>,
    /// Of decompressing what the last work left.
    back: [Vec<f64>; 2],
    stored: Vec<u64>,
}

impl CpuFloor {
    pub fn new() -> Self {
        CpuFloor {
            seconds: vec![Vec::new(); WORKS.len() * 2],
            back: Default::default(),
            stored: vec![0; WORKS.len()],
        }
    }

    /// One more run over the first version of a corpus.
    pub fn run(&mut self, corpus: &Corpus) -> Outcome<()> {
        let pieces = pieces(&corpus.versions[0])?;
        let mut last = Packed::new();
        for (i, (_, work)) in WORKS.iter().enumerate() {
            for threads in 1..=2 {
                let (seconds, packed) = once(&pieces, *work, threads)?;
                self.seconds[i * 2 + threads - 1].push(seconds);
                self.stored[i] = packed.iter().map(|(region, _)| region.len() as u64).sum();
                last = packed;
            }
        }
        for threads in 1..=2 {
            self.back[threads - 1].push(decompress(&last, threads)?);
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
        let shown = |figure: Option<f64>, digits: usize| {
            figure.map_or("-".into(), |figure| format!("{figure:.digits$}"))
        };
        let rows = WORKS.iter().enumerate().map(|(i, (name, work))| {
            let stored = matches!(work, Work::Compress(_)).then(|| self.stored[i] as f64 / 1e6);
            (*name, [&self.seconds[i * 2], &self.seconds[i * 2 + 1]], stored)
        });
        for (name, times, stored) in rows.chain([("zstd-3 back", [&self.back[0], &self.back[1]], None)]) {
            let seconds = |threads: usize| median(times[threads - 1]);
            let rate = |threads| seconds(threads).map(|s| corpus.bytes as f64 / 1e6 / s);
            table.row([
                name.to_owned(),
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

/// Runs the same work in threads; the seconds until all have ended.
fn in_threads(threads: usize, work: impl Fn() -> Outcome<()> + Sync) -> Outcome<f64> {
    let started = Instant::now();
    let results: Vec<Outcome<()>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        let ended = workers.into_iter().map(|worker| worker.join());
        ended.map(|result| result.unwrap_or_else(|_| Err("a worker panicked".into()))).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    results.into_iter().collect::<Outcome<()>>()?;
    Ok(seconds)
}

fn once(pieces: &[(PathBuf, u64, u64)], work: Work, threads: usize) -> Outcome<(f64, Packed)> {
    let shared = Shared {
        pieces,
        packed: Mutex::default(),
        next: AtomicUsize::new(0),
        seen: Mutex::new(HashSet::new()),
    };
    let seconds = in_threads(threads, || worker(&shared, work))?;
    Ok((seconds, shared.packed.into_inner().map_err(|e| e.to_string())?))
}

fn decompress(packed: &Packed, threads: usize) -> Outcome<f64> {
    let next = AtomicUsize::new(0);
    in_threads(threads, || {
        let mut decompressor = zstd::bulk::Decompressor::new().map_err(|e| e.to_string())?;
        let mut plain = vec![0; REGION + MAX];
        while let Some((region, length)) = packed.get(next.fetch_add(1, Relaxed)) {
            let got = decompressor.decompress_to_buffer(region, &mut plain[..]).map_err(|e| e.to_string())?;
            assert_eq!(got, *length);
        }
        Ok(())
    })
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
            let mut all = shared.packed.lock().map_err(|e| e.to_string())?;
            all.push((packed, region.len()));
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
