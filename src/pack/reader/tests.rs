use super::*;
use crate::chunk::{ChunkId, Digest};
use crate::media::sim::{OpKind, SimMedia};
use crate::media::{HostMedia, Media};
use crate::pack::{Compression, LocalPacks, PackWriter, RegionChunk};

const PACK: PackId = PackId(1);

/// A record with `count` chunks of `len` bytes each, stored as they are.
fn record(first: u64, count: u64, len: usize) -> Vec<u8> {
    let mut plain = Vec::new();
    let chunks: Vec<RegionChunk> = (first..first + count)
        .map(|id| {
            let bytes = vec![id as u8 | 1; len];
            plain.extend_from_slice(&bytes);
            RegionChunk { id: ChunkId(id), digest: Digest::of(&bytes), len: len as u32 }
        })
        .collect();
    codec().encode(&chunks, &plain)
}

fn codec() -> Codec {
    Codec::new(Compression::None)
}

/// A pack with six regions of different sizes; the third has a head that takes more than one read.
fn pack(packs: Arc<dyn PackStore>, seal: bool) -> Vec<Location> {
    let writer = PackWriter::new((packs, codec()), [3; 16], 1 << 30, PACK);
    let counts = [(1, 5000), (3, 9000), (200, 1), (1, 1), (2, 30_000), (1, 400_000)];
    let mut first = 0;
    let places = counts.map(|(count, len)| {
        let at = writer.append(&record(first, count, len)).unwrap();
        first += count;
        at
    });
    if seal {
        writer.seal().unwrap();
    }
    writer.sync().unwrap();
    places.into()
}

fn local(media: &SimMedia) -> Arc<dyn PackStore> {
    Arc::new(LocalPacks::new(Arc::new(media.clone()), 2))
}

fn sim(seal: bool) -> (SimMedia, Vec<Location>, PackReader) {
    let media = SimMedia::new();
    let places = pack(local(&media), seal);
    let reader = PackReader::new(local(&media), codec());
    (media, places, reader)
}

fn found(scan: &PackScan) -> Vec<Location> {
    scan.regions.iter().map(|(at, _)| *at).collect()
}

#[test]
fn a_walk_finds_every_region() {
    for seal in [false, true] {
        let (_, places, reader) = sim(seal);
        let scan = reader.walk(PACK).unwrap();
        assert_eq!((scan.sealed, scan.store), (seal, Some([3; 16])));
        assert_eq!(found(&scan), places);
        assert!(scan.damaged.is_empty() && scan.torn.is_none() && scan.punched.is_empty());
        assert_eq!(reader.scan(PACK).unwrap(), scan.regions);
        for (at, header) in &scan.regions {
            assert_eq!(reader.read_region(at).unwrap().chunks, header.chunks);
        }
    }
}

#[test]
fn holes_are_walked_around() {
    for seal in [false, true] {
        let (media, places, reader) = sim(seal);
        for hole in [1, 2, 4] {
            let Location { offset, len, .. } = places[hole];
            assert!(reader.punch(PACK, offset, len.into()).unwrap());
            assert!(matches!(reader.read_region(&places[hole]), Err(Error::Damaged(_))));
        }
        let scan = reader.walk(PACK).unwrap();
        assert_eq!(found(&scan), [places[0], places[3], places[5]]);
        assert!(scan.damaged.is_empty() && scan.torn.is_none());
        let punched: u64 = scan.punched.iter().map(|(_, len)| len).sum();
        assert_eq!(punched, [1, 2, 4].map(|at| u64::from(places[at].len)).iter().sum::<u64>());
        for kept in [0, 3, 5] {
            reader.read_region(&places[kept]).unwrap();
        }
        assert!(media.used() < scan.len);
    }
}

#[test]
fn holes_on_a_real_disk_are_walked_around() {
    let dir = tempfile::tempdir().unwrap();
    let packs: Arc<dyn PackStore> =
        Arc::new(LocalPacks::new(Arc::new(HostMedia::open(dir.path()).unwrap()), 2));
    let places = pack(packs.clone(), true);
    let reader = PackReader::new(packs, codec());
    let Location { offset, len, .. } = places[5];
    let expected = if reader.punch(PACK, offset, len.into()).unwrap() { &places[..5] } else { &places[..] };
    assert_eq!(found(&reader.walk(PACK).unwrap()), expected);
}

#[test]
fn a_header_is_not_punched_out() {
    let (_, _, reader) = sim(true);
    assert!(matches!(reader.punch(PACK, 63, 100), Err(Error::Usage(_))));
    assert_eq!(reader.scan(PACK).unwrap().len(), 6);
}

