//! Groups: which new directories are snapshots, what they begin as and for whom, and what is known of them.

use cairnfs::Result;
use cairnfs::fs::{Caller, ROOT_INO, SubvolumeInfo};
use cairnfs::sabotage::Protection;
use cairnfs::snapshots::{Answer, Place, Task, perform};

use crate::world::{CALLER, World, config, new_disk, protected, without};

const OTHER: Caller = Caller { uid: 1000, gid: 1000 };

fn set(world: &World, dir: u64, settings: &[(&str, &str)]) -> Result<()> {
    let changes = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    perform(&world.fs, &Place::Inode(dir), &Task::Set(changes)).map(drop)
}

fn mkdir(world: &World, group: u64, name: &str, caller: Caller) -> u64 {
    let attr = world.fs.mkdir(group, name.as_bytes(), caller, 0o700, 0).unwrap();
    world.fs.forget(attr.ino, 1);
    attr.ino
}

fn info(world: &World, root: u64) -> Option<SubvolumeInfo> {
    world.fs.subvolumes().unwrap().into_iter().find(|info| info.root == root)
}

/// A group of clones that are complete once they are sealed, and a sealed snapshot of `OTHER` in it with one file.
fn group(world: &World) -> (u64, u64) {
    let group = world.mkdir(ROOT_INO, "group");
    set(world, group, &[("group", "yes"), ("new", "clone"), ("complete", "seal")]).unwrap();
    let first = mkdir(world, group, "2026-11-21", OTHER);
    let file = world.create(first, "file");
    world.fs.write(file, 0, b"stones", false).unwrap();
    world.fs.forget(file, 1);
    world.fs.seal(first).unwrap();
    (group, first)
}

fn has_file(world: &World, root: u64) -> bool {
    world.fs.lookup(root, b"file").map(|attr| world.fs.forget(attr.ino, 1)).is_ok()
}

#[test]
fn a_new_directory_is_what_the_group_says() {
    let _guard = protected();
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    let (group, first) = group(&world);
    assert!(info(&world, first).unwrap().usage.files == 1);
    // Of the owner, and of root, whatever came later and is not complete.
    let second = mkdir(&world, group, "2026-11-22", OTHER);
    let third = mkdir(&world, group, "2026-11-23", CALLER);
    for root in [second, third] {
        let made = info(&world, root).unwrap();
        assert!(has_file(&world, root) && made.sealed.is_none());
        assert_eq!(made.source, info(&world, first).unwrap().number);
        assert_eq!(world.fs.getattr(root).unwrap().uid, OTHER.uid, "as the one that it was cloned from");
    }
    // Of anybody else, and by other names, and as the group says.
    let stranger = mkdir(&world, group, "2026-11-24", Caller { uid: 1001, gid: 1001 });
    assert!(!has_file(&world, stranger) && info(&world, stranger).unwrap().usage.files == 0);
    assert!(info(&world, mkdir(&world, group, "lock", OTHER)).is_none());
    for (new, is_snapshot) in [("plain", false), ("empty", true)] {
        set(&world, group, &[("new", new)]).unwrap();
        let root = mkdir(&world, group, &format!("2026-11-25-{new}"), OTHER);
        assert_eq!((info(&world, root).is_some(), has_file(&world, root)), (is_snapshot, false), "{new}");
    }
    set(&world, group, &[("name", "nightly-*"), ("new", "")]).unwrap();
    assert!(info(&world, mkdir(&world, group, "nightly-1", OTHER)).is_some());
    assert!(info(&world, mkdir(&world, group, "2026-11-26", OTHER)).is_none());
    assert!(world.fs.mkdir(group, b"nightly-1", OTHER, 0o700, 0).is_err(), "there is one");
    assert!(world.check().is_clean(), "{:?}", world.check());
    world.close().unwrap();
    let world = World::open(&disk, &config()).unwrap();
    let names: Vec<Vec<u8>> = world.fs.subvolumes().unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    assert!(world.fs.is_group(group).unwrap());
    world.close().unwrap();
}

#[test]
fn without_asking_for_the_owner_another_user_can_make_no_snapshot() {
    let disk = new_disk();
    let world = World::open(&disk, &config()).unwrap();
    let (group, _) = group(&world);
    let _taken_out = without(&[Protection::CloneForOwner]);
    // The clone itself is refused all the same.
    let made = world.fs.mkdir(group, b"2026-11-22", Caller { uid: 1001, gid: 1001 }, 0o700, 0);
    assert!(made.is_err(), "{made:?}");
}

