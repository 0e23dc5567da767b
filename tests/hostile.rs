//! S8: sizes are claims, and one odd object takes neither the mount nor a listing away from the others. A real backup in
//! a local archive, and beside it what somebody has put there: each command says what is wrong with which, within bounded
//! memory, and shows the rest.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use walfs::archive::tree::TreeId;
use walfs::archive::tree::summary::{Object, Summary};
use walfs::codec::{Compression, ContentHash, pack_all};
use walfs::pg::Lsn;

use super::common::basebackup::Site;
use super::common::user::{User, said};
use super::common::walfs::{Mount, Options, walfs};
use super::common::world::World;

/// Address space of a command: threads and their heaps reserve much, and none of what is claimed below fits in.
const ROOM_BYTES: u64 = 2 << 30;

/// What no object is, and no memory holds.
const ENORMOUS_BYTES: u64 = 5 << 30;

/// Runs it with little room.
fn bounded(command: &mut Command) -> Output {
    // SAFETY: setrlimit is async-signal-safe, and gets a structure of its own.
    unsafe {
        command.pre_exec(|| {
            let room = libc::rlimit {
                rlim_cur: ROOM_BYTES,
                rlim_max: ROOM_BYTES,
            };
            match libc::setrlimit(libc::RLIMIT_AS, &room) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    };
    command.output().expect("run walfs")
}

/// An archive of one good backup.
struct Hostile<'a> {
    site: &'a Site<'a>,
    archive: PathBuf,
    good: Summary,
}

impl<'a> Hostile<'a> {
    fn new(site: &'a Site<'a>) -> Self {
        site.backup("good");
        let archive = site.world.archive();
        let text = fs::read(archive.join("basebackups/good.json")).expect("read a summary");
        let good = Summary::parse(&text).expect("a summary");
        Hostile { site, archive, good }
    }

    fn own(&self, path: &Path) {
        User::postgres().own(path);
    }

    fn object(&self, key: &str, content: &[u8]) -> u64 {
        let path = self.archive.join(key);
        User::postgres().make_dir(path.parent().expect("in a folder"));
        fs::write(&path, content).expect("write an object");
        self.own(&path);
        content.len() as u64
    }

    /// Its bytes are zeros that take no room.
    fn grow(&self, key: &str) {
        let path = self.archive.join(key);
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path);
        file.expect("open an object")
            .set_len(ENORMOUS_BYTES)
            .expect("grow it");
        self.own(&path);
    }

    /// A backup of its own name, with the good one's files, that is wrong in one way.
    fn forge(&self, name: &str, change: impl FnOnce(&mut Summary)) {
        let id = TreeId::fresh(&name.parse().expect("a name"));
        let mut summary = self.good.clone();
        summary.id = id.to_string();
        summary.finished -= Duration::from_secs(3600);
        change(&mut summary);
        self.object(&format!("basebackups/{name}.json"), &summary.to_text());
    }

    /// The same, whose manifest is this.
    fn forge_manifest(&self, name: &str, plain: &[u8], claim: impl FnOnce(&mut Object)) {
        let (stored, hash) = pack_all(Compression::default(), plain);
        self.forge(name, |summary| {
            let stored_bytes = self.object(&format!("trees/{}/manifest.lz4", summary.id), &stored);
            summary.manifest = Object {
                plain_bytes: plain.len() as u64,
                stored_bytes,
                hash: hash.to_string(),
            };
            claim(&mut summary.manifest);
        });
    }

    fn walfs(&self, command: &str, arguments: &[&str]) -> Output {
        bounded(self.site.walfs(command).args(arguments))
    }

    /// It ends by itself, with this code.
    #[track_caller]
    fn says(&self, command: &str, arguments: &[&str], code: i32) -> String {
        let output = self.walfs(command, arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{command} {arguments:?}: {}",
            said(&output)
        );
        said(&output)
    }
}

