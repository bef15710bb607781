//! What subvolumes are said to hold.

use super::place::Place;
use crate::fs::{Caller, ROOT_INO};
use crate::meta::Table;
use crate::meta::rows::{UsageRow, id_key};
use crate::meta::versions::subvolumes::subvolume_of;

const ME: Caller = Caller { uid: 0, gid: 0 };

#[test]
fn what_a_subvolume_is_said_to_hold_is_compared() {
    let place = Place::new();
    place.fs.wish_clone(ROOT_INO, b"clone", place.dir, ME).unwrap();
    let root = place.fs.mkdir(ROOT_INO, b"clone", ME, 0o755, 0).unwrap().ino;
    let again = |name: &[u8]| {
        place.fs.wish_clone(ROOT_INO, name, root, ME).unwrap();
        subvolume_of(place.fs.mkdir(ROOT_INO, name, ME, 0o755, 0).unwrap().ino)
    };
    let second = again(b"second");
    // One goes its own way.
    place.fs.unlink(root, b"b").unwrap();
    place.fs.sync().unwrap();
    place.finds(false, &[]);
    let row = |number: u64| {
        let row = place.store.layers().get(Table::Usage, &id_key(number)).unwrap().unwrap();
        UsageRow::decode(&row).unwrap()
    };
    let (of_first, of_second) = (row(subvolume_of(root)), row(second));
    // A file with two names, one directory; and in the second `b`, too.
    assert_eq!((of_first.files, of_first.bytes), (2, 300_000));
    assert_eq!((of_second.files, of_second.bytes), (3, 500_000));
    place.put(Table::Usage, &id_key(second), &UsageRow { files: 4, ..of_second }.encode());
    let told =
        format!("subvolume {second} is said to hold 4 files, 500000 bytes; it holds 3 files, 500000 bytes");
    place.finds(false, &[(&told, &[])]);
    place.remove(Table::Usage, &id_key(second));
    place.finds(false, &[("is said to hold nothing", &[])]);
    place.put(Table::Usage, &id_key(second), b"wrong");
    place.finds(false, &[("cannot be read", &[]), ("is said to hold nothing", &[])]);
}
