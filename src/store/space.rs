//! The free bytes of the disk: how many may be promised, and the reserve that is given up when there are none.
//!
//! Keeps true: a write is acknowledged only if the host has room for it beside everything acknowledged before, so that
//! ENOSPC comes at write time. If other programs fill the disk meanwhile, the reserve makes room for acknowledged
//! writes. With the reserve, a store can also be opened, and deletes and cycles can run, on a disk with 0 bytes free.
//! If the host has no free inode, the reserve's file provides one.
//!
//! A host may refuse long before its figures say so: a quota shows in none of them. There a promise is *backed*: as
//! many bytes are really taken, behind the reserve in its file, and what cannot be backed is not promised. They are
//! given back when the host first refuses what was promised, which then finds its place: a record of a region, or
//! whatever the database writes ([`given_room`](super::given_room)), also if they were taken again since somebody made
//! room for it.

use std::io;

use crate::error::{Error, Result};
use crate::media::{Media, MediaFile, open_or_create};
use crate::sabotage::{Protection, out};
use crate::sync::{Arc, AtomicBool, AtomicI64, Mutex, Ordering};

use super::config::RESERVE_FILE;

/// Kept free beyond all promises, for the metadata engine.
const MARGIN: u64 = 8 << 20;
/// Bytes that are promised at most between two checks of the host.
const STEP: u64 = 32 << 20;
/// The reserve takes an inode again only if the host has more free ones than this.
const INODES_LEFT: u64 = 16;

/// Bytes of rows that a cycle may need at a time.
const CYCLE_ROWS: u64 = 16 << 20;

/// Accounts for the space of one store.
#[derive(Debug)]
pub struct SpaceManager {
    media: Arc<dyn Media>,
    reserve: u64,
    /// Bytes that may be promised before the host is asked again.
    budget: AtomicI64,
    /// The reserve was given up and is not back.
    without_reserve: AtomicBool,
    /// Promises are backed: the host's figures do not show how much space this store has.
    backs: AtomicBool,
    /// Bytes of the reserve's file after the reserve. Locked while that file is made, changed or removed.
    backing: Mutex<u64>,
}

fn can_back() -> bool {
    !out(Protection::PromisesAreBacked)
}

/// Taken out: nothing is given up for what the log has.
fn is_kept_from_log() -> bool {
    out(Protection::ReserveForLog)
}

impl SpaceManager {
    /// For a store on `media` whose reserve has this many bytes.
    pub fn new(media: Arc<dyn Media>, reserve: u64) -> Self {
        let has_reserve = media.exists(RESERVE_FILE).unwrap_or(false);
        let hidden = media.space().is_ok_and(|space| space.hidden_limit);
        Self {
            media,
            reserve,
            budget: AtomicI64::new(0),
            without_reserve: AtomicBool::new(!has_reserve),
            backs: AtomicBool::new(hidden && can_back()),
            backing: Mutex::new(0),
        }
    }

