//! What the format's choices cost, on one core: `cargo bench --bench codec`.
//!
//! On what is stored: WAL of a PostgreSQL under pgbench, and relation files of it (pgbench's largest table with its
//! index and the history), or other files that `WALFS_BENCH_FILES` names, separated by colons. Five tables: codecs and
//! levels by walfs's own functions (compression, CRC32C and the tree value; unpacking checks both), frame sizes by the
//! libraries alone, checksums alone, the index of WAL, the seek table. Speeds are plain bytes for a second of CPU, which others on the
//! machine do not use up, each the best of a few rounds. `WALFS_BENCH_ROUNDS` is how many (3).
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
mod measure;
mod scene;

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use common::world::World;
use sha2::Digest;
use walfs::codec::{Compression, FRAME_BYTES, Packed, SeekTable, Tail, finish, pack, trailer_bytes};
use walfs::pg::wal_index::WalIndex;

/// Most of each kind of content that is packed.
const CONTENT_BYTES: usize = 64 << 20;

const SEGMENT_BYTES: usize = 16 << 20;

/// The seek tables' contents, in bytes: a segment, the largest segment, a relation file of eight gigabytes.
const TABLES: [u64; 3] = [16 << 20, 1 << 30, 8 << 30];

/// Pieces of content of one kind.
struct Content {
    name: String,
    bytes: Vec<u8>,
}

fn main() {
    measure::print_machine();
    let contents = contents();
    for content in &contents {
        println!("\n{}: {} MiB", content.name, content.bytes.len() >> 20);
    }
    codecs(&contents);
    frame_sizes(&contents);
    checksums(&contents[0]);
    wal_indexes(&contents[0]);
    seek_tables();
}

fn contents() -> Vec<Content> {
    if let Some(paths) = std::env::var_os("WALFS_BENCH_FILES") {
        let content = |path: PathBuf| Content {
            name: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            bytes: read(&[path]),
        };
        return std::env::split_paths(&paths).map(content).collect();
    }
    let world = World::new("codec");
    let source = scene::segments::Source::new(&world, CONTENT_BYTES >> 24);
    let relations = scene::cluster::relation_files(&world);
    let content = |name: &str, paths: &[PathBuf]| Content {
        name: name.into(),
        bytes: read(paths),
    };
    vec![content("WAL", &source.segments), content("relations", &relations)]
}

/// An equal part of each file, together no more than [`CONTENT_BYTES`].
fn read(paths: &[PathBuf]) -> Vec<u8> {
    let part = CONTENT_BYTES / paths.len();
    let read = |path: &PathBuf| {
        let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        bytes.truncate(part);
        bytes
    };
    paths.iter().flat_map(read).collect()
}

fn codecs(contents: &[Content]) {
    let lz4 = [1, 2, 4, 8, 16].map(|acceleration| Compression::Lz4 { acceleration });
    let zstd = (1..=9).map(|level| Compression::Zstd { level });
    let all = [Compression::None].into_iter().chain(lz4).chain(zstd);
    let row = |compression: Compression| {
        let figures = contents.iter().flat_map(|content| codec(compression, content));
        std::iter::once(compression.to_string()).chain(figures).collect()
    };
    let rows: Vec<Vec<String>> = all.map(row).collect();
    let columns = columns(contents, "codec", &["pack MB/s", "unpack MB/s", "ratio"]);
    print("Codecs and levels, frames of 256 KiB", &columns, &rows);
}

fn codec(compression: Compression, content: &Content) -> [String; 3] {
    // Always as frame 0: a shorter piece is only valid as the last one, and the offset costs nothing.
    let pieces = || content.bytes.chunks(FRAME_BYTES);
    let packed: Vec<Packed> = pieces().map(|piece| pack(compression, 0, piece)).collect();
    let stored_bytes: usize = packed.iter().map(|frame| frame.stored.len()).sum();
    let mut room = vec![0; FRAME_BYTES];
    let pack_time = best(|| pieces().for_each(|piece| keep(pack(compression, 0, piece))));
    let unpack_time = best(|| packed.iter().for_each(|frame| unpack(frame, &mut room)));
    [
        speed(&content.bytes, pack_time),
        speed(&content.bytes, unpack_time),
        ratio(&content.bytes, stored_bytes),
    ]
}

fn unpack(frame: &Packed, room: &mut [u8]) {
    let plain = &mut room[..frame.summary.plain_bytes() as usize];
    frame
        .summary
        .unpack(&frame.stored, plain)
        .expect("frames just packed");
}

/// The libraries alone: walfs has one frame size.
fn frame_sizes(contents: &[Content]) {
    let mut rows = Vec::new();
    for kib in [16, 64, 256, 1024, 4096] {
        let mut row = vec![kib.to_string()];
        for content in contents {
            row.extend(frame_size(content, kib << 10, |piece, room| {
                lzzzz::lz4::compress(piece, room, 1).expect("room for the worst case")
            }));
            let mut zstd = zstd::bulk::Compressor::new(1).expect("memory for a context");
            row.extend(frame_size(content, kib << 10, |piece, room| {
                zstd.compress_to_buffer(piece, room)
                    .expect("room for the worst case")
            }));
        }
        rows.push(row);
    }
    let columns = columns(
        contents,
        "frame KiB",
        &["lz4 MB/s", "ratio", "zstd:1 MB/s", "ratio"],
    );
    print("Frame sizes", &columns, &rows);
}

fn frame_size(
    content: &Content,
    bytes: usize,
    mut compress: impl FnMut(&[u8], &mut [u8]) -> usize,
) -> [String; 2] {
    let worst = lzzzz::lz4::max_compressed_size(bytes).max(zstd::zstd_safe::compress_bound(bytes));
    let mut room = vec![0; worst];
    let mut stored_bytes = 0;
    let time = best(|| {
        stored_bytes = content
            .bytes
            .chunks(bytes)
            .map(|piece| compress(piece, &mut room))
            .sum();
    });
    [speed(&content.bytes, time), ratio(&content.bytes, stored_bytes)]
}

