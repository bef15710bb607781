use proptest::prelude::*;

use super::*;
use crate::pack::{Codec, Compression};

fn encode_region(chunks: &[RegionChunk], plain: &[u8], compression: Compression) -> Vec<u8> {
    Codec::new(compression).encode(chunks, plain)
}

fn decode_region(record: &[u8]) -> Result<Region> {
    Codec::new(Compression::None).decode(record)
}

/// Chunks of the given lengths whose ids have gaps, with bytes that compress about as well as text.
fn sample(lengths: &[u32], seed: u64) -> (Vec<RegionChunk>, Vec<u8>) {
    let mut plain = Vec::new();
    let mut chunks = Vec::new();
    for (at, len) in lengths.iter().enumerate() {
        let at = at as u64;
        let bytes: Vec<u8> = (0..u64::from(*len)).map(|n| b'a' + ((n * n + seed + at) % 11) as u8).collect();
        chunks.push(RegionChunk {
            id: ChunkId(seed % 1000 + at * (1 + seed % 3)),
            digest: Digest::of(&bytes),
            len: *len,
        });
        plain.extend(bytes);
    }
    (chunks, plain)
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

fn whole(plain: &[u8]) -> [RegionChunk; 1] {
    [RegionChunk { id: ChunkId(1), digest: Digest::of(plain), len: plain.len() as u32 }]
}

/// A record with its head changed by hand and the checksum made right again.
fn forged(record: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut record = record.to_vec();
    let head = head_len(&record).unwrap();
    change(&mut record);
    let sum = head_sum(&record[..head]);
    record[AT_HEAD_SUM..FIXED_LEN].copy_from_slice(&sum.to_le_bytes());
    record
}

#[test]
fn the_layout_never_changes() {
    let chunks = [
        RegionChunk { id: ChunkId(0x0102), digest: Digest([0xdd; 32]), len: 3 },
        RegionChunk { id: ChunkId(0x0a00_0000_0000_000b), digest: Digest([0xee; 32]), len: 2 },
    ];
    let record = encode_region(&chunks, b"abcde", Compression::Zstd(3));
    assert_eq!(record.len(), 133);
    assert_eq!(&record[..24], b"CRGN\x01\0\0\0\x02\0\0\0\x05\0\0\0\x05\0\0\0\0\0\0\0");
    assert_eq!(u64_at(&record, 24), xxh3_64(b"abcde"));
    let summed = [&record[..32], &record[40..128]].concat();
    assert_eq!(u64_at(&record, 32), xxh3_64(&summed));
    assert_eq!(&record[40..52], b"\x02\x01\0\0\0\0\0\0\x03\0\0\0");
    assert_eq!(record[52..84], [0xdd; 32]);
    assert_eq!(&record[84..96], b"\x0b\0\0\0\0\0\0\x0a\x02\0\0\0");
    assert_eq!(record[96..128], [0xee; 32]);
    assert_eq!(&record[128..], b"abcde");
}

#[test]
fn chunks_are_found_by_id() {
    let (chunks, plain) = sample(&[10, 1, 500], 5);
    let region = decode_region(&encode_region(&chunks, &plain, Compression::Zstd(3))).unwrap();
    assert_eq!(region.chunk(ChunkId(5)), Some(&plain[..10]));
    assert_eq!(region.chunk(ChunkId(8)), Some(&plain[10..11]));
    assert_eq!(region.chunk(ChunkId(11)), Some(&plain[11..]));
    for id in [0, 4, 6, 7, 12, u64::MAX] {
        assert_eq!(region.chunk(ChunkId(id)), None);
    }
    assert_eq!(region.wrong_digests().count(), 0);
    let mut wrong = chunks;
    wrong[1].digest = Digest::of(b"something else");
    let region = decode_region(&encode_region(&wrong, &plain, Compression::None)).unwrap();
    assert_eq!(region.wrong_digests().collect::<Vec<_>>(), [ChunkId(8)]);
}

#[test]
fn what_does_not_compress_is_stored_as_it_is() {
    let random = noise(100_000);
    let record = encode_region(&whole(&random), &random, Compression::Zstd(3));
    let header = decode_header(&record).unwrap();
    assert!(header.codec == RAW && header.payload_len == 100_000);
    assert_eq!(record[record.len() - 100_000..], random);
    // Just over a sixteenth of zeros, just under, and far more.
    for (zeros, compressed) in [(8000, true), (5000, false), (100_000, true)] {
        let mut plain = random.clone();
        plain.truncate(100_000 - zeros);
        plain.resize(100_000, 0);
        let record = encode_region(&whole(&plain), &plain, Compression::Zstd(3));
        let header = decode_header(&record).unwrap();
        assert_eq!(header.codec != RAW, compressed, "{zeros} zeros");
        assert_eq!(decode_region(&record).unwrap().plain, plain);
    }
    let record = encode_region(&whole(&[0; 999]), &[0; 999], Compression::None);
    assert!(decode_header(&record).unwrap().codec == RAW);
}

#[test]
fn every_flipped_byte_and_every_cut_is_seen() {
    let (chunks, plain) = sample(&[700, 1, 30], 9);
    for compression in [Compression::None, Compression::Zstd(1)] {
        let record = encode_region(&chunks, &plain, compression);
        for at in 0..record.len() {
            for flip in [1, 0x80, 0xff] {
                let mut wrong = record.clone();
                wrong[at] ^= flip;
                assert!(decode_region(&wrong).is_err(), "byte {at} ^ {flip:#x}");
            }
            assert!(decode_region(&record[..at]).is_err(), "cut at {at}");
        }
        let mut longer = record;
        longer.push(0);
        assert!(decode_region(&longer).is_err());
    }
}

#[test]
fn what_contradicts_itself_is_refused_whatever_its_checksums_say() {
    let (chunks, plain) = sample(&[700, 1, 30], 9);
    let record = encode_region(&chunks, &plain, Compression::Zstd(3));
    let put = |at: usize, bytes: &'static [u8]| {
        forged(&record, |record| {
            record[at..at + bytes.len()].copy_from_slice(bytes);
        })
    };
    assert!(decode_region(&put(0, b"CRGN")).is_ok());
    for (at, bytes, what) in [
        (AT_CODEC, &[2][..], "codec"),
        (AT_CODEC, &[RAW], "stored, with too short a payload"),
        (AT_RESERVED_1, &[1], "reserved"),
        (AT_RESERVED_2, &[1], "reserved"),
        (AT_PLAIN_LEN, &[0xff, 0xff, 0xff, 0xff], "plain length"),
        (AT_PLAIN_LEN, &[1], "plain length"),
        (AT_PAYLOAD_LEN, &[1], "payload length"),
        (FIXED_LEN + ENTRY_LEN, &[0; 8], "ids descend"),
        (FIXED_LEN + ENTRY_LEN + 8, &[0], "an empty chunk"),
        (FIXED_LEN + 8, &[0xff, 0xff, 0xff, 0xff], "chunk length"),
    ] {
        assert!(decode_region(&put(at, bytes)).is_err(), "{what}");
    }
    // Lengths that are right among themselves but not what the frame holds.
    for delta in [1i32, -1] {
        let wrong = forged(&record, |record| {
            for at in [AT_PLAIN_LEN, FIXED_LEN + ENTRY_LEN_AT] {
                let len = u32_at(record, at).wrapping_add_signed(delta);
                record[at..at + 4].copy_from_slice(&len.to_le_bytes());
            }
        });
        let error = decode_region(&wrong).unwrap_err().to_string();
        assert!(error.contains("do not decompress"), "{error}");
    }
    // As many chunks, or none, as the field can say: refused before anything is allocated.
    for count in [0, MAX_CHUNKS as u32 + 1, u32::MAX] {
        let mut wrong = record.clone();
        wrong[AT_COUNT..AT_COUNT + 4].copy_from_slice(&count.to_le_bytes());
        assert!(head_len(&wrong).is_err());
    }
}

