//! Making a store.
//!
//! Keeps true: a directory with `cairnfs.toml` is a complete store, since that file gets its name last. Until then it
//! is `cairnfs.toml.new`, which is made first. So the next call recognises the leftovers of an interrupted one and
//! clears them, and never takes a store that has lost its `cairnfs.toml` for them. It removes only names that are made
//! here. The store's lock is held all the time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::media::{HostMedia, Media, StoreLock, recreate};
use crate::meta::log::{FOLDED_KEY, FoldedRow, LOG_FILE};
use crate::meta::{Kv, Table};
use crate::pack::PACKS;
use crate::sync::Arc;

use super::backups::BACKUP_DIR;
use super::config::{CONFIG_FILE, META_FILE, MkfsOptions, RESERVE_FILE, StoreConfig};

/// The configuration until the store is complete.
const UNFINISHED: &str = "cairnfs.toml.new";
/// The lock's name.
const LOCK_FILE: &str = "lock";
/// The directory of the database.
const META: &str = "meta";
/// Names that file systems keep in their root directory.
const OF_THE_HOST: [&str; 6] =
    ["lost+found", ".snapshot", ".zfs", "System Volume Information", "aquota.user", "aquota.group"];
/// The reserve takes at most this fraction of the free space, unless its size was given.
const PART_FOR_RESERVE: u64 = 16;

/// Makes a store in `dir`, which must not exist or be empty.
pub fn mkfs(dir: &Path, options: &MkfsOptions) -> Result<StoreConfig> {
    mkfs_and(dir, options, |_, _, _| Ok(()))
}

/// The same, and calls `finish` with the store's directory, configuration and path. Makes missing parent directories.
/// After a failure nothing of this call is left, so that it can be called again.
pub fn mkfs_and(
    dir: &Path,
    options: &MkfsOptions,
    finish: impl FnOnce(Arc<dyn Media>, &StoreConfig, &Path) -> Result<()>,
) -> Result<StoreConfig> {
    let config = StoreConfig::new(options)?;
    let made = make_directories(dir)?;
    let result = make_in(dir, config, options, finish);
    if result.is_err() {
        // Directories that are not empty stay.
        made.iter().for_each(|dir| drop(fs::remove_dir(dir)));
    }
    result
}

fn make_in(
    dir: &Path,
    mut config: StoreConfig,
    options: &MkfsOptions,
    finish: impl FnOnce(Arc<dyn Media>, &StoreConfig, &Path) -> Result<()>,
) -> Result<StoreConfig> {
    let failed = |error| Error::io(format!("making {}", dir.display()), error);
    let path = dir.canonicalize().map_err(failed)?;
    let media = Arc::new(HostMedia::open(&path).map_err(failed)?);
    if let Some(why) = media.kind().refusal() {
        return Err(Error::Environment(format!("{} {why}", dir.display())));
    }
    must_be_free(&media)?;
    let lock = StoreLock::acquire(&media, Duration::ZERO, "mkfs")?;
    // Another process may have been at work until now.
    let result = must_be_free(&media).and_then(|()| {
        let result = fill(&media, &mut config, options, |config| finish(media.clone(), config, &path));
        if result.is_err() {
            let _ = clear(&media);
        }
        result
    });
    drop(lock);
    if result.is_err() {
        let _ = media.remove(LOCK_FILE);
    }
    result.map(|()| config)
}

/// Makes a directory and its missing parents. Returns those that were made, the innermost first.
fn make_directories(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    let mut at = Some(dir).filter(|dir| !dir.as_os_str().is_empty());
    while let Some(path) = at {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(path.to_owned()),
            // If something is wrong with it, the next step reports it.
            _ => break,
        }
        at = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    }
    let mut made: Vec<PathBuf> = Vec::new();
    for path in missing.iter().rev() {
        match fs::create_dir(path) {
            Ok(()) => made.insert(0, path.clone()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                made.iter().for_each(|dir| drop(fs::remove_dir(dir)));
                return Err(Error::io(format!("making {}", path.display()), error));
            }
        }
    }
    Ok(made)
}

