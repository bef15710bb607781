//! A disk image in three versions.
//!
//! The first is an ext4 filesystem filled with files of this machine's /usr by mke2fs. The others are
//! the one before with files removed and files written by debugfs, so that what stayed keeps its
//! blocks, as on a disk that is in use. Neither needs a mount or root.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::BIG;
use super::files::{copy_below, share, version, walk};
use crate::measure::{Outcome, output, quoted, shell};

const UUID: &str = "6361726e-6673-4265-8e63-686d61726b00";
const LARGEST: u64 = 64 << 20;

/// How much of the image the files fill at first, and how much each later version adds, in percent.
const FILLED: u64 = 72;
const ADDED: u64 = 5;

pub fn make(dir: &Path, size: u64) -> Outcome<String> {
    let stage = dir.join("stage");
    let (first, mut rest) = choose(size * FILLED / 100)?;
    for path in &first {
        // What this user may not read is left out.
        let _ = copy_below(path, Path::new("/usr"), &stage);
    }
    let image = version(dir, 1)?.join(BIG);
    format_image(&image, &stage, size)?;
    let mut about =
        format!("an ext4 image of {} MiB holding {} files of this machine's /usr", size >> 20, first.len());
    let mut last = image;
    for number in 2..=3 {
        let image = version(dir, number)?.join(BIG);
        shell(&format!("cp --sparse=always {} {}", quoted(&last), quoted(&image)))?;
        let added = take(&mut rest, size * ADDED / 100);
        let removed: Vec<&PathBuf> = first.iter().filter(|path| share(path, 100) == number as u64).collect();
        change(&image, &removed, &added, number, dir)?;
        let _ = write!(about, "; version {number}: {} files removed, {} written", removed.len(), added.len());
        last = image;
    }
    std::fs::remove_dir_all(&stage).map_err(|e| format!("{}: {e}", stage.display()))?;
    Ok(about)
}

/// Files with their sizes.
type Measured = Vec<(PathBuf, u64)>;

/// Files of /usr: as many as fill `bytes`, and the others.
fn choose(bytes: u64) -> Outcome<(Vec<PathBuf>, Measured)> {
    let mut all: Measured =
        walk(Path::new("/usr"))?.into_iter().filter(|(path, size)| *size <= LARGEST && plain(path)).collect();
    // By a number that its name gives, so that both parts have files of all kinds.
    all.sort_by_key(|(path, _)| share(path, 1 << 40));
    let first = take(&mut all, bytes);
    Ok((first, all))
}

/// debugfs has no way to quote some names.
fn plain(path: &Path) -> bool {
    path.to_str().is_some_and(|path| !path.contains(['"', ' ', '\\', '\n', '<', '>']))
}

fn take(files: &mut Measured, bytes: u64) -> Vec<PathBuf> {
    let mut total = 0;
    let count = files
        .iter()
        .take_while(|(_, size)| {
            // What a file takes in whole blocks, and its inode.
            total += size.next_multiple_of(4096) + 256;
            total <= bytes
        })
        .count();
    files.drain(..count).map(|(path, _)| path).collect()
}

fn format_image(image: &Path, stage: &Path, size: u64) -> Outcome<()> {
    output(
        Command::new("mke2fs")
            .env("PATH", path_with_sbin())
            .args(["-q", "-F", "-t", "ext4", "-U", UUID, "-m", "0"])
            .arg("-E")
            .arg(format!("hash_seed={UUID},lazy_itable_init=1"))
            .args(["-N", &(size >> 13).to_string()])
            .arg("-d")
            .arg(stage)
            .arg(image)
            .arg(format!("{}k", size >> 10)),
    )
    .map(drop)
}

fn change(
    image: &Path,
    removed: &[&PathBuf],
    added: &[PathBuf],
    number: usize,
    scratch: &Path,
) -> Outcome<()> {
    let mut script = String::new();
    for path in removed {
        let inside = path.strip_prefix("/usr").unwrap_or(path);
        let _ = writeln!(script, "rm /{}", inside.display());
    }
    let _ = writeln!(script, "mkdir /added{number}\ncd /added{number}");
    for (i, path) in added.iter().enumerate() {
        let _ = writeln!(script, "write {} f{i}", path.display());
    }
    let commands = scratch.join("debugfs");
    std::fs::write(&commands, script).map_err(|e| format!("{}: {e}", commands.display()))?;
    output(
        Command::new("debugfs").env("PATH", path_with_sbin()).args(["-w", "-f"]).arg(&commands).arg(image),
    )?;
    std::fs::remove_file(&commands).map_err(|e| format!("{}: {e}", commands.display()))
}

/// mke2fs and debugfs are where a plain user's PATH may not look.
fn path_with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
