//! A disk whose every byte and flush is counted: a loop device over a file, with an ext4 as mkfs makes it.
//!
//! What a process handed to the kernel would be easier to count, and wrong: the kernel counts a large page as a whole
//! when a block of it is written, and knows nothing of the filesystem's own blocks.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{major, minor};

use crate::measure::{Outcome, output};

/// The file is sparse.
const SIZE: u64 = 64 << 30;

/// Unmounted when dropped.
pub struct Image {
    pub dir: PathBuf,
    counts: PathBuf,
}

/// What came to the disk.
#[derive(Clone, Copy)]
pub struct Counts {
    pub bytes: u64,
    pub flushes: u64,
}

impl Image {
    pub fn new(below: &Path) -> Outcome<Self> {
        let (file, dir) = (below.join("image"), below.join("disk"));
        let fail = |e: std::io::Error| format!("{}: {e}", file.display());
        File::create(&file).and_then(|file| file.set_len(SIZE)).map_err(fail)?;
        std::fs::create_dir(&dir).map_err(fail)?;
        // Nothing is left for later, which would be counted.
        let now = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        output(Command::new("mkfs.ext4").args(["-q", "-F", "-N", "200000", "-E", now]).arg(&file))?;
        output(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&dir))?;
        let mut image = Image { dir, counts: PathBuf::new() };
        let device = std::fs::metadata(&image.dir).map_err(fail)?.dev();
        image.counts = PathBuf::from(format!("/sys/dev/block/{}:{}/stat", major(device), minor(device)));
        Ok(image)
    }

    pub fn counts(&self) -> Outcome<Counts> {
        let path = self.counts.display();
        let text = std::fs::read_to_string(&self.counts).map_err(|e| format!("{path}: {e}"))?;
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match (numbers.get(6), numbers.get(15)) {
            (Some(sectors), Some(flushes)) => Ok(Counts { bytes: sectors * 512, flushes: *flushes }),
            _ => Err(format!("{path} says {text}")),
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(problem) = output(Command::new("umount").arg(&self.dir)) {
            eprintln!("{problem}");
        }
    }
}
