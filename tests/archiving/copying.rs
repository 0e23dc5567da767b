//! What a copy tool calls success is in the store: every tool, every kind of file, every kind of store.

use std::fs;

use super::rig::{Rig, Source, backup_history};
use crate::common::copiers;
use crate::common::postgres::{self, Postgres};
use crate::common::user::said;
use crate::common::wait;
use crate::common::wal;

/// Brings a file by each tool, a different one each time, and looks into the store.
fn every_copier_stores(rig: &Rig, make: impl Fn(u32) -> Source) {
    for (copier, number) in copiers::all(&rig.world).iter().zip(1..) {
        let source = make(number);
        let output = copier.copy(rig.user(), &source.path, &rig.target(&source.name));
        assert!(
            output.status.success(),
            "{} {}: {}",
            copier.name,
            source.name,
            said(&output)
        );
        rig.assert_archived(&source);
        let read = rig.mount.read(&source.name);
        assert!(
            read.as_ref() == Ok(&source.content),
            "{} reads back wrongly",
            source.name
        );
    }
}

/// W1: "A write to `wal/` is acknowledged only when the store has the whole object". W2: "every copy tool learns the
/// truth". R5: `lz4 -d` "gives back a segment".
#[test]
fn w2_success_of_every_copier_means_stored() {
    for rig in Rig::every_kind() {
        every_copier_stores(&rig, |number| rig.segment(u64::from(number), u64::from(number)));
        every_copier_stores(&rig, |number| rig.history(number));
        rig.mount.assert_status("/failed_files", 0);
    }
}

/// W2, for the other names PostgreSQL archives: "`.partial`" and "`.backup`".
#[test]
fn w2_success_means_stored_for_partial_and_backup_files() {
    for rig in Rig::both_kinds() {
        every_copier_stores(&rig, |number| {
            let segment = rig.segment(u64::from(number), 9);
            rig.source(&format!("{}.partial", segment.name), segment.content)
        });
        every_copier_stores(&rig, |number| {
            // The name's offset is that of the start location; the segment is what tells these files apart.
            let name = format!("0000000100000000{:08X}", number + 1);
            rig.source(&format!("{name}.00000028.backup"), backup_file(&name, number + 1))
        });
    }
}

/// A backup history file of a backup that began in this segment of 1 MiB.
fn backup_file(segment: &str, number: u32) -> Vec<u8> {
    let text = String::from_utf8(backup_history(segment)).expect("ASCII");
    text.replace("0/2000", &format!("0/{number:X}00")).into_bytes()
}

/// W1, W2: 16 MiB, the size that every server has unless told otherwise.
#[test]
fn w2_success_means_stored_for_usual_segments() {
    let rig = Rig::s3(&[]);
    every_copier_stores(&rig, |number| {
        rig.sized_segment(u64::from(number), wal::SEGMENT_BYTES, u64::from(number))
    });
}

/// W6: "`pg_receivewal`" writes into the mount itself: `.partial`, filled in, synced, renamed.
#[test]
fn w6_pg_receivewal_streams_into_the_mount() {
    for rig in Rig::both_kinds() {
        let options = postgres::Options {
            segment_mib: 1,
            ..postgres::Options::default()
        };
        let mut server = Postgres::init(&rig.world.path().join("pg"), &options);
        server.start();
        let mut receiver = server.receive_wal(&rig.mount.wal());
        wait::until("pg_receivewal to stream", || {
            let streaming =
                server.query("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'");
            (streaming == "1").then_some(())
        });
        let names: Vec<String> = (0..3).map(|_| server.switch_wal()).collect();
        for name in &names {
            wait::until("the segment to be archived", || rig.object(name).map(drop));
            let written = fs::read(server.data().join("pg_wal").join(name)).expect("read a segment");
            assert!(rig.stored(name) == Some(written), "{name} is not the same");
        }
        assert!(
            receiver.try_wait().expect("look after pg_receivewal").is_none(),
            "it ended"
        );
        receiver.kill().expect("kill pg_receivewal");
        receiver.wait().expect("wait for pg_receivewal");
        // What it had begun is no archived file.
        let unfinished = rig
            .mount
            .list()
            .into_iter()
            .filter(|name| name.ends_with(".partial"));
        for name in unfinished {
            assert!(rig.object(&name).is_none(), "{name} is in the store");
        }
    }
}
