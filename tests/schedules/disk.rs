//! The simulated disk with a point for the explorer before each operation on a pack.
//!
//! The database's own file has none: it is read and written inside the database's locks, which the explorer does not
//! know; a switch there would leave another thread waiting outside of its sight, for ever.

use std::io;

use crate::media::sim::SimMedia;
use crate::media::{Media, MediaFile, Space};
use crate::sync::{Arc, AtomicBool, Ordering};

/// A disk whose packs are scheduling points.
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
        if is_pack(path) {
            self.turn.load(Ordering::SeqCst);
        }
    }

    fn file(&self, path: &str, inner: Arc<dyn MediaFile>) -> Arc<dyn MediaFile> {
        if is_pack(path) { Arc::new(PackFile { inner, turn: self.turn.clone() }) } else { inner }
    }
}

fn is_pack(path: &str) -> bool {
    path.starts_with("packs/")
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
struct PackFile {
    inner: Arc<dyn MediaFile>,
    turn: Arc<AtomicBool>,
}

impl PackFile {
    fn let_others_go(&self) {
        self.turn.load(Ordering::SeqCst);
    }
}

impl MediaFile for PackFile {
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
