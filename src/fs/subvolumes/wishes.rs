//! What the next mkdir(2) and rmdir(2) of a name are to do to a subvolume, as their callers have said before.

use std::collections::HashMap;

use crate::sync::Mutex;

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

/// What a clone is made of, and whether it is protected from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The directory that is cloned.
    pub ino: u64,
    /// Nothing in the clone is to change.
    pub read_only: bool,
}

/// Wishes that are kept at a time; whoever asks and never comes back costs no more. Beyond them the oldest one goes of
/// whoever has most, so that nobody can keep the others from cloning.
const WISHES: usize = 1024;

/// What was asked for and not done yet.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Roots that the next rmdir(2) of a user may remove with all that is below, and of which user.
    allowed: Mutex<HashMap<u64, u32>>,
    /// What the next mkdir(2) of a name makes a clone of, the oldest wish first.
    clones: Mutex<Vec<(Wish, Source)>>,
}

impl Wishes {
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
    pub fn wish(&self, wish: Wish, source: Source) {
        let mut wishes = self.clones.lock();
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
    pub fn take_wish(&self, wish: impl FnOnce() -> Wish) -> Option<Source> {
        let mut wishes = self.clones.lock();
        if wishes.is_empty() {
            return None;
        }
        let wish = wish();
        let at = wishes.iter().position(|(other, _)| *other == wish)?;
        Some(wishes.remove(at).1)
    }
}
