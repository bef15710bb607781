//! Hostile input: bytes for every decoder that reads what a disk or a socket gave, and calls with arguments that no kernel
//! should send.
//!
//! Nothing panics, nothing hangs, and what decodes encodes to something that decodes to the same. By itself this takes
//! seconds; `CAIRNFS_FUZZ=N` does N times as much, `CAIRNFS_SEED` begins elsewhere.

use cairnfs::chunk::{ChunkId, Digest};
use cairnfs::control::{CheckRequest, Reply, Request};
use cairnfs::fs::{ROOT_INO, RenameFlags, SetAttr, SetTime, Timestamp};
use cairnfs::meta::rows::{DirentRow, Extent, InodeRow, Piece, RegionEntry, RegionRow, State};
use cairnfs::pack::{Codec, Compression, Location, PackId, RegionChunk};

use crate::random::{self, Random, seeds};
use crate::world::{CALLER, World, config, new_disk, protected};

fn times(usual: u64) -> u64 {
    let factor = std::env::var("CAIRNFS_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    usual * factor
}

/// Something near `valid`, or nothing like it.
fn mutated(random: &mut Random, valid: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = valid[random.below(valid.len() as u64) as usize].clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(7) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.draw() as u8),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            4 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
            5 => {
                let other = &valid[random.below(valid.len() as u64) as usize];
                let from = random.below(other.len() as u64 + 1) as usize;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes = random::content(random.draw(), random.below(300) as usize),
        }
    }
    bytes
}

/// Feeds `usual` mutations of `valid` to `decode`, which says whether they decoded.
fn feed(what: &str, usual: u64, valid: &[Vec<u8>], decode: impl Fn(&[u8]) -> bool) {
    for bytes in valid {
        assert!(decode(bytes), "{what}: {bytes:x?} is valid");
    }
    let mut decoded = 0;
    for seed in seeds(what, 21, 1) {
        let mut random = Random::new(seed);
        for _ in 0..times(usual) {
            decoded += u64::from(decode(&mutated(&mut random, valid)));
        }
    }
    println!("{what}: {} inputs of each seed, {decoded} decoded", times(usual));
}

fn records() -> Vec<Vec<u8>> {
    let cases = [(1, 300, Compression::None), (7, 900, Compression::Zstd(1)), (40, 64, Compression::Zstd(3))];
    let record = |(count, len, compression): (u64, usize, Compression)| {
        let plain = random::content(count, count as usize * len);
        let chunk = |number: u64| RegionChunk {
            id: ChunkId(1 << 40 | number),
            digest: Digest::of(&plain[number as usize * len..][..len]),
            len: len as u32,
        };
        Codec::new(compression).encode(&(0..count).map(chunk).collect::<Vec<_>>(), &plain)
    };
    cases.into_iter().map(record).collect()
}

#[test]
fn records_of_regions_never_panic() {
    let codec = Codec::new(Compression::None);
    feed("region records", 30_000, &records(), |bytes| {
        let _ = codec.head_len(bytes);
        let header = codec.header(bytes);
        match codec.decode(bytes) {
            Ok(region) => {
                assert_eq!(header.unwrap().record_len() as usize, bytes.len());
                region.iter().for_each(|(chunk, bytes)| assert_eq!(chunk.len as usize, bytes.len()));
                true
            }
            Err(_) => false,
        }
    });
}

