//! A mount over one of the stores, files to bring to it, and what is in the store afterwards: looked at from behind,
//! past walfs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use walfs::store::{self, ByteRange, Key, Location, Patience};

use crate::common::garage::Garage;
use crate::common::s3::{Logged, Operation, S3Server};
use crate::common::user::{User, said};
use crate::common::wal;
use crate::common::walfs::{Mount, Options};
use crate::common::world::World;

/// The system identifier of every segment that a test makes, unless it is about another one.
pub(crate) const CLUSTER: u64 = 7_465_321_098_765_432_101;

/// Size of a segment where nothing else is said, in bytes.
pub(crate) const SMALL: u32 = 1 << 20;

/// Where the archive is.
pub(crate) enum Place {
    Local,
    S3(S3Server),
    Garage(Garage),
}

/// One archive and its mount. Fields in the order they must go.
pub(crate) struct Rig {
    pub(crate) mount: Mount,
    pub(crate) place: Place,
    pub(crate) world: World,
}

impl Rig {
    /// A local directory.
    #[track_caller]
    pub(crate) fn local() -> Rig {
        Rig::local_within("45s")
    }

    /// A local directory, with another deadline than the usual one.
    #[track_caller]
    pub(crate) fn local_within(deadline: &str) -> Rig {
        let world = World::new("archiving");
        let mount = Options::local(&world).args(&["--deadline", deadline]).mount();
        Rig {
            mount,
            place: Place::Local,
            world,
        }
    }

    /// The S3 server of the tests, with more `arguments` for `walfs mount`.
    #[track_caller]
    pub(crate) fn s3(arguments: &[&str]) -> Rig {
        Rig::on_server(S3Server::start(), arguments)
    }

    /// An S3 server that the test has prepared.
    #[track_caller]
    pub(crate) fn on_server(server: S3Server, arguments: &[&str]) -> Rig {
        let world = World::new("archiving");
        let mount = s3_options(&world, &server).args(arguments).mount();
        Rig {
            mount,
            place: Place::S3(server),
            world,
        }
    }

    /// A real S3 server.
    #[track_caller]
    pub(crate) fn garage() -> Rig {
        let world = World::new("archiving");
        let garage = Garage::start(&world.path().join("garage"), false);
        let archive = format!("s3://{}/cluster", garage.bucket());
        let mount = Options::s3(&world, &archive, &garage.endpoint(), &garage.env()).mount();
        Rig {
            mount,
            place: Place::Garage(garage),
            world,
        }
    }

    /// Each kind of store once, the real one too.
    pub(crate) fn every_kind() -> Vec<Rig> {
        vec![Rig::local(), Rig::s3(&[]), Rig::garage()]
    }

    /// The local directory and the S3 server of the tests.
    pub(crate) fn both_kinds() -> Vec<Rig> {
        vec![Rig::local(), Rig::s3(&[])]
    }

    /// A second mount of the same archive, as on another machine.
    #[track_caller]
    pub(crate) fn second_mount(&self) -> Mount {
        let second = self.world.path().join("mnt2");
        fs::create_dir(&second).expect("make the second mount point");
        let options = match &self.place {
            Place::Local => Options::local(&self.world),
            Place::S3(server) => s3_options(&self.world, server),
            Place::Garage(_) => unimplemented_for_garage(),
        };
        options.at(&second).mount()
    }

    /// The S3 server of the tests.
    pub(crate) fn server(&self) -> &S3Server {
        match &self.place {
            Place::S3(server) => server,
            _ => panic!("this archive is not on the S3 server of the tests"),
        }
    }

    /// Who archives.
    pub(crate) fn user(&self) -> &User {
        self.mount.user()
    }
}

fn unimplemented_for_garage() -> Options {
    panic!("Garage knows no conditions: nothing can be promised to two mounts of it")
}

/// The options of a mount of `cluster` on this server.
pub(crate) fn s3_options(world: &World, server: &S3Server) -> Options {
    let archive = format!("s3://{}/cluster", server.bucket());
    Options::s3(world, &archive, &server.endpoint(), &owned(server.env()))
}

