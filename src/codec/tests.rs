//! Whole objects: what goes in comes out, and nothing that was changed does.

use proptest::prelude::*;

use super::*;

const ALL: [&str; 5] = ["none", "lz4", "lz4:8", "zstd:1", "zstd:3"];

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    fastrand::Rng::with_seed(bytes as u64).fill(&mut noise);
    noise
}

/// Pages with a header, short records, and a zeroed rest, as a switched segment has them.
fn like_wal(bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut wal = Vec::with_capacity(bytes + 8192);
    while wal.len() < bytes * 3 / 4 {
        wal.extend_from_slice(&[0x10, 0xD1, 5, 0, 1, 0, 0, 0]);
        wal.extend((0..500).flat_map(|row: u32| [row as u8, 0, rng.u8(..), 0x7F, 0, 0, 0x20, 0x0A]));
    }
    wal.resize(bytes, 0);
    wal
}

#[test]
fn content_of_every_size_and_kind_comes_back() {
    let sizes = [
        0,
        1,
        2,
        1023,
        1025,
        FRAME_BYTES - 1,
        FRAME_BYTES,
        FRAME_BYTES + 1,
        5 * FRAME_BYTES + 12_345,
    ];
    for compression in ALL.map(|text| text.parse().unwrap()) {
        for plain in sizes
            .into_iter()
            .flat_map(|bytes| [noise(bytes), vec![0; bytes], like_wal(bytes)])
        {
            let (stored, hash) = pack_all(compression, &plain);
            assert_eq!(
                hash,
                ContentHash::of(&plain),
                "{compression} of {} bytes",
                plain.len()
            );
            assert!(
                unpack_all(&stored).unwrap() == plain,
                "{compression} of {} bytes",
                plain.len()
            );
            if compression == Compression::None {
                assert_eq!(stored.len() as u64, stored_bytes_uncompressed(plain.len() as u64));
            }
        }
    }
}

#[test]
fn compression_makes_wal_smaller() {
    let plain = like_wal(1 << 20);
    let bytes = ["lz4", "zstd"].map(|text| pack_all(text.parse().unwrap(), &plain).0.len());
    assert!(bytes[0] < plain.len() / 2 && bytes[1] < bytes[0], "{bytes:?}");
}

/// Small objects of every kind, among them one of two frames so that the tree is used.
fn small_objects() -> Vec<(Bytes, Vec<u8>)> {
    let plains = [
        Vec::new(),
        b"a".to_vec(),
        like_wal(900),
        noise(300),
        vec![0; FRAME_BYTES + 9],
    ];
    let make = |(text, plain): (&str, &Vec<u8>)| (pack_all(text.parse().unwrap(), plain).0, plain.clone());
    let kinds = ["lz4", "zstd"]
        .into_iter()
        .flat_map(|text| plains.iter().map(move |plain| (text, plain)));
    kinds.chain([("none", &plains[3])]).map(make).collect()
}

#[test]
fn every_flipped_byte_is_found() {
    for (object, _) in small_objects() {
        for at in 0..object.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut damaged = object.to_vec();
                damaged[at] ^= flip;
                assert!(
                    unpack_all(&damaged).is_err(),
                    "byte {at} of {}, flipped by {flip:#x}",
                    object.len()
                );
            }
        }
    }
}

#[test]
fn every_truncation_and_addition_is_found() {
    for (object, _) in small_objects() {
        for bytes in 0..object.len() {
            assert!(
                unpack_all(&object[..bytes]).is_err(),
                "first {bytes} of {}",
                object.len()
            );
            assert!(
                unpack_all(&object[object.len() - bytes..]).is_err(),
                "last {bytes} of {}",
                object.len()
            );
        }
        assert!(unpack_all(&[&object, &b"\0"[..]].concat()).is_err());
        assert!(unpack_all(&[&b"\0"[..], &object].concat()).is_err());
        assert!(unpack_all(&object.repeat(2)).is_err());
    }
}

/// Damage that somebody took the trouble to give right checksums.
#[test]
fn every_flipped_byte_of_a_trailer_is_found_without_its_checksums() {
    for (object, plain) in small_objects() {
        let trailer = trailer_bytes(plain.len() as u64) as usize;
        for at in object.len() - trailer..object.len() {
            let mut forged = object.to_vec();
            forged[at] ^= 0x11;
            forge_checksums(&mut forged, trailer);
            let found = unpack_all(&forged);
            assert!(
                found.is_err() || is_checksum(object.len() - at),
                "byte {at} was taken"
            );
        }
    }
}

