//! Without a mount: `walfs wal-push` and `walfs wal-fetch` promise the same, and say it by their exit codes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::rig::{CLUSTER, SMALL, owned};
use crate::common::s3::{Action, Operation, Rule, S3Server};
use crate::common::user::{User, said};
use crate::common::wal;
use crate::common::walfs::walfs;
use crate::common::world::World;

/// An archive without a mount.
pub(super) struct Desk {
    server: Option<S3Server>,
    world: World,
}

impl Desk {
    fn local() -> Desk {
        let world = World::new("desk");
        Desk { server: None, world }
    }

    pub(super) fn s3() -> Desk {
        let world = World::new("desk");
        Desk {
            server: Some(S3Server::start()),
            world,
        }
    }

    pub(super) fn server(&self) -> &S3Server {
        self.server.as_ref().expect("this archive is on S3")
    }

    pub(super) fn archive(&self) -> String {
        match &self.server {
            Some(server) => format!("s3://{}/cluster", server.bucket()),
            None => self.world.archive().display().to_string(),
        }
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = walfs(&self.world, &User::postgres());
        command.args(arguments);
        if let Some(server) = &self.server {
            command.envs(owned(server.env()));
        }
        command
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run walfs")
    }

    pub(super) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let dir = self.world.owned_dir(&format!("from-{:08x}", fastrand::u32(..)));
        let path = dir.join(name);
        fs::write(&path, content).expect("write a file");
        User::postgres().own(&path);
        path
    }

    pub(super) fn segment(&self, number: u64, seed: u64) -> PathBuf {
        let name = wal::segment_name(1, number, SMALL);
        self.file(&name, &wal::segment(&name, CLUSTER, SMALL, seed))
    }

    fn push(&self, path: &Path) -> Output {
        let path = path.to_str().expect("ASCII");
        self.run(&["wal-push", path, "--archive", &self.archive(), "--deadline", "2s"])
    }

    #[track_caller]
    pub(super) fn pushed(&self, path: &Path) {
        let output = self.push(path);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }

    /// A push that fails with exit code 1 and says all this.
    #[track_caller]
    pub(super) fn refused(&self, path: &Path, words: &[&str]) {
        let output = self.push(path);
        let message = said(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            words.iter().all(|word| message.contains(word)),
            "{words:?} in: {message}"
        );
    }

    pub(super) fn fetch_from(&self, archive: &str, name: &str) -> (Output, Option<Vec<u8>>) {
        let to = self.world.owned_dir("to").join("RECOVERYXLOG");
        let _ = fs::remove_file(&to);
        let path = to.to_str().expect("ASCII");
        let output = self.run(&[
            "wal-fetch",
            name,
            path,
            "--archive",
            archive,
            "--read-deadline",
            "2s",
        ]);
        (output, fs::read(&to).ok())
    }

    /// A fetch that ends with this code and leaves no file.
    #[track_caller]
    pub(super) fn fetch_fails(&self, archive: &str, name: &str, code: i32) {
        let (output, content) = self.fetch_from(archive, name);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(content.is_none(), "it left a file");
        let left = fs::read_dir(self.world.path().join("to")).expect("list").count();
        assert_eq!(left, 0, "it left something");
    }
}

/// W4, W5, W3 for `wal-push`: "same code, same promises".
#[test]
fn w4_wal_push_keeps_the_same_promises() {
    for desk in [Desk::local(), Desk::s3()] {
        let first = desk.segment(1, 1);
        desk.pushed(&first);
        desk.pushed(&first);
        desk.refused(
            &desk.segment(1, 2),
            &["000000010000000000000001", "different content", "HINT"],
        );
        let name = wal::segment_name(1, 2, SMALL);
        let stranger = desk.file(&name, &wal::segment(&name, 4711, SMALL, 1));
        desk.refused(&stranger, &[&name, "4711", &CLUSTER.to_string(), "HINT"]);
        let short = desk.file(
            &name,
            &wal::segment(&name, CLUSTER, SMALL, 1)[..SMALL as usize / 2],
        );
        desk.refused(&short, &[&name, "524288", "1048576"]);
        desk.refused(&desk.file(&name, b""), &[&name]);
        desk.refused(&desk.file("00000002.history", b"garbage"), &["00000002.history"]);
        desk.refused(&desk.file("notes.txt", b"x"), &["notes.txt"]);
        desk.refused(&desk.world.path().join(&name), &[&name]);
        desk.pushed(&desk.file("00000002.history", &wal::history(1, "0/3000000")));
        desk.pushed(&desk.file(&name, &wal::segment(&name, CLUSTER, SMALL, 1)));
        let listed = desk.run(&["wal-list", "--json", "--archive", &desk.archive()]);
        let lines = String::from_utf8(listed.stdout).expect("UTF-8");
        assert_eq!(lines.lines().count(), 3, "{lines}");
        let (output, content) = desk.fetch_from(&desk.archive(), "000000010000000000000001");
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(content == fs::read(&first).ok());
    }
}

