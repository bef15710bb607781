//! What WHERE means: a path in a mount, or STORE::PATH, a path from the root of a store that is mounted or not.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::inspect::with_close;
use super::show;
use super::target::{ResolvedPath, Target, reach, resolve};
use crate::error::{Error, Result};
use crate::fs::{Fs, FsOptions};
use crate::snapshots::{Answer, Place, Task, perform};

/// Between a store and a path in it.
const SEPARATOR: &[u8] = b"::";

/// A directory of a store, and a way to it.
pub(super) struct Location {
    path: PathBuf,
    target: Target,
    place: Place,
}

impl Location {
    /// Finds what `path` means. `doing` says for others why this process has the store open.
    pub(super) fn find(path: &Path, read_only: bool, doing: &str) -> Result<Self> {
        let (target, place) = match split(path) {
            Some((store, below)) => {
                let below = below.to_str().ok_or_else(|| {
                    Error::Usage(format!("{}: a path behind :: must be text in UTF-8", show(path)))
                })?;
                (reach(store, read_only, doing)?, Place::Path(below.to_owned()))
            }
            None => match resolve(path)? {
                store @ ResolvedPath::Store(_) => (store.reach(read_only, doing)?, Place::Path("/".into())),
                mount => {
                    let found =
                        fs::metadata(path).map_err(|error| Error::io(show(path).to_string(), error))?;
                    (mount.reach(read_only, doing)?, Place::Inode(found.ino()))
                }
            },
        };
        Ok(Self { path: path.to_owned(), target, place })
    }

    /// Has it done by the process that has the store open, or does it.
    pub(super) fn perform(self, task: &Task) -> Result<Answer> {
        let Self { path, target, place } = self;
        let outcome = match target {
            Target::Live(mut client) => client.snapshots(place, task.clone()),
            Target::Opened(store) => with_close(&store, |store| {
                let fs = Fs::new(Arc::clone(store), FsOptions::default())?;
                let answer = perform(&fs, &place, task);
                let ended = fs.shutdown();
                answer.and_then(|answer| ended.map(|()| answer))
            }),
        };
        outcome.map_err(|error| named(&path, error))
    }
}

/// Store and path in STORE::PATH; `None` for a path of the host.
fn split(path: &Path) -> Option<(&Path, &Path)> {
    let bytes = path.as_os_str().as_bytes();
    let at = bytes.windows(SEPARATOR.len()).position(|window| window == SEPARATOR)?;
    // A name may have two colons in it.
    if fs::symlink_metadata(path).is_ok() {
        return None;
    }
    let part = |bytes| Path::new(OsStr::from_bytes(bytes));
    Some((part(&bytes[..at]), part(&bytes[at + SEPARATOR.len()..])))
}

/// A plain refusal with the path that it is about.
fn named(path: &Path, error: Error) -> Error {
    match error {
        Error::Posix(errno) => Error::io(show(path).to_string(), std::io::Error::from_raw_os_error(errno)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_store_is_told_from_one_of_the_host() {
        let tmp = tempfile::tempdir().unwrap();
        let there = tmp.path().join("a::b");
        assert_eq!(split(&there), Some((tmp.path().join("a").as_path(), Path::new("b"))));
        fs::create_dir(&there).unwrap();
        assert_eq!(split(&there), None);
        assert_eq!(split(Path::new("/s::/x/y::z")), Some((Path::new("/s"), Path::new("/x/y::z"))));
        assert_eq!(split(Path::new("/s::")), Some((Path::new("/s"), Path::new(""))));
        assert_eq!(split(Path::new("/s")), None);
    }
}
