//! What is backed up: real files from Debian packages, a disk image that changes as disks do, and the two
//! extremes, data that cannot be compressed and data that is mostly not there. `creates` has nothing in it: its files are
//! made in the mount.
//!
//! A corpus is a directory with one subdirectory a version and a file ABOUT that says what it is. It
//! is made under another name and renamed, so that what is found under its name is complete.

mod files;
mod image;
mod tree;

pub use files::walk;

use std::path::{Path, PathBuf};

use crate::measure::Outcome;

pub const NAMES: &[&str] = &["tree", "daily", "image", "random", "sparse", "creates"];

/// The tree once more, for what is done with it day by day.
const DAILY: &str = "daily";

/// The name of the one file in the corpora that are one file.
pub const BIG: &str = "disk.img";

pub struct Corpus {
    pub name: String,
    /// Oldest first; the last is what is then called unchanged.
    pub versions: Vec<PathBuf>,
    pub about: String,
    /// Of the first version.
    pub files: u64,
    pub bytes: u64,
}

pub struct Wanted<'a> {
    pub dir: &'a Path,
    pub quick: bool,
    /// The Debian package whose versions the tree is made of.
    pub package: &'a str,
}

impl Corpus {
    /// The corpus `name`, made now if it was not made before.
    pub fn get(name: &str, wanted: &Wanted<'_>) -> Outcome<Corpus> {
        let kept = if name == DAILY { "tree" } else { name };
        let called = if wanted.quick { format!("quick-{kept}") } else { kept.to_owned() };
        let dir = wanted.dir.join(&called);
        if !dir.join("ABOUT").exists() {
            make(kept, &called, wanted)?;
        }
        let about = read(&dir.join("ABOUT"))?;
        let mut versions: Vec<PathBuf> =
            files::children(&dir)?.into_iter().filter(|path| path.is_dir()).collect();
        versions.sort();
        let first = versions.first().ok_or_else(|| format!("{} is empty; remove it", dir.display()))?;
        let (files, bytes) = files::count(first)?;
        Ok(Corpus { name: name.to_owned(), versions, about: about.trim().to_owned(), files, bytes })
    }
}

fn make(name: &str, called: &str, wanted: &Wanted<'_>) -> Outcome<()> {
    eprintln!("making the corpus {called}; it is kept in {}", wanted.dir.display());
    let fail = |e: std::io::Error| format!("{}: {e}", wanted.dir.display());
    std::fs::create_dir_all(wanted.dir).map_err(fail)?;
    let scratch = tempfile::Builder::new().prefix("making-").tempdir_in(wanted.dir).map_err(fail)?;
    let dir = scratch.path().join(called);
    std::fs::create_dir(&dir).map_err(fail)?;
    let about = match (name, wanted.quick) {
        ("tree", false) => tree::from_package(&dir, wanted.package)?,
        ("tree", true) => tree::from_usr(&dir)?,
        ("image", quick) => image::make(&dir, if quick { 192 << 20 } else { 2 << 30 })?,
        ("random", quick) => files::random(&dir, if quick { 64 << 20 } else { 1 << 30 })?,
        ("sparse", quick) => files::sparse(&dir, if quick { 1 << 30 } else { 16 << 30 })?,
        ("creates", _) => {
            std::fs::create_dir(dir.join("v1")).map_err(fail)?;
            "Files without content, made in the mount.".to_owned()
        }
        _ => {
            return Err(format!("{name}: no such corpus; say one of {}", NAMES.join(", ")));
        }
    };
    std::fs::write(dir.join("ABOUT"), about).map_err(fail)?;
    std::fs::rename(&dir, wanted.dir.join(called)).map_err(fail)
}

fn read(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}
