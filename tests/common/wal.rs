//! WAL made without a server: segments that look right to whoever checks their page headers, and whose bytes follow
//! from a seed. Layout: PostgreSQL `access/xlog_internal.h`, `XLogPageHeaderData` and `XLogLongPageHeaderData`.
//! The records inside are none that a server could replay.

/// `XLOG_PAGE_MAGIC` of PostgreSQL 15.
pub const PAGE_MAGIC: u16 = 0xD110;
/// `XLP_LONG_HEADER` of `xlp_info`.
pub const LONG_HEADER: u16 = 0x0002;
/// `XLOG_BLCKSZ` as everybody builds it, in bytes.
pub const PAGE_BYTES: usize = 8192;
/// Behind the header of a segment, in bytes.
pub const FIRST_RECORD: usize = 40;
/// The usual size of a segment, in bytes.
pub const SEGMENT_BYTES: u32 = 16 << 20;

/// `XLP_FIRST_IS_CONTRECORD`.
const CONTINUES: u16 = 0x0001;

/// The bytes of segment `name` (24 hex digits) of cluster `system_id`: a long header on the first page, a short one on
/// every other, and in between about half compressible, half random bytes of a record that begins before and ends behind it. The
/// same arguments give the same bytes.
pub fn segment(name: &str, system_id: u64, segment_bytes: u32, seed: u64) -> Vec<u8> {
    let (timeline, start) = position(name, segment_bytes);
    let mut content = vec![0; segment_bytes as usize];
    fill(&mut content, seed);
    for (number, page) in content.chunks_mut(PAGE_BYTES).enumerate() {
        let address = start + (number * PAGE_BYTES) as u64;
        let info = if number == 0 { LONG_HEADER } else { 0 } | CONTINUES;
        page[..24].copy_from_slice(&short_header(info, timeline, address));
        let before = match number {
            0 => 0,
            _ => number * (PAGE_BYTES - 24) - 16,
        };
        page[16..20].copy_from_slice(&(rest_at(start, segment_bytes) - before as u32).to_le_bytes());
        if number == 0 {
            page[24..40].copy_from_slice(&long_tail(system_id, segment_bytes));
        }
    }
    content
}

/// What is left of that record where a segment begins: in the next one as much less as this one has of it.
fn rest_at(start: u64, segment_bytes: u32) -> u32 {
    let pages = segment_bytes / PAGE_BYTES as u32;
    let in_each = segment_bytes - 40 - (pages - 1) * 24;
    let number = (start / u64::from(segment_bytes)) as u32;
    u32::MAX - number % (u32::MAX / in_each - 1) * in_each
}

/// The same, but with records that follow one another, one to a page, until the one at `end` (on a page's boundary) that
/// switches to the next segment; from then on zeros, as `pg_switch_wal()` leaves it.
pub fn switched_segment(name: &str, system_id: u64, segment_bytes: u32, end: usize) -> Vec<u8> {
    let mut content = segment(name, system_id, segment_bytes, 1);
    let (_, start) = position(name, segment_bytes);
    let mut before = 0;
    for (number, page) in content[..end].chunks_mut(PAGE_BYTES).enumerate() {
        page[2] &= !(CONTINUES as u8);
        page[16..20].fill(0);
        let at = if number == 0 { 40 } else { 24 };
        let record = &mut page[at..];
        let record_bytes = record.len() as u32;
        record[..4].copy_from_slice(&record_bytes.to_le_bytes());
        before = link(record, start + (number * PAGE_BYTES + at) as u64, before);
    }
    let (header, record) = (end, end + 24);
    content[header + 2] &= !(CONTINUES as u8);
    content[header + 16..header + 20].fill(0);
    content[record..].fill(0);
    content[record..record + 4].copy_from_slice(&24u32.to_le_bytes());
    content[record + 16] = 0x40;
    link(&mut content[record..record + 24], start + record as u64, before);
    content
}