#[test]
fn contexts_serve_levels_in_turn() {
    let (chunks, plain) = sample(&[50_000], 3);
    let fresh = |level| {
        let (chunks, plain) = (chunks.clone(), plain.clone());
        std::thread::spawn(move || encode_region(&chunks, &plain, Compression::Zstd(level))).join().unwrap()
    };
    for level in [1, 19, 3, 3, 1] {
        assert_eq!(encode_region(&chunks, &plain, Compression::Zstd(level)), fresh(level));
    }
}

#[test]
#[should_panic(expected = "ascend")]
fn ids_that_do_not_ascend_are_a_mistake() {
    let (mut chunks, plain) = sample(&[5, 5], 0);
    chunks[1].id = chunks[0].id;
    encode_region(&chunks, &plain, Compression::None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn regions_go_there_and_back(
        lengths in prop::collection::vec(1u32..3000, 1..40),
        seed: u64,
        level in prop::option::of(1i32..=6),
    ) {
        let (chunks, plain) = sample(&lengths, seed % 1_000_000);
        let compression = level.map_or(Compression::None, Compression::Zstd);
        let record = encode_region(&chunks, &plain, compression);
        let header = decode_header(&record).unwrap();
        prop_assert_eq!(&header.chunks, &chunks);
        prop_assert_eq!(header.record_len() as usize, record.len());
        let head = head_len(&record).unwrap();
        prop_assert_eq!(decode_header(&record[..head]).unwrap(), header);
        prop_assert!(decode_header(&record[..head - 1]).is_err());
        let region = decode_region(&record).unwrap();
        prop_assert_eq!(region.plain, plain);
        prop_assert_eq!(region.chunks, chunks);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        forge in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if forge && bytes.len() >= FIXED_LEN {
            // Far enough for the checks behind the checksum.
            bytes[..5].copy_from_slice(b"CRGN\x01");
            bytes[AT_COUNT..AT_COUNT + 4].copy_from_slice(&1u32.to_le_bytes());
            bytes.resize(bytes.len().max(FIXED_LEN + ENTRY_LEN), 1);
            bytes = forged(&bytes, |_| {});
        }
        prop_assert!(decode_region(&bytes).is_err());
    }
}
