//! The file system to compare with: an ext4 made for it, or what the host has.
//!
//! An ext4 of its own can be mounted read-only while a suite runs, and is the same wherever the test runs. It needs
//! root and a loop device; where either is missing, the directory for temporary files has to do.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::skip::{need, need_root};
use crate::world::{command, is_mounted, run, tool};

/// Bytes of the image: room for the files of two runs of fsx. It is sparse.
const IMAGE_BYTES: u64 = 1 << 30;

pub struct Host {
    /// Where a suite may work.
    pub top: PathBuf,
    /// True if it is an ext4 of its own.
    pub own: bool,
    /// Kept until the end: the image and the mount point.
    _dir: TempDir,
}

impl Host {
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("cairnfs-host-").expect("a directory for temporary files");
        let (image, top) = (dir.path().join("image"), dir.path().join("top"));
        fs::create_dir(&top).unwrap();
        File::create_new(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        let top = fs::canonicalize(top).unwrap();
        let is_made = || run(command("mkfs.ext4").args(["-q", "-F"]).arg(&image)).code == 0;
        let is_mounted = || run(command("mount").args(["-o", "loop"]).arg(&image).arg(&top)).code == 0;
        let own = need_root("an ext4 of its own")
            && need(is_made(), "mkfs.ext4 makes none")
            && need(is_mounted(), "no loop device to mount an ext4");
        Self { top, own, _dir: dir }
    }

    /// What it is, for the table.
    pub fn kind(&self) -> String {
        let kind = tool!("stat", "--file-system", "--format=%T", self.top);
        let kind = kind.trim();
        // What stat(1) says for all three of them, which share a magic number.
        String::from(if kind == "ext2/ext3" { "ext4" } else { kind })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        while is_mounted(&self.top) {
            let _ = Command::new("umount").arg("-l").arg(&self.top).output();
        }
    }
}
