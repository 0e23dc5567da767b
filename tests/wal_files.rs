//! Segments, names and histories of a real PostgreSQL against `walfs::pg`.
//!
//! Needs `initdb`, `pg_ctl`, `psql` and others of any version under `/usr/lib/postgresql`, and fails
//! without them. As root they run as user `postgres`, because they refuse root.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use walfs::pg::{
    HeaderError, Lsn, PageHeader, SegmentName, SegmentSize, SystemId, Timeline, TimelineMatch, WalName,
    backup_history, history,
};

/// A data directory in a temporary directory, gone with the value.
struct Cluster {
    programs: PathBuf,
    user: Option<(u32, u32)>,
    directory: TempDir,
}

impl Cluster {
    /// Runs `initdb` with segments of that many MiB.
    fn create(segment_mib: u32) -> Self {
        let directory = TempDir::new().unwrap();
        let user = is_root().then(postgres_user);
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let cluster = Self {
            programs: newest_programs(),
            user,
            directory,
        };
        let size = format!("--wal-segsize={segment_mib}");
        cluster.run(
            "initdb",
            &[
                "-N",
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--no-locale",
                &size,
                "-D",
                "data",
            ],
        );
        cluster
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// What a program of PostgreSQL printed; it must succeed.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(self.programs.join(program));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("LC_ALL", "C");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        // To files: a server left running would hold a pipe open for ever.
        let (out, err) = (self.path("stdout"), self.path("stderr"));
        command
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap());
        let status = command
            .status()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(
            status.success(),
            "{program} {arguments:?}: {status}\n{}",
            fs::read_to_string(err).unwrap()
        );
        fs::read_to_string(out).unwrap()
    }

    fn control_data(&self) -> HashMap<String, String> {
        let text = self.run("pg_controldata", &["data"]);
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect()
    }

    /// Name and content of every file in `pg_wal`, in the order of names.
    fn wal(&self) -> Vec<(WalName, Vec<u8>)> {
        let entries = fs::read_dir(self.path("data/pg_wal"))
            .unwrap()
            .map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        let mut wal: Vec<_> = files
            .map(|file| {
                (
                    file.file_name().to_str().unwrap().parse().unwrap(),
                    fs::read(file.path()).unwrap(),
                )
            })
            .collect();
        wal.sort();
        wal
    }
}

/// A server on a cluster, reached by its socket only; stopped with the value.
struct Server<'a>(&'a Cluster);

impl<'a> Server<'a> {
    fn start(cluster: &'a Cluster) -> Self {
        let socket = cluster.directory.path().display().to_string();
        let options = format!("-c listen_addresses= -c unix_socket_directories={socket} -c fsync=off");
        cluster.run(
            "pg_ctl",
            &["-D", "data", "-l", "log", "-w", "-o", &options, "start"],
        );
        Self(cluster)
    }

    fn sql(&self, text: &str) -> String {
        let socket = self.0.directory.path().display().to_string();
        self.0
            .run(
                "psql",
                &[
                    "-X", "-A", "-t", "-q", "-h", &socket, "-U", "postgres", "-c", text,
                ],
            )
            .trim()
            .to_owned()
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.0
            .run("pg_ctl", &["-D", "data", "-m", "immediate", "-w", "stop"]);
    }
}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn postgres_user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("no user postgres in /etc/passwd");
    let field = |index| line.split(':').nth(index).unwrap().parse().unwrap();
    (field(2), field(3))
}

fn newest_programs() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").expect("no PostgreSQL in /usr/lib/postgresql");
    let versions = installed.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let newest = versions
        .max()
        .expect("no version of PostgreSQL in /usr/lib/postgresql");
    Path::new("/usr/lib/postgresql")
        .join(newest.to_string())
        .join("bin")
}

fn segment(wal: &[(WalName, Vec<u8>)]) -> (SegmentName, &[u8]) {
    match wal {
        [(WalName::Segment(name), content), ..] => (*name, content),
        _ => panic!("pg_wal does not begin with a segment"),
    }
}

#[test]
fn first_segment_agrees_with_pg_controldata() {
    for mib in [1, 16] {
        let cluster = Cluster::create(mib);
        let (control, wal) = (cluster.control_data(), cluster.wal());
        let (name, content) = segment(&wal);
        let header = PageHeader::parse(content).unwrap();

        assert_eq!(header.check_name(name), Ok(TimelineMatch::Exact));
        assert_eq!(
            header.system_id.to_string(),
            control["Database system identifier"]
        );
        assert_eq!(header.segment_bytes.to_string(), control["Bytes per WAL segment"]);
        assert_eq!(header.block_bytes.to_string(), control["WAL block size"]);
        assert_eq!(
            header.timeline.to_string(),
            control["Latest checkpoint's TimeLineID"]
        );
        assert_eq!(name.to_string(), control["Latest checkpoint's REDO WAL file"]);
        assert_eq!(content.len() as u64, header.segment_size().unwrap().bytes());

        let redo: Lsn = control["Latest checkpoint's REDO location"].parse().unwrap();
        assert_eq!(redo.to_string(), control["Latest checkpoint's REDO location"]);
        let size = header.segment_size().unwrap();
        assert_eq!(
            SegmentName::from_number(name.timeline, redo.0 / size.bytes(), size),
            Some(name)
        );

        let version = newest_programs()
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_owned();
        assert_eq!(
            header.postgres_version(),
            version.to_str(),
            "magic {:04X}",
            header.magic
        );
    }
}