/// Refuses a directory that has anything but names of the host or leftovers of an interrupted call.
fn must_be_free(media: &HostMedia) -> Result<()> {
    let dir = media.path().display();
    let failed = |error| Error::io(format!("reading {dir}"), error);
    let names = media.list("").map_err(failed)?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(CONFIG_FILE) {
        return Err(Error::Usage(format!("{dir} is already a cairnfs store; nothing was changed")));
    }
    let ours: &[&str] = if has(UNFINISHED) {
        &[UNFINISHED, LOCK_FILE, META, PACKS, BACKUP_DIR, RESERVE_FILE]
    } else {
        &[LOCK_FILE]
    };
    let foreign =
        names.iter().find(|name| !ours.contains(&name.as_str()) && !OF_THE_HOST.contains(&name.as_str()));
    // A store that somebody is moving or restoring.
    let has_packs = has(PACKS) && !media.list(PACKS).map_err(failed)?.is_empty();
    match foreign {
        None if !has_packs => Ok(()),
        found => Err(Error::Usage(format!(
            "{dir} is not empty (it has {}); name an empty or a new directory",
            found.map_or(PACKS, String::as_str)
        ))),
    }
}

/// Removes everything that is made here. The mark that it is unfinished is removed last.
fn clear(media: &HostMedia) -> io::Result<()> {
    for dir in [META, BACKUP_DIR] {
        if media.exists(dir)? {
            for name in media.list(dir)? {
                media.remove(&format!("{dir}/{name}"))?;
            }
            media.remove_dir(dir)?;
        }
    }
    if media.exists(PACKS)? {
        media.remove_dir(PACKS)?;
    }
    for name in [RESERVE_FILE, UNFINISHED] {
        if media.exists(name)? {
            media.remove(name)?;
        }
    }
    Ok(())
}

fn fill(
    media: &HostMedia,
    config: &mut StoreConfig,
    options: &MkfsOptions,
    finish: impl FnOnce(&StoreConfig) -> Result<()>,
) -> Result<()> {
    let failed = |what: &str| {
        let what = format!("{what} in {}", media.path().display());
        move |error: io::Error| Error::io(what, error)
    };
    clear(media).map_err(failed("removing what an interrupted mkfs has left"))?;
    media.restrict_to_owner().map_err(failed("setting permissions"))?;
    let file = recreate(media, UNFINISHED).map_err(failed("making the configuration"))?;
    make_database(media)?;
    config.reserve = claim_reserve(media, options).map_err(failed("claiming the reserve (see --reserve)"))?;
    finish(config)?;
    let text = config.to_text()?;
    file.write_at(text.as_bytes(), 0)
        .and_then(|()| file.sync())
        .and_then(|()| media.rename(UNFINISHED, CONFIG_FILE))
        .and_then(|()| media.sync_dir(""))
        .map_err(failed("writing the configuration"))
}

