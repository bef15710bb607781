//! The disk's free bytes: what may be promised, and the reserve that is given up when there are none.
//!
//! Keeps true: a write is acknowledged only if the host has room for it beside everything acknowledged before, so that
//! ENOSPC is told at write time; should others fill the disk meanwhile, the reserve takes what was acknowledged. The
//! reserve also lets deletes and cycles run on a disk with 0 bytes free.

use crate::error::{Error, Result};
use crate::media::Media;
use crate::sync::{Arc, AtomicBool, AtomicI64, Mutex, Ordering};

use super::config::RESERVE_FILE;

/// Kept free beyond all promises: the metadata engine's own needs.
const MARGIN: u64 = 8 << 20;
/// Promised at most between two looks at the host.
const STEP: u64 = 32 << 20;

/// Keeps account of the space of one store.
#[derive(Debug)]
pub(super) struct SpaceKeeper {
    media: Arc<dyn Media>,
    reserve: u64,
    /// Bytes that may be promised before the host is asked again.
    budget: AtomicI64,
    /// The reserve was given up and is not back.
    without_reserve: AtomicBool,
    /// Held while the reserve's file is made or removed.
    reserve_file: Mutex<()>,
}

impl SpaceKeeper {
    pub fn new(media: Arc<dyn Media>, reserve: u64) -> Self {
        Self {
            media,
            reserve,
            budget: AtomicI64::new(0),
            without_reserve: AtomicBool::new(true),
            reserve_file: Mutex::new(()),
        }
    }

    /// Promises `bytes`, or refuses with ENOSPC. `promised` is what earlier promises still have to take.
    pub fn claim(&self, bytes: u64, promised: u64) -> Result<()> {
        if self.budget.fetch_sub(bytes as i64, Ordering::Relaxed) >= bytes as i64 {
            return Ok(());
        }
        let space = self.media.space().map_err(|error| Error::io("statvfs of the store", error))?;
        // A reserve that was given up is not room for new data: it is for deletes, cycles and what was promised.
        let missing = if self.without_reserve.load(Ordering::Acquire) { self.reserve } else { 0 };
        let needed = promised + bytes + MARGIN + missing;
        if space.available < needed {
            self.budget.store(0, Ordering::Relaxed);
            return Err(Error::Posix(libc::ENOSPC));
        }
        let spare = (space.available - needed) / 2;
        // No more than the reserve could make good, should others take the room meanwhile.
        self.budget.store(spare.min(STEP).min((self.reserve / 4).max(256 << 10)) as i64, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the reserve up if the host has too little room for `rows` bytes of metadata.
    pub fn prepare(&self, rows: u64) {
        // A B-tree that is copied on write needs a multiple of what is put in.
        let needed = rows * 4 + MARGIN / 2;
        if self.media.space().is_ok_and(|space| space.available < needed) {
            self.give_up_reserve();
        }
    }

    /// Frees the reserve; true if that gave anything.
    pub fn give_up_reserve(&self) -> bool {
        let _held = self.reserve_file.lock();
        if self.without_reserve.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.budget.store(0, Ordering::Relaxed);
        tracing::warn!("the disk is full; the reserve of {} bytes is given up", self.reserve);
        self.media.remove(RESERVE_FILE).is_ok()
    }

    /// Something was committed: a good moment to get the reserve back.
    pub fn committed(&self) {
        if self.without_reserve.load(Ordering::Acquire) {
            self.restore_reserve();
        }
    }

    /// Claims the reserve if it is missing and the host has twice its size.
    pub fn restore_reserve(&self) {
        let _held = self.reserve_file.lock();
        if self.media.exists(RESERVE_FILE).unwrap_or(false) {
            self.without_reserve.store(false, Ordering::Release);
            return;
        }
        if !self.media.space().is_ok_and(|space| space.available > self.reserve * 2 + MARGIN) {
            return;
        }
        let made = self.media.create(RESERVE_FILE).and_then(|file| file.allocate(0, self.reserve));
        match made {
            Ok(()) => self.without_reserve.store(false, Ordering::Release),
            Err(error) => {
                tracing::warn!("the reserve could not be claimed again: {error}");
                let _ = self.media.remove(RESERVE_FILE);
            }
        }
    }
}
