//! The simulated disk with a point for the explorer before each operation on a pack or on the log of commits.
//!
//! The database's own file has none: it is read and written inside the database's locks, which the explorer does not
//! know; a switch there would leave another thread waiting outside of its sight, for ever.

use std::io;

use crate::media::sim::SimMedia;
use crate::media::{Media, MediaFile, Space};
use crate::meta::log::LOG_FILE;
use crate::sync::{Arc, AtomicBool, Ordering};

/// A disk with scheduling points.
#[derive(Debug)]
pub struct Disk {
    sim: SimMedia,
    turn: Arc<AtomicBool>,
}

impl Disk {
    pub fn new(sim: &SimMedia) -> Self {
        Self { sim: sim.clone(), turn: Arc::new(AtomicBool::new(false)) }
    }

    fn let_others_go(&self, path: &str) {
        if has_points(path) {
            self.turn.load(Ordering::SeqCst);
        }
    }

    fn file(&self, path: &str, inner: Arc<dyn MediaFile>) -> Arc<dyn MediaFile> {
        if has_points(path) { Arc::new(FileWithPoints { inner, turn: self.turn.clone() }) } else { inner }
    }
}

fn has_points(path: &str) -> bool {
    path.starts_with("packs/") || path == LOG_FILE
}

impl Media for Disk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn MediaFile>> {
        self.let_others_go(path);
        Ok(self.file(path, self.sim.create(path)?))
    }

    fn open(&self, path: &str, writable: bool) -> io::Result<Arc<dyn MediaFile>> {
        self.let_others_go(path);
        Ok(self.file(path, self.sim.open(path, writable)?))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.let_others_go(path);
        self.sim.exists(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.let_others_go(dir);
        self.sim.list(dir)
    }

    fn mkdir(&self, dir: &str) -> io::Result<()> {
        self.let_others_go(dir);
        self.sim.mkdir(dir)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.let_others_go(path);
        self.sim.remove(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.let_others_go(from);
        self.sim.rename(from, to)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.let_others_go(from);
        self.sim.link(from, to)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.let_others_go(dir);
        self.sim.sync_dir(dir)
    }

    fn space(&self) -> io::Result<Space> {
        self.sim.space()
    }
}

#[derive(Debug)]
struct FileWithPoints {
    inner: Arc<dyn MediaFile>,
    turn: Arc<AtomicBool>,
}

impl FileWithPoints {
    fn let_others_go(&self) {
        self.turn.load(Ordering::SeqCst);
    }
}

impl MediaFile for FileWithPoints {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.let_others_go();
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.let_others_go();
        self.inner.write_at(data, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.let_others_go();
        self.inner.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.let_others_go();
        self.inner.allocate(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.let_others_go();
        self.inner.punch(offset, len)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }

    fn identity(&self) -> io::Result<u64> {
        self.inner.identity()
    }

    fn sync(&self) -> io::Result<()> {
        self.let_others_go();
        self.inner.sync()
    }
}