/// Makes the reserve, as large as requested or as the disk has space for. Returns its size in bytes.
fn claim_reserve(media: &dyn Media, options: &MkfsOptions) -> io::Result<u64> {
    let part = media.space()?.available / PART_FOR_RESERVE;
    let mut size = options.reserve.min(part.max(options.least_reserve));
    loop {
        let claimed =
            recreate(media, RESERVE_FILE).and_then(|file| file.allocate(0, size).and_then(|()| file.sync()));
        match claimed {
            // The directory may be allowed less than the host reports as free.
            Err(error) if is_full(&error) && size / 2 >= options.least_reserve => size /= 2,
            other => return other.map(|()| size),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Makes the directories of a store and its database. The database is never made later: a store without one is damaged.
pub fn make_database(media: &dyn Media) -> Result<()> {
    let failed = |error| Error::io(format!("making {META_FILE}"), error);
    for name in [META, PACKS] {
        media.mkdir(name).map_err(failed)?;
    }
    let begin = FoldedRow::begin(uuid::Uuid::new_v4().into_bytes()).encode();
    Kv::create(media.create(META_FILE).map_err(failed)?, &[(Table::State, FOLDED_KEY, &begin)])?;
    media.create(LOG_FILE).map_err(failed)?;
    for name in [META, PACKS] {
        media.sync_dir(name).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> MkfsOptions {
        MkfsOptions { reserve: 1 << 20, ..MkfsOptions::default() }
    }

    fn refused(dir: &Path, said: &str) {
        let error = mkfs(dir, &small()).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(said), "{error}");
    }

    #[test]
    fn what_a_file_system_keeps_in_its_root_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        fs::write(dir.path().join("lost+found/file"), "x").unwrap();
        let failing = |_: Arc<dyn Media>, _: &StoreConfig, _: &Path| Err(Error::Posix(libc::EIO));
        mkfs_and(dir.path(), &small(), failing).unwrap_err();
        let left = |dir: &Path| fs::read_dir(dir).unwrap().count();
        assert_eq!((left(dir.path()), left(&dir.path().join("lost+found"))), (1, 1));
        mkfs(dir.path(), &small()).unwrap();
        assert!(StoreConfig::load(dir.path()).is_ok() && dir.path().join("lost+found/file").exists());
        refused(dir.path(), "already a cairnfs store");
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("file"), "x").unwrap();
        refused(other.path(), "it has file");
        assert_eq!(left(other.path()), 1);
    }

    #[test]
    fn missing_directories_are_made_and_go_when_it_fails() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("a/b/store");
        let failing = |_: Arc<dyn Media>, _: &StoreConfig, _: &Path| Err(Error::Posix(libc::EIO));
        mkfs_and(&dir, &small(), failing).unwrap_err();
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
        mkfs(&dir, &small()).unwrap();
        StoreConfig::load(&dir).unwrap();
    }

    /// Copies the directory as it is in the middle of the work: what a kill leaves.
    fn debris_into(to: &Path) {
        let dir = tempfile::tempdir().unwrap();
        let copied = |media: Arc<dyn Media>, _: &StoreConfig, path: &Path| {
            for sub in ["meta", "packs"] {
                fs::create_dir_all(to.join(sub)).unwrap();
            }
            for name in ["lock", "meta/cairnfs.redb", "reserve", UNFINISHED] {
                assert!(media.exists(name).unwrap(), "{name}");
                fs::copy(path.join(name), to.join(name)).unwrap();
            }
            Ok(())
        };
        mkfs_and(dir.path(), &small(), copied).unwrap();
    }

    #[test]
    fn what_an_interrupted_call_has_left_is_cleared_away_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        debris_into(&store);
        assert_eq!(StoreConfig::load(&store).unwrap_err().exit_code(), 3, "it is no store yet");
        mkfs(&store, &small()).unwrap();
        StoreConfig::load(&store).unwrap();
        // A store that has lost its configuration is not debris.
        fs::remove_file(store.join(CONFIG_FILE)).unwrap();
        refused(&store, "not empty");
        // Nor is one with a pack in it, whatever else is there.
        fs::write(store.join(UNFINISHED), "").unwrap();
        fs::create_dir(store.join("packs/001")).unwrap();
        refused(&store, "it has packs");
        assert!(store.join("meta/cairnfs.redb").exists());
        fs::remove_dir(store.join("packs/001")).unwrap();
        mkfs(&store, &small()).unwrap();
        // Killed before it had made more than its lock.
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        fs::write(empty.join("lock"), "").unwrap();
        mkfs(&empty, &small()).unwrap();
    }

    #[test]
    fn two_at_once_do_not_take_each_others_work_for_debris() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path();
        let meanwhile = |_: Arc<dyn Media>, _: &StoreConfig, _: &Path| {
            let error = mkfs(store, &small()).unwrap_err();
            assert_eq!(error.exit_code(), 4, "{error}");
            Ok(())
        };
        mkfs_and(store, &small(), meanwhile).unwrap();
        StoreConfig::load(store).unwrap();
    }
}

#[cfg(all(test, feature = "sim"))]
mod simulated {
    use super::*;
    use crate::media::sim::SimMedia;

    #[test]
    fn the_reserve_fits_the_disk() {
        let claimed = |capacity: u64, options: &MkfsOptions| {
            let disk = SimMedia::new();
            disk.set_capacity(Some(capacity));
            claim_reserve(&disk, options).map(|size| (size, disk.space().unwrap().free))
        };
        let usual = MkfsOptions::default();
        assert_eq!(claimed(4 << 30, &usual).unwrap().0, 64 << 20);
        assert_eq!(claimed(160 << 20, &usual).unwrap(), (10 << 20, 150 << 20));
        assert_eq!(claimed(4 << 20, &usual).unwrap().0, 512 << 10);
        let asked = MkfsOptions { reserve: 8 << 20, least_reserve: 8 << 20, ..usual };
        assert_eq!(claimed(16 << 20, &asked).unwrap().0, 8 << 20);
        let error = claimed(4 << 20, &asked).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    }
}
