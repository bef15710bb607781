//! What goes at once does not go a second time by the queue.

use super::*;
use crate::fs::{ROOT_INO, simulated};

#[test]
fn the_queue_leaves_alone_what_goes_in_a_batch_that_is_not_committed() {
    let fs = simulated::open(&simulated::new_disk(), &simulated::config());
    let ino = simulated::new_file(&fs, "file");
    fs.write(ino, 0, b"bytes", false).unwrap();
    fs.unlink(ROOT_INO, b"file").unwrap();
    fs.sync().unwrap();
    let counted =
        |fs: &Fs| [Counter::Inodes, Counter::Orphans].map(|counter| fs.store.commits.counter(counter));
    assert_eq!(counted(&fs), [2, 1], "the root and the file, which is in the queue");
    assert_eq!(fs.reap().unwrap(), (0, false), "the kernel remembers it");
    fs.forget(ino, 1);
    assert_eq!(counted(&fs), [1, 0]);
    assert!(
        fs.layers().view.get(Table::Orphans, &id_key(ino)).unwrap().is_some(),
        "as far as the database knows"
    );
    assert_eq!(fs.reap().unwrap(), (0, false));
    assert_eq!(counted(&fs), [1, 0]);
    fs.sync().unwrap();
    assert_eq!(fs.reap().unwrap(), (0, false));
    assert_eq!(counted(&fs), [1, 0]);
    simulated::close(&fs);
}