/// Has a record at this position name the one before it, and proves it. Returns the position.
fn link(record: &mut [u8], at: u64, before: u64) -> u64 {
    record[8..16].copy_from_slice(&before.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
    at
}

/// A record as every version writes it: its resource manager and kind, and its own data.
pub fn record((manager, kind): (u8, u8), main: &[u8]) -> Vec<u8> {
    let mut record = vec![0; 24];
    // XLR_BLOCK_ID_DATA_LONG
    record.push(254);
    record.extend((main.len() as u32).to_le_bytes());
    record.extend(main);
    let length = record.len() as u32;
    record[..4].copy_from_slice(&length.to_le_bytes());
    (record[16], record[17]) = (kind, manager);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
    record
}

/// A segment with these records on its first page, and zeros behind them; and the offset behind the last.
pub fn segment_of_records(
    name: &str,
    system_id: u64,
    segment_bytes: u32,
    records: &[Vec<u8>],
) -> (Vec<u8>, usize) {
    let (timeline, start) = position(name, segment_bytes);
    let mut content = vec![0; segment_bytes as usize];
    content[..24].copy_from_slice(&short_header(LONG_HEADER, timeline, start));
    content[24..40].copy_from_slice(&long_tail(system_id, segment_bytes));
    let mut at = FIRST_RECORD;
    for record in records {
        content[at..at + record.len()].copy_from_slice(record);
        at = (at + record.len()).next_multiple_of(8);
    }
    assert!(at <= PAGE_BYTES, "more records than one page takes");
    (content, at)
}

/// The name of segment `number` (0 is the first of all) of a timeline.
pub fn segment_name(timeline: u32, number: u64, segment_bytes: u32) -> String {
    let per_log = (1u64 << 32) / u64::from(segment_bytes);
    format!("{timeline:08X}{:08X}{:08X}", number / per_log, number % per_log)
}

/// `count` names in a row on a timeline, from segment `first` on.
pub fn segment_names(timeline: u32, first: u64, count: u64) -> Vec<String> {
    (first..first + count)
        .map(|number| segment_name(timeline, number, SEGMENT_BYTES))
        .collect()
}

/// The text of a history file: this timeline left `parent` at `lsn` ("0/3000000").
pub fn history(parent: u32, lsn: &str) -> Vec<u8> {
    format!("{parent}\t{lsn}\tno recovery target specified\n").into_bytes()
}

/// Timeline and start address of a segment, by its name.
fn position(name: &str, segment_bytes: u32) -> (u32, u64) {
    let part = |at: usize| u64::from_str_radix(&name[at..at + 8], 16).expect("a name of 24 hex digits");
    let address = (part(8) << 32) + part(16) * u64::from(segment_bytes);
    (u32::try_from(part(0)).expect("eight hex digits"), address)
}

/// xlp_magic, xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len and four bytes of padding.
fn short_header(info: u16, timeline: u32, address: u64) -> [u8; 24] {
    let mut header = [0; 24];
    header[0..2].copy_from_slice(&PAGE_MAGIC.to_le_bytes());
    header[2..4].copy_from_slice(&info.to_le_bytes());
    header[4..8].copy_from_slice(&timeline.to_le_bytes());
    header[8..16].copy_from_slice(&address.to_le_bytes());
    header
}

/// xlp_sysid, xlp_seg_size, xlp_xlog_blcksz.
fn long_tail(system_id: u64, segment_bytes: u32) -> [u8; 16] {
    let mut tail = [0; 16];
    tail[0..8].copy_from_slice(&system_id.to_le_bytes());
    tail[8..12].copy_from_slice(&segment_bytes.to_le_bytes());
    tail[12..16].copy_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
    tail
}

/// Runs of 64 bytes, every other one random and the rest one repeated byte: compresses to about half.
fn fill(content: &mut [u8], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for pair in content.chunks_mut(128) {
        let (noise, calm) = pair.split_at_mut(pair.len().min(64));
        random.fill(noise);
        calm.fill(random.u8(..));
    }
}
