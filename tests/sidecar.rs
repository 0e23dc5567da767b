//! A3: WAL and backups by HTTP, for a server that has neither walfs nor a mount. 200 is said only of what is stored.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};

use super::common::basebackup::{Place, Site, balanced};
use super::common::postgres::{Options, Postgres, newest};
use super::common::recovery::Recovery;
use super::common::sidecar::Sidecar;
use super::common::user::{User, said};
use super::common::wait;
use super::common::wal;
use super::common::walfs::walfs;
use super::common::world::World;

// Restored or backed up first, and what the server waits on.
mod starting;

const FIRST: &str = "000000010000000000000001";
const SECOND: &str = "000000010000000000000002";
const THIRD: &str = "000000010000000000000003";

fn segment(name: &str, fill: u64) -> Vec<u8> {
    wal::segment(name, 7, 1 << 20, fill)
}

#[test]
fn a3_only_what_is_stored_is_answered_with_200() {
    let world = World::new("sidecar");
    let sidecar = Sidecar::start(&world, &[], &["--listen", "127.0.0.1:0"]);
    let put = |name: &str, body: &[u8]| sidecar.asks("PUT", &format!("/wal/{name}"), &[], body).0;
    let whole = segment(FIRST, 1);
    assert_eq!(put(FIRST, &whole), 200);
    let stored = || fs::read_dir(world.archive().join("wal")).expect("wal/").count();
    let before = stored();
    // Again: the same is a success, another is not.
    assert_eq!(put(FIRST, &whole), 200);
    assert_ne!(put(FIRST, &segment(FIRST, 2)), 200);
    // Half of it, of another name, of another cluster, no WAL.
    assert_ne!(put(SECOND, &segment(SECOND, 1)[..1 << 19]), 200);
    assert_ne!(put(SECOND, &whole), 200);
    assert_ne!(put(SECOND, &wal::segment(SECOND, 8, 1 << 20, 1)), 200);
    assert_ne!(put(SECOND, b""), 200);
    for name in [
        "x",
        "..%2f..%2fetc%2fpasswd",
        "../../etc/passwd",
        "",
        "000000010000000000000002.zst",
    ] {
        assert_eq!(put(name, &whole), 400, "{name}");
    }
    assert_eq!(stored(), before, "nothing more is stored");
    // A client that dies in the middle of its body.
    let mut stream = TcpStream::connect(&sidecar.address).expect("connect");
    let head = format!(
        "PUT /wal/{SECOND} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        1 << 20
    );
    stream.write_all(head.as_bytes()).expect("send");
    stream.write_all(&segment(SECOND, 1)[..1 << 19]).expect("send");
    drop(stream);
    assert_eq!(
        sidecar.gets(&format!("/absent/{SECOND}"), 200),
        format!("{SECOND} is not archived\n")
    );
    assert_eq!(put(SECOND, &segment(SECOND, 1)), 200);
    // What is there comes back; the end is 404, a hole is not.
    assert_eq!(
        sidecar.asks("GET", &format!("/wal/{FIRST}"), &[], b""),
        (200, whole.clone())
    );
    assert_eq!(
        sidecar.asks("GET", &format!("/wal-fetch/{FIRST}"), &[], b""),
        (200, whole.clone())
    );
    sidecar.gets(&format!("/absent/{FIRST}"), 404);
    sidecar.gets(&format!("/wal/{THIRD}"), 404);
    let fourth = "000000010000000000000004";
    assert_eq!(put(fourth, &segment(fourth, 1)), 200);
    assert!(sidecar.gets(&format!("/wal/{THIRD}"), 503).contains(fourth));
    sidecar.gets(&format!("/absent/{THIRD}"), 503);
    // What is damaged is not sent as whole.
    let object = world.archive().join(format!("wal/{FIRST}.lz4"));
    let mut content = fs::read(&object).expect("the object");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&object, content).expect("damage it");
    let other = Sidecar::start(&world, &[], &["--listen", "127.0.0.1:0"]);
    assert_ne!(other.asks("GET", &format!("/wal/{FIRST}"), &[], b"").0, 200);
    other.stop();
    // What watches it.
    assert_eq!(sidecar.gets("/ping", 200), "pong\n");
    assert!(sidecar.gets("/status", 200).contains("archive "));
    let metrics = sidecar.gets("/metrics", 200);
    assert!(
        metrics.contains("walfs_backups{state=\"complete\"} 0")
            && metrics.contains("walfs_archived_files_total 3\n"),
        "{metrics}"
    );
    assert_eq!(sidecar.gets("/backup-list", 200).trim(), "[]");
    sidecar.gets("/", 400);
    assert_eq!(sidecar.asks("DELETE", &format!("/wal/{SECOND}"), &[], b"").0, 400);
    sidecar.stop();
}

