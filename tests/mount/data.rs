//! Files with known contents: made from a seed, compared byte by byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub use cairnfs::media::sim::Rng as Numbers;

/// Bytes that do not compress and are nowhere twice.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    Numbers::new(seed).bytes(len)
}

/// Bytes that compress as text does.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut bytes = Vec::with_capacity(len + 32);
    while bytes.len() < len {
        let n = numbers.draw();
        bytes.extend_from_slice(format!("{:04x} stone on stone\n", n & 0xffff).as_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Files by their paths.
#[derive(Debug, Clone, Default)]
pub struct Tree(pub BTreeMap<PathBuf, Vec<u8>>);

impl Tree {
    /// 40 files, 3 MB, several chunks in each.
    pub fn small(seed: u64) -> Self {
        Self::of(seed, 40)
    }

    /// As many files, in four directories, each of several chunks.
    pub fn of(seed: u64, files: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let file = |n: u64| {
            let len = 30_000 + numbers.below(90_000) as usize;
            (format!("d{}/f{n:02}", n % 4).into(), noise(seed << 16 | n, len))
        };
        Self((0..files).map(file).collect())
    }

    /// Writes all files below `dir`.
    pub fn write(&self, dir: &Path) {
        for (name, bytes) in &self.0 {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
        }
    }

    /// What is not below `dir` as it should be; empty if all is.
    pub fn differences(&self, dir: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, bytes) in &self.0 {
            match fs::read(dir.join(name)) {
                Err(error) => wrong.push(format!("{}: {error}", name.display())),
                Ok(found) if found != *bytes => wrong.push(format!("{}: other bytes", name.display())),
                Ok(_) => {}
            }
        }
        let mut found = Vec::new();
        list(dir, &mut found);
        for path in found {
            let name = path.strip_prefix(dir).unwrap();
            if !self.0.contains_key(name) {
                wrong.push(format!("{}: too many", name.display()));
            }
        }
        wrong
    }

    /// Compares byte by byte.
    pub fn assert_at(&self, dir: &Path) {
        let wrong = self.differences(dir);
        assert!(wrong.is_empty(), "{}: {} files are wrong: {wrong:?}", dir.display(), wrong.len());
    }

    /// The names, in order.
    #[cfg(feature = "sim")]
    pub fn names(&self) -> Vec<PathBuf> {
        self.0.keys().cloned().collect()
    }
}

fn list(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}