/// Backups whose summary or manifest claims what cannot be, and where that shows.
fn forge_all(hostile: &Hostile<'_>) -> Vec<&'static str> {
    hostile.forge("range", |summary| {
        (summary.backup.wal[0].start, summary.backup.wal[0].end) = (Lsn(0), Lsn(u64::MAX));
    });
    hostile.forge("backwards", |summary| summary.backup.wal[0].end = Lsn(0));
    hostile.forge("no-wal", |summary| summary.backup.wal.clear());
    hostile.forge("no-size", |summary| summary.backup.segment_bytes = 0);
    hostile.forge("manifest", |summary| summary.manifest.plain_bytes = 1 << 60);
    hostile.forge("stored", |summary| summary.manifest.stored_bytes = u64::MAX);
    hostile.forge("gone", |_| {});
    let zeros = vec![b'\n'; 64 << 20];
    // Honest about what it unpacks to, and not.
    hostile.forge_manifest("bomb", &zeros, |_| {});
    hostile.forge_manifest("liar", &zeros, |claim| claim.plain_bytes = 1000);
    let part = |id: &str, bytes: u64| {
        format!(
            "{{\"tree\":{{\"manifest_version\":1,\"id\":\"{id}\"}}}}\n\
             {{\"part\":{{\"key\":\"trees/{id}/x\",\"plain_bytes\":{bytes},\"stored_bytes\":{bytes},\"hash\":\"{}\"}}}}\n",
            ContentHash::of(b"")
        )
    };
    hostile.forge_manifest("part", part("part.0123456789abcdef", u64::MAX).as_bytes(), |_| {});
    hostile.object("basebackups/long.json", b"");
    hostile.grow("basebackups/long.json");
    hostile.forge_manifest("grown", b"x", |_| {});
    let text = fs::read(hostile.archive.join("basebackups/grown.json")).expect("read a summary");
    let grown = Summary::parse(&text).expect("a summary");
    hostile.grow(&format!("trees/{}/manifest.lz4", grown.id));
    vec![
        "range",
        "backwards",
        "no-wal",
        "no-size",
        "manifest",
        "stored",
        "gone",
        "bomb",
        "liar",
        "part",
        "long",
        "grown",
    ]
}

/// What is no file, or no file of the archive's.
fn litter(hostile: &Hostile<'_>, world: &World) {
    let (archive, outside) = (&hostile.archive, world.owned_file("outside", b"secret"));
    for key in [
        "wal/0000000100000000000000F0.lz4",
        "basebackups/fifo.json",
        "trees/fifo",
    ] {
        let made = Command::new("mkfifo")
            .arg(archive.join(key))
            .status()
            .expect("run mkfifo");
        assert!(made.success());
        hostile.own(&archive.join(key));
    }
    for key in ["wal/0000000100000000000000F1.lz4", "basebackups/link.json"] {
        symlink(&outside, archive.join(key)).expect("make a link");
    }
    symlink(world.path(), archive.join("wal/out")).expect("make a link");
    User::postgres().make_dir(&archive.join("wal/0000000100000000000000F2.lz4"));
}

#[test]
fn s8_one_odd_object_never_takes_the_others_away() {
    let world = World::new("hostile");
    let site = Site::local(&world);
    let hostile = Hostile::new(&site);
    site.server.archive_all();
    let odd = forge_all(&hostile);
    litter(&hostile, &world);
    let escape = "\u{1b}[2J\nwalfs: forged \u{9b}31m";
    hostile.forge("shown", |summary| {
        summary.backup.label = escape.into();
        summary.written_by = escape.into();
        let trees = hostile.archive.join("trees");
        let (from, to) = (trees.join(&hostile.good.id), trees.join(&summary.id));
        let copied = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.expect("run cp").success());
    });

    let listed = hostile.says("backup-list", &[], 0);
    let line = |name: &str| {
        let found = listed.lines().find(|line| line.starts_with(&format!("{name} ")));
        found.unwrap_or_else(|| panic!("no {name}: {listed}"))
    };
    assert!(line("good").ends_with("complete"), "{listed}");
    for name in [
        "range",
        "backwards",
        "no-wal",
        "no-size",
        "manifest",
        "stored",
        "bomb",
        "long",
    ] {
        assert!(line(name).contains("damaged: "), "{name}: {listed}");
    }
    assert!(
        listed.contains("fifo.json") && listed.contains("link.json"),
        "{listed}"
    );
    let shown: serde_json::Value = {
        let output = hostile.walfs("backup-list", &["--json"]);
        assert!(
            !output.stdout.contains(&0x1b) && !output.stdout.contains(&0x9b),
            "{}",
            said(&output)
        );
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let labels = shown
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["backup"]["label"].as_str());
    assert!(labels.flatten().any(|label| label == escape), "{shown:#}");

    for name in &odd {
        let output = hostile.walfs("backup-show", &[name]);
        assert!(
            matches!(output.status.code(), Some(0 | 1)),
            "{name}: {}",
            said(&output)
        );
        let target = world.path().join("nowhere").display().to_string();
        let refused = hostile.says("restore", &["--dry-run", name, &target], 1);
        assert!(
            ["damaged", "WAL", "nothing is left"]
                .iter()
                .any(|word| refused.contains(word)),
            "{name}: {refused}"
        );
    }
    let page = hostile.says("backup-show", &["good"], 0);
    assert!(page.contains("complete"), "{page}");
    let dir = world.owned_dir("restored");
    let target = dir.join("data").display().to_string();
    hostile.says("restore", &["--dry-run", "--no-archiving", "LATEST", &target], 0);

    let wal = hostile.says("wal-list", &[], 0);
    assert!(!wal.contains("\n0000000100000000000000F"), "{wal}");
    let first = wal
        .lines()
        .find(|line| line.starts_with("00000001"))
        .expect("a segment");
    let first = first.split(' ').next().expect("its name");

    let mount = Options::local(&world).mount();
    browse(&mount, first);
    hostile.grow(&format!("wal/{first}.lz4"));
    let read = mount.read(first).expect_err("an object of 5 GiB was read");
    assert!(read.contains("Input/output error"), "{read}");
    let fetched = hostile.walfs("wal-fetch", &[first, &dir.join("fetched").display().to_string()]);
    assert_eq!(fetched.status.code(), Some(255), "{}", said(&fetched));
    assert!(mount.peak_memory_mib() < 256, "{} MiB", mount.peak_memory_mib());
}

