//! Limits that would take a million requests to reach from outside.

use std::path::PathBuf;

use crate::fs::{Caller, Fs, FsOptions, LINK_MAX, ROOT_INO};
use crate::media::sim::SimMedia;
use crate::store::{MkfsOptions, OpenOptions, Store, StoreConfig, make_database};
use crate::sync::Arc;

const CALLER: Caller = Caller { uid: 0, gid: 0 };

fn fs() -> Arc<Fs> {
    let disk = SimMedia::new();
    make_database(&disk).unwrap();
    let config = StoreConfig::new(&MkfsOptions { reserve: 1 << 20, ..MkfsOptions::default() }).unwrap();
    let options = OpenOptions { cache_bytes: 12 << 20, workers: 2, ..OpenOptions::default() };
    let store = Store::on_media(Arc::new(disk), config, PathBuf::from("/simulated"), None, &options).unwrap();
    Fs::new(store, FsOptions::default()).unwrap()
}

#[test]
fn the_name_after_the_last_is_emlink() {
    let fs = fs();
    let file = fs.mknod(ROOT_INO, b"file", CALLER, libc::S_IFREG | 0o644, 0, 0).unwrap().ino;
    fs.inode(file).unwrap().lock().row.nlink = LINK_MAX - 1;
    assert_eq!(fs.link(file, ROOT_INO, b"last").unwrap().nlink, LINK_MAX);
    assert_eq!(fs.link(file, ROOT_INO, b"more").unwrap_err().errno(), libc::EMLINK);
    fs.unlink(ROOT_INO, b"last").unwrap();
    assert_eq!(fs.link(file, ROOT_INO, b"more").unwrap().nlink, LINK_MAX);
    fs.inode(ROOT_INO).unwrap().lock().row.nlink = LINK_MAX - 1;
    fs.mkdir(ROOT_INO, b"last dir", CALLER, 0o755, 0).unwrap();
    let refused = fs.mkdir(ROOT_INO, b"one more", CALLER, 0o755, 0).unwrap_err();
    assert_eq!(refused.errno(), libc::EMLINK);
    let refused = fs.rename(ROOT_INO, b"last dir", ROOT_INO, b"another", Default::default());
    assert!(refused.is_ok(), "a directory may move within one that is full");
    let dir = fs.lookup(ROOT_INO, b"another").unwrap().ino;
    fs.mkdir(dir, b"inner", CALLER, 0o755, 0).unwrap();
    let refused = fs.rename(dir, b"inner", ROOT_INO, b"inner", Default::default()).unwrap_err();
    assert_eq!(refused.errno(), libc::EMLINK);
    fs.shutdown().unwrap();
}