/// Whoever announces a body and does not send it, though he may, keeps nobody from an answer, nor from archiving.
#[test]
fn a3_a_body_that_does_not_come_is_waited_for_by_nobody_else() {
    let world = World::new("silent");
    let sidecar = Sidecar::start(&world, &[], &["--listen", "127.0.0.1:0"]);
    let silent: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(&sidecar.address).expect("connect");
            let head = format!("PUT /wal/{SECOND} HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("send");
            stream
        })
        .collect();
    assert_eq!(sidecar.gets("/ping", 200), "pong\n");
    let body = segment(FIRST, 1);
    assert_eq!(sidecar.asks("PUT", &format!("/wal/{FIRST}"), &[], &body).0, 200);
    for stream in &silent {
        stream.set_nonblocking(true).expect("set a socket");
        let answered = stream.peek(&mut [0]);
        assert!(
            answered.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "one of the silent ones was answered first"
        );
    }
    drop(silent);
    sidecar.stop();
}

#[test]
fn a3_whoever_is_not_on_this_machine_needs_a_token() {
    let world = World::new("token");
    let token = world.owned_file("token", b"geheim\n");
    let token = token.to_str().expect("a path of text");
    let refused = walfs(&world, &User::postgres())
        .args(["agent", "--create", "--listen", "0.0.0.0:0"])
        .env("WALFS_ARCHIVE", world.archive())
        .output()
        .expect("run walfs");
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("token"), "{}", said(&refused));
    let arguments = ["--listen", "0.0.0.0:0", "--http-token-file", token];
    let sidecar = Sidecar::start(&world, &[], &arguments);
    for (header, status) in [
        ("X: y", 401),
        ("Authorization: Bearer ", 401),
        ("Authorization: Bearer geheim2", 401),
        ("Authorization: Basic geheim", 401),
        ("Authorization: Bearer geheim", 200),
    ] {
        assert_eq!(sidecar.asks("GET", "/ping", &[header], b"").0, status, "{header}");
    }
    let body = segment(FIRST, 1);
    assert_eq!(sidecar.asks("PUT", &format!("/wal/{FIRST}"), &[], &body).0, 401);
    // A page in a browser does not get in, from wherever.
    let headers = ["Authorization: Bearer geheim", "Origin: http://example.org"];
    assert_eq!(sidecar.asks("GET", "/ping", &headers, b"").0, 403);
    assert!(!sidecar.log().contains("geheim"));
    // Those who may not, and send nothing more, keep nobody's place.
    let silent: Vec<TcpStream> = (0..130)
        .map(|_| {
            let mut stream = TcpStream::connect(&sidecar.address).expect("connect");
            let head = format!("PUT /wal/{FIRST} HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\nabc");
            stream.write_all(head.as_bytes()).expect("send");
            stream
        })
        .collect();
    let headers = ["Authorization: Bearer geheim"];
    assert_eq!(sidecar.asks("GET", "/ping", &headers, b"").0, 200);
    drop(silent);
    sidecar.stop();
    // A socket file is for its user; one that is left over is in nobody's way, one in use is not taken.
    let socket = world.owned_dir("run").join("http");
    let path = socket.to_str().expect("a path of text");
    let mut sidecar = Sidecar::start(&world, &[], &["--listen", path]);
    assert_eq!(sidecar.gets("/ping", 200), "pong\n");
    let second = walfs(&world, &User::postgres())
        .args(["agent", "--listen", path])
        .env("WALFS_ARCHIVE", world.archive())
        .output()
        .expect("run walfs");
    assert_eq!(second.status.code(), Some(1), "{}", said(&second));
    sidecar.process.kill().expect("kill it");
    sidecar.process.wait().expect("wait for it");
    let sidecar = Sidecar::start(&world, &[], &["--listen", path]);
    assert_eq!(sidecar.gets("/ping", 200), "pong\n");
    sidecar.stop();
    assert!(!socket.exists());
}

/// The commands that `postgres-config --http` prints, active ones or alternatives.
fn printed(world: &World, url: &str, which: &str) -> (String, String) {
    let output = walfs(world, &User::postgres())
        .args(["postgres-config", "--http", url])
        .output()
        .expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{which}{name} = '")));
        let value = line.unwrap_or_else(|| panic!("no {which}{name} in {text}"));
        value.strip_suffix('\'').expect("a quote").replace("''", "'")
    };
    (value("archive_command"), value("restore_command"))
}

