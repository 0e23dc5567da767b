//! Writing base backups into a store that hangs, refuses or is slow, and into a staging directory without room
//! (promise W7, S1).

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::mounted::{Site, directory_has, on_s3};
use crate::common::s3::{Action, Operation, Rule, S3Server};
use crate::common::user::said;
use crate::common::wait;
use crate::common::walfs::{Mount, Options};
use crate::common::world::World;

/// A bound, not a measure: what has no deadline would not come back at all.
const BOUNDED: Duration = Duration::from_secs(30);

/// A process that tries operations in a directory of the mount; see `tries.py`.
struct Tries(Child);

impl Tries {
    fn start(mount: &Mount, directory: &Path, operations: &[&str]) -> Self {
        let mut python = mount.user().command("/usr/bin/python3");
        python
            .args(["-c", include_str!("tries.py")])
            .arg(directory)
            .args(operations)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(python.spawn().expect("run python3"))
    }

    /// What it has said when it comes to its `wait`.
    fn until_it_waits(&mut self) -> Vec<String> {
        let stdout = self.0.stdout.as_mut().expect("it is a pipe");
        let lines = BufReader::new(stdout).lines().map(|line| line.expect("UTF-8"));
        lines.take_while(|line| line != "waiting").collect()
    }

    /// Lets it go on, and returns what it says to its end.
    fn go_on(mut self) -> Vec<String> {
        let mut stdin = self.0.stdin.take().expect("it is a pipe");
        writeln!(stdin).expect("let it go on");
        let output = self.0.wait_with_output().expect("wait for python3");
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().map(String::from).collect()
    }
}

fn parts() -> Rule {
    parts_with(Action::Hang)
}

fn parts_with(action: Action) -> Rule {
    Rule::new(action).operation(Operation::Put).key("trees/")
}

/// W7: "one total deadline (..., retries and queueing included), then the error is EIO". B2: "an upload's error is
/// sticky on its file, and shown by every later fsync or rename".
#[test]
fn w7_a_store_that_stalls_is_an_error_within_the_deadline_and_stays() {
    for action in [Action::Hang, Action::slow_down()] {
        let store = S3Server::start();
        let world = World::new("stalls");
        let mount = on_s3(&store, &world).args(&["--deadline", "2s"]).mount();
        let directory = mount.path().join("basebackups/x");
        let made = mount.user().shell("mkdir \"$1\"", &[&directory]);
        assert!(made.status.success(), "{}", said(&made));
        store.add_rule(parts_with(action));
        let began = Instant::now();
        let mut tries = Tries::start(
            &mount,
            &directory,
            &[
                "create:open",
                "write:open:1",
                "create:a",
                "write:a:5",
                "close:a",
                "create:b",
                "close:b",
                "sync",
                "wait",
                "write:open:1",
                "fsync:open",
                "rename:a:c",
                "create:d",
                "sync",
                "close:open",
            ],
        );
        let before = tries.until_it_waits();
        assert!(began.elapsed() < BOUNDED, "{:?}", began.elapsed());
        assert_eq!(before.last().map(String::as_str), Some("sync EIO"), "{before:?}");
        // It is too late for the store to come back: what was lost is lost.
        store.clear_rules();
        let after = tries.go_on();
        assert!(after.iter().all(|line| line.ends_with(" EIO")), "{after:?}");
        let removed = mount.user().shell("rm -r \"$1\" && mkdir \"$1\"", &[&directory]);
        assert!(removed.status.success(), "{}\n{}", said(&removed), mount.log());
    }
}

/// A backup in tar format, copied into the mount with as many parts as it takes to be slow, up to its last rename.
fn nearly_complete(site: &Site, name: &str) -> Command {
    let (source, directory) = (site.world.path().join("local"), site.backup(name));
    if !source.exists() {
        let source = site.world.owned_dir("local");
        let output = site.run_backup(&source, &["-Ft", "-Xfetch"]);
        assert!(output.status.success(), "{}", said(&output));
    }
    site.shell(
        "mkdir \"$2\" && cp \"$1\"/base.tar \"$2\"/ && cp \"$1\"/backup_manifest \"$2\"/backup_manifest.tmp && \
         for i in $(seq 30); do head -c 5M /dev/zero >\"$2\"/f$i || exit 1; done",
        &[&source, &directory],
    );
    let mut rename = site.mount.user().command("mv");
    rename
        .arg(directory.join("backup_manifest.tmp"))
        .arg(directory.join("backup_manifest"));
    rename.stdout(Stdio::piped()).stderr(Stdio::piped());
    rename
}

fn wait_for_latest(site: &Site, name: &str) {
    wait::until("LATEST to move", || (site.latest()? == name).then_some(()));
}