/// As the harness wants it.
pub(crate) fn owned(environment: Vec<(&'static str, String)>) -> Vec<(String, String)> {
    environment
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// A file to bring: its final name, where it is, and its bytes.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
}

/// Making files.
impl Rig {
    /// Segment `number` of timeline 1, of [`SMALL`] bytes.
    pub(crate) fn segment(&self, number: u64, seed: u64) -> Source {
        self.sized_segment(number, SMALL, seed)
    }

    /// A segment of any size.
    pub(crate) fn sized_segment(&self, number: u64, segment_bytes: u32, seed: u64) -> Source {
        let name = wal::segment_name(1, number, segment_bytes);
        let content = wal::segment(&name, CLUSTER, segment_bytes, seed);
        self.source(&name, content)
    }

    /// The history file of timeline 1 + `number`.
    pub(crate) fn history(&self, number: u32) -> Source {
        self.source(
            &format!("{:08X}.history", number + 1),
            wal::history(number, "0/3000000"),
        )
    }

    /// Any name with any content; each in a directory of its own.
    pub(crate) fn source(&self, name: &str, content: Vec<u8>) -> Source {
        let dir = self.world.owned_dir(&format!("from-{:08x}", fastrand::u32(..)));
        let path = dir.join(name);
        fs::write(&path, &content).expect("write a file to bring");
        // Not of this second: rsync takes two files of one size and time for the same without looking.
        let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("open a file to bring");
        file.set_modified(an_hour_ago).expect("set a file's time");
        self.user().own(&path);
        Source {
            name: name.to_owned(),
            path,
            content,
        }
    }
}

/// The text of a backup history file whose name begins with the first segment (of 16 MiB) it names.
pub(crate) fn backup_history(segment: &str) -> Vec<u8> {
    format!(
        "START WAL LOCATION: 0/2000028 (file {segment})\nSTOP WAL LOCATION: 0/2000138 (file {segment})\n\
         CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
         START TIME: 2026-11-20 21:14:03 UTC\nLABEL: nightly\nSTART TIMELINE: 1\n\
         STOP TIME: 2026-11-20 21:15:47 UTC\nSTOP TIMELINE: 1\n"
    )
    .into_bytes()
}

/// Bringing files.
impl Rig {
    /// `wal/NAME` in the mount.
    pub(crate) fn target(&self, name: &str) -> PathBuf {
        self.mount.wal().join(name)
    }

    /// `cp` of a file to its name, ready to be run.
    pub(crate) fn cp_command(&self, source: &Source) -> Command {
        cp_to(&self.mount, source)
    }

    /// `cp` of a file to its name.
    pub(crate) fn cp(&self, source: &Source) -> Output {
        self.cp_command(source).output().expect("run cp")
    }

    /// A `cp` that goes on by itself.
    pub(crate) fn start_cp(&self, source: &Source) -> Child {
        self.cp_command(source)
            .stderr(Stdio::null())
            .spawn()
            .expect("run cp")
    }

    /// `cp`, which must succeed, and the file must then be in the store.
    #[track_caller]
    pub(crate) fn archive(&self, source: &Source) {
        let output = self.cp(source);
        assert!(output.status.success(), "cp {}: {}", source.name, said(&output));
        self.assert_archived(source);
    }

    /// `cp`, which must fail.
    #[track_caller]
    pub(crate) fn refuse(&self, source: &Source) -> String {
        let output = self.cp(source);
        assert!(!output.status.success(), "cp {} succeeded", source.name);
        said(&output)
    }

    /// A process that does these system calls on `wal/NAME` one after the other; see `writer.py`.
    pub(crate) fn writer(&self, source: &Source, calls: &[&str]) -> Writer {
        writer_to(self.user(), &source.path, &self.target(&source.name), calls)
    }
}

/// A process that does these system calls on `target`, with the bytes of `source`; see `writer.py`.
pub(crate) fn writer_to(user: &User, source: &Path, target: &Path, calls: &[&str]) -> Writer {
    let mut command = user.command("/usr/bin/python3");
    command
        .args(["-c", include_str!("writer.py")])
        .args([source, target])
        .args(calls);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Writer(command.spawn().expect("run python3"))
}

/// `cp` of a file to its name in a mount, ready to be run.
pub(crate) fn cp_to(mount: &Mount, source: &Source) -> Command {
    let mut command = mount.user().command("cp");
    command.arg(&source.path).arg(mount.wal().join(&source.name));
    command
}

/// A process that holds a file of the mount open.
#[derive(Debug)]
pub(crate) struct Writer(pub(crate) Child);

impl Writer {
    /// Returns when it has come to its next `wait`, or panics with what it said.
    #[track_caller]
    pub(crate) fn waits(mut self) -> Writer {
        let stdout = self.0.stdout.as_mut().expect("it is a pipe");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("read what it says");
        if line != "waiting\n" {
            panic!("the writer ended early: {line:?}, {}", said(&self.ended()));
        }
        self
    }

    /// Lets it go on.
    pub(crate) fn go_on(mut self) -> Writer {
        let stdin = self.0.stdin.as_mut().expect("it is a pipe");
        stdin.write_all(b"\n").expect("tell the writer");
        self
    }

    /// Sends it a signal and waits for its end.
    pub(crate) fn kill(self, signal: i32) -> Output {
        crate::common::postgres::send(self.0.id(), signal);
        self.ended()
    }

    /// Waits for its end.
    pub(crate) fn ended(self) -> Output {
        self.0.wait_with_output().expect("wait for python3")
    }
}

/// What is in the store.
impl Rig {
    /// The object of an archived file, as it is stored; `None` if there is none.
    pub(crate) fn object(&self, name: &str) -> Option<Vec<u8>> {
        let key = format!("wal/{name}.lz4");
        match &self.place {
            Place::Local => fs::read(self.world.archive().join(key)).ok(),
            Place::S3(server) => server.object(&format!("cluster/{key}")),
            Place::Garage(garage) => garage_object(garage, &self.world, &key),
        }
    }

    /// An archived file's bytes, by stock `lz4`.
    #[track_caller]
    pub(crate) fn stored(&self, name: &str) -> Option<Vec<u8>> {
        let object = self.object(name)?;
        let file = self
            .world
            .path()
            .join(format!("object-{:08x}", fastrand::u32(..)));
        fs::write(&file, object).expect("write an object");
        let output = Command::new("lz4")
            .arg("-dc")
            .arg(&file)
            .output()
            .expect("run lz4");
        assert!(output.status.success(), "lz4 -dc of {name}: {}", said(&output));
        fs::remove_file(&file).expect("remove an object's copy");
        Some(output.stdout)
    }

    /// How many times a body was sent for this name, to its last byte.
    pub(crate) fn uploads(&self, name: &str) -> usize {
        let of_body = |operation| matches!(operation, Operation::Put | Operation::UploadPart);
        let whole = |request: &Logged| request.body_bytes > 0;
        self.server()
            .count(|request| of_body(request.operation) && request.key.contains(name) && whole(request))
    }

    /// The file is in the store, the same, and can be seen.
    #[track_caller]
    pub(crate) fn assert_archived(&self, source: &Source) {
        let stored = self.stored(&source.name);
        assert!(
            stored.as_ref() == Some(&source.content),
            "{} is {} in the store",
            source.name,
            if stored.is_some() { "not the same" } else { "not" }
        );
        assert!(
            self.mount.list().contains(&source.name),
            "{} is not listed",
            source.name
        );
    }

    /// Nothing of this name is in the store, nor can it be seen under this or a temporary name.
    #[track_caller]
    pub(crate) fn assert_absent(&self, name: &str) {
        assert!(self.object(name).is_none(), "{name} is in the store");
        let seen: Vec<String> = self
            .mount
            .list()
            .into_iter()
            .filter(|seen| seen.contains(name))
            .collect();
        assert!(seen.is_empty(), "{seen:?} can be seen");
        // A hole is not proved to be absent (promise R6).
        let is_segment = |name: &str| name.len() == 24;
        let behind = |seen: &String| is_segment(seen) && seen[..8] == name[..8] && seen.as_str() > name;
        let line = match is_segment(name) && self.mount.list().iter().any(behind) {
            true => r#"test ! -e "$1" && test ! -e "$2""#,
            false => r#"test ! -e "$1" && test -e "$2""#,
        };
        let absent = self.mount.path().join(".absent").join(name);
        let output = self.user().shell(line, &[&self.target(name), &absent]);
        assert!(output.status.success(), "{name} is not absent: {}", said(&output));
    }

    /// Waits until the log has a line with all of these words.
    #[track_caller]
    pub(crate) fn assert_logged(&self, words: &[&str]) {
        let log = self.mount.log();
        let said = words.iter().all(|word| log.contains(word));
        assert!(said, "{words:?} in the log:\n{log}");
    }

    /// The last error in mount.json speaks of all this.
    #[track_caller]
    pub(crate) fn assert_last_error(&self, words: &[&str]) {
        let status = self.mount.status();
        let message = status
            .pointer("/last_error/message")
            .and_then(|message| message.as_str());
        let said = words
            .iter()
            .all(|word| message.is_some_and(|message| message.contains(word)));
        assert!(said, "{words:?} in the last error: {message:?}");
    }
}

fn garage_object(garage: &Garage, world: &World, key: &str) -> Option<Vec<u8>> {
    let value = |wanted: &str| {
        let mut environment = garage.env().into_iter();
        environment
            .find(|(name, _)| name == wanted)
            .expect("Garage names it")
            .1
    };
    let credentials = world.path().join("garage-credentials");
    let (id, secret) = (value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY"));
    let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    fs::write(&credentials, text).expect("write credentials");
    let options = store::Options {
        endpoint: Some(garage.endpoint()),
        region: Some(value("AWS_REGION")),
        credentials_file: Some(credentials),
        ..store::Options::default()
    };
    let location = Location::parse(&format!("s3://{}/cluster", garage.bucket())).expect("a location");
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let patience = Patience::for_at_most(crate::common::wait::LONG);
    let fetched = runtime.block_on(async {
        let store = store::open(&location, &options).await.expect("open the bucket");
        store
            .get(&Key::new(key), ByteRange::AtMost(u64::MAX), patience)
            .await
    });
    match fetched {
        Ok(fetched) => Some(fetched.bytes.to_vec()),
        Err(error) if error.kind == store::ErrorKind::NotFound => None,
        Err(error) => panic!("{key} of Garage: {error}"),
    }
}

/// Whether a path is there, as user postgres sees it.
pub(crate) fn exists(path: &Path) -> bool {
    User::postgres()
        .shell(r#"test -e "$1""#, &[path])
        .status
        .success()
}
