//! Walking trees in one order everywhere, and files made of a seed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::measure::Outcome;
use crate::random::Random;

const SEED: u64 = 0x6361_6972_6e66_7321;

/// A number below `below` that depends on the name only: which files a derived version changes.
pub fn share(path: &Path, below: u64) -> u64 {
    let bytes = path.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 17) % below
}

pub fn children(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let fail = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut children = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        children.push(entry.map_err(fail)?.path());
    }
    children.sort();
    Ok(children)
}

/// All regular files below a directory with their sizes, in the order of their names.
pub fn walk(dir: &Path) -> Outcome<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in children(&dir)?.into_iter().rev() {
            let Ok(meta) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_file() {
                found.push((path, meta.size()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// How many regular files there are below a directory, and how long they are together.
pub fn count(dir: &Path) -> Outcome<(u64, u64)> {
    let files = walk(dir)?;
    let bytes = files.iter().map(|(_, size)| size).sum();
    Ok((files.len() as u64, bytes))
}

/// Copies `from` to the same place below `to` that it has below `below`.
pub fn copy_below(from: &Path, below: &Path, to: &Path) -> Outcome<()> {
    let relative = from.strip_prefix(below).unwrap_or(from);
    let target = to.join(relative);
    let parent = target.parent().unwrap_or(to);
    std::fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    std::fs::copy(from, &target).map(drop).map_err(|e| format!("{}: {e}", from.display()))
}

pub fn random(dir: &Path, bytes: u64) -> Outcome<String> {
    let path = version(dir, 1)?.join(super::BIG);
    let mut random = Random::new(SEED);
    let mut block = vec![0; 1 << 20];
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = BufWriter::new(File::create(&path).map_err(fail)?);
    for _ in 0..bytes >> 20 {
        random.fill(&mut block);
        file.write_all(&block).map_err(fail)?;
    }
    file.flush().map_err(fail)?;
    Ok(format!("{} MiB that cannot be compressed, xorshift64* of seed {SEED:#x}", bytes >> 20))
}

pub fn sparse(dir: &Path, bytes: u64) -> Outcome<String> {
    let path = version(dir, 1)?.join(super::BIG);
    let mut random = Random::new(SEED);
    let mut block = vec![0; 1 << 20];
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = File::create(&path).map_err(fail)?;
    file.set_len(bytes).map_err(fail)?;
    for offset in (0..bytes).step_by(64 << 20) {
        random.fill(&mut block);
        file.write_all_at(&block, offset).map_err(fail)?;
    }
    Ok(format!("{} GiB with 1 MiB of data in each 64 MiB, the rest holes", bytes >> 30))
}

/// The directory of a version, made.
pub fn version(dir: &Path, number: usize) -> Outcome<PathBuf> {
    let version = dir.join(format!("v{number}"));
    std::fs::create_dir(&version).map_err(|e| format!("{}: {e}", version.display()))?;
    Ok(version)
}
