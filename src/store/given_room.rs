//! A file that gets the disk's last bytes.
//!
//! Keeps true: a change of the file that the host refuses for want of room is made once more for as long as something
//! can be given up for it. The database's file is one: a change of it that fails is final, and its last sync may come
//! long after somebody saw to it that there is room. Meanwhile others may have taken that, be it only for promises that
//! they back.

use std::io;

use crate::media::MediaFile;
use crate::sabotage::{Protection, out};
use crate::sync::Arc;

use super::space::SpaceManager;

/// A file for which what backs promises is given up, and then the reserve.
#[derive(Debug)]
pub struct GivenRoom {
    file: Arc<dyn MediaFile>,
    space: Arc<SpaceManager>,
}

impl GivenRoom {
    /// `file`, and what is given up for it.
    pub fn new(file: Arc<dyn MediaFile>, space: Arc<SpaceManager>) -> Self {
        Self { file, space }
    }

    fn insist(&self, change: impl Fn() -> io::Result<()>) -> io::Result<()> {
        loop {
            match change() {
                Err(error) if is_full(&error) && may_give_up() && self.space.give_up_reserve() => {}
                other => return other,
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn may_give_up() -> bool {
    !out(Protection::ReserveForDatabase)
}

impl MediaFile for GivenRoom {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.insist(|| self.file.write_at(data, offset))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.insist(|| self.file.set_len(len))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.insist(|| self.file.allocate(offset, len))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.file.punch(offset, len)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    fn identity(&self) -> io::Result<u64> {
        self.file.identity()
    }

    /// Not insisted on: after a sync that failed, the next one would not tell (I8).
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}