#[test]
fn rows_never_panic_and_come_back() {
    let inodes = [
        InodeRow { mode: 0o100644, nlink: 1, size: 1 << 40, ..InodeRow::default() },
        InodeRow { mode: 0o120777, nlink: 3, target: b"a/b".to_vec(), ..InodeRow::default() },
    ];
    feed("inode rows", 60_000, &inodes.map(|row| row.encode()), |bytes| match InodeRow::decode(bytes) {
        Ok(row) => InodeRow::decode(&row.encode()).unwrap() == row,
        Err(_) => false,
    });
    let entries =
        [DirentRow { ino: 17, kind: libc::S_IFREG }, DirentRow { ino: 1 << 50, kind: libc::S_IFDIR }];
    feed("directory entries", 60_000, &entries.map(|row| row.encode()), |bytes| {
        match DirentRow::decode(bytes) {
            Ok(row) => DirentRow::decode(&row.encode()).unwrap() == row,
            Err(_) => false,
        }
    });
    let piece = |number: u64| Piece {
        offset: number * 4000,
        id: ChunkId(100 + number),
        start: 0,
        len: 4000,
        chunk_len: 4000,
    };
    let extents = Extent::join((0..30).map(piece));
    let rows: Vec<_> = extents.iter().map(Extent::encode).collect();
    feed("extents", 60_000, &rows, |bytes| match Extent::decode(0, bytes) {
        Ok(extent) => {
            assert_eq!(extent.pieces().map(|piece| u64::from(piece.len)).sum::<u64>(), extent.len);
            Extent::decode(0, &extent.encode()).unwrap() == extent
        }
        Err(_) => false,
    });
    let entry = |len| Some(RegionEntry { len, digest: Digest([len as u8; 32]) });
    let regions = [vec![entry(40)], vec![None, entry(7), None, entry(1 << 20)]].map(|entries| RegionRow {
        first: ChunkId(9),
        at: Location { pack: PackId(3), offset: 64, len: 500 },
        plain: 2 << 20,
        entries,
    });
    feed("region rows", 60_000, &regions.map(|row| row.encode()), |bytes| {
        match RegionRow::decode(ChunkId(9), bytes) {
            Ok(row) => RegionRow::decode(ChunkId(9), &row.encode()).unwrap() == row,
            Err(_) => false,
        }
    });
    let state = State {
        generation: 4,
        next_chunk: 9,
        next_ino: 20,
        next_pack: 2,
        next_version: 8,
        next_subvolume: 3,
        counters: [1, -2, 3, 4, 5, 6, 7],
    };
    feed("state rows", 20_000, &[state.encode()], |bytes| match State::decode(bytes) {
        Ok(row) => State::decode(&row.encode()).unwrap() == row,
        Err(_) => false,
    });
}

#[test]
fn words_of_the_control_socket_never_panic() {
    let requests = [
        Request::Status,
        Request::Gc { dry_run: true },
        Request::GcSoon,
        Request::Check(CheckRequest::default()),
        Request::Sync,
        Request::AwaitClose,
    ];
    let valid = requests.map(|request| serde_json::to_vec(&request).unwrap());
    feed("requests", 60_000, &valid, |bytes| serde_json::from_slice::<Request>(bytes).is_ok());
    let errors =
        [cairnfs::Error::Posix(5), cairnfs::Error::damaged("x"), cairnfs::Error::Busy("y".to_owned())];
    let mut replies: Vec<_> =
        errors.iter().map(|error| serde_json::to_vec(&Reply::Error(error.into())).unwrap()).collect();
    replies.push(serde_json::to_vec(&Reply::Done).unwrap());
    feed("replies", 60_000, &replies, |bytes| match serde_json::from_slice::<Reply>(bytes) {
        Ok(Reply::Error(error)) => {
            // What came over the socket becomes an error with a sentence and an exit code, whatever it is.
            let error = cairnfs::Error::from(error);
            let _ = (error.to_string(), error.exit_code());
            true
        }
        other => other.is_ok(),
    });
}

/// Numbers at which sums overflow or kinds change.
const NUMBERS: [u64; 16] = [
    0,
    1,
    4095,
    4096,
    65_537,
    1 << 31,
    u32::MAX as u64,
    1 << 40,
    (16 << 40) - 1,
    16 << 40,
    (16 << 40) + 1,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 4096,
    u64::MAX,
];

struct Hostile<'a> {
    world: &'a World,
    random: Random,
    inos: Vec<u64>,
}

