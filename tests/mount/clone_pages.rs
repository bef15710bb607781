//! What the kernel still holds of what was written before a clone is asked for.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::data::noise;
use crate::sys::{self, Mapped};
use crate::world::{Setup, World, cairnfs};

const LEN: usize = 200_000;

/// As users clone: the program has the kernel write out its pages first.
fn by_program(from: &Path, to: &Path) {
    let said = cairnfs(&["clone".as_ref(), from.as_os_str(), to.as_os_str()]);
    assert_eq!(said.code, 0, "{}", said.said());
}

/// What the program does after that.
fn without_writing_out(from: &Path, to: &Path) {
    let parent = fs::metadata(to.parent().unwrap()).unwrap().ino();
    let wish = format!("{parent} {}", to.file_name().unwrap().to_str().unwrap());
    sys::set_xattr(from, "cairnfs.clone", wish.as_bytes()).unwrap();
    fs::create_dir(to).unwrap();
}

/// Writes in the ways that leave changed pages with the kernel and clones at once. Returns what the files of the clone
/// should have and have.
fn cloned_at_once(world: &World, clone: fn(&Path, &Path)) -> [(Vec<u8>, Vec<u8>); 2] {
    let at = |name: &str| world.mnt.join(name);
    fs::create_dir(at("plain")).unwrap();
    ["written", "mapped"].iter().for_each(|name| fs::write(at("plain").join(name), noise(1, LEN)).unwrap());
    by_program(&at("plain"), &at("one"));
    world.sync();
    let open = |name: &str| File::options().read(true).write(true).open(at("one").join(name)).unwrap();
    let (written, mapped) = (open("written"), open("mapped"));
    let mut map = Mapped::new(&mapped, LEN).unwrap();
    written.write_all_at(b"acquainted", 1000).unwrap();
    map.bytes()[1000..1010].copy_from_slice(b"acquainted");
    clone(&at("one"), &at("two"));
    let mut expected = noise(1, LEN);
    expected[1000..1010].copy_from_slice(b"acquainted");
    // What comes now is in the one and not in the other.
    map.bytes()[0] ^= 0xff;
    map.sync().unwrap();
    drop((map, mapped, written));
    world.remount();
    ["written", "mapped"].map(|name| (expected.clone(), fs::read(at("two").join(name)).unwrap()))
}

#[test]
fn what_the_kernel_held_before_a_clone_is_in_it() {
    for options in ["gc=off,commit=1,cache=16M", "gc=off,commit=1,cache=16M,writeback"] {
        let Some(world) = World::new(Setup { options, ..Setup::default() }) else { return };
        for (expected, found) in cloned_at_once(&world, by_program) {
            assert!(found == expected, "with {options}");
        }
        world.close();
    }
}

/// The control needs no switch: it does what the program does, and leaves that one step out.
#[test]
fn without_the_writing_out_a_clone_lacks_what_was_written() {
    let options = "gc=off,commit=1,cache=16M";
    let Some(world) = World::new(Setup { options, ..Setup::default() }) else { return };
    let found = cloned_at_once(&world, without_writing_out);
    assert!(found.iter().any(|(wanted, got)| wanted != got), "the clone has what the kernel held");
    world.close();
}
