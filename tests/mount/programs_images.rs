//! Images of disks, and repositories of other backup programs, on a mount.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::data::{Numbers, Tree, noise};
use crate::programs::{ordinary, script};
use crate::skip::need_programs;
use crate::sys;
use crate::world::{command, run, tool};

const IMAGE: u64 = 1 << 30;

#[test]
fn random_writes_into_a_large_image() {
    let Some(world) = ordinary() else { return };
    let paths = [world.mnt.join("image"), world.host().join("image")];
    let seed = 21;
    println!("seed {seed}");
    let mut numbers = Numbers::new(seed);
    let open =
        |path: &Path| File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    let files = [open(&paths[0]), open(&paths[1])];
    files.iter().for_each(|file| file.set_len(IMAGE).unwrap());
    for n in 0..600 {
        let (len, unit) =
            if n % 5 == 0 { (1 + numbers.below(700_000), 1) } else { (4096 * (1 + numbers.below(16)), 4096) };
        let at = numbers.below((IMAGE - len) / unit) * unit;
        let bytes = noise(n, len as usize);
        for file in &files {
            match n % 17 {
                3 => sys::fallocate(file, 3, at as i64, len as i64).unwrap(),
                _ => file.write_all_at(&bytes, at).unwrap(),
            }
        }
        if n % 150 == 75 {
            files[0].sync_all().unwrap();
            world.gc();
        }
    }
    drop(files);
    tool!("cmp", paths[0], paths[1]);
    world.remount();
    tool!("cmp", paths[0], paths[1]);
    // No more than the host's, which counts whole blocks, and what chunks cover beyond the holes.
    let blocks = paths.each_ref().map(|path| fs::metadata(path).unwrap().blocks());
    assert!(blocks[0] < blocks[1] + blocks[1] / 2, "{blocks:?} blocks here and on the host");
    world.close();
}

#[test]
fn qemu_images() {
    let Some(world) = ordinary().filter(|_| need_programs(&["qemu-img"])) else { return };
    let raw = world.mnt.join("disk.raw");
    let file = File::create(&raw).unwrap();
    let mut numbers = Numbers::new(31);
    for n in 0..60 {
        file.write_all_at(&noise(n, 65536), numbers.below(1000) << 16).unwrap();
    }
    file.set_len(64 << 20).unwrap();
    drop(file);
    script(
        &world.mnt,
        "qemu-img convert -O qcow2 disk.raw disk.qcow2
        qemu-img convert -c -O qcow2 disk.qcow2 packed.qcow2
        qemu-img convert -O raw packed.qcow2 back.raw
        qemu-img create -q -f qcow2 -b disk.qcow2 -F qcow2 overlay.qcow2
        qemu-img create -q -f qcow2 -o preallocation=metadata new.qcow2 1G
        qemu-img create -q -f raw new.raw 1G
        qemu-img snapshot -c one disk.qcow2",
    );
    world.remount();
    script(
        &world.mnt,
        "for image in disk packed overlay new; do qemu-img check -q $image.qcow2; done
        qemu-img compare -q disk.raw disk.qcow2
        qemu-img compare -q disk.raw overlay.qcow2
        cmp disk.raw back.raw",
    );
    for name in ["new.qcow2", "new.raw", "back.raw"] {
        let meta = fs::metadata(world.mnt.join(name)).unwrap();
        assert!(meta.blocks() * 512 < 8 << 20, "{name} takes {} blocks", meta.blocks());
    }
    world.close();
}

#[test]
fn a_repository_of_restic() {
    let Some(world) = ordinary().filter(|_| need_programs(&["restic"])) else { return };
    let source = world.host().join("source");
    let tree = Tree::small(9);
    tree.write(&source);
    let restic = |words: &str| {
        let said = run(command("sh")
            .args(["-euc", &format!("restic --no-cache -q -r \"$0\"/repository {words}")])
            .arg(&world.mnt)
            .env("RESTIC_PASSWORD", "stone")
            .env("GOMAXPROCS", "2")
            .current_dir(world.host()));
        assert_eq!(said.code, 0, "restic {words}: {}", said.said());
    };
    restic("init");
    restic("backup source");
    fs::write(source.join("more"), noise(1, 500_000)).unwrap();
    restic("backup source");
    world.gc();
    world.remount();
    restic("check --read-data");
    restic("forget --keep-last 1 --prune");
    fs::remove_file(source.join("more")).unwrap();
    restic("restore latest --target \"$0\"/restored");
    let restored = world.mnt.join("restored/source");
    fs::remove_file(restored.join("more")).unwrap();
    tree.assert_at(&restored);
    world.close();
}