fn checksums(content: &Content) {
    let frames = || content.bytes.chunks(FRAME_BYTES);
    let rows = [
        (
            "CRC32C, of each frame",
            best(|| frames().for_each(|frame| keep(crc32c::crc32c(frame)))),
        ),
        (
            "BLAKE3, of each frame",
            best(|| frames().for_each(|frame| keep(blake3::hash(frame)))),
        ),
        ("BLAKE3, of all", best(|| keep(blake3::hash(&content.bytes)))),
        (
            "SHA-256, of all",
            best(|| keep(sha2::Sha256::digest(&content.bytes))),
        ),
    ];
    let rows = rows.map(|(name, time)| vec![name.to_owned(), speed(&content.bytes, time)]);
    let columns = ["checksum", "MB/s"].map(str::to_owned);
    print("Checksums", &columns, &rows);
}

/// Of whole segments of 16 MiB.
fn wal_indexes(content: &Content) {
    let segments: Vec<&[u8]> = content.bytes.chunks_exact(SEGMENT_BYTES).collect();
    let frames = |segment: &[u8]| {
        segment
            .chunks(FRAME_BYTES)
            .map(WalIndex::of)
            .map(|index| index.map(Box::new))
            .collect()
    };
    let parts: Vec<Vec<Option<Box<WalIndex>>>> = segments.iter().map(|segment| frames(segment)).collect();
    let mut rows = Vec::new();
    for compression in ["lz4", "zstd"].map(|codec| codec.parse::<Compression>().expect("a codec")) {
        for (number, segment) in segments.iter().enumerate() {
            let packed = segment
                .chunks(FRAME_BYTES)
                .map(|piece| pack(compression, 0, piece).stored.len() as u64);
            let stored_bytes = packed.sum();
            let annex = WalIndex::annex_of(&parts[number], SEGMENT_BYTES as u64, stored_bytes);
            let walk = best(|| {
                segment
                    .chunks(FRAME_BYTES)
                    .for_each(|frame| keep(WalIndex::of(frame)))
            });
            let join = best(|| {
                keep(WalIndex::annex_of(
                    &parts[number],
                    SEGMENT_BYTES as u64,
                    stored_bytes,
                ))
            });
            rows.push(vec![
                format!("{compression} {number}"),
                format!("{:.2}", walk.as_secs_f64() * 1e3),
                format!("{:.2}", join.as_secs_f64() * 1e3),
                annex.len().to_string(),
                format!("{:.2}", annex.len() as f64 * 100.0 / stored_bytes as f64),
            ]);
        }
    }
    let columns = ["segment", "walk ms", "join ms", "index bytes", "% of stored"].map(str::to_owned);
    print("The index of a segment of 16 MiB", &columns, &rows);
}

fn seek_tables() {
    let rows: Vec<Vec<String>> = TABLES.iter().map(|bytes| seek_table(*bytes)).collect();
    let columns = ["content MiB", "table bytes", "parse µs", "find a frame ns"].map(str::to_owned);
    print("The seek table of an object", &columns, &rows);
}

fn seek_table(plain_bytes: u64) -> Vec<String> {
    let compression = Compression::default();
    let piece = vec![7; FRAME_BYTES];
    let frames = plain_bytes / FRAME_BYTES as u64;
    let finished = finish(
        compression,
        (0..frames).map(|index| pack(compression, index, &piece).summary),
        &[],
    );
    let parse = || match SeekTable::parse(&finished.trailer, finished.stored_bytes) {
        Ok(Tail::Table(table)) => table,
        other => panic!("a trailer just made: {other:?}"),
    };
    let table = parse();
    let time = best(|| keep(parse()));
    let mut random = fastrand::Rng::with_seed(1);
    let offsets: Vec<u64> = (0..100_000).map(|_| random.u64(..plain_bytes)).collect();
    let find = best(|| {
        for offset in &offsets {
            let frame = table.frame_of(*offset).expect("an offset in the content");
            black_box(table.stored_range(frame..frame + 1));
        }
    });
    vec![
        (plain_bytes >> 20).to_string(),
        trailer_bytes(plain_bytes).to_string(),
        format!("{:.1}", time.as_secs_f64() * 1e6),
        format!("{:.1}", find.as_secs_f64() * 1e9 / offsets.len() as f64),
    ]
}

fn columns(contents: &[Content], first: &str, figures: &[&str]) -> Vec<String> {
    let named = contents.iter().flat_map(|content| {
        figures
            .iter()
            .map(|figure| format!("{}: {figure}", content.name))
            .collect::<Vec<_>>()
    });
    std::iter::once(first.to_owned()).chain(named).collect()
}

fn print(title: &str, columns: &[String], rows: &[Vec<String>]) {
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    measure::print_table(title, &columns, rows);
}

/// What nobody looks at would not be computed.
fn keep<T>(value: T) {
    black_box(value);
}

fn best(mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let begin = measure::cpu_of_thread();
        work();
        measure::cpu_of_thread() - begin
    };
    let rounds = measure::setting("WALFS_BENCH_ROUNDS", 3);
    (0..rounds).map(time).min().expect("at least one round")
}

fn speed(content: &[u8], time: Duration) -> String {
    format!("{:.0}", content.len() as f64 / 1e6 / time.as_secs_f64())
}

fn ratio(content: &[u8], stored_bytes: usize) -> String {
    format!("{:.2}", content.len() as f64 / stored_bytes as f64)
}
