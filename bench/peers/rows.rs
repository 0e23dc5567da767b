//! The rows of the table: every tool, with the settings that its manual recommends for this.

use crate::barman::Barman;
use crate::client::Client;
use crate::contender::Section::{self, Answer, Backlog, Backup, Fetch, Missing, Push, Restore};
use crate::contender::{Row, Setup};
use crate::local::Local;
use crate::pgbackrest::Stanza;
use crate::plain::Plain;
use crate::rclone::Rclone;
use crate::s3fs::S3fs;
use crate::scene::site::Place;
use crate::tar::TarLz4;
use crate::walfs::{Backups, Direct, Mounted};

const WAL: &[Section] = &[Push, Fetch, Missing];
const WAL_AND_BACKLOG: &[Section] = &[Push, Backlog, Fetch, Missing];
const BASE: &[Section] = &[Backup, Restore, Answer];

/// The row that the others are compared with, in each section: the first one that takes part.
pub const ROWS: [Row; 15] = [
    Row {
        name: "walfs, cp",
        settings: "walfs mount as it is, LZ4, cp into and out of wal/; asked for a missing one by the restore_command of \
                   walfs postgres-config",
        program: None,
        sections: WAL_AND_BACKLOG,
        plays_in: anywhere,
        tool: Setup::Wal(Mounted::set_up),
    },
    Row {
        name: "walfs, cp, not ahead",
        settings: "--pg-wal off",
        program: None,
        sections: &[Backlog],
        plays_in: anywhere,
        tool: Setup::Wal(Mounted::not_ahead),
    },
    Row {
        name: "walfs wal-push, wal-fetch",
        settings: "no mount: a process for each segment",
        program: None,
        sections: WAL,
        plays_in: anywhere,
        tool: Setup::Wal(Direct::set_up),
    },
    Row {
        name: "floor: cp to the disk",
        settings: "ext4, neither compressed nor fsynced",
        program: None,
        sections: WAL,
        plays_in: in_a_directory,
        tool: Setup::Wal(Local::set_up),
    },
    Row {
        name: "floor: LZ4, one warm request",
        settings: "aws-sdk-s3 in a process that runs already: read, LZ4 without checksums, PUT; GET, unpacked, written",
        program: None,
        sections: WAL,
        plays_in: in_s3,
        tool: Setup::Wal(Client::set_up),
    },
    Row {
        name: "pgBackRest",
        settings: "lz4 level 1; S3 by https, which the others do without",
        program: Some(("pgbackrest", "version")),
        sections: WAL_AND_BACKLOG,
        plays_in: anywhere,
        tool: Setup::Wal(Stanza::one_by_one),
    },
    Row {
        name: "pgBackRest async",
        settings: "the same with archive-async, spool, process-max = cores",
        program: Some(("pgbackrest", "version")),
        sections: WAL_AND_BACKLOG,
        plays_in: anywhere,
        tool: Setup::Wal(Stanza::asynchronous),
    },
    Row {
        name: "barman-cloud",
        settings: "not compressed: its gzip takes seconds for a segment, and its snappy does not run with Debian 12's Python",
        program: Some(("barman-cloud-wal-archive", "--version")),
        sections: WAL_AND_BACKLOG,
        plays_in: in_s3,
        tool: Setup::Wal(Barman::for_wal),
    },
    Row {
        name: "s3fs, cp",
        settings: "as it is; stores 16 MiB",
        program: Some(("s3fs", "--version")),
        sections: WAL,
        plays_in: in_s3,
        tool: Setup::Wal(S3fs::set_up),
    },
    Row {
        name: "rclone copyto",
        settings: "--s3-no-check-bucket --retries 1; stores 16 MiB; of a missing file it says nothing and ends with 0",
        program: Some(("rclone", "version")),
        sections: &[Push, Fetch],
        plays_in: in_s3,
        tool: Setup::Wal(Rclone::set_up),
    },
    Row {
        name: "walfs backup, restore",
        settings: "as it is; WAL archived by cp",
        program: None,
        sections: BASE,
        plays_in: anywhere,
        tool: Setup::Base(Backups::set_up),
    },
    Row {
        name: "floor: pg_basebackup, cp -a",
        settings: "to the disk, plain, with fsync; neither compressed nor far away",
        program: None,
        sections: BASE,
        plays_in: in_a_directory,
        tool: Setup::Base(Plain::set_up),
    },
    Row {
        name: "floor: tar, lz4 -1",
        settings: "reads the same files on one core and packs them on another, to the disk, with fsync; no backup: PostgreSQL \
                   is not told, pages are not checked",
        program: Some(("lz4", "--version")),
        sections: &[Backup],
        plays_in: in_a_directory,
        tool: Setup::Base(TarLz4::set_up),
    },
    Row {
        name: "pgBackRest backup",
        settings: "lz4 level 1, process-max = cores, repo-bundle, start-fast; S3 by https",
        program: Some(("pgbackrest", "version")),
        sections: BASE,
        plays_in: anywhere,
        tool: Setup::Base(Stanza::for_base),
    },
    Row {
        name: "barman-cloud-backup",
        settings: "--jobs = cores, --immediate-checkpoint; not compressed either",
        program: Some(("barman-cloud-backup", "--version")),
        sections: BASE,
        plays_in: in_s3,
        tool: Setup::Base(Barman::for_base),
    },
];

fn anywhere(_place: Place) -> bool {
    true
}

fn in_a_directory(place: Place) -> bool {
    place == Place::Directory
}

fn in_s3(place: Place) -> bool {
    place != Place::Directory
}
