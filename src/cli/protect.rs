//! `cairnfs protect` and `cairnfs unprotect`: the immutable flag of the root of a subvolume; and why something that is
//! protected was refused.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, XattrFlags};
use rustix::io::Errno;

use super::show;
use crate::error::{Error, Result};
use crate::fuse::DROP_ATTRIBUTE;

pub(super) fn protect(paths: &[PathBuf]) -> Result<()> {
    paths.iter().try_for_each(|path| set(path, true))
}

pub(super) fn unprotect(paths: &[PathBuf]) -> Result<()> {
    paths.iter().try_for_each(|path| set(path, false))
}

fn set(path: &Path, is_protected: bool) -> Result<()> {
    let failed = |error: io::Error| Error::io(show(path).to_string(), error);
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_dir() {
        return Err(Error::Usage(format!("{} is no directory", show(path))));
    }
    let root = File::open(path).map_err(failed)?;
    match is_subvolume(&root, found.ino()) {
        Ok(true) => {}
        Ok(false) => {
            return Err(Error::Usage(format!(
                "{0} is an ordinary directory, and only a subvolume can be protected: `cairnfs clone {0} NEW` makes one of \
                 it, and `cairnfs protect NEW` protects that",
                show(path)
            )));
        }
        Err(Errno::OPNOTSUPP) => {
            return Err(Error::Usage(format!("{} is in no mount of cairnfs", show(path))));
        }
        Err(other) => return Err(failed(other.into())),
    }
    let flags = rustix::fs::ioctl_getflags(&root).map_err(|errno| failed(errno.into()))?;
    let mut wanted = flags;
    wanted.set(IFlags::IMMUTABLE, is_protected);
    rustix::fs::ioctl_setflags(&root, wanted).map_err(|errno| match errno {
        Errno::PERM | Errno::ACCESS => {
            let what = if is_protected { "protect it" } else { "end its protection" };
            Error::io(format!("{}: only root may {what}", show(path)), errno.into())
        }
        other => failed(other.into()),
    })
}

/// Is this inode the root of a subvolume? The answer is asked of any directory of the mount.
fn is_subvolume(opened: &File, ino: u64) -> std::result::Result<bool, Errno> {
    match rustix::fs::fsetxattr(opened, DROP_ATTRIBUTE, format!("?{ino}").as_bytes(), XattrFlags::empty()) {
        // It is one, whether this user may remove it or not.
        Ok(()) | Err(Errno::PERM | Errno::ACCESS) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Why a subvolume that is protected, or whose directory keeps its names, cannot be removed; `None` if it is neither,
/// or if that cannot be seen.
pub(super) fn why_kept(path: &Path) -> Option<String> {
    let flags = |path: &Path| rustix::fs::ioctl_getflags(File::open(path).ok()?).ok();
    if flags(path).is_some_and(|flags| flags.contains(IFlags::IMMUTABLE)) {
        return Some(format!("{0} is protected; `cairnfs unprotect {0}` ends that", show(path)));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let of_parent = flags(parent)?;
    let sign = match () {
        () if of_parent.contains(IFlags::APPEND) => "a",
        () if of_parent.contains(IFlags::IMMUTABLE) => "i",
        () => return None,
    };
    Some(format!("{0} keeps what is in it; `chattr -{sign} {0}` ends that", show(parent)))
}
