use super::super::PageHeader;
use super::super::extent::{Extent, Extents};
use super::super::record::tests::{BLOCK, START, commit, pages, record};
use super::*;

/// As frames are, but of two pages.
const PART: usize = 2 * BLOCK;

fn size() -> u64 {
    SegmentSize::MIN.bytes()
}

fn restore_point(name: &str) -> Vec<u8> {
    let mut main = vec![0; 72];
    main[..8].copy_from_slice(&2_000_000_i64.to_le_bytes());
    main[8..8 + name.len()].copy_from_slice(name.as_bytes());
    record((0, 0x70), &main)
}

/// Each names the one before it, as the server does, and is of the transaction of its number.
fn linked(records: &[Vec<u8>]) -> Vec<u8> {
    let mut linked = records.to_vec();
    let mut at = 40;
    let mut before = 0_u64;
    for (number, record) in linked.iter_mut().enumerate() {
        record[4..8].copy_from_slice(&(700 + number as u32).to_le_bytes());
        record[8..16].copy_from_slice(&before.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        before = START.0 + at as u64;
        for _ in 0..record.len() {
            if at % BLOCK == 0 {
                at += 24;
            }
            at += 1;
        }
        at = at.next_multiple_of(8);
        if at % BLOCK == 0 {
            at += 24;
        }
    }
    let many = (size() as usize / BLOCK).max(at.div_ceil(BLOCK) + 1);
    let mut bytes = pages(many, &linked);
    bytes[32..36].copy_from_slice(&(size() as u32).to_le_bytes());
    bytes[36..40].copy_from_slice(&(BLOCK as u32).to_le_bytes());
    bytes
}

fn joined(bytes: &[u8]) -> Option<WalIndex> {
    let parts: Vec<Option<WalIndex>> = bytes.chunks(PART).map(WalIndex::of).collect();
    WalIndex::join(parts.iter().map(Option::as_ref), size())
}

#[test]
fn parts_add_up_wherever_records_lie() {
    for more in (7900..8200).step_by(8) {
        let records = [
            commit(more),
            restore_point("one"),
            commit(40_000),
            restore_point("two"),
            commit(more),
            commit(8),
        ];
        let index = joined(&linked(&records)).unwrap();
        let commits = index.facts.commits.unwrap();
        assert_eq!(commits.first.at, Lsn(START.0 + 40));
        assert_eq!(index.walked.last, Some(commits.last.at), "{more}");
        let names: Vec<&str> = index
            .facts
            .restore_points
            .iter()
            .map(|point| &*point.name)
            .collect();
        assert_eq!(names, ["one", "two"], "{more}");
        assert_eq!(index.facts.xids, Some(Xids { lowest: 700, span: 5 }));
        assert_eq!((index.walked.stop, index.is_whole()), (Stop::Wal, true));
        let annex = index.to_annex(1 << 20);
        assert_eq!(WalIndex::from_annex(&annex, START, size()), Some(index));
    }
}

#[test]
fn a_record_that_goes_on_in_the_next_segment_is_known_with_that() {
    let bytes = linked(&[commit(8), commit(3 * PART), restore_point("behind")]);
    for end in (PART..=3 * PART).step_by(BLOCK) {
        let (mut here, next) = (
            WalIndex::of(&bytes[..end]).unwrap(),
            WalIndex::of(&bytes[end..]).unwrap(),
        );
        assert_eq!(here.facts.commits.unwrap().last.at, Lsn(START.0 + 40), "{end}");
        assert!(here.walked.tail.is_some());
        let at = here.walked.tail.as_ref().unwrap().at;
        if next.walked.beginning.ends {
            here.take_across(&next.walked);
            assert_eq!(here.facts.commits.unwrap().last.at, at);
            assert_eq!(here.facts.xids, Some(Xids { lowest: 700, span: 1 }));
        }
        assert!(next.facts.commits.is_none());
        assert_eq!(next.facts.restore_points.len(), 1);
    }
}

/// What two indexes say that were stored apart.
fn leads(bytes: &[u8], end: usize) -> bool {
    let [Some(here), Some(next)] = [&bytes[..end], &bytes[end..]].map(WalIndex::of) else {
        return false;
    };
    let stored = |index: &WalIndex, start: u64, bytes: usize| {
        let annex = index.to_annex(1 << 20);
        WalIndex::from_annex(&annex, Lsn(start), bytes as u64)
            .unwrap()
            .walked
    };
    let here = stored(&here, START.0, end);
    let next = stored(&next, START.0 + end as u64, bytes.len() - end);
    here.leads_to(&next).is_some()
}

#[test]
fn a_record_that_goes_on_in_the_next_segment_is_proved_by_both() {
    let bytes = linked(&[commit(8), commit(3 * PART), restore_point("behind")]);
    // In front of it: its length, the one before, its CRC; then its body, on this side and on the other.
    let begins = 40 + commit(8).len().next_multiple_of(8);
    for end in (PART..=3 * PART).step_by(BLOCK) {
        assert!(leads(&bytes, end), "{end}");
        let places = [
            begins + 17,
            begins + 21,
            begins + 24,
            end - 1,
            end + 24,
            end + 200,
        ];
        let last = 3 * PART + begins;
        for at in places.into_iter().chain([last]) {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(!leads(&other, end), "{end}, {at}");
        }
        // The header of the page at which it goes on: flags, and what is left of it.
        for (at, bit) in [(2, 1), (3, 1), (16, 1), (17, 1)] {
            let mut other = bytes.clone();
            other[end + at] ^= bit;
            assert!(!leads(&other, end), "{end}, header {at}");
        }
    }
}

#[test]
fn a_record_whose_header_lies_on_both_sides_is_proved_too() {
    let begins = 40 + commit(8).len().next_multiple_of(8);
    for room in [8, 16, 24, 32] {
        let filler = BLOCK - room - begins - commit(0).len();
        let bytes = linked(&[commit(8), commit(filler), commit(BLOCK), commit(8)]);
        let index = WalIndex::of(&bytes[..BLOCK]).unwrap();
        assert_eq!(
            index.walked.tail.as_ref().map(|tail| tail.at.0),
            Some(START.0 + (BLOCK - room) as u64)
        );
        assert!(leads(&bytes, BLOCK), "{room}");
        for at in [BLOCK - 8, BLOCK + 24, BLOCK + 60] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(!leads(&other, BLOCK), "{room}, {at}");
        }
    }
}

