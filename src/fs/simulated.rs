//! Filesystems on simulated disks, for the tests beside the code.

use std::path::PathBuf;
use std::time::Duration;

use super::{Caller, Fs, FsOptions, ROOT_INO};
use crate::media::Media;
use crate::media::sim::SimMedia;
use crate::store::{MkfsOptions, OpenOptions, Store, StoreConfig, make_database};
use crate::sync::Arc;

/// The configuration that `mkfs` chooses by itself.
pub fn config() -> StoreConfig {
    StoreConfig::new(&MkfsOptions::default()).unwrap()
}

/// A disk with an empty store.
pub fn new_disk() -> SimMedia {
    let disk = SimMedia::new();
    make_database(&disk).unwrap();
    disk.sync_dir("").unwrap();
    disk
}

pub fn open(disk: &SimMedia, config: &StoreConfig) -> Arc<Fs> {
    open_with(disk, config, FsOptions::default().staging_limit)
}

pub fn open_with(disk: &SimMedia, config: &StoreConfig, staging_limit: u64) -> Arc<Fs> {
    open_as(disk, config, FsOptions { staging_limit, ..FsOptions::default() })
}

pub fn open_as(disk: &SimMedia, config: &StoreConfig, fs: FsOptions) -> Arc<Fs> {
    let options = OpenOptions { cache_bytes: 12 << 20, workers: 2, ..OpenOptions::default() };
    let path = PathBuf::from("/simulated");
    let store =
        Store::on_media(Arc::new(disk.clone()), config.clone(), path, None, &options).expect("it opens");
    // Nothing is committed by a timer.
    let commit_interval = Duration::from_secs(3600);
    Fs::new(store, FsOptions { commit_interval, ..fs }).expect("it opens")
}

/// Makes an empty file in the root; its number.
pub fn new_file(fs: &Arc<Fs>, name: &str) -> u64 {
    let caller = Caller { uid: 0, gid: 0 };
    fs.mknod(ROOT_INO, name.as_bytes(), caller, libc::S_IFREG | 0o644, 0, 0).unwrap().ino
}

pub fn close(fs: &Arc<Fs>) {
    fs.shutdown().unwrap();
    fs.store().close().unwrap();
}