#[test]
fn settings_are_inherited_and_go_with_their_directory() {
    let _guard = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    let above = world.mkdir(ROOT_INO, "above");
    let below = world.mkdir(above, "below");
    set(&world, above, &[("new", "clone"), ("group", "yes")]).unwrap();
    set(&world, below, &[("complete", "seal")]).unwrap();
    let told = |place: Place| match perform(&world.fs, &place, &Task::Settings).unwrap() {
        Answer::Settings(settings) => {
            let all = settings.into_iter().map(|setting| (setting.name, setting.value, setting.origin));
            all.map(|(name, value, origin)| format!("{name}={value} {origin}")).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(told(Place::Inode(below)), ["new=clone /above", "complete=seal /above/below"]);
    assert_eq!(told(Place::Path("/above/below/".into())), told(Place::Inode(below)));
    assert_eq!(told(Place::Path("above".into())), ["group=yes /above", "new=clone /above"]);
    set(&world, below, &[("new", "plain")]).unwrap();
    assert_eq!(told(Place::Inode(below))[0], "new=plain /above/below");
    // All or nothing.
    assert!(set(&world, below, &[("new", ""), ("colour", "red")]).is_err());
    assert_eq!(told(Place::Inode(below))[0], "new=plain /above/below");
    set(&world, below, &[("new", "")]).unwrap();
    assert_eq!(told(Place::Inode(below))[0], "new=clone /above");
    let inside = mkdir(&world, above, "2026-11-22", CALLER);
    assert!(set(&world, inside, &[("group", "yes")]).is_err(), "in a snapshot");
    // No attribute that anybody can list.
    assert_eq!(world.fs.listxattr(inside).unwrap(), b"");
    world.fs.rmdir(above, b"below").unwrap();
    world.fs.sync().unwrap();
    assert!(world.check().is_clean(), "{:?}", world.check());
    world.close().unwrap();
}

/// What a clone of an ordinary directory has of the directory's settings: nothing.
#[test]
fn a_clone_is_no_group() {
    let _guard = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    let source = world.mkdir(ROOT_INO, "source");
    set(&world, source, &[("group", "yes")]).unwrap();
    let clone = world.clone_dir(source, "clone").unwrap();
    assert!(world.fs.is_group(source).unwrap() && !world.fs.is_group(clone).unwrap());
    let inside = mkdir(&world, clone, "2026-11-22", CALLER);
    assert!(info(&world, inside).is_none());
    world.close().unwrap();
}

#[test]
fn a_list_has_all_that_is_known_of_snapshots() {
    let _guard = protected();
    let world = World::open(&new_disk(), &config()).unwrap();
    let (group, first) = group(&world);
    let second = mkdir(&world, group, "2026-11-22", OTHER);
    let file = world.create(second, "more");
    world.fs.write(file, 0, &[7; 1000], false).unwrap();
    world.fs.forget(file, 1);
    world.fs.sync().unwrap();
    let listed = |place: u64| match perform(&world.fs, &Place::Inode(place), &Task::List).unwrap() {
        Answer::Listing(listing) => listing.groups,
        other => panic!("{other:?}"),
    };
    let groups = listed(ROOT_INO);
    assert_eq!((groups.len(), groups[0].path.as_str(), groups[0].group), (1, "/group", true));
    let seen: Vec<_> = groups[0]
        .snapshots
        .iter()
        .map(|one| (one.name.as_str(), one.files, one.bytes, one.complete, one.clone_of.as_deref()))
        .collect();
    assert_eq!(
        seen,
        [("2026-11-21", 1, 6, true, None), ("2026-11-22", 2, 1006, false, Some("/group/2026-11-21"))]
    );
    assert_eq!(listed(second)[0].snapshots.len(), 1, "of one of them, that one");
    assert_eq!(listed(world.mkdir(ROOT_INO, "beside")), []);
    world.fs.unlink(second, b"file").unwrap();
    assert_eq!(listed(group)[0].snapshots[1].files, 1);
    assert_eq!(listed(group)[0].snapshots[0].files, 1, "{first} has it still");
    world.close().unwrap();
}