impl Hostile<'_> {
    fn number(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.draw(),
            1 => self.random.below(200_000),
            _ => NUMBERS[self.random.below(NUMBERS.len() as u64) as usize],
        }
    }

    fn ino(&mut self) -> u64 {
        if self.random.below(5) == 0 {
            return self.number();
        }
        let index = self.random.below(self.inos.len() as u64) as usize;
        self.inos[index]
    }

    fn name(&mut self) -> Vec<u8> {
        match self.random.below(12) {
            0 => Vec::new(),
            1 => b".".to_vec(),
            2 => b"..".to_vec(),
            3 => b"a/b".to_vec(),
            4 => b"a\0b".to_vec(),
            5 => vec![b'n'; 255],
            6 => vec![0xff; 256],
            7 => random::content(self.random.draw(), 20),
            _ => format!("n{}", self.random.below(20)).into_bytes(),
        }
    }

    fn attribute(&mut self) -> Vec<u8> {
        let names: [&[u8]; 7] = [
            b"user.a",
            b"user.",
            b"security.capability",
            b"system.posix_acl_access",
            b"system.posix_acl_default",
            b"trusted.x",
            b"",
        ];
        names[self.random.below(7) as usize].to_vec()
    }

    /// One call; whether it was answered well does not matter, only that it was answered.
    fn call(&mut self) {
        let fs = &self.world.fs;
        let (a, b) = (self.ino(), self.ino());
        let (x, y, z) = (self.number(), self.number(), self.number());
        let (name, other) = (self.name(), self.name());
        match self.random.below(22) {
            0..3 => {
                if let Ok(attr) = fs.mknod(a, &name, CALLER, x as u32, y as u32, z as u32) {
                    self.inos.push(attr.ino);
                }
            }
            3 => {
                if let Ok(attr) = fs.mkdir(a, &name, CALLER, x as u32, y as u32) {
                    self.inos.push(attr.ino);
                }
            }
            4 => {
                let target = random::content(x, self.random.below(5000) as usize);
                let _ = fs.symlink(a, &name, CALLER, &target);
            }
            5 => drop(fs.link(a, b, &name)),
            6 => drop(fs.unlink(a, &name)),
            7 => drop(fs.rmdir(a, &name)),
            8 => {
                let flags = RenameFlags { noreplace: x % 2 == 0, exchange: y % 3 == 0 };
                drop(fs.rename(a, &name, b, &other, flags));
            }
            9..12 => {
                let data = random::content(y % 5, self.random.below(20_000) as usize);
                let _ = fs.write(a, x, &data, y % 2 == 0);
            }
            12 => drop(fs.read(a, x, (y as u32).min(1 << 20))),
            13 => drop(fs.lseek(a, x as i64, (y % 8) as i32)),
            14 => drop(fs.fallocate(a, x, y, (z % 128) as i32)),
            15 => drop(fs.copy_file_range(a, x, b, y, z)),
            16 => {
                let at = SetTime::At(Timestamp { sec: x as i64, nsec: y as u32 });
                let set = SetAttr {
                    mode: (x % 2 == 0).then_some(y as u32),
                    uid: (x % 3 == 0).then_some(z as u32),
                    size: (x % 5 == 0).then_some(y),
                    mtime: (x % 7 == 0).then_some(at),
                    ..SetAttr::default()
                };
                let _ = fs.setattr(a, CALLER, &set);
            }
            17 => {
                let attribute = self.attribute();
                let value = random::content(x, (y % 70_000) as usize);
                let _ = fs.setxattr(a, &attribute, &value, (z % 4) as i32, |_| z % 5 != 0);
            }
            18 => {
                let attribute = self.attribute();
                let _ = (fs.getxattr(a, &attribute), fs.listxattr(a), fs.removexattr(b, &attribute));
            }
            19 => {
                let mut left = 1000;
                let _ = fs.readdir(a, x, &mut |_| {
                    left -= 1;
                    left > 0
                });
            }
            20 => drop(fs.set_inode_flags(a, CALLER, x as u32)),
            _ => {
                let _ = (fs.lookup(a, &name), fs.getattr(b), fs.readlink(a), fs.inode_flags(b));
                if x % 9 == 0 {
                    let _ = fs.fsync(a);
                }
            }
        }
    }
}

#[test]
fn no_call_with_hostile_arguments_breaks_the_filesystem() {
    let _all = protected();
    for seed in seeds("hostile calls", 31, 3) {
        let (disk, config) = (new_disk(), config());
        let world = World::open(&disk, &config).unwrap();
        let kept = random::content(seed, 50_000);
        let ino = world.create(ROOT_INO, "kept by nobody else");
        world.fs.write(ino, 0, &kept, false).unwrap();
        let mut hostile = Hostile { world: &world, random: Random::new(seed), inos: vec![ROOT_INO] };
        for _ in 0..times(1_500) {
            hostile.call();
        }
        let files = hostile.inos.len();
        assert!(files > 10, "something was made");
        world.fs.sync().unwrap();
        world.collector.run_cycle(false).unwrap();
        assert!(world.read(ino).unwrap() == kept, "seed {seed}");
        let report = world.check();
        assert!(report.is_clean(), "seed {seed}: {:?}", report.findings);
        world.close().unwrap();
        let world = World::open(&disk, &config).unwrap();
        let ino = world.find("kept by nobody else").unwrap();
        assert!(world.read(ino).unwrap() == kept, "seed {seed}");
        assert!(world.check().is_clean());
        world.close().unwrap();
        println!("seed {seed}: {files} inodes made");
    }
}