#[test]
fn where_the_records_end_before_the_segment_does_is_told() {
    let bytes = linked(&[commit(8), commit(90_000), commit(8)]);
    let whole = joined(&bytes).unwrap().walked;
    assert_eq!(whole.ends_early(), Some(whole.end));
    // Each page inside of the long record, whichever part it is in.
    for page in 1..10 {
        let mut holed = bytes.clone();
        holed[page * BLOCK..(page + 1) * BLOCK].fill(0);
        let walked = joined(&holed).unwrap().walked;
        assert!(walked.ends_early().is_some_and(|end| end < whole.end), "{page}");
    }
    let mut switch = record((0, 0x40), &[]);
    switch.truncate(24);
    switch[..4].copy_from_slice(&24_u32.to_le_bytes());
    let switched = joined(&linked(&[commit(8), switch])).unwrap().walked;
    assert_eq!(switched.ends_early(), None);
}

#[test]
fn what_is_no_wal_has_no_index() {
    let bytes = linked(&[commit(8), commit(20_000), commit(8)]);
    for (at, what) in [(0, "another magic"), (8, "another place")] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert_eq!(joined(&other), None, "{what}");
    }
    assert_eq!(joined(&vec![0; size() as usize]), None);
    assert_eq!(joined(b"wali"), None);
    // A page of another segment, behind which nothing is known.
    let mut other = bytes.clone();
    other[BLOCK + 9] ^= 1;
    let index = joined(&other).unwrap();
    assert!(!index.is_whole());
    assert_eq!(index.facts.commits.unwrap().last.at, Lsn(START.0 + 40));
    // What an older segment has left names another record as the one before.
    let mut other = bytes;
    let second = 40 + commit(8).len().next_multiple_of(8);
    other[second + 8] ^= 1;
    assert!(!joined(&other).unwrap().is_whole());
}