/// Is the byte so far from the end one that `forge_checksums` puts right again?
fn is_checksum(from_end: usize) -> bool {
    (17..=20).contains(&from_end) || (9..=12).contains(&from_end)
}

fn forge_checksums(object: &mut [u8], trailer: usize) {
    let end = object.len();
    let table = crc32c::crc32c(&object[end - trailer..end - 96]);
    object[end - 20..end - 16].copy_from_slice(&table.to_le_bytes());
    let footer = crc32c::crc32c(&object[end - 96..end - 12]);
    object[end - 12..end - 8].copy_from_slice(&footer.to_le_bytes());
}

/// Bytes whose every checksum is right, but that are not the content of this place: only the tree tells.
#[test]
fn frames_that_changed_places_are_found() {
    let frame = FRAME_BYTES + 15;
    let object = pack_all(Compression::None, &noise(2 * FRAME_BYTES)).0;
    let table = 2 * frame + 8;
    let mut swapped = [&object[frame..2 * frame], &object[..frame], &object[2 * frame..]].concat();
    swapped[table + 4..table + 8].copy_from_slice(&object[table + 44..table + 48]);
    swapped[table + 44..table + 48].copy_from_slice(&object[table + 4..table + 8]);
    forge_checksums(&mut swapped, 184);
    let found = unpack_all(&swapped).unwrap_err();
    assert!(matches!(found, Damage::FrameHash { frame: 0, .. }), "{found}");
}

#[test]
fn huge_claims_cost_nothing() {
    let mut object = pack_all(Compression::default(), b"").0.to_vec();
    let footer = object.len() - 96;
    for plain_bytes in [
        1,
        u64::from(u32::MAX),
        MAX_PLAIN_BYTES,
        MAX_PLAIN_BYTES + 1,
        u64::MAX,
    ] {
        let frames = frames_of(plain_bytes) as u32;
        object[footer..footer + 8].copy_from_slice(&plain_bytes.to_le_bytes());
        object[footer + 8..footer + 12].copy_from_slice(&frames.to_le_bytes());
        forge_checksums(&mut object, 104);
        let found = unpack_all(&object).unwrap_err();
        assert!(
            matches!(found, Damage::ObjectTooShort { .. } | Damage::FrameCount { .. }),
            "{found}"
        );
    }
}

#[test]
fn damage_is_told_with_its_facts() {
    let (object, _) = pack_all(Compression::default(), b"some content");
    let flipped = |at: usize| {
        let mut damaged = object.to_vec();
        damaged[at] ^= 1;
        unpack_all(&damaged).unwrap_err().to_string()
    };
    let last = object.len() - 1;
    assert_eq!(
        flipped(last),
        r#"the object does not end in a walfs footer: its last 8 bytes are "walfsobk""#
    );
    assert_eq!(
        flipped(last - 15),
        "the object has format version 0, this walfs reads version 1"
    );
    assert!(
        flipped(15).starts_with("the checksum of frame 0 is "),
        "{}",
        flipped(15)
    );
    assert_eq!(
        unpack_all(b"x").unwrap_err().to_string(),
        "the object has 1 bytes, at least 104 were expected"
    );
}

proptest! {
    #[test]
    fn any_content_comes_back(plain in prop::collection::vec(any::<u8>(), 0..3000), which in 0..ALL.len()) {
        let (stored, _) = pack_all(ALL[which].parse().unwrap(), &plain);
        prop_assert_eq!(unpack_all(&stored), Ok(plain));
    }

    #[test]
    fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), more in any::<u64>()) {
        let _ = unpack_all(&bytes);
        let _ = SeekTable::parse(&bytes, (bytes.len() as u64).saturating_add(more));
    }

    /// Any bytes in the place of a frame, or of the table, with checksums that fit them.
    #[test]
    fn any_forgery_is_found_without_panic(
        which in 0..11_usize,
        from in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..60),
    ) {
        let (object, plain) = small_objects().swap_remove(which);
        let mut forged = object.to_vec();
        let from = from.index(forged.len());
        let end = forged.len().min(from + bytes.len());
        forged[from..end].copy_from_slice(&bytes[..end - from]);
        let trailer = trailer_bytes(plain.len() as u64) as usize;
        if plain.len() <= FRAME_BYTES && !plain.is_empty() {
            let table = forged.len() - trailer;
            let frame = crc32c::crc32c(&forged[..table]);
            forged[table + 12..table + 16].copy_from_slice(&frame.to_le_bytes());
        }
        forge_checksums(&mut forged, trailer);
        if let Ok(found) = unpack_all(&forged) {
            prop_assert_eq!(found, plain);
        }
    }
}