    /// Promises `bytes`, or refuses with ENOSPC. `promised` are the bytes of earlier promises that are not written yet.
    pub fn claim(&self, bytes: u64, promised: u64) -> Result<()> {
        if self.budget.fetch_sub(bytes as i64, Ordering::Relaxed) >= bytes as i64 {
            return Ok(());
        }
        let space = self.media.space().map_err(|error| Error::io("statvfs of the store", error))?;
        // The space of a reserve that was given up is not for new data: it is for deletes, cycles and promised bytes.
        let missing = if self.without_reserve.load(Ordering::Acquire) { self.reserve } else { 0 };
        let needed = promised + bytes + MARGIN + missing;
        // No more than the reserve covers if others fill the disk meanwhile.
        let budget =
            (space.available.saturating_sub(needed) / 2).min(STEP).min((self.reserve / 4).max(256 << 10));
        // Promised bytes go into packs, and a pack takes an inode.
        let full = space.available < needed || space.files > 0 && space.files_free == 0;
        if full || self.backs.load(Ordering::Acquire) && !self.allocate_backing(promised + bytes + budget) {
            self.budget.store(0, Ordering::Relaxed);
            return Err(Error::Posix(libc::ENOSPC));
        }
        self.budget.store(budget as i64, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the reserve up if the host has too little room for `rows` bytes of metadata.
    pub fn prepare(&self, rows: u64) {
        // A copy-on-write B-tree needs a multiple of the bytes that are added.
        let needed = rows * 4 + MARGIN / 2;
        let is_short = || {
            self.media.space().is_ok_and(|space| space.available < needed)
                || self.backs.load(Ordering::Acquire) && !self.could_take(needed)
        };
        // First the backing of promises is freed, since the promised bytes are written now, and then the reserve.
        if is_short() && self.give_up() && is_short() {
            self.give_up();
        }
    }

    /// The same for what is folded, so that the log has room again.
    pub fn prepare_fold(&self, rows: u64) {
        if !is_kept_from_log() {
            self.prepare(rows);
        }
    }

    /// The same as [`Self::give_up_reserve`] for records that the log carries, which were acknowledged.
    pub fn give_up_for_replay(&self) -> bool {
        !is_kept_from_log() && self.give_up_reserve()
    }

    /// Makes room for the rows of a cycle.
    pub fn make_room(&self) {
        self.prepare(CYCLE_ROWS);
    }

    /// Frees the reserve, or the backing of promises; true if that freed anything.
    pub fn give_up_reserve(&self) -> bool {
        if self.media.space().is_ok_and(|space| space.available > self.reserve + MARGIN && has_inodes(&space))
        {
            // The host has refused although its figures show free space.
            self.backs.store(can_back(), Ordering::Release);
        }
        self.give_up()
    }

    fn give_up(&self) -> bool {
        let mut backing = self.backing.lock();
        self.budget.store(0, Ordering::Relaxed);
        if *backing > 0 {
            *backing = 0;
            return self.reserve_file().and_then(|file| file.set_len(self.reserve)).is_ok();
        }
        if self.without_reserve.swap(true, Ordering::AcqRel) {
            return false;
        }
        tracing::warn!("the disk is full; the reserve of {} bytes is given up", self.reserve);
        // Some hosts free the bytes of a removed file later, but those of a truncated file at once.
        let _ = self.reserve_file().and_then(|file| file.set_len(0).and_then(|()| file.sync()));
        self.media.remove(RESERVE_FILE).is_ok()
    }

    /// Called after a commit: a good moment to get the reserve back.
    pub fn committed(&self) {
        if self.without_reserve.load(Ordering::Acquire) {
            self.restore_reserve();
        }
    }

    /// Makes the reserve if it is missing and the host has twice its size free. A file with the right length but
    /// without allocated bytes, such as a sparse copy, gets its bytes.
    pub fn restore_reserve(&self) {
        let backing = self.backing.lock();
        let (found, room) = (self.reserve_file(), self.media.space());
        if let Ok(file) = &found {
            let taken = file.allocated().unwrap_or(0);
            let whole = taken >= self.reserve || self.reserve == 0;
            if whole || self.take(file).is_ok() {
                // The backing of the promises of a killed process.
                if file.len().is_ok_and(|len| len > self.reserve + *backing) {
                    let _ = file.set_len(self.reserve + *backing);
                }
                if !whole && file.allocated().is_ok_and(|now| now > taken) {
                    tracing::info!(
                        "the reserve had no bytes of its own (the store was copied?) and has them now"
                    );
                }
                self.without_reserve.store(false, Ordering::Release);
                return;
            }
            if !self.without_reserve.swap(true, Ordering::AcqRel) {
                tracing::warn!("the reserve has no bytes of its own, and there is no room for them");
            }
            return;
        }
        let has_room =
            |space: &crate::media::Space| space.available > self.reserve * 2 + MARGIN && has_inodes(space);
        if !room.is_ok_and(|space| has_room(&space)) {
            return;
        }
        let made = self.media.create(RESERVE_FILE).and_then(|file| self.take(&file));
        match made {
            Ok(()) => self.without_reserve.store(false, Ordering::Release),
            Err(error) => {
                // With a quota this is so after each commit until something was deleted.
                if !self.backs.load(Ordering::Acquire) {
                    tracing::warn!("the reserve could not be claimed again: {error}");
                }
                let _ = self.media.remove(RESERVE_FILE);
            }
        }
    }

    /// Allocates the bytes of the reserve. If the host's figures cannot be trusted, it first tries to allocate twice as
    /// many.
    fn take(&self, file: &Arc<dyn MediaFile>) -> io::Result<()> {
        if !self.backs.load(Ordering::Acquire) {
            return file.allocate(0, self.reserve);
        }
        file.allocate(0, self.reserve * 2 + MARGIN).and_then(|()| file.set_len(self.reserve))
    }

    fn reserve_file(&self) -> io::Result<Arc<dyn MediaFile>> {
        self.media.open(RESERVE_FILE, true)
    }

    /// Makes sure that `bytes` and the margin are really allocated; false if the host refuses.
    fn allocate_backing(&self, bytes: u64) -> bool {
        let mut backing = self.backing.lock();
        let wanted = bytes + MARGIN;
        if (wanted..wanted + STEP).contains(&*backing) {
            return true;
        }
        let (have, want) = (self.reserve + *backing, self.reserve + wanted);
        let changed = open_or_create(self.media.as_ref(), RESERVE_FILE).and_then(|file| {
            // Without a reserve, the file has no bytes yet.
            let from = if self.without_reserve.load(Ordering::Acquire) { 0 } else { have.min(want) };
            let taken = file.allocate(from, want - from).and_then(|()| file.set_len(want));
            // Some hosts allocate a part of a refused range.
            taken.inspect_err(|_| drop(file.set_len(have)))
        });
        match changed {
            Ok(()) => {
                *backing = wanted;
                self.without_reserve.store(false, Ordering::Release);
            }
            Err(_) if self.without_reserve.load(Ordering::Acquire) => {
                let _ = self.media.remove(RESERVE_FILE);
            }
            Err(_) => {}
        }
        changed.is_ok()
    }

    /// Whether the host would give this many bytes now.
    fn could_take(&self, bytes: u64) -> bool {
        let backing = self.backing.lock();
        if self.without_reserve.load(Ordering::Acquire) {
            return false;
        }
        let have = self.reserve + *backing;
        let Ok(file) = self.reserve_file() else { return false };
        let could = file.allocate(have, bytes).is_ok();
        file.set_len(have).is_ok() && could
    }
}

fn has_inodes(space: &crate::media::Space) -> bool {
    space.files == 0 || space.files_free > INODES_LEFT
}
