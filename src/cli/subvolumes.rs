//! `cairnfs clone` and `cairnfs rm`.
//!
//! Both say what is wanted by an attribute, and then make or remove a name as mkdir(1) and rmdir(1) do: so the kernel
//! asks whether the user may, also whether what is cloned can be reached, and knows what has become of the name. No socket
//! is needed, and no right to reach the daemon.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::args::{CloneArgs, RmArgs};
use super::protect::why_kept;
use super::remove::Removals;
use super::{output, show};
use crate::error::{Error, Result};
use crate::fuse::{CLONE_ATTRIBUTE, DROP_ATTRIBUTE, write_out_all};

pub(super) fn clone(args: &CloneArgs) -> Result<()> {
    let [sources @ .., target] = args.paths.as_slice() else {
        return Err(Error::Usage("there is nothing to clone".into()));
    };
    let into = fs::metadata(target).is_ok_and(|target| target.is_dir());
    if sources.len() > 1 && !into {
        return Err(Error::Usage(format!("{} is no directory, and gets several clones", show(target))));
    }
    for source in sources {
        let name = if into { target.join(last_name(source)?) } else { target.clone() };
        clone_one(source, &name, args.read_only)?;
    }
    Ok(())
}

/// The last part of a path, as it is after links and dots.
fn last_name(path: &Path) -> Result<PathBuf> {
    let real = fs::canonicalize(path).map_err(|error| Error::io(show(path).to_string(), error))?;
    let name = real.file_name().map(PathBuf::from);
    name.ok_or_else(|| Error::Usage(format!("{} has no name", show(path))))
}

fn looked_at(path: &Path) -> Result<Metadata> {
    fs::symlink_metadata(path).map_err(|error| Error::io(show(path).to_string(), error))
}

/// The directory in which a path has its name, and the name.
fn place(path: &Path) -> Result<(PathBuf, &std::ffi::OsStr)> {
    let name = path.file_name().ok_or_else(|| Error::Usage(format!("{} has no name", show(path))))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")).to_owned(), name))
}

fn clone_one(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let found = fs::metadata(source).map_err(|error| Error::io(show(source).to_string(), error))?;
    if !found.is_dir() {
        return Err(Error::Usage(format!(
            "{} is no directory; `cp` copies a file, and shares its chunks",
            show(source)
        )));
    }
    let (parent, name) = place(target)?;
    let opened = File::open(&parent).map_err(|error| Error::io(show(&parent).to_string(), error))?;
    let there = opened.metadata().map_err(|error| Error::io(show(&parent).to_string(), error))?;
    if there.dev() != found.dev() {
        return Err(Error::Usage(format!("{} and {} are not in one mount", show(source), show(target))));
    }
    if fs::symlink_metadata(target).is_ok() {
        return Err(Error::Usage(format!("{} exists", show(target))));
    }
    // What was written before is to be in it, also what the kernel still holds.
    write_out_all(&opened).map_err(|error| Error::io(show(source).to_string(), error))?;
    let ask = |sign: &[u8]| {
        let wish = [sign, there.ino().to_string().as_bytes(), b" ", name.as_bytes()].concat();
        rustix::fs::setxattr(source, CLONE_ATTRIBUTE, &wish, XattrFlags::empty())
    };
    let is_root = rustix::process::geteuid().is_root();
    if read_only && !is_root {
        let what = format!("{}: only root may protect it", show(target));
        return Err(Error::io(what, Errno::PERM.into()));
    }
    ask(if read_only { b"!" } else { b"" }).map_err(|errno| refused(errno, source, target))?;
    fs::create_dir(target).map_err(|error| {
        // Or the next directory of that name would be a clone.
        let _ = ask(b"-");
        let what = format!("cloning {} to {}", show(source), show(target));
        match error.raw_os_error() {
            Some(libc::EINVAL) => Error::Usage(format!("{what}: it has subvolumes in it; clone these")),
            _ => Error::io(what, error),
        }
    })
}

fn refused(errno: Errno, source: &Path, target: &Path) -> Error {
    match errno {
        Errno::OPNOTSUPP => Error::Usage(format!("{} is in no mount of cairnfs", show(source))),
        Errno::INVAL => Error::Usage(format!(
            "{} cannot be cloned to {}: subvolumes are not nested, and are cloned as a whole",
            show(source),
            show(target)
        )),
        Errno::PERM | Errno::ACCESS => Error::io(
            format!("{}: only its owner, who may write it, and root may clone it", show(source)),
            io::Error::from(errno),
        ),
        other => Error::io(format!("cloning {}", show(source)), io::Error::from(other)),
    }
}

pub(super) fn rm(args: &RmArgs) -> Result<()> {
    if !args.json {
        for path in &args.snapshots {
            rm_one(path, args.dry_run)?;
            if args.dry_run {
                output::print(&format!("{} would be removed\n", show(path)))?;
            }
        }
        return Ok(());
    }
    let mut removals = Removals::new();
    let each = |path: &PathBuf| removals.note(path, || rm_one(path, args.dry_run));
    let outcome = args.snapshots.iter().try_for_each(each);
    output::print_json(&removals.finish(args.dry_run, &outcome))?;
    outcome
}

fn rm_one(path: &Path, only_look: bool) -> Result<()> {
    let found = looked_at(path)?;
    let ordinary = || {
        Error::Usage(format!(
            "{} is no subvolume, so it cannot be removed at once; `rm -rf` removes it file by file",
            show(path)
        ))
    };
    if !found.is_dir() {
        return Err(ordinary());
    }
    let (parent, _) = place(path)?;
    let opened = File::open(&parent).map_err(|error| Error::io(show(&parent).to_string(), error))?;
    let ask = |word: &str| {
        let wish = format!("{word}{}", found.ino());
        rustix::fs::fsetxattr(&opened, DROP_ATTRIBUTE, wish.as_bytes(), XattrFlags::empty())
    };
    ask(if only_look { "?" } else { "" }).map_err(|errno| match errno {
        Errno::OPNOTSUPP | Errno::INVAL => ordinary(),
        Errno::PERM => {
            let owner = || format!("{}: only its owner and root may remove it at once", show(path));
            Error::io(why_kept(path).unwrap_or_else(owner), io::Error::from(errno))
        }
        other => Error::io(format!("removing {}", show(path)), io::Error::from(other)),
    })?;
    if only_look {
        return Ok(());
    }
    fs::remove_dir(path).map_err(|error| {
        // Or the next rmdir would take everything with it.
        let _ = ask("-");
        Error::io(format!("removing {}", show(path)), error)
    })
}