/// W4: no upload for what is there; W7: an error within the deadline when the store does not answer.
#[test]
fn w7_wal_push_ends_within_the_deadline() {
    let desk = Desk::s3();
    let (first, second) = (desk.segment(1, 1), desk.segment(2, 2));
    desk.pushed(&first);
    let uploads = || desk.server().count(|request| request.operation == Operation::Put);
    let before = uploads();
    desk.pushed(&first);
    assert_eq!(uploads(), before);
    let put = |action| Rule::new(action).operation(Operation::Put);
    for action in [
        Action::Hang,
        Action::slow_down(),
        Action::error(403, "AccessDenied"),
        Action::Reset,
    ] {
        let rule = desk.server().add_rule(put(action));
        desk.refused(&second, &["000000010000000000000002"]);
        desk.server().remove_rule(rule);
    }
    desk.server().blackhole(true);
    desk.refused(&second, &[]);
    desk.server().blackhole(false);
    desk.server().stop();
    desk.refused(&second, &[]);
    desk.server().resume();
    assert!(
        desk.server()
            .keys("cluster/wal/000000010000000000000002")
            .is_empty()
    );
    desk.pushed(&second);
}

/// R2 and O1: `wal-fetch` exits "1 only for proven absence", 255 for everything else.
#[test]
fn r2_wal_fetch_says_absent_only_when_it_is() {
    for desk in [Desk::local(), Desk::s3()] {
        desk.pushed(&desk.segment(1, 1));
        let archive = desk.archive();
        let (present, absent) = ("000000010000000000000001", "000000010000000000000002");
        desk.fetch_fails(&archive, absent, 1);
        desk.fetch_fails(&archive, "00000002.history", 1);
        desk.fetch_fails(&archive, "nonsense", 255);
        desk.fetch_fails(&format!("{archive}/elsewhere"), present, 255);
        desk.fetch_fails(&format!("{archive}/elsewhere"), absent, 255);
        desk.fetch_fails("s3:/typo", present, 255);
        let usage: [&[&str]; 3] = [
            &["wal-fetch"],
            &["wal-fetch", present],
            &[
                "wal-fetch",
                present,
                "/tmp/x",
                "--archive",
                &archive,
                "--no-such-option",
            ],
        ];
        for arguments in usage {
            let output = desk.run(arguments);
            assert_eq!(
                output.status.code(),
                Some(255),
                "{arguments:?}: {}",
                said(&output)
            );
        }
        let nowhere = desk.run(&["wal-fetch", present, "/no/such/dir/x", "--archive", &archive]);
        assert_eq!(nowhere.status.code(), Some(255), "{}", said(&nowhere));
    }
}

/// R2: "anything else waits and retries"; with `--read-deadline` it is an error, and that is 255.
#[test]
fn r2_wal_fetch_takes_no_fault_of_the_store_for_absence() {
    let desk = Desk::s3();
    desk.pushed(&desk.segment(1, 1));
    let (archive, present, absent) = (
        desk.archive(),
        "000000010000000000000001",
        "000000010000000000000002",
    );
    desk.fetch_fails("s3://no-such-bucket/cluster", present, 255);
    for action in [
        Action::slow_down(),
        Action::error(403, "AccessDenied"),
        Action::html_404(),
        Action::error(404, "NoSuchBucket"),
        Action::Reset,
        Action::Hang,
    ] {
        let rule = desk.server().add_rule(Rule::new(action).key("wal/"));
        desk.fetch_fails(&archive, present, 255);
        desk.fetch_fails(&archive, absent, 255);
        desk.server().remove_rule(rule);
    }
    desk.server().stop();
    desk.fetch_fails(&archive, absent, 255);
    desk.server().resume();
    desk.server()
        .corrupt("cluster/wal/000000010000000000000001.lz4", |bytes| {
            bytes[5000] ^= 1
        });
    desk.fetch_fails(&archive, present, 255);
    desk.fetch_fails(&archive, absent, 1);
}

/// R2, for a local archive whose directory is not there, or may not be read.
#[test]
fn r2_wal_fetch_takes_a_missing_directory_for_no_absence() {
    let desk = Desk::local();
    desk.pushed(&desk.segment(1, 1));
    let away = desk.world.path().join("away");
    fs::rename(desk.world.archive(), &away).expect("take the archive away");
    desk.fetch_fails(&desk.archive(), "000000010000000000000001", 255);
    User::postgres().make_dir(&desk.world.archive());
    desk.fetch_fails(&desk.archive(), "000000010000000000000001", 255);
}

/// O1: "Exit codes: 0 done, 1 it failed, 2 wrong usage".
#[test]
fn o1_exit_codes() {
    let desk = Desk::local();
    let archive = desk.archive();
    let cases: [(&[&str], i32); 10] = [
        (&["--help"], 0),
        (&["--version"], 0),
        (&["wal-push", "--help"], 0),
        (&[], 2),
        (&["no-such-command"], 2),
        (&["mount"], 2),
        (&["mount", &archive], 2),
        (&["wal-push"], 2),
        (&["wal-list", "--archive", &archive, "--deadline", "soon"], 2),
        (&["wal-list", "--archive", &archive], 1),
    ];
    for (arguments, code) in cases {
        let output = desk.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            said(&output)
        );
    }
    let output = desk.run(&["wal-list", "--archive", &archive]);
    assert!(
        said(&output).contains("is not a walfs archive") && said(&output).contains("HINT"),
        "{}",
        said(&output)
    );
}