/// W7, and its one exception: to complete a backup may take longer, while it gets on.
#[test]
fn w7_completing_ends_when_it_gets_on_no_more_and_not_before() {
    let store = S3Server::start();
    let site = Site::new("completing", |world| {
        on_s3(&store, world).args(&["--deadline", "4s"])
    });
    store.add_rule(parts().after(8));
    let began = Instant::now();
    let failed = nearly_complete(&site, "stuck").output().expect("run mv");
    assert!(began.elapsed() < BOUNDED, "{:?}", began.elapsed());
    assert!(said(&failed).contains("Input/output error"), "{}", said(&failed));
    store.clear_rules();
    let again = nearly_complete_again(&site, "stuck");
    assert!(said(&again).contains("Input/output error"), "{}", said(&again));
    assert_eq!(site.latest(), None);

    store.add_rule(parts_with(Action::Delay(Duration::from_secs(2))));
    let mut rename = nearly_complete(&site, "slow").spawn().expect("run mv");
    // Whoever changes something meanwhile has the deadline, and harms nothing.
    let changed = loop {
        let said = Tries::start(&site.mount, &site.backup("slow"), &["chmod:f1", "wait"]).go_on();
        if said[0] != "chmod:f1 done" {
            break said;
        }
    };
    assert_eq!(changed[0], "chmod:f1 EIO", "{}", site.mount.log());
    assert!(
        rename.try_wait().expect("look after mv").is_none(),
        "too quick to say anything"
    );
    let done = rename.wait_with_output().expect("wait for mv");
    assert!(done.status.success(), "{}\n{}", said(&done), site.mount.log());
    store.clear_rules();
    wait_for_latest(&site, "slow");
}

fn nearly_complete_again(site: &Site, name: &str) -> Output {
    let directory = site.backup(name);
    site.mount.user().shell(
        "mv \"$1\"/backup_manifest.tmp \"$1\"/backup_manifest",
        &[&directory],
    )
}

/// A table that does not compress, of 64 MiB: more than memory and a small staging directory hold.
fn make_noise(site: &Site) {
    site.server.query(
        "CREATE TABLE noise AS SELECT i, string_agg(sha512((i * 1000 + j)::text::bytea), '') AS bytes
         FROM generate_series(1, 5300) i, generate_series(1, 200) j GROUP BY i",
    );
}

/// S1: "a clear error or a wait". What is being written may need more room than there is: that must be no deadlock.
#[test]
fn s1_with_little_staging_space_a_backup_waits_for_a_slow_store() {
    let store = S3Server::start();
    let site = Site::new("narrow", |world| {
        on_s3(&store, world).args(&["--staging-space", "8MiB", "--deadline", "5s"])
    });
    make_noise(&site);
    let slow = store.add_rule(parts_with(Action::Delay(Duration::from_millis(500))));
    for (name, arguments) in [("plain", &["-Xnone"][..]), ("tar", &["-Ft", "-Xnone"])] {
        let directory = site.take(name, arguments);
        wait_for_latest(&site, name);
        if name == "plain" {
            site.verify(&directory);
        }
    }
    assert!(store.hits(slow) > 0);
    store.clear_rules();
    store.add_rule(parts());
    let began = Instant::now();
    let failed = site.run_backup(&site.backup("stuck"), &["-Xnone"]);
    assert!(began.elapsed() < 2 * BOUNDED, "{:?}", began.elapsed());
    assert!(said(&failed).contains("Input/output error"), "{}", said(&failed));
    assert!(site.mount.log().contains("stuck"), "{}", site.mount.log());
    assert_eq!(site.latest().as_deref(), Some("tar"));
}

/// A directory with this little room, in kernel memory. Its world takes it away.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(directory: PathBuf, size: &str) -> Self {
        let tmpfs = Self(directory);
        tmpfs.mount(&format!("size={size},mode=1777"));
        tmpfs
    }

    fn grow(&self, size: &str) {
        self.mount(&format!("remount,size={size}"));
    }

    fn mount(&self, options: &str) {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(&self.0);
        let mounted = mounted.output().expect("run mount");
        assert!(mounted.status.success(), "{}", said(&mounted));
    }
}

/// S1: "Disk full in the staging directory": a clear error, and nothing but this backup suffers from it.
#[test]
fn s1_a_full_staging_disk_fails_the_backup_and_nothing_else() {
    let world = World::new("full");
    let staging = Tmpfs::new(world.owned_dir("staging"), "6M");
    let site = Site::in_world(world, |world| {
        let directory = world.path().join("staging");
        Options::local(world).args(&["--staging-dir", directory.to_str().expect("UTF-8")])
    });
    make_noise(&site);
    let failed = site.run_backup(&site.backup("x"), &["-Xnone"]);
    assert!(
        said(&failed).contains("No space left on device"),
        "{}",
        said(&failed)
    );
    let log = site.mount.log();
    assert!(
        log.contains("No space left on device") && log.contains("HINT"),
        "{log}"
    );
    assert!(site.summary("x").is_none());
    let segment = site.server.query("SELECT pg_walfile_name(pg_switch_wal())");
    wait::until("the segment to be archived", || {
        directory_has(&site, &site.mount.wal(), &segment)
    });
    site.shell("rm -rf \"$1\"", &[&site.backup("x")]);
    staging.grow("512M");
    site.take("x", &["-Xnone"]);
    site.assert_complete("x");
}
