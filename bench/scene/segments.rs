//! WAL to archive: what a busy PostgreSQL has filled.

// A benchmark need not use all of it, and `pub` here means: for every benchmark.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::postgres::{Options, Postgres, StopMode};
use crate::common::user::User;
use crate::common::version::of_the_system;
use crate::common::wait;
use crate::common::world::World;

/// Segments in a row, and what else tools want to see of the cluster that wrote them.
#[derive(Debug)]
pub struct Source {
    /// Paths of whole segments, without a gap, owned by postgres.
    pub segments: Vec<PathBuf>,
    /// What they are, in words.
    pub about: String,
    control: Vec<u8>,
    major: u32,
}

impl Source {
    /// `count` full segments that a server under pgbench has archived; the server is gone then. Of the
    /// system's own PostgreSQL, which the tools of the same distribution know.
    pub fn new(world: &World, count: usize) -> Source {
        let dir = world.owned_dir("segments");
        let version = of_the_system();
        let major = version.major;
        let mut server = Postgres::init(&world.path().join("source"), &Options::of(version));
        server.archive_with(&format!("cp %p {}/%f", dir.display()));
        server.start();
        server.pgbench_init(10);
        let segments = filled(&server, &dir, count);
        server.stop(StopMode::Fast);
        let control = fs::read(server.data().join("global/pg_control")).expect("read pg_control");
        server.destroy();
        let about = format!("{count} segments of PostgreSQL {major} under pgbench");
        Source {
            segments,
            about,
            control,
            major,
        }
    }

    /// A new directory that tools take for the data directory of the server that is archiving these segments.
    pub fn data_dir(&self, world: &World, name: &str) -> PathBuf {
        let data = world.owned_dir(name);
        for dir in ["global", "pg_wal", "pg_wal/archive_status"] {
            User::postgres().make_dir(&data.join(dir));
        }
        world.owned_file(
            &format!("{name}/PG_VERSION"),
            format!("{}\n", self.major).as_bytes(),
        );
        world.owned_file(&format!("{name}/global/pg_control"), &self.control);
        data
    }
}

/// `count` full segments more that a running server archives into this directory, under pgbench.
pub fn filled(server: &Postgres, dir: &Path, count: usize) -> Vec<PathBuf> {
    let first = listed(dir).len();
    // The last one may be on its way, or be cut short when the server ends: neither is wanted.
    while listed(dir).len() < first + count + 2 {
        // Whole pages are logged once after each, as on a server with more data than this.
        server.query("CHECKPOINT");
        let mut load = server.pgbench(5, 4);
        wait::for_exit("pgbench", &mut load);
    }
    listed(dir).into_iter().skip(first).take(count).collect()
}

/// Whole segments in a directory, in order.
fn listed(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("read the directory of segments");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("read it").path()).collect();
    paths.retain(|path| path.file_name().is_some_and(|name| name.len() == 24));
    paths.sort();
    paths
}
