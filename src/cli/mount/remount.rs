//! `-o remount` changes what the kernel can change in an existing mount: whether it is read-only, and whether set-id
//! bits, device nodes and programs work. All other options keep the values that the daemon got at its start.
//!
//! mount(8) also passes the options from `/etc/fstab` and from the table of mounts, so options without effect are
//! accepted.

use std::path::Path;

use crate::cli::args::MountArgs;
use crate::cli::mount_options::Wanted;
use crate::cli::show;
use crate::cli::target::{ASK_TIMEOUT, Target, reach};
use crate::error::{Error, Result};
use crate::fuse::{self, MountTable, Remount, ask};
use crate::store::real_path;

/// Changes the mount at the mount point. If it becomes read-only, everything is durable when this returns.
pub(super) fn run(args: &MountArgs, wanted: &Wanted) -> Result<()> {
    let Some(found) = ask(&args.mountpoint, ASK_TIMEOUT)? else {
        return Err(Error::Environment(format!(
            "the process that serves the mount at {} does not answer; nothing was changed",
            show(&args.mountpoint)
        )));
    };
    let mountpoint = found.real();
    refuse_what_is_not_ours(&args.store, &mountpoint)?;
    if args.fake {
        return Ok(());
    }
    let read_only = wanted.given_last("ro", "rw");
    let Target::Live(mut client) = reach(&mountpoint, true, "mount -o remount")? else {
        return Err(Error::Environment(format!(
            "no process serves the mount at {0} any more; unmount it and mount it again",
            show(&mountpoint)
        )));
    };
    let began_read_only = client.status()?.holder.is_some_and(|holder| holder.read_only);
    if began_read_only && read_only == Some(false) {
        return Err(Error::Usage(format!(
            "{0} was mounted read-only, and its store is open for reading only; unmount it and mount it again",
            show(&mountpoint)
        )));
    }
    let change = Remount {
        read_only,
        suid: wanted.given_last("suid", "nosuid"),
        dev: wanted.given_last("dev", "nodev"),
        exec: wanted.given_last("exec", "noexec"),
    };
    fuse::remount(&mountpoint, change)?;
    if read_only == Some(true) && !began_read_only { client.sync() } else { Ok(()) }
}

fn refuse_what_is_not_ours(store: &Path, mountpoint: &Path) -> Result<()> {
    let table = MountTable::read()?;
    let Some(entry) = table.at(mountpoint).filter(|entry| entry.is_ours()) else {
        return Err(Error::Usage(format!(
            "no cairnfs store is mounted at {}; mount it without `remount`",
            show(mountpoint)
        )));
    };
    // If the store was moved meanwhile, it has another name in the table.
    if real_path(store).is_ok_and(|store| store != entry.source) {
        return Err(Error::Usage(format!(
            "at {} the store {} is mounted, and not {}; name that one",
            show(mountpoint),
            show(&entry.source),
            show(store)
        )));
    }
    Ok(())
}