/// A server that has only curl, or only wget: archives, is backed up, is lost, comes back.
fn lives(which: &str) {
    let world = World::new(if which.is_empty() { "curl" } else { "wget" });
    let options = Options {
        version: newest(),
        segment_mib: 1,
        ..Options::default()
    };
    let server = Postgres::init(&world.path().join("pg"), &options);
    let data = server.data().to_str().expect("a path of text").to_owned();
    let sockets = world.path().join("pg");
    let settings = [
        // As the sidecar of TimescaleDB is told where the server is.
        ("PGDATA", data.as_str()),
        ("PGHOST", sockets.to_str().expect("a path of text")),
        ("PGUSER", "postgres"),
        ("WALFS_BACKUP_FAST", "true"),
    ];
    let sidecar = Sidecar::start(&world, &settings, &["--listen", "127.0.0.1:0"]);
    let (archive, restore) = printed(&world, &sidecar.url(), which);
    let place = Place::Local(world.archive());
    let mut site = Site {
        world: &world,
        place,
        server,
    };
    site.server.archive_with(&archive);
    site.server.start();
    site.server.pgbench_init(1);
    let taken: serde_json::Value = serde_json::from_str(&sidecar.gets("/backup-push", 200)).expect("JSON");
    assert_eq!(taken["complete"], true);
    let list = sidecar.gets("/backup-list", 200);
    assert!(list.contains(taken["name"].as_str().expect("a name")), "{list}");
    let mut load = site.server.pgbench(2, 1);
    load.wait().expect("wait for pgbench");
    site.server.archive_all();
    let before = balanced(&site.server);
    // The segment that is being written looks whole, and is not archived by a stray request.
    let current = site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    sidecar.gets(&format!("/wal-push/{current}"), 409);
    sidecar.gets(&format!("/absent/{current}"), 200);
    // The server is lost.
    site.server.kill9();
    let dir = world.owned_dir("back");
    let restored = walfs(&world, &User::postgres())
        .args(["restore", "--http", &sidecar.url(), "LATEST"])
        .arg(dir.join("data"))
        .env("WALFS_ARCHIVE", world.archive())
        .output()
        .expect("run walfs");
    assert!(restored.status.success(), "{}", said(&restored));
    let mut back = Postgres::recovering(&dir, newest(), &[("archive_command", "false")]);
    // The file that counts is the one in which the restore has written a command of its own.
    let path = dir.join("data/postgresql.auto.conf");
    let mut written = fs::read_to_string(&path).expect("read the settings");
    assert!(written.contains(&sidecar.url()), "{written}");
    if !which.is_empty() {
        written.push_str(&format!("restore_command = '{}'\n", restore.replace('\'', "''")));
        fs::write(&path, written).expect("write the settings");
    }
    back.start_recovery();
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(balanced(&back), before);
    sidecar.stop();
}

#[test]
fn a3_a_server_with_nothing_but_curl_archives_and_comes_back() {
    lives("");
}

#[test]
fn a3_a_server_with_nothing_but_wget_archives_and_comes_back() {
    lives("#");
}

/// While nobody answers, or something else does, nothing is archived, and no archive has ended.
#[test]
fn a3_what_does_not_answer_as_walfs_does_is_neither_success_nor_the_end() {
    let world = World::new("others");
    let file = world.owned_file(FIRST, &segment(FIRST, 1));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let run = |command: &str| -> Output {
        let script = command
            .replace("%f", FIRST)
            .replace("%p", file.to_str().expect("a path of text"))
            .replace("%%", "%");
        Command::new("sh").arg("-c").arg(script).output().expect("run sh")
    };
    let answers: [&'static str; 7] = [
        "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nConnection: close\r\n\r\nnot found",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nhalf",
        "",
    ];
    for answer in answers {
        let other = listener.try_clone().expect("share it");
        let answering = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = other.accept().expect("accept");
                let mut request = [0; 1 << 16];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let (archive, restore) = printed(&world, &url, "");
        let content = fs::read(&file).expect("the segment");
        let archived = run(&archive);
        assert!(!archived.status.success(), "{answer:?}: {}", said(&archived));
        let fetched = run(&restore);
        // What a whole answer of 200 brings, PostgreSQL looks at itself.
        let expected = if answer.ends_with("ok") { 0 } else { 255 };
        assert_eq!(
            fetched.status.code(),
            Some(expected),
            "{answer:?}: {}",
            said(&fetched)
        );
        fs::write(&file, content).expect("restore it");
        answering.join().expect("the other server");
    }
    drop(listener);
    let (archive, restore) = printed(&world, &url, "");
    assert!(!run(&archive).status.success());
    assert_eq!(run(&restore).status.code(), Some(255));
    let (archive, restore) = printed(&world, &url, "#");
    assert!(!run(&archive).status.success());
    assert_eq!(run(&restore).status.code(), Some(255));
}
