//! B13: a new archive is asked for, never the result of a typo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::common::s3::S3Server;
use super::common::user::{User, is_root, said};
use super::common::wal;
use super::common::walfs::{BINARY, Mount, Options, walfs};
use super::common::world::World;

const SEGMENT: &str = "000000010000000000000001";

struct Desk<'a> {
    world: &'a World,
    env: Vec<(&'static str, String)>,
    segment: PathBuf,
}

impl<'a> Desk<'a> {
    fn new(world: &'a World, env: Vec<(&'static str, String)>) -> Self {
        let content = wal::segment(SEGMENT, 7, wal::SEGMENT_BYTES, 1);
        let segment = world.owned_file(SEGMENT, &content);
        Desk { world, env, segment }
    }

    fn walfs(&self, words: &[&str]) -> Command {
        let mut command = walfs(self.world, &User::postgres());
        command
            .env_remove("WALFS_CREATE")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .args(words);
        command
    }

    fn push(&self, archive: &str, more: &[&str]) -> Output {
        let mut push = self.walfs(&["wal-push", "--archive", archive]);
        push.args(more).arg(&self.segment).output().expect("run walfs")
    }

    /// Every command that writes refuses, and names this archive near by.
    #[track_caller]
    fn refused(&self, archive: &str, nearby: &str) {
        let mut backup = self.walfs(&["backup", "--archive", archive, "-h", "/nonexistent"]);
        let mut list = self.walfs(&["wal-list", "--archive", archive]);
        let said_by = [
            self.push(archive, &[]),
            backup.output().expect("run walfs"),
            list.output().expect("run walfs"),
        ];
        for output in said_by {
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(
                text.contains("no walfs.json") && text.contains("--create"),
                "{text}"
            );
            assert!(text.contains(&format!("archives near by: {nearby};")), "{text}");
        }
    }
}

#[track_caller]
fn made(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
    assert!(said(output).contains("made a new archive"), "{}", said(output));
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).expect("list").next().is_none()
}

#[test]
fn b13_a_new_archive_is_asked_for() {
    let world = World::new("create");
    let desk = Desk::new(&world, Vec::new());
    let (right, typo) = (world.owned_dir("right"), world.owned_dir("rihgt"));
    let shown = right.display().to_string();
    made(&desk.push(&shown, &["--create"]));
    // Asked for once; then it is there.
    let again = desk.push(&shown, &[]);
    assert!(
        again.status.success() && !said(&again).contains("made"),
        "{}",
        said(&again)
    );
    desk.refused(&typo.display().to_string(), &shown);
    assert!(is_empty(&typo));
    // One level too high or too low.
    let nowhere = right.join("wal/main").display().to_string();
    let refused = desk.push(&nowhere, &[]);
    assert!(
        !refused.status.success() && said(&refused).contains("--create"),
        "{}",
        said(&refused)
    );
    // An archive holds no other.
    let deeper = world.owned_dir("right/deeper");
    let refused = desk.push(&deeper.display().to_string(), &["--create"]);
    let inside = format!("lies in the archive {shown}");
    assert!(said(&refused).contains(&inside), "{}", said(&refused));
    assert_eq!(refused.status.code(), Some(1));
    assert!(!deeper.join("walfs.json").exists());
    // The mount alike, and the daemon says what it has made.
    let mount = Options::of(&world, &typo.display().to_string()).env("WALFS_CREATE", "0");
    let refused = mount.refused();
    assert!(
        said(&refused).contains(&format!("archives near by: {shown};")),
        "{}",
        said(&refused)
    );
    assert!(is_empty(&typo));
    let mount: Mount = Options::local(&world)
        .args(&["--create"])
        .env("WALFS_CREATE", "0")
        .mount();
    mount.wait_for_log("made a new archive");
    drop(mount);
    // Whoever starts a daemon hears of it.
    let new = world.owned_dir("new");
    let mut daemon = User::caller().command(BINARY);
    daemon
        .args(["mount", "--create", "--daemon"])
        .arg(&new)
        .arg(world.mountpoint());
    if is_root() {
        daemon.args(["--user", &User::postgres().name]);
    }
    made(&daemon.output().expect("run walfs"));
}

#[test]
fn b13_a_mistyped_prefix_names_the_right_one() {
    let (world, server) = (World::new("prefix"), S3Server::start());
    let desk = Desk::new(&world, server.env());
    let place = |prefix: &str| format!("s3://{}/{prefix}", server.bucket());
    made(&desk.push(&place("pg/main"), &["--create"]));
    let keys = server.keys("");
    desk.refused(&place("pg/mian"), &place("pg/main"));
    desk.refused(&place("pg"), &place("pg/main"));
    let far = desk.push(&place("other/deep"), &[]);
    assert!(
        !far.status.success() && !said(&far).contains("near by"),
        "{}",
        said(&far)
    );
    let inside = desk.push(&place("pg/main/wal/x"), &["--create"]);
    assert!(
        !inside.status.success() && said(&inside).contains(&place("pg/main")),
        "{}",
        said(&inside)
    );
    assert_eq!(server.keys(""), keys, "something was made");
}
