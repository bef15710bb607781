//! A panic anywhere below a flush ends that flush or that commit, and nobody waits for ever. The hook of the disk
//! panics.

use super::*;
use crate::fs::simulated::{close, config, new_disk, new_file, open};
use crate::media::sim::{OpKind, Rng, SimMedia};
use crate::meta::Table;

fn panic_at(disk: &SimMedia, kind: OpKind) {
    disk.set_fault(Box::new(move |op| {
        assert!(op.kind != kind || !op.path.starts_with("packs/"), "this panic is meant");
        None
    }));
}

fn errno(result: Result<()>) -> i32 {
    result.map_or_else(|error| error.errno(), |()| 0)
}

#[test]
fn what_a_flush_had_when_it_panicked_is_staged_again() {
    let (disk, config) = (new_disk(), config());
    let mut bytes = Rng::new(1).bytes(500_000);
    let fs = open(&disk, &config);
    let ino = new_file(&fs, "file");
    fs.write(ino, 0, &bytes, false).unwrap();
    close(&fs);
    let fs = open(&disk, &config);
    fs.write(ino, 70_000, b"acknowledged", false).unwrap();
    bytes[70_000..70_012].copy_from_slice(b"acknowledged");
    // The bytes around the change are read, to be cut again with it.
    panic_at(&disk, OpKind::Read);
    let inode = fs.inode(ino).unwrap();
    assert_eq!(errno(fs.flush(&inode, Flush::Wanted)), libc::EIO);
    assert_eq!(errno(fs.sync()), libc::EIO, "by whichever thread");
    assert!(inode.lock().flushing.is_empty(), "whoever waits for the flush waits for ever");
    // An fsync leaves them for a recut, which may panic, too: nobody needs it.
    assert_eq!(errno(fs.fsync(ino)), 0);
    assert_eq!(fs.dirty.bytes(), 0);
    assert_eq!((errno(fs.sync()), errno(fs.sync())), (0, 0));
    disk.clear_faults();
    close(&fs);
    let fs = open(&disk, &config);
    assert!(fs.read(ino, 0, 600_000).unwrap() == bytes);
    close(&fs);
}

#[test]
fn a_commit_does_not_wait_for_a_region_whose_writer_panicked() {
    let disk = new_disk();
    let fs = open(&disk, &config());
    let ino = new_file(&fs, "file");
    // The first ones are written by workers, the last one by whoever commits.
    fs.write(ino, 0, &Rng::new(2).bytes(3 << 20), false).unwrap();
    panic_at(&disk, OpKind::Write);
    assert_ne!(errno(fs.fsync(ino)), 0);
    disk.clear_faults();
    assert_eq!(errno(fs.sync()), libc::EROFS, "what failed to be stored is not passed by");
    let closed = fs.shutdown().and_then(|()| fs.store.close());
    assert!(closed.is_err(), "what was not stored is lost, and that is said");
}

#[test]
fn half_an_operation_is_never_committed() {
    for panics in [false, true] {
        let (disk, config) = (new_disk(), config());
        let fs = open(&disk, &config);
        let changed = caught(|| {
            let member = fs.join().unwrap();
            member.rows.put(Table::State, b"half", &[]);
            assert!(!panics, "this panic is meant");
        });
        assert_eq!(changed.is_none(), panics);
        assert_eq!(errno(fs.store.commits.commit()), if panics { libc::EIO } else { 0 });
        assert_eq!(fs.store.batches.writable().is_err(), panics);
        let after = open(&disk.cut_at(disk.op_count(), 1), &config);
        assert_eq!(after.layers().get(Table::State, b"half").unwrap().is_some(), !panics);
        close(&after);
        let closed = fs.shutdown().and_then(|()| fs.store.close());
        assert_eq!(closed.is_err(), panics);
    }
}