/// With a page's image, of each version, and no main data behind it: what the image has is no header.
#[test]
fn a_record_of_an_image_alone_is_read_to_its_end() {
    let image = [7; 300];
    for (magic, done, hole) in [
        (0xD106, 3, true),
        (0xD10D, 2, false),
        (0xD110, 5, true),
        (0xD118, 0x11, true),
        (0xD110, 1, false),
    ] {
        let mut bytes = vec![0; 24];
        bytes.extend([0, 0x10, 0, 0]);
        bytes.extend(300_u16.to_le_bytes());
        bytes.extend([0, 0, done]);
        bytes.extend([0, 1].iter().filter(|_| hole));
        for field in [1663_u32, 5, 16384, 9] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(image);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        let mut told = Vec::new();
        let all = Head::new(&bytes)
            .unwrap()
            .blocks(magic, |relation, block| told.push((relation.relation, block)));
        assert_eq!((all, &told[..]), (true, &[(16384, 9)][..]), "{magic:X}");
        // Cut in its headers.
        assert!(!Head::new(&bytes[..30]).unwrap().blocks(magic, |_, _| ()));
    }
}

/// S8: sizes are claims.
#[test]
fn s8_an_annex_that_cannot_be_this_segments_is_none() {
    let index = joined(&linked(&[commit(8), restore_point("x"), commit(40_000)])).unwrap();
    let annex = index.to_annex(1 << 20);
    assert!(WalIndex::from_annex(&annex, START, size()).is_some());
    assert_eq!(WalIndex::from_annex(&annex, Lsn(0), size()), None);
    assert_eq!(WalIndex::from_annex(&annex, START, 2 * size()), None);
    assert_eq!(
        WalIndex::from_annex(&vec![0; MOST_BYTES + 1], START, size()),
        None
    );
    for length in 0..annex.len() {
        let _ = WalIndex::from_annex(&annex[..length], START, size());
    }
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..50_000 {
        let mut noise = annex.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..noise.len());
            noise[at] = random.u8(..);
        }
        let _ = WalIndex::from_annex(&noise, START, size());
    }
    let pages = linked(&[commit(8), commit(9000), commit(8), restore_point("x")])[..PART].to_vec();
    for _ in 0..50_000 {
        let mut noise = pages.clone();
        let at = random.usize(0..PART);
        noise[at] = random.u8(..);
        let _ = WalIndex::of(&noise);
    }
}

#[test]
fn a_byte_that_is_not_what_was_written_ends_the_walk_at_its_record() {
    let bytes = linked(&[commit(8), commit(90_000), commit(3000), commit(50_000), commit(8)]);
    let whole = joined(&bytes).unwrap().walked;
    assert_eq!(whole.stop, Stop::Wal);
    let end = (whole.end.0 - START.0) as usize;
    // Of headers of pages nothing is said here.
    let places = (40..end).step_by(517).filter(|at| at % BLOCK >= 40);
    for at in places {
        let mut other = bytes.clone();
        other[at] ^= 1;
        let walked = joined(&other).unwrap().walked;
        assert!(walked.end.0 <= START.0 + at as u64, "{at}: {walked:?}");
        assert!(
            matches!(
                walked.stop,
                Stop::Unknown | Stop::Cut(_) | Stop::Broken(_) | Stop::Wal
            ),
            "{at}: {walked:?}"
        );
        assert!(walked.ends_early().is_some(), "{at}: {walked:?}");
    }
    // In the body of the long one, across parts.
    let mut other = bytes.clone();
    other[60_000] ^= 1;
    let walked = joined(&other).unwrap().walked;
    let Stop::Broken(to) = walked.stop else {
        panic!("{walked:?}")
    };
    assert!(to.0 > START.0 + 90_000 && to.0 < START.0 + 93_000, "{to}");
}