#[test]
fn damage_in_a_sealed_pack_hides_one_region_only() {
    let (media, places, reader) = sim(true);
    media.flip_byte(&PACK.path(), places[2].offset + 45);
    let scan = reader.walk(PACK).unwrap();
    assert_eq!(scan.regions.len(), 5);
    let damage = &scan.damaged[0];
    assert_eq!((damage.offset, damage.len), (places[2].offset, places[2].len.into()));
    let Err(Error::Damaged(text)) = reader.read_region(&places[2]) else {
        panic!("the damage was not seen");
    };
    assert!(text.contains(&places[2].to_string()), "{text}");
    assert_eq!(reader.scan(PACK).unwrap().len(), 5);
    // A header that is gone takes nothing with it; a footer only what lies behind damage.
    media.flip_byte(&PACK.path(), 3);
    let scan = reader.walk(PACK).unwrap();
    assert_eq!((scan.store, scan.regions.len(), scan.damaged.len()), (None, 5, 2));
    media.flip_byte(&PACK.path(), scan.len - 1);
    let scan = reader.walk(PACK).unwrap();
    assert_eq!((scan.sealed, found(&scan)), (false, places[..2].to_vec()));
    assert_eq!(scan.torn.unwrap().offset, places[2].offset);
}

#[test]
fn a_torn_tail_ends_a_walk_at_every_length() {
    let (media, places, _) = sim(false);
    let whole = media.contents(&PACK.path()).unwrap();
    let cuts = (0..400).chain(places.iter().flat_map(|at| {
        let (begin, end) = (at.offset as usize, at.end() as usize);
        [begin, begin + 1, begin + 39, begin + 40, begin + 50, end - 1, end]
    }));
    for cut in cuts {
        for zeros in [0, 5000] {
            let media = SimMedia::new();
            media.mkdir("packs").unwrap();
            media.mkdir(&PACK.dir()).unwrap();
            let file = media.create(&PACK.path()).unwrap();
            file.write_at(&whole[..cut], 0).unwrap();
            file.set_len(cut as u64 + zeros).unwrap();
            let reader = PackReader::new(local(&media), codec());
            let scan = reader.walk(PACK).unwrap();
            let complete = places.iter().filter(|at| at.end() <= cut as u64).count();
            // The head of one more may be whole; its bytes are not, and reading tells.
            let (head_only, rest) = match scan.regions.get(complete) {
                Some((at, _)) => (reader.read_region(at).is_err(), 1),
                None => (true, 0),
            };
            assert!(head_only, "cut at {cut}, {zeros} zeros");
            assert_eq!(scan.regions.len(), complete + rest);
            assert_eq!(found(&scan)[..complete], places[..complete]);
        }
    }
}

#[test]
fn an_error_of_the_host_is_no_damage() {
    for seal in [false, true] {
        let (media, places, reader) = sim(seal);
        let begin = media.query_count();
        reader.scan(PACK).unwrap();
        for n in 0..media.query_count() - begin {
            let reader = PackReader::new(local(&media), codec());
            media.fail_query(media.query_count() + n, libc::EIO);
            assert!(matches!(reader.scan(PACK), Err(Error::Io { .. })), "query {n}");
        }
        media.fail_query(media.query_count(), libc::EIO);
        let result = reader.read_region(&places[0]);
        assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
        reader.read_region(&places[0]).unwrap();
    }
}

/// A block that the host cannot read, wherever it is, costs a walk what is in it and names it.
#[test]
fn a_walk_goes_around_what_the_host_cannot_read() {
    for seal in [false, true] {
        let (media, places, reader) = sim(seal);
        let len = reader.walk(PACK).unwrap().len;
        for bad in (0..len).step_by(512) {
            media.set_fault(Box::new(move |op| {
                let here = op.kind == OpKind::Read && op.offset < bad + 512 && bad < op.offset + op.len;
                here.then_some(libc::EIO)
            }));
            let scan = reader.walk(PACK).unwrap();
            let unread = scan.damaged.iter().chain(&scan.torn).filter(|damage| damage.is_of_host()).count();
            // Without a footer the walk ends at the head it cannot read; with one it goes on behind it.
            let missed: Vec<&Location> = places.iter().filter(|at| !found(&scan).contains(at)).collect();
            if !scan.sealed {
                assert_eq!(found(&scan), places[..places.len() - missed.len()], "byte {bad}");
            }
            for at in &missed[..if scan.sealed { missed.len() } else { missed.len().min(1) }] {
                let end = at.end().max(at.offset + HEAD_READ);
                assert!(at.offset < bad + 512 && bad < end, "byte {bad}: {at}");
            }
            let missed = missed.len();
            assert!(unread > 0 || missed == 0, "byte {bad}: {missed} regions are missed");
            assert_eq!(matches!(reader.scan(PACK), Err(Error::Io { .. })), unread > 0, "byte {bad}");
        }
    }
}

#[test]
fn what_is_not_there_is_told_apart() {
    let (_, places, reader) = sim(true);
    let at = |pack, offset, len| reader.read_record(&Location { pack, offset, len }).unwrap_err();
    let Error::Io { source, .. } = at(PackId(2), 64, 10) else {
        panic!("a pack that is gone is not damage");
    };
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
    assert!(matches!(at(PACK, places[5].offset, places[5].len + 10_000), Error::Damaged(_)));
    assert!(matches!(at(PACK, 64, u32::MAX), Error::Damaged(_)));
}
