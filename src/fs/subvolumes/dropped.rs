//! What is known of subvolumes that were dropped, and of clones that are about to be made, while the store is open.

use std::collections::HashMap;

use crate::meta::versions::reap::{Audit, Reap};
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

/// Who may make what of which directory: kept until it is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wish {
    /// The directory that gets the name.
    pub parent: u64,
    /// The name.
    pub name: Vec<u8>,
    /// Who has asked.
    pub uid: u32,
}

/// Wishes that are kept at a time; whoever asks and never comes back costs no more. Beyond them the oldest one goes of
/// whoever has most, so that nobody can keep the others from cloning.
const WISHES: usize = 1024;

/// What was removed and not yet reaped, and what may be.
#[derive(Debug, Default)]
pub struct Dropped {
    /// The dropped subvolumes; the batch that was open when nobody remembered an inode of them any more.
    numbers: Mutex<HashMap<u64, Option<u64>>>,
    /// The names that they had, as far as this opening has seen them go.
    names: Mutex<HashMap<u64, Vec<u8>>>,
    /// Those of which the kernel still has cached names.
    untold: Mutex<Vec<u64>>,
    /// False as long as nothing was dropped, so that asking costs one load.
    any: AtomicBool,
    /// Roots that the next rmdir(2) of a user may remove with all that is below, and of which user.
    allowed: Mutex<HashMap<u64, u32>>,
    /// What the next mkdir(2) of a name makes a clone of, the oldest wish first.
    wishes: Mutex<Vec<(Wish, u64)>>,
    /// Held over the swap of a clone, and from before the join of whoever drops or moves a subvolume until it leaves.
    /// Lock order: after the locks of inodes, before membership.
    changing: Mutex<()>,
    /// The reap that goes on, and of which subvolumes.
    pub reap: Mutex<Option<(Vec<u64>, Reap)>>,
    /// The audit that goes on, if one is wanted.
    pub audit: Mutex<Option<Audit>>,
}

impl Dropped {
    /// A subvolume was dropped.
    pub fn insert(&self, number: u64) {
        self.numbers.lock().insert(number, None);
        self.any.store(true, Ordering::Release);
    }

    /// The name that a dropped subvolume had.
    pub fn note_name(&self, number: u64, name: Vec<u8>) {
        self.names.lock().insert(number, name);
    }

    /// The name that it had, if that is known.
    pub fn name(&self, number: u64) -> Option<Vec<u8>> {
        self.names.lock().get(&number).cloned()
    }

    /// The kernel has to be told that nothing of a subvolume has a name any more.
    pub fn tell(&self, number: u64) {
        self.untold.lock().push(number);
    }

    /// Those of which it has to be told.
    pub fn take_untold(&self) -> Vec<u64> {
        if self.any.load(Ordering::Acquire) { std::mem::take(&mut self.untold.lock()) } else { Vec::new() }
    }

    /// Was any since the opening?
    pub fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Was it?
    pub fn has(&self, number: u64) -> bool {
        number > 0 && self.any.load(Ordering::Acquire) && self.numbers.lock().contains_key(&number)
    }

    /// All of them, and since which batch nobody remembers them.
    pub fn all(&self) -> Vec<(u64, Option<u64>)> {
        self.numbers.lock().iter().map(|(number, since)| (*number, *since)).collect()
    }

    /// Notes the batch that is open while nobody remembers an inode of it, if none was noted before.
    pub fn forgotten(&self, number: u64, batch: u64) {
        if let Some(since) = self.numbers.lock().get_mut(&number) {
            since.get_or_insert(batch);
        }
    }

    /// Somebody remembers an inode of it, perhaps again: the batch that counts is one after the next FORGET.
    pub fn used(&self, number: u64) {
        if let Some(since) = self.numbers.lock().get_mut(&number) {
            *since = None;
        }
    }

    /// It is reaped.
    pub fn remove(&self, number: u64) {
        self.numbers.lock().remove(&number);
        self.names.lock().remove(&number);
    }

    /// Excludes clones, drops and moves of subvolumes.
    pub fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    /// The next removal of this root by this user is to take everything below with it.
    pub fn allow(&self, root: u64, uid: u32) {
        self.allowed.lock().insert(root, uid);
    }

    /// Takes that back.
    pub fn take_allowed(&self, root: u64) {
        self.allowed.lock().remove(&root);
    }

    /// Is it so?
    pub fn is_allowed(&self, root: u64, uid: u32) -> bool {
        self.allowed.lock().get(&root) == Some(&uid)
    }

    /// The next mkdir(2) of this name by this user is to make a clone of `source`.
    pub fn wish(&self, wish: Wish, source: u64) {
        let mut wishes = self.wishes.lock();
        wishes.retain(|(other, _)| *other != wish);
        if wishes.len() >= WISHES {
            let mut of_users: HashMap<u32, usize> = HashMap::new();
            wishes.iter().for_each(|(wish, _)| *of_users.entry(wish.uid).or_default() += 1);
            let most = of_users.into_iter().max_by_key(|(_, count)| *count).map(|(uid, _)| uid);
            if let Some(oldest) = wishes.iter().position(|(wish, _)| Some(wish.uid) == most) {
                wishes.remove(oldest);
            }
        }
        wishes.push((wish, source));
    }

    /// The source of a wish, which ends with that. `wish` is asked for only if there are any.
    pub fn take_wish(&self, wish: impl FnOnce() -> Wish) -> Option<u64> {
        let mut wishes = self.wishes.lock();
        if wishes.is_empty() {
            return None;
        }
        let wish = wish();
        let at = wishes.iter().position(|(other, _)| *other == wish)?;
        Some(wishes.remove(at).1)
    }
}