#[test]
fn a_record_that_was_given_up_on_any_of_its_pages_breaks_nothing() {
    let bytes = linked(&[commit(8), commit(90_000), commit(8)]);
    let first = joined(&bytes).unwrap().facts.commits.unwrap().first.at;
    for page in 1..11 {
        let mut other = bytes.clone();
        let start = page * BLOCK;
        other[start..].fill(0);
        other[start..start + 2].copy_from_slice(&bytes[..2]);
        other[start + 2..start + 4].copy_from_slice(&8_u16.to_le_bytes());
        other[start + 4..start + 8].copy_from_slice(&bytes[4..8]);
        other[start + 8..start + 16].copy_from_slice(&(START.0 + start as u64).to_le_bytes());
        let (mut at, mut before) = (start + 24, 0);
        for _ in 0..2 {
            let mut record = commit(8);
            record[8..16].copy_from_slice(&u64::to_le_bytes(before));
            let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
            record[20..24].copy_from_slice(&crc.to_le_bytes());
            other[at..at + record.len()].copy_from_slice(&record);
            before = START.0 + at as u64;
            at = (at + record.len()).next_multiple_of(8);
        }
        let index = joined(&other).unwrap();
        let commits = index.facts.commits.as_ref().unwrap();
        assert_eq!(
            (commits.first.at, commits.last.at),
            (first, Lsn(before)),
            "{page}"
        );
        assert_eq!(index.walked.stop, Stop::Wal, "{page}");
        let mut chain = Chain::default();
        other.chunks(PART).for_each(|piece| chain.go_on(piece));
        assert!(chain.ended().is_some_and(|ended| ended.at.0 > before), "{page}");
        let annex = index.to_annex(1 << 20);
        assert_eq!(WalIndex::from_annex(&annex, START, size()), Some(index), "{page}");
    }
}

/// Recovery looks at the header of each page that a record goes on in.
#[test]
fn a_page_header_within_a_record_that_is_not_what_was_written_ends_the_walk() {
    let mut whole = linked(&[
        commit(8),
        commit(size() as usize - 3 * BLOCK),
        restore_point("behind"),
    ]);
    let mut behind = linked(&[commit(8), commit(size() as usize)]);
    behind.truncate(size() as usize);
    for page in [&mut whole, &mut behind]
        .into_iter()
        .flat_map(|bytes| bytes.chunks_mut(BLOCK))
    {
        page[4] = u8::from(page[0] > 0);
    }
    let extent = |bytes: &[u8]| {
        let header = PageHeader::parse(bytes).unwrap();
        let mut extents = Extents::new(header.page_address, header).unwrap();
        bytes.chunks(BLOCK).for_each(|page| extents.add(page));
        extents.proved().extent
    };
    assert!(matches!(extent(&whole), Extent::Begun(_)));
    assert_eq!(extent(&behind), Extent::Whole);
    for (what, bytes) in [("ends here", &whole), ("goes on", &behind)] {
        // On the very last one it is what a killed server had begun to write.
        let last = (size() as usize / BLOCK) - 4;
        for (page, (byte, bit)) in [1, 2, 31, 32, 33, 64, last]
            .into_iter()
            .flat_map(|page| [(2, 1), (2, 2), (2, 16), (16, 8), (18, 128)].map(|flip| (page, flip)))
        {
            let mut bytes = bytes.clone();
            bytes[page * BLOCK + byte] ^= bit;
            assert!(
                matches!(extent(&bytes), Extent::Broken(_)),
                "{what}: page {page}, byte {byte}, bit {bit}: {:?}",
                extent(&bytes)
            );
            let index = joined(&bytes);
            assert!(
                index.is_none_or(|index| index.walked.ends_early().is_some()),
                "{what}: page {page}, byte {byte}"
            );
        }
    }
}
