//! The only code that touches the host's files.
//!
//! Everything a store keeps goes through [`Media`] and [`MediaFile`]. So a test can control every byte and every sync
//! ([`sim`]), and the rules hold in one place: paths are relative to the store, no symbolic link is ever followed, and
//! only the owner can open new files.
//!
//! What is assumed of the host, and simulated by [`sim`]:
//! * after [`MediaFile::sync`] returned without error, the file's bytes and length survive a power cut;
//! * after [`Media::sync_dir`] returned without error, the directory's names survive a power cut;
//! * what was not synced may be there, partly there or not there, in any combination;
//! * a sync that failed may have dropped the bytes it should have written, and the next sync will not report that.

mod holder;
pub mod host;
mod kind;
mod limits;
pub mod lock;
mod overlay;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use host::HostMedia;
pub use kind::Kind;
pub use limits::{Limit, max_open_files_now, raise};
pub use lock::StoreLock;
pub use overlay::Overlay;

/// The directory of a store. Paths are relative to it, with `/` between names; `""` is the store itself.
pub trait Media: Send + Sync + Debug {
    /// Makes a file that must not exist yet, open for reading and writing.
    fn create(&self, path: &str) -> io::Result<Arc<dyn MediaFile>>;
    /// Opens a regular file that exists.
    fn open(&self, path: &str, writable: bool) -> io::Result<Arc<dyn MediaFile>>;
    /// Whether the name is there, whatever it names.
    fn exists(&self, path: &str) -> io::Result<bool>;
    /// The names in a directory, sorted. A name that is not UTF-8 is none of ours and comes out with replacement
    /// characters.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a directory; an existing one is no error.
    fn mkdir(&self, dir: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Renames a file, replacing what `to` named.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Gives a file a second name, which must not be there yet. Some file systems cannot: see [`has_no_links`].
    fn link(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes the names of a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// How much room the host's file system has.
    fn space(&self) -> io::Result<Space>;
}

/// Makes a file, after removing what an interrupted attempt left under the name.
pub fn recreate(media: &dyn Media, path: &str) -> io::Result<Arc<dyn MediaFile>> {
    if media.exists(path)? {
        media.remove(path)?;
    }
    media.create(path)
}

/// Did a link fail because the host's file system does not support links, or does not allow one to this file?
pub fn has_no_links(error: &io::Error) -> bool {
    let none = [libc::EPERM, libc::EOPNOTSUPP, libc::ENOSYS, libc::EMLINK, libc::EINVAL];
    error.raw_os_error().is_some_and(|errno| none.contains(&errno))
}

/// Replaces the content of a file in the store's own directory. The new content is durable when this returns; at every
/// moment either the old or the new content is there, whole.
pub fn replace(media: &dyn Media, path: &str, content: &[u8]) -> io::Result<()> {
    let new = format!("{path}.new");
    let file = recreate(media, &new)?;
    file.write_at(content, 0)?;
    file.sync()?;
    media.rename(&new, path)?;
    media.sync_dir("")
}

/// Opens a file for writing, or makes it.
pub fn open_or_create(media: &dyn Media, path: &str) -> io::Result<Arc<dyn MediaFile>> {
    loop {
        match media.open(path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match media.create(path) {
                // Another process has made it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made,
            },
            opened => return opened,
        }
    }
}

/// All bytes of a file, but at most the first `most`.
pub fn read_whole(media: &dyn Media, path: &str, most: u64) -> io::Result<Vec<u8>> {
    let file = media.open(path, false)?;
    let mut bytes = vec![0; file.len()?.min(most) as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// An open file of the store.
pub trait MediaFile: Send + Sync + Debug {
    /// Fills the buffer from `offset`; `UnexpectedEof` where the file is too short.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset`; after an error some of it may be there.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the length is zero.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file off or extends it with zeros that take no space.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Allocates the space of a range on the disk, keeps its bytes, and extends the file to the end of the range. The
    /// caller is the only writer of the range meanwhile.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Turns a range into zeros and gives its whole blocks back to the host. False if the host cannot do that; then
    /// nothing has changed. The length stays.
    fn punch(&self, offset: u64, len: u64) -> io::Result<bool>;
    /// The bytes the file takes on the host's disk.
    fn allocated(&self) -> io::Result<u64>;
    /// A number that identifies the file on its file system and never changes; a copy has another one. Never 0.
    fn identity(&self) -> io::Result<u64>;
    /// Makes the bytes and the length durable. A failure is final (I8): the bytes may be gone, and no later sync will
    /// report it.
    fn sync(&self) -> io::Result<()>;
}

/// How much room the host's file system has.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Space {
    /// The size of a block in bytes.
    pub block_size: u64,
    /// All bytes of the file system.
    pub total: u64,
    /// Bytes not in use.
    pub free: u64,
    /// Bytes an unprivileged writer can still take.
    pub available: u64,
    /// Inodes of the file system; 0 where it makes them as needed.
    pub files: u64,
    /// Inodes not in use.
    pub files_free: u64,
    /// The host may refuse to store bytes long before these figures show it, for instance because of a quota.
    pub hidden_limit: bool,
}
