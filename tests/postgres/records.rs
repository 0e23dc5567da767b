//! Records of real WAL, of every version: what `walfs::pg::record` reads is what `pg_waldump` shows.

use std::fs;

use walfs::pg::record::{Found, Window};
use walfs::pg::{Lsn, PageHeader, SegmentName, SegmentSize};

use crate::common::postgres::{Options, Postgres};
use crate::common::user::said;
use crate::common::version::{Version, installed_versions};
use crate::common::world::World;

#[test]
fn r6_records_are_found_where_pg_waldump_finds_them() {
    for version in installed_versions().into_iter().filter(Version::has_tools) {
        let world = World::new("records");
        let options = Options {
            segment_mib: 1,
            ..Options::of(version)
        };
        let mut server = Postgres::init(&world.path().join("pg"), &options);
        server.archive_with("true");
        server.start();
        // Records over many pages, commits, and one that tells of settings.
        server.query("CREATE TABLE t AS SELECT repeat('x', 100) AS text FROM generate_series(1, 2000)");
        server.configure(&[("max_connections", "40")]);
        server.restart();
        server.query("DELETE FROM t WHERE ctid < '(3,1)'");
        let name: SegmentName = server.archive_all().parse().expect("a segment's name");

        let size = SegmentSize::new(1 << 20).expect("a size");
        let path = server.data().join("pg_wal").join(name.to_string());
        let bytes = fs::read(&path).expect("read the segment");
        let header = PageHeader::parse(&bytes).expect("a header");
        let window = Window::new(&header, name.start(size), &bytes);
        let first = window.first().expect("a first record");
        let found: Vec<_> = window.records(first).collect();
        let dumped = server
            .program("pg_waldump")
            .arg(&path)
            .output()
            .expect("run pg_waldump");
        let lsns: Vec<Lsn> = said(&dumped)
            .lines()
            .filter_map(|line| line.split("lsn: ").nth(1)?.split(',').next()?.parse().ok())
            .collect();
        let seen: Vec<Lsn> = found.iter().map(|record| position(record.at, size)).collect();
        assert!(lsns.len() > 20, "{}", said(&dumped));
        assert_eq!(seen, lsns, "PostgreSQL {}", options.version.major);
        assert!(found.iter().any(|record| record.ended().is_some()));
        let limits = found
            .iter()
            .find_map(|record| record.limits())
            .expect("a change of settings");
        assert!(
            limits
                .settings()
                .any(|setting| setting == ("max_connections", 40)),
            "{limits:?}"
        );
        let last = found.last().expect("a record");
        assert_eq!(
            window.record_at(last.next),
            Found::Nothing,
            "zeros, or the segment's end"
        );
    }
}

/// As pg_waldump shows it: behind the header of a page that the record begins.
fn position(at: Lsn, size: SegmentSize) -> Lsn {
    match (at.0 % size.bytes(), at.0 % 8192) {
        (0, _) => Lsn(at.0 + 40),
        (_, 0) => Lsn(at.0 + 24),
        _ => at,
    }
}
