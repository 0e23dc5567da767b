//! What a core packs and unpacks: `cargo bench --bench codec`.
//!
//! Content is generated to look like the WAL of a busy small-row table: pages with headers, records with increasing
//! addresses and transaction ids, random checksums and keys, repeating text. Packing includes compression, CRC32C and
//! the tree value; unpacking includes checking both. Each figure is the best of a few rounds on one thread.
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

use std::time::{Duration, Instant};

use walfs::codec::{Compression, FRAME_BYTES, Packed, pack};

const CONTENT_BYTES: usize = 16 << 20;
const ROUNDS: usize = 5;

fn main() {
    println!(
        "{:<8} {:>9} {:>10} {:>12} {:>7}",
        "codec", "piece KiB", "pack MB/s", "unpack MB/s", "ratio"
    );
    let content = wal();
    for text in ["none", "lz4", "lz4:4", "zstd:1", "zstd:3"] {
        let compression = text.parse().expect("a compression");
        for piece_bytes in [FRAME_BYTES / 4, FRAME_BYTES / 2, FRAME_BYTES] {
            report(compression, piece_bytes, &content);
        }
    }
}

fn report(compression: Compression, piece_bytes: usize, content: &[u8]) {
    // Always as frame 0: a shorter piece is only valid as the last one, and the offset costs nothing.
    let pack_them = || {
        content
            .chunks(piece_bytes)
            .map(|piece| pack(compression, 0, piece))
            .collect::<Vec<_>>()
    };
    let packed = pack_them();
    let stored_bytes: usize = packed.iter().map(|frame| frame.stored.len()).sum();
    let mut room = vec![0; piece_bytes];
    let pack_time = best(|| drop(pack_them()));
    let unpack_time = best(|| packed.iter().for_each(|frame| unpack(frame, &mut room)));
    println!(
        "{:<8} {:>9} {:>10.0} {:>12.0} {:>7.2}",
        compression.to_string(),
        piece_bytes >> 10,
        megabytes_per_second(pack_time),
        megabytes_per_second(unpack_time),
        CONTENT_BYTES as f64 / stored_bytes as f64
    );
}

fn unpack(frame: &Packed, room: &mut [u8]) {
    let plain = &mut room[..frame.summary.plain_bytes() as usize];
    frame
        .summary
        .unpack(&frame.stored, plain)
        .expect("frames just packed");
}

fn best(mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    };
    (0..ROUNDS).map(time).min().expect("at least one round")
}

fn megabytes_per_second(time: Duration) -> f64 {
    CONTENT_BYTES as f64 / 1e6 / time.as_secs_f64()
}

/// A segment of records of about 90 bytes in pages of 8 KiB.
fn wal() -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(42);
    let mut wal: Vec<u8> = Vec::with_capacity(CONTENT_BYTES + 256);
    let mut previous = 0_u64;
    while wal.len() < CONTENT_BYTES {
        if wal.len() % 8192 < 90 {
            wal.extend_from_slice(&[0x10, 0xD1, 5, 0, 1, 0, 0, 0]);
        }
        let record = wal.len() as u64;
        wal.extend_from_slice(&[79, 0, 0, 0]);
        wal.extend_from_slice(&(record as u32 / 400).to_le_bytes());
        wal.extend_from_slice(&previous.to_le_bytes());
        wal.extend_from_slice(&[0x40, 10, 0, 0]);
        wal.extend_from_slice(&rng.u32(..).to_le_bytes());
        wal.extend_from_slice(&[0, 0x60, 18, 0, 0x7F, 6, 0, 0, 5, 0, 0, 0, 0x0D, 0x40, 0, 0]);
        wal.extend_from_slice(&rng.u32(..100_000).to_le_bytes());
        wal.extend_from_slice(&rng.i16(-5000..5000).to_le_bytes());
        wal.extend_from_slice(b"                                  ");
        previous = record;
    }
    wal.truncate(CONTENT_BYTES);
    wal
}
