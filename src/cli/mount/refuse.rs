//! The checks before anything is opened. Each refusal is a sentence that says what to do.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::show;
use super::super::target::ASK_TIMEOUT;
use super::super::umount::still_open;
use crate::control::{Client, is_unresponsive};
use crate::error::{Error, Result};
use crate::fuse::{Entry, MountAnswer, MountTable, UnmountMode, ask, detach, is_alive};
use crate::store::{StoreConfig, open_dir};

/// A store and a mount point that fit together; absolute and without symbolic links.
pub(super) struct Places {
    pub store: PathBuf,
    pub mountpoint: PathBuf,
}

pub(super) fn checked(store: &Path, mountpoint: &Path) -> Result<Places> {
    // It reports itself if the directory does not exist or is not a store.
    let dir = open_dir(store)?;
    StoreConfig::read(&dir)?;
    if let Some(why) = dir.kind().refusal() {
        return Err(Error::Environment(format!("{} {why}", show(store))));
    }
    let store = fs::canonicalize(store).map_err(|e| Error::io(format!("resolving {}", show(store)), e))?;
    let mountpoint = usable_mountpoint(mountpoint)?;
    refuse_self(&store, &mountpoint)?;
    refuse_mounted(&store, &mountpoint)?;
    Ok(Places { store, mountpoint })
}

/// The mount point, as a directory that answers. A stale mount of ours, whose daemon is gone, is removed first.
fn usable_mountpoint(path: &Path) -> Result<PathBuf> {
    let real = loop {
        let found = ask(path, ASK_TIMEOUT)?.ok_or_else(|| {
            Error::Busy(format!(
                "{0} is a mount whose daemon does not answer; `cairnfs umount -f {0}` unmounts it by force",
                show(path)
            ))
        })?;
        let real = found.real();
        match found.answer {
            MountAnswer::NotThere(libc::ENOENT) => {
                return Err(Error::Usage(format!(
                    "the mount point {0} does not exist; make it with `mkdir {0}`",
                    show(path)
                )));
            }
            MountAnswer::NotThere(errno) => return Err(looked_at(path, io::Error::from_raw_os_error(errno))),
            // There may be several, one over the other.
            MountAnswer::Dead
                if MountTable::read()?.by_id(found.mount).is_some_and(|m| m.mountpoint == real) =>
            {
                detach(&real, UnmountMode::Lazy)?;
                eprintln!("cairnfs: {} was a mount whose daemon is gone; it was unmounted", show(&real));
            }
            _ => break real,
        }
    };
    if !fs::metadata(&real).map_err(|e| looked_at(path, e))?.is_dir() {
        return Err(Error::Usage(format!("the mount point {} is not a directory", show(path))));
    }
    Ok(real)
}

fn looked_at(path: &Path, error: io::Error) -> Error {
    Error::io(format!("looking at the mount point {}", show(path)), error)
}

/// Refuses a store below its own mount: the daemon would wait for itself.
///
/// Directories are compared by device and inode and not by their paths, so that a bind mount cannot hide the case.
fn refuse_self(store: &Path, mountpoint: &Path) -> Result<()> {
    let relation = if identity(store)? == identity(mountpoint)? {
        "is the store itself"
    } else if is_below(mountpoint, store)? {
        "is inside the store"
    } else if is_below(store, mountpoint)? {
        "holds the store"
    } else {
        return Ok(());
    };
    Err(Error::Usage(format!(
        "the mount point {} {relation}: a mount of a store over itself is refused; choose another mount point",
        show(mountpoint)
    )))
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    let meta = fs::metadata(path).map_err(|e| Error::io(format!("looking at {}", show(path)), e))?;
    Ok((meta.dev(), meta.ino()))
}

fn is_below(path: &Path, dir: &Path) -> Result<bool> {
    let wanted = identity(dir)?;
    // A parent that cannot be read cannot be the directory in question.
    Ok(path.ancestors().skip(1).any(|parent| identity(parent).is_ok_and(|found| found == wanted)))
}

fn refuse_mounted(store: &Path, mountpoint: &Path) -> Result<()> {
    let table = MountTable::read()?;
    if let Some(entry) = table.at(mountpoint).filter(|m| m.is_ours()) {
        return Err(Error::Busy(if entry.source == store {
            format!("{} is mounted at {} already", show(store), show(mountpoint))
        } else {
            format!(
                "{} is mounted at {} already; unmount it first, or choose another mount point",
                show(&entry.source),
                show(mountpoint)
            )
        }));
    }
    refuse_open(store, &table)
}

/// Refuses a store that a running process has open. If nobody listens, that process is dead or about to end, and the
/// lock decides.
fn refuse_open(store: &Path, table: &MountTable) -> Result<()> {
    let silent = |error: Error| {
        let text = format!("the store {} is in use: {error}", show(store));
        if is_unresponsive(&error) { Error::Busy(text) } else { error }
    };
    let Some(mut client) = Client::connect(store).map_err(silent)? else { return Ok(()) };
    let mounted = client.presence().mount;
    let of_it = |entry: &&Entry| Some((entry.major, entry.minor)) == mounted;
    if let Some(entry) = table.ours().find(of_it) {
        return Err(Error::Busy(format!(
            "{} is mounted at {} already; a store can be mounted once (`mount --bind` shows it in a second place)",
            show(store),
            show(&entry.mountpoint)
        )));
    }
    // It is still used, but not visible here.
    let place = mounted.map(|(major, minor)| Entry::of_device(major, minor));
    if place.as_ref().is_some_and(|place| is_alive(place) == Some(true)) && client.hello(None)?.serving {
        return Err(Error::Busy(still_open(store, client.presence(), place.as_ref())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dirs {
        _tmp: tempfile::TempDir,
        top: PathBuf,
        store: PathBuf,
        mountpoint: PathBuf,
    }

    fn dirs() -> Dirs {
        let tmp = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(tmp.path()).unwrap();
        let (store, mountpoint) = (top.join("store"), top.join("mnt"));
        fs::create_dir_all(store.join("packs")).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        Dirs { _tmp: tmp, top, store, mountpoint }
    }

    #[test]
    fn a_mount_over_itself_is_refused() {
        let d = dirs();
        refuse_self(&d.store, &d.mountpoint).unwrap();
        for (mountpoint, said) in [
            (d.store.clone(), "is the store itself"),
            (d.store.join("packs"), "is inside the store"),
            (d.top.clone(), "holds the store"),
            (PathBuf::from("/"), "holds the store"),
        ] {
            let error = refuse_self(&d.store, &mountpoint).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn a_mount_point_must_be_a_directory_that_is_there() {
        let d = dirs();
        let real = usable_mountpoint(&d.mountpoint).unwrap();
        assert_eq!(real, d.mountpoint);
        let error = usable_mountpoint(&d.top.join("none")).unwrap_err();
        assert!(error.to_string().contains("make it with `mkdir"), "{error}");
        fs::write(d.top.join("file"), "").unwrap();
        let error = usable_mountpoint(&d.top.join("file")).unwrap_err();
        assert!(error.to_string().contains("not a directory"), "{error}");
    }

    #[test]
    fn what_is_no_store_has_exit_code_3() {
        let d = dirs();
        let refused = |store: &Path| checked(store, &d.mountpoint).err().unwrap();
        assert_eq!(refused(&d.store).exit_code(), 3);
        assert_eq!(refused(&d.top.join("none")).exit_code(), 3);
    }
}