#[test]
fn each_flipped_byte_is_noticed() {
    let cluster = Cluster::create(1);
    let wal = cluster.wal();
    let (name, content) = segment(&wal);
    let good = PageHeader::parse(content).unwrap();

    for at in 0..PageHeader::BYTES {
        let mut page = content[..8192].to_vec();
        page[at] ^= 0xFF;
        let outcome = PageHeader::parse(&page).and_then(|header| Ok((header, header.check_name(name)?)));
        match at {
            // The magic of a version that is not known: taken, so that the next PostgreSQL can be archived.
            0 => assert_eq!(outcome.unwrap().0.postgres_version(), None),
            1 => assert!(
                matches!(outcome, Err(HeaderError::Magic { .. })),
                "{at}: {outcome:?}"
            ),
            2 | 3 => assert!(
                matches!(outcome, Err(HeaderError::Flags { .. })),
                "{at}: {outcome:?}"
            ),
            4..8 => assert!(
                matches!(outcome, Err(HeaderError::LaterTimeline { .. })),
                "{at}: {outcome:?}"
            ),
            8..16 => assert!(
                matches!(outcome, Err(HeaderError::PageAddress { .. })),
                "{at}: {outcome:?}"
            ),
            // The length of a record's rest, and padding.
            16..24 => assert_eq!(outcome, Ok((good, TimelineMatch::Exact))),
            // Another cluster: not to be seen in the file alone.
            24..32 => assert_ne!(outcome.unwrap().0.system_id, good.system_id),
            32..36 => assert!(
                matches!(outcome, Err(HeaderError::SegmentBytes { .. })),
                "{at}: {outcome:?}"
            ),
            _ => assert!(
                matches!(outcome, Err(HeaderError::BlockBytes { .. })),
                "{at}: {outcome:?}"
            ),
        }
    }
    assert_eq!(PageHeader::parse(&vec![0; content.len()]), Err(HeaderError::Zero));
}

#[test]
fn promotion_leaves_partial_history_and_a_copied_page() {
    let cluster = Cluster::create(1);
    fs::write(cluster.path("data/standby.signal"), "").unwrap();
    let configuration = "archive_mode = on\narchive_command = 'false'\nrecovery_target_timeline = 'latest'\n";
    let path = cluster.path("data/postgresql.conf");
    fs::write(&path, fs::read_to_string(&path).unwrap() + configuration).unwrap();
    let server = Server::start(&cluster);
    assert_eq!(server.sql("select pg_promote()"), "t");
    server.sql("create table t as select 1");
    drop(server);

    let wal = cluster.wal();
    let named =
        |wanted: fn(&WalName) -> bool| wal.iter().find(|(name, _)| wanted(name)).expect("not in pg_wal");
    let (_, text) = named(|name| *name == WalName::History(Timeline(2)));
    let entries = history::parse(text, Timeline(2)).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(
        (entries[0].timeline, entries[0].reason.as_str()),
        (Timeline(1), "no recovery target specified")
    );

    let (partial, old) = named(|name| matches!(name, WalName::Partial(_)));
    let header = PageHeader::parse(old).unwrap();
    let size = SegmentSize::new(1 << 20).unwrap();
    let partial = partial.segment().unwrap();
    assert_eq!(header.check_name(partial), Ok(TimelineMatch::Exact));
    assert_eq!(entries[0].end.0 / size.bytes(), partial.number(size));

    // The new timeline's first segment: the old one's page under the new one's name.
    let next = WalName::Segment(SegmentName {
        timeline: Timeline(2),
        ..partial
    });
    let (_, new) = wal.iter().find(|(name, _)| *name == next).unwrap();
    let copied = PageHeader::parse(new).unwrap();
    assert_eq!(
        copied.check_name(next.segment().unwrap()),
        Ok(TimelineMatch::Ancestor(Timeline(1)))
    );
    assert_eq!(copied.system_id, header.system_id);
}

#[test]
fn backup_history_of_a_real_backup() {
    let cluster = Cluster::create(1);
    let path = cluster.path("data/postgresql.conf");
    let configuration = "archive_mode = on\narchive_command = 'false'\n";
    fs::write(&path, fs::read_to_string(&path).unwrap() + configuration).unwrap();
    let server = Server::start(&cluster);
    let socket = cluster.directory.path().display().to_string();
    let arguments = [
        "-h",
        &socket,
        "-U",
        "postgres",
        "-D",
        "copy",
        "-c",
        "fast",
        "-X",
        "fetch",
        "-l",
        "it's: a label",
    ];
    cluster.run("pg_basebackup", &arguments);
    let id = server.sql("select system_identifier from pg_control_system()");
    drop(server);

    let wal = cluster.wal();
    let (name, text) = wal
        .iter()
        .find(|(name, _)| matches!(name, WalName::Backup(..)))
        .expect("no .backup in pg_wal");
    let WalName::Backup(start, offset) = *name else {
        unreachable!("found as a backup")
    };
    let found = backup_history::parse(text).unwrap();
    assert_eq!(found.check_name(start, offset), Ok(()));
    assert_eq!(
        (found.label.as_str(), found.start_timeline, found.stop_timeline),
        ("it's: a label", Timeline(1), Timeline(1))
    );
    assert!(found.stop_lsn > found.start_lsn && found.stop_file >= found.start_file);

    let (_, content) = wal
        .iter()
        .find(|(name, _)| *name == WalName::Segment(start))
        .unwrap();
    let header = PageHeader::parse(content).unwrap();
    assert_eq!(header.system_id, SystemId(id.parse().unwrap()));
    assert_eq!(
        found.start_lsn,
        Lsn(start.start(header.segment_size().unwrap()).0 + u64::from(offset))
    );
}