/// Names, attributes and a file, as people look around.
#[track_caller]
fn browse(mount: &Mount, first: &str) {
    let looked = mount.user().shell(
        r#"cd "$1" && ls -l wal | grep -q "$2" && ls basebackups && ls -lR basebackups/LATEST/ > /dev/null &&
           test "$(readlink basebackups/LATEST)" = good && { ls basebackups/*/ > /dev/null; cat basebackups/good/PG_VERSION; }"#,
        &[mount.path(), Path::new(first)],
    );
    assert!(
        looked.status.success() && said(&looked).contains("good"),
        "{}",
        said(&looked)
    );
}

/// S6: the archive's own folders are no links. And a bit that flipped in `walfs.json` is told as what it is.
#[test]
fn s6_an_archive_is_not_left_through_its_links() {
    let world = World::new("links");
    let site = Site::local(&world);
    site.server.archive_all();
    let (wal, moved) = (world.archive().join("wal"), world.path().join("moved"));
    fs::rename(&wal, &moved).expect("move the folder");
    symlink(&moved, &wal).expect("make a link");
    let list = || site.walfs("wal-list").output().expect("run walfs");
    let refused = list();
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("symbolic link"), "{}", said(&refused));
    fs::remove_file(&wal).expect("remove the link");
    fs::rename(&moved, &wal).expect("move it back");
    assert!(list().status.success());
    let marker = world.archive().join("walfs.json");
    let text = fs::read_to_string(&marker).expect("read the marker");
    fs::write(&marker, text.replace("\"lz4\"", "\"lz5\"")).expect("flip a bit");
    let refused = said(&list());
    assert!(
        refused.contains("codec is \"lz5\", expected lz4 or zst"),
        "{refused}"
    );
}

/// A server that says no with a message of many gigabytes.
struct Endless {
    endpoint: String,
    sent: Arc<AtomicU64>,
}

impl Endless {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        // Ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counted = counted.clone();
                thread::spawn(move || answer(client, &counted));
            }
        });
        Self { endpoint, sent }
    }
}

fn answer(mut client: TcpStream, sent: &AtomicU64) {
    let mut request = [0; 16 << 10];
    let _ = client.read(&mut request);
    let head = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\nconnection: close\r\n\r\n\
                <?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>";
    let piece = vec![b'x'; 1 << 20];
    let mut write = client.write_all(head.as_bytes());
    while write.is_ok() && sent.load(Ordering::Relaxed) < ENORMOUS_BYTES {
        write = client.write_all(&piece);
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
}

#[test]
fn s8_a_server_that_never_ends_is_left() {
    let world = World::new("endless");
    let server = Endless::start();
    let mut list = walfs(&world, &User::postgres());
    list.args([
        "wal-list",
        "--archive",
        "s3://bucket/prefix",
        "--deadline",
        "2s",
        "--endpoint",
        &server.endpoint,
    ])
    .env("AWS_ACCESS_KEY_ID", "key")
    .env("AWS_SECRET_ACCESS_KEY", "secret");
    let output = bounded(&mut list);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).len() < 20_000,
        "{} bytes were said",
        said(&output).len()
    );
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent < 1 << 30, "{sent} bytes were taken");
}
