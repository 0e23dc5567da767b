//! "Stock tools suffice": objects are read by the real `lz4` and `zstd`, and `docs/format.md` tells the truth.
//!
//! The tools are required; a machine without them fails here.

use std::path::Path;
use std::process::Command;

use walfs::codec::{Compression, ContentHash, FRAME_BYTES, SeekTable, Tail, pack_all, unpack_all};

const FORMAT_DOC: &str = include_str!("../docs/format.md");
const EXAMPLE: &[u8] = b"walfs walfs walfs walfs walfs walfs\n";

/// What a shell command, given the object's path as `$1`, prints. It must succeed and complain about nothing.
fn shell(command: &str, object: &Path) -> Vec<u8> {
    let script = format!("set -e; {command}");
    let run = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(object)
        .output()
        .expect("a shell");
    let complaint = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success() && complaint.is_empty(),
        "{command}: {} {complaint}",
        run.status
    );
    run.stdout
}

fn on_disk(object: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), object).expect("room for an object");
    file
}

/// Half text-like, half noise, so that objects have compressed and raw frames.
fn content(bytes: usize) -> Vec<u8> {
    let mut content: Vec<u8> = (0..bytes).map(|at| (at / 50) as u8).collect();
    fastrand::Rng::with_seed(1).fill(&mut content[bytes / 2..]);
    content
}

/// R5: "Without walfs, and without encryption, `aws s3 cp … - | lz4 -d` gives back a segment".
#[test]
fn r5_stock_tools_give_the_content_back() {
    let sizes = [0, 1, 300, FRAME_BYTES, FRAME_BYTES + 1, 16 << 20];
    for (compression, tool) in [
        ("none", "lz4"),
        ("lz4", "lz4"),
        ("lz4:9", "lz4"),
        ("zstd", "zstd"),
        ("zstd:3", "zstd"),
    ] {
        for plain in sizes.map(content) {
            let object = on_disk(&pack_all(compression.parse().unwrap(), &plain).0);
            for command in [format!("{tool} -qdc \"$1\""), format!("cat \"$1\" | {tool} -qd")] {
                let given_back = shell(&command, object.path());
                assert!(
                    given_back == plain,
                    "{command} of {compression}, {} bytes",
                    plain.len()
                );
            }
        }
    }
}

/// An object that was cut short is no success for the tools either, unless exactly between two frames.
#[test]
fn stock_tools_notice_a_cut_frame() {
    let object = pack_all(Compression::default(), &content(2 * FRAME_BYTES)).0;
    let cut = on_disk(&object[..FRAME_BYTES]);
    let run = Command::new("lz4")
        .arg("-qdc")
        .arg(cut.path())
        .output()
        .expect("lz4");
    assert!(!run.status.success());
}

#[test]
fn documented_commands_find_hash_and_size() {
    let plain = content(3 * FRAME_BYTES + 5);
    let object = on_disk(&pack_all(Compression::default(), &plain).0);
    let documented = |start: &str| {
        let line = FORMAT_DOC
            .lines()
            .find(|line| line.starts_with(start))
            .expect("the command is in the manual");
        String::from_utf8(shell(&line.replace(" object ", " \"$1\" "), object.path())).expect("text")
    };
    assert_eq!(
        documented("tail -c 80 object"),
        ContentHash::of(&plain).to_string()
    );
    assert_eq!(documented("tail -c 96 object").trim(), plain.len().to_string());
}

/// The bytes of the worked example, each line at the offset it states.
fn documented_example() -> Vec<u8> {
    let block = FORMAT_DOC
        .split_once("```hex\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .expect("an example")
        .0;
    let mut bytes = Vec::new();
    for line in block.lines() {
        let (fields, _meaning) = line.split_once('|').expect("bytes | meaning");
        let mut fields = fields.split_whitespace();
        assert_eq!(
            fields.next(),
            Some(bytes.len().to_string().as_str()),
            "offset of the line {line:?}"
        );
        bytes.extend(fields.map(|hex| u8::from_str_radix(hex, 16).expect("hex")));
    }
    bytes
}

#[test]
fn worked_example_is_what_the_code_makes() {
    let documented = documented_example();
    assert_eq!(pack_all(Compression::default(), EXAMPLE).0, documented);
    assert_eq!(unpack_all(&documented).as_deref(), Ok(EXAMPLE));
    assert_eq!(shell("lz4 -qdc \"$1\"", on_disk(&documented).path()), EXAMPLE);
}

/// A machine with another LZ4 must still read what this one wrote: the documented bytes are frozen.
#[test]
fn worked_example_has_the_documented_table() {
    let documented = documented_example();
    let Ok(Tail::Table(table)) = SeekTable::parse(&documented, 175) else {
        panic!("no table")
    };
    assert_eq!(
        (table.frames(), table.plain_bytes(), table.stored_range(0..1)),
        (1, 36, 0..31)
    );
    assert_eq!(table.hash(), ContentHash::of(EXAMPLE));
}
