//! Packs as an object store would have them, in memory and for tests: put once and whole, read by ranges, no holes.
//!
//! A pack is held back until it is synced, which puts it, and is read from there meanwhile. Whoever would sync a pack that
//! is not sealed, or put two contents under one name, is refused.

use std::collections::BTreeMap;
use std::io;

use super::{NewPack, PackInfo, PackStore, StoredPack};
use crate::error::Result;
use crate::pack::PackId;
use crate::sync::{Arc, Mutex};

/// Packs in memory. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryPacks {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Put: there after a power cut.
    objects: BTreeMap<PackId, Arc<[u8]>>,
    /// Begun and not put yet.
    held_back: BTreeMap<PackId, Held>,
    /// Every put fails.
    refuses: bool,
}

#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    is_sealed: bool,
}

impl MemoryPacks {
    /// What is there after a power cut: another store, with what was put.
    pub fn after_power_cut(&self) -> Self {
        let objects = self.inner.lock().objects.clone();
        Self { inner: Arc::new(Mutex::new(Inner { objects, ..Inner::default() })) }
    }

    /// From now on every put fails, or none does.
    pub fn refuse_puts(&self, refuses: bool) {
        self.inner.lock().refuses = refuses;
    }

    /// The bytes of all objects.
    pub fn used(&self) -> u64 {
        self.inner.lock().objects.values().map(|object| object.len() as u64).sum()
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl PackStore for MemoryPacks {
    fn create(&self, pack: PackId) -> io::Result<Option<Arc<dyn NewPack>>> {
        let mut inner = self.inner.lock();
        if inner.objects.contains_key(&pack) || inner.held_back.contains_key(&pack) {
            return Ok(None);
        }
        inner.held_back.insert(pack, Held::default());
        Ok(Some(Arc::new(Handle { packs: self.clone(), pack })))
    }

    fn reopen(&self, _: PackId) -> io::Result<Arc<dyn NewPack>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open(&self, pack: PackId) -> io::Result<Arc<dyn StoredPack>> {
        self.info(pack)?;
        Ok(Arc::new(Handle { packs: self.clone(), pack }))
    }

    fn list(&self) -> Result<Vec<PackId>> {
        Ok(self.inner.lock().objects.keys().copied().collect())
    }

    fn info(&self, pack: PackId) -> io::Result<PackInfo> {
        let len = self.inner.lock().with(pack, |bytes| bytes.len() as u64)?;
        Ok(PackInfo { id: pack, len, taken: len })
    }

    fn sync_names(&self) -> Result<()> {
        Ok(())
    }

    fn grows_after_sync(&self) -> bool {
        false
    }

    fn remove(&self, pack: PackId) -> io::Result<()> {
        self.inner.lock().objects.remove(&pack).map(drop).ok_or_else(not_found)
    }

    fn can_punch(&self) -> bool {
        false
    }

    fn punch(&self, _: PackId, _: u64, _: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn name(&self, pack: PackId) -> String {
        format!("object {pack}")
    }
}

impl Inner {
    fn with<T>(&self, pack: PackId, use_them: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let object = self.objects.get(&pack).map(AsRef::as_ref);
        let held = || self.held_back.get(&pack).map(|held| held.bytes.as_slice());
        object.or_else(held).map(use_them).ok_or_else(not_found)
    }

    fn held(&mut self, pack: PackId) -> io::Result<&mut Held> {
        let held = self.held_back.get_mut(&pack).filter(|held| !held.is_sealed);
        held.ok_or_else(|| io::Error::other(format!("pack {pack} was sealed and does not grow")))
    }
}

/// A pack by its name.
#[derive(Debug)]
struct Handle {
    packs: MemoryPacks,
    pack: PackId,
}

impl NewPack for Handle {
    fn append(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.packs.inner.lock();
        let bytes = &mut inner.held(self.pack)?.bytes;
        if bytes.len() as u64 != offset {
            return Err(io::Error::other(format!("{} bytes were appended, not {offset}", bytes.len())));
        }
        bytes.extend_from_slice(data);
        Ok(())
    }

    fn seal(&self, offset: u64, footer: &[u8]) -> io::Result<()> {
        self.append(offset, footer)?;
        self.packs.inner.lock().held(self.pack)?.is_sealed = true;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.packs.inner.lock();
        if inner.refuses {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        match inner.held_back.remove(&self.pack) {
            Some(held) if held.is_sealed => {
                inner.objects.insert(self.pack, held.bytes.into());
                Ok(())
            }
            _ => Err(io::Error::other(format!("pack {} is not sealed: it would be put in parts", self.pack))),
        }
    }
}

impl StoredPack for Handle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.packs.inner.lock();
        inner.with(self.pack, |bytes| {
            let from =
                usize::try_from(offset).ok().and_then(|from| bytes.get(from..from.checked_add(buf.len())?));
            buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })?
    }

    fn size(&self) -> io::Result<u64> {
        self.packs.info(self.pack).map(|info| info.len)
    }
}
