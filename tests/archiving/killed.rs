//! Writers that are killed, or give up in the middle: nothing of theirs is ever seen.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::rig::{Rig, SMALL, Source, exists, s3_options, writer_to};
use crate::common::postgres::send;
use crate::common::s3::{Action, Operation, Rule, S3Server};
use crate::common::user::{User, said};
use crate::common::wal;
use crate::common::walfs::{BINARY, Options};
use crate::common::world::{World, detach, mounts_beneath};
use crate::common::{copiers, wait};

/// W3: "A killed `cp` also ends in flush and release"; at bytes that are chosen, so that each case is met.
#[test]
fn w3_a_writer_killed_at_any_byte_leaves_nothing() {
    for rig in Rig::both_kinds() {
        let sources = [rig.segment(1, 1), rig.history(1)];
        for source in &sources {
            let bytes = source.content.len();
            for at in [0, 1, 20, 40, 8192, 300_000, bytes - 1]
                .into_iter()
                .filter(|at| *at < bytes)
            {
                for signal in [libc::SIGKILL, libc::SIGTERM] {
                    let calls = [&format!("write:0:{at}"), "wait"];
                    let killed = rig.writer(source, &calls).waits().kill(signal);
                    assert_eq!(killed.status.signal(), Some(signal));
                    rig.assert_absent(&source.name);
                }
            }
            rig.archive(source);
        }
    }
}

/// W3: a `.history` file is whole in its writer's eyes only when the writer says so: "a flush from a dying process
/// (PF_EXITING) never commits anything".
#[test]
fn w3_a_history_file_of_a_killed_writer_is_not_archived_though_it_parses() {
    let rig = Rig::local();
    let two_lines = [wal::history(1, "0/3000000"), wal::history(2, "0/5000000")].concat();
    let source = rig.source("00000003.history", two_lines);
    let one_line = wal::history(1, "0/3000000").len();
    let killed = rig
        .writer(&source, &[&format!("write:0:{one_line}"), "wait"])
        .waits();
    killed.kill(libc::SIGKILL);
    rig.assert_absent(&source.name);
    rig.archive(&source);
}

/// W2, W3: a program may leave the closing of its file to its exit. If it succeeds, the file is archived: who asked for it is
/// told so by the exit code. If it fails or is killed, the file may be half.
#[test]
fn w2_what_a_writer_leaves_to_its_exit_is_archived_if_it_succeeds() {
    // Not read from a file of that name while it is written: its length would say when the copy is whole.
    let copy = r#"content=$(cat "$1"); exec > "$2"; printf "%s\n" "$content""#;
    for rig in Rig::both_kinds() {
        for end in ["exit 3", "kill -9 $$", "kill -TERM $$", "exit 0"] {
            let source = rig.history(1);
            let line = format!("{copy}; {end}");
            let output = rig
                .user()
                .shell(&line, &[&source.path, &rig.target(&source.name)]);
            assert_eq!(
                output.status.success(),
                end == "exit 0",
                "{end}: {}",
                said(&output)
            );
            if end == "exit 0" {
                rig.assert_archived(&source);
            } else {
                rig.assert_absent(&source.name);
            }
        }
        let source = rig.source("00000003.history", wal::history(2, "0/5000000"));
        let line = r#"cd "$(dirname "$1")" && tar -cf - "$(basename "$1")" | tar -xOf - > "$2""#;
        let output = rig.user().shell(line, &[&source.path, &rig.target(&source.name)]);
        assert!(output.status.success(), "{}", said(&output));
        rig.assert_archived(&source);
    }
}

/// W3: what its opener began is not finished by a child that outlives it.
#[test]
fn w3_a_child_does_not_finish_what_a_killed_writer_began() {
    let rig = Rig::local();
    let line = wal::history(1, "0/3000000");
    let source = rig.source(
        "00000003.history",
        [line.clone(), wal::history(2, "0/5000000")].concat(),
    );
    let half = rig.source("half", line);
    for end in ["kill -9 $$", "kill -TERM $$", "exit 3"] {
        let line = format!(r#"content=$(cat "$1"); exec > "$2"; printf "%s\n" "$content"; sleep 1 & {end}"#);
        let to = rig.target(&source.name);
        let output = rig.user().shell(&line, &[&half.path, &to]);
        assert!(!output.status.success(), "{end}: {}", said(&output));
        thread::sleep(Duration::from_secs(2));
        rig.assert_absent(&source.name);
    }
    rig.archive(&source);
}

/// W3: a shell that writes a file command by command closes a copy of its descriptor after each of them.
#[test]
fn w3_a_descriptor_closed_beside_another_one_finishes_nothing() {
    let rig = Rig::local();
    let lines = [wal::history(1, "0/3000000"), wal::history(2, "0/5000000")];
    let write =
        r#"first=$(head -n 1 "$1"); rest=$(tail -n 1 "$1"); exec 5>"$2"; printf "%s\n" "$first" >&5;"#;
    let rest = r#"printf "%s\n" "$rest" >&5; exec 5>&-"#;
    let ends = [
        ("bash", "kill -9 $$"),
        ("dash", "kill -9 $$"),
        ("bash", rest),
        ("dash", rest),
    ];
    for (number, (shell, end)) in (3..).zip(ends) {
        let source = rig.source(&format!("{number:08X}.history"), lines.concat());
        let line = format!("{shell} -c '{write} {end}' {shell} \"$1\" \"$2\"");
        let output = rig
            .user()
            .shell(&line, &[&source.path, &rig.target(&source.name)]);
        assert_eq!(output.status.success(), end == rest, "{shell}: {}", said(&output));
        if end == rest {
            rig.assert_archived(&source);
        } else {
            rig.assert_absent(&source.name);
            rig.archive(&source);
        }
    }
}

/// W1: who writes to two archives at once has the other one's file open while it closes the first.
#[test]
fn w1_a_file_is_finished_while_that_of_another_mount_is_open() {
    let world = World::new("two-mounts");
    let mounts = ["one", "two"].map(|name| {
        let archive = world.owned_dir(&format!("{name}-archive")).display().to_string();
        Options::of(&world, &archive).at(&world.owned_dir(name)).mount()
    });
    let source = world.owned_file("source", &wal::history(1, "0/3000000"));
    let [one, two] = [0, 1].map(|number: usize| mounts[number].wal().join("00000002.history"));
    let tee = r#"tee "$2" "$3" < "$1" > /dev/null"#;
    let output = User::postgres().shell(tee, &[&source, &one, &two]);
    assert!(output.status.success(), "{}", said(&output));
    for mount in &mounts {
        assert_eq!(mount.list(), ["00000002.history"], "{}", mount.log());
    }
}

/// Kills `cp` of this file after a while; true if `cp` was quicker.
fn cp_killed_after(mut cp: Child, while_: Duration, signal: i32) -> bool {
    thread::sleep(while_);
    send(cp.id(), signal);
    cp.wait().expect("wait for cp").success()
}

/// W3: "`cp` killed at random bytes: nothing visible"; and the next `cp` of the whole succeeds.
#[test]
fn w3_cp_killed_forty_times_leaves_nothing() {
    for rig in Rig::both_kinds() {
        let mut number = 1;
        let mut source = rig.sized_segment(number, wal::SEGMENT_BYTES, 1);
        for round in 0..20 {
            let signal = [libc::SIGKILL, libc::SIGTERM][round % 2];
            let time = Duration::from_micros(fastrand::u64(..80_000));
            let done = cp_killed_after(rig.start_cp(&source), time, signal);
            if rig.object(&source.name).is_none() {
                assert!(!done, "cp said that it is archived");
                rig.assert_absent(&source.name);
                continue;
            }
            // All its bytes had come: whole, and there to stay.
            rig.archive(&source);
            number += 1;
            source = rig.sized_segment(number, wal::SEGMENT_BYTES, number);
        }
        rig.archive(&source);
        rig.mount.assert_status("/open_writes", 0);
    }
}

/// W3: "(PF_EXITING) ... is only a hint: other pid namespaces hide it". Here the copier lives in one of its own.
#[test]
fn w3_cp_in_another_pid_namespace_killed_leaves_nothing() {
    let rig = Rig::local();
    let source = rig.sized_segment(1, wal::SEGMENT_BYTES, 1);
    for _ in 0..10 {
        let cp = in_own_namespace(rig.user(), "cp", &source.path, &rig.target(&source.name));
        let time = Duration::from_micros(fastrand::u64(..80_000));
        let done = cp_killed_after(cp, time, libc::SIGKILL);
        if rig.object(&source.name).is_some() {
            rig.assert_archived(&source);
            break;
        }
        assert!(!done, "cp said that it is archived");
    }
    rig.archive(&source);
}

/// A program as process 1 of a new pid namespace, which dies with the returned process.
fn in_own_namespace(user: &User, program: &str, from: &Path, to: &Path) -> Child {
    let mut command = Command::new("unshare");
    command
        .args([
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "setpriv",
            "--clear-groups",
        ])
        .arg(format!("--reuid={}", user.uid))
        .arg(format!("--regid={}", user.gid))
        .args(["--", program])
        .args([from, to]);
    command.stderr(Stdio::null()).spawn().expect("run unshare")
}

/// A walfs that cannot see who asks: the daemon in a pid namespace of its own, the copiers outside.
struct Blind {
    daemon: Child,
    world: World,
}

impl Blind {
    fn mount() -> Blind {
        let world = World::new("blind");
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child=KILL", BINARY, "mount"]);
        command.arg(world.archive()).arg(world.mountpoint());
        command.args(["--create", "--user", &User::postgres().name]);
        let daemon = command.stderr(Stdio::null()).spawn().expect("run unshare");
        let blind = Blind { daemon, world };
        wait::until("walfs to mount", || {
            blind.run(r#"ls "$1""#, &["."]).success().then_some(())
        });
        blind
    }

    fn target(&self, name: &str) -> PathBuf {
        self.world.mountpoint().join("wal").join(name)
    }

    fn object(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.world.archive().join(format!("wal/{name}.lz4"))).ok()
    }

    /// A shell line as postgres; `$1`... are names in `wal/`.
    fn run(&self, line: &str, names: &[&str]) -> std::process::ExitStatus {
        let paths: Vec<_> = names.iter().map(|name| self.target(name)).collect();
        let paths: Vec<&Path> = paths.iter().map(|path| path.as_path()).collect();
        User::postgres().shell(line, &paths).status
    }
}

impl Drop for Blind {
    fn drop(&mut self) {
        self.daemon.kill().expect("kill unshare");
        self.daemon.wait().expect("wait for unshare");
        mounts_beneath(&self.world.mountpoint())
            .iter()
            .for_each(|mount| detach(mount));
    }
}

/// W3, "other pid namespaces hide it": nothing is known of the writer, and still only whole files are archived, by
/// every copier, and a killed one leaves nothing.
#[test]
fn w3_a_daemon_in_another_pid_namespace_archives_whole_files_only() {
    let blind = Blind::mount();
    let user = User::postgres();
    let name = |number| wal::segment_name(1, number, SMALL);
    for (copier, number) in copiers::all(&blind.world).iter().zip(1..) {
        for (name, content) in [
            (name(number), wal::segment(&name(number), 1, SMALL, number)),
            (
                format!("{:08X}.history", number + 1),
                wal::history(number as u32, "0/3000000"),
            ),
        ] {
            let from = blind.world.owned_file("from", &content);
            let output = copier.copy(&user, &from, &blind.world.mountpoint().join("wal").join(&name));
            // Nobody can say when a small file is whole but its writer's close, and uutils cp does not look at that.
            assert!(
                output.status.success(),
                "{} {name}: {}",
                copier.name,
                said(&output)
            );
            assert!(
                exists(&blind.world.archive().join(format!("wal/{name}.lz4"))),
                "{name}"
            );
        }
    }
    let name = name(200);
    let from = blind.world.owned_file("from", &wal::segment(&name, 1, SMALL, 1));
    let to = blind.world.mountpoint().join("wal").join(&name);
    for _ in 0..20 {
        let mut cp = user.command("dd");
        cp.arg(format!("if={}", from.display()))
            .arg(format!("of={}", to.display()));
        let cp = cp.args(["bs=4k", "status=none"]).spawn().expect("run dd");
        cp_killed_after(cp, Duration::from_micros(fastrand::u64(..20_000)), libc::SIGKILL);
        // All its bytes had come, or nothing of it is there.
        let same = user.shell(r#"test ! -e "$2" || cmp "$1" "$2""#, &[&from, &to]);
        assert!(
            same.status.success(),
            "a killed dd left something to see: {}",
            said(&same)
        );
    }
    let again = user.shell(r#"cp "$1" "$2" && cmp "$1" "$2""#, &[&from, &to]);
    assert!(again.status.success(), "{}", said(&again));
}

/// W3: "(PF_EXITING) ... is only a hint: other pid namespaces hide it". A writer of whom nothing can be seen, killed with a
/// gap left, or before what it laid out first was filled in. What only a living writer's close could tell is refused.
#[test]
fn w3_a_hidden_writer_killed_with_a_gap_leaves_nothing() {
    let blind = Blind::mount();
    let name = wal::segment_name(1, 1, SMALL);
    let content = wal::segment(&name, 1, SMALL, 1);
    let from = blind.world.owned_file("from", &content);
    let half = SMALL / 2;
    let (zeros, last, whole) = (
        format!("zeros:{SMALL}"),
        format!("write:{half}:{half}"),
        format!("truncate:{SMALL}"),
    );
    let head = "write:0:8192";
    for calls in [[head, &last], [head, &whole], [&whole, head], [&zeros, head]] {
        for end in ["wait", "spawn", "fork", "close"] {
            let calls = [calls[0], calls[1], end, "wait"];
            let writer = writer_to(&User::postgres(), &from, &blind.target(&name), &calls);
            match end {
                "close" => drop(writer.ended()),
                _ => drop(writer.waits().kill(libc::SIGKILL)),
            }
            assert!(blind.object(&name).is_none(), "{calls:?} archived it");
        }
    }
    assert!(
        blind
            .run(&format!(r#"cp {} "$1""#, from.display()), &[&name])
            .success()
    );
    assert!(blind.object(&name).is_some());
}

/// W2, W3: a sparse copy by somebody of whom nothing can be seen. Where the WAL ends with a switch to the next segment, and
/// the hole is behind it, the segment is whole; a hole elsewhere may be bytes that never came.
#[test]
fn w2_a_hidden_sparse_copier_is_believed_where_the_wal_ends() {
    let blind = Blind::mount();
    let uutils = blind
        .world
        .public_program(&copiers::cached_program("coreutils-0.12.0/bin/coreutils"));
    let uutils = uutils.display();
    let mut number = 0;
    for (line, end) in [
        ("cp --sparse=always".to_owned(), 3 * wal::PAGE_BYTES),
        (format!("{uutils} cp"), 40 * wal::PAGE_BYTES),
        ("cp".to_owned(), SMALL as usize - wal::PAGE_BYTES),
    ] {
        number += 1;
        let name = wal::segment_name(1, number, SMALL);
        let content = wal::switched_segment(&name, 1, SMALL, end);
        let from = blind.world.owned_file("from", &content);
        let line = format!(
            r#"fallocate -d {from}; {line} {from} "$1""#,
            from = from.display()
        );
        assert!(blind.run(&line, &[&name]).success(), "{line}");
        let object = blind.object(&name).expect("it is archived");
        assert!(unpacked(&blind.world, &object) == content, "{line}: not the same");
    }
    let name = wal::segment_name(1, 9, SMALL);
    let mut content = wal::switched_segment(&name, 1, SMALL, 50 * wal::PAGE_BYTES);
    content[20 * wal::PAGE_BYTES..30 * wal::PAGE_BYTES].fill(0);
    let from = blind.world.owned_file("from", &content);
    let line = format!(
        r#"dd if={} of="$1" bs=8k conv=sparse status=none"#,
        from.display()
    );
    assert!(
        !blind.run(&line, &[&name]).success(),
        "a hole in the WAL is believed"
    );
    assert!(blind.object(&name).is_none());
}

fn unpacked(world: &World, object: &[u8]) -> Vec<u8> {
    let file = world.path().join("object");
    std::fs::write(&file, object).expect("write an object");
    let output = Command::new("lz4").arg("-dc").arg(&file).output();
    output.expect("run lz4").stdout
}

/// W3: half a file, closed in good order by a writer that means it (`head -c N > wal/NAME`), is refused.
#[test]
fn w3_half_a_file_is_refused() {
    let rig = Rig::s3(&[]);
    let source = rig.segment(1, 1);
    for bytes in [1, 39, 40, 8192, SMALL - 1] {
        let line = format!(r#"head -c {bytes} "$1" > "$2""#);
        let output = rig
            .user()
            .shell(&line, &[&source.path, &rig.target(&source.name)]);
        assert!(!output.status.success(), "{bytes} bytes were called archived");
        rig.assert_absent(&source.name);
        rig.assert_last_error(&[&source.name]);
    }
    assert_eq!(rig.uploads(&source.name), 0);
    rig.archive(&source);
}

/// W3: "A flush of zero bytes is no error and no commit (shells and `dd` send one first)".
#[test]
fn w3_a_flush_of_nothing_is_no_error_and_no_commit() {
    let rig = Rig::local();
    let (whole, empty) = (rig.segment(1, 1), rig.segment(2, 2));
    let bytes = format!("write:0:{SMALL}");
    let output = rig
        .writer(&whole, &["dup", "dup", &bytes, "dup", "fsync", "close"])
        .ended();
    assert!(output.status.success(), "{}", said(&output));
    rig.assert_archived(&whole);
    let output = rig.writer(&empty, &["dup", "close"]).ended();
    assert!(output.status.success(), "{}", said(&output));
    rig.assert_absent(&empty.name);
}

/// W2: "`flush` and `fsync` repeat the same verdict, and it stays".
#[test]
fn w2_the_verdict_stays() {
    let rig = Rig::s3(&["--deadline", "1s"]);
    let source = rig.segment(1, 1);
    let rule = Rule::new(Action::slow_down())
        .operation(Operation::Put)
        .key(&source.name);
    rig.server().add_rule(rule);
    let half = SMALL / 2;
    let (first, second) = (format!("write:0:{half}"), format!("write:{half}:{half}"));
    let failing = |last: &'static [&'static str]| {
        let script = format!(
            r#"import os, sys
data = open(sys.argv[1], "rb").read()
target = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT, 0o600)
try:
    os.write(target, data); os.write(target, data[os.lseek(target, 0, 1):]); sys.exit("the write succeeded")
except OSError:
    pass
print("waiting", flush=True); sys.stdin.readline()
try:
    {}; sys.exit("it succeeded")
except OSError:
    pass
"#,
            last.join("; ")
        );
        let mut command = rig.user().command("/usr/bin/python3");
        command
            .args(["-c", &script])
            .arg(&source.path)
            .arg(rig.target(&source.name));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        super::rig::Writer(command.spawn().expect("run python3"))
    };
    for calls in [
        &["os.fsync(target)"],
        &["os.close(os.dup(target))"],
        &["os.close(target)"],
    ] {
        let output = failing(calls).waits().go_on().ended();
        assert!(output.status.success(), "{calls:?}: {}", said(&output));
    }
    rig.server().clear_rules();
    rig.assert_absent(&source.name);
    let output = rig
        .writer(&source, &[&first, &second, "fsync", "dup", "close"])
        .ended();
    assert!(output.status.success(), "{}", said(&output));
    rig.assert_archived(&source);
}

/// W3: "Two openers of one name have separate versions (an orphaned `cp` of a crashed archiver is still writing when
/// the next one starts)". The orphan waits in its last write, the second one comes with the same bytes.
#[test]
fn w3_an_orphaned_cp_does_not_harm_the_next_one() {
    for second_seed in [1, 2] {
        let rig = Rig::s3(&[]);
        let first = rig.segment(1, 1);
        let second = rig.segment(1, second_seed);
        let is_upload = |request: &crate::common::s3::Logged| {
            request.operation == Operation::Put && request.key.contains(&first.name)
        };
        let hang = Rule::new(Action::Hang).operation(Operation::Put).key(&first.name);
        rig.server().add_rule(hang);
        let mut orphan = rig.start_cp(&first);
        rig.server().wait_for(1, is_upload);
        let mut next = rig.start_cp(&second);
        rig.server().clear_rules();
        let orphan = wait::for_exit("the orphan to end", &mut orphan).success();
        let next = wait::for_exit("the next cp to end", &mut next).success();
        if second_seed == 1 {
            assert!(orphan && next, "same bytes: {orphan} {next}");
            rig.assert_archived(&first);
        } else {
            assert!(orphan != next, "different bytes: {orphan} {next}");
            rig.assert_archived(if orphan { &first } else { &second });
        }
    }
}

/// W3, "separate versions", while both are still writing.
#[test]
fn w3_two_writers_of_one_name_do_not_mix() {
    let rig = Rig::local();
    let (mine, yours): (Source, Source) = (rig.segment(1, 1), rig.segment(1, 2));
    let half = SMALL / 2;
    let (first, second) = (format!("write:0:{half}"), format!("write:{half}:{half}"));
    let calls = [first.as_str(), "wait", second.as_str(), "close"];
    let (one, two) = (
        rig.writer(&mine, &calls).waits(),
        rig.writer(&yours, &calls).waits(),
    );
    rig.assert_absent(&mine.name);
    let done = one.go_on().ended();
    assert!(done.status.success(), "{}", said(&done));
    rig.assert_archived(&mine);
    let refused = two.go_on().ended();
    assert!(said(&refused).contains("File exists"), "{}", said(&refused));
    rig.assert_archived(&mine);
}

/// W3 and S2: a writer killed while its last write waits for the store. Its bytes had all come; what it was never told
/// may be stored or not, but whole.
#[test]
fn w3_a_cp_killed_in_its_last_write_leaves_all_or_nothing() {
    let world = World::new("lastwrite");
    let server = S3Server::start();
    let mount = s3_options(&world, &server).mount();
    let rig = Rig {
        mount,
        place: super::rig::Place::S3(server),
        world,
    };
    let source = rig.segment(1, 1);
    rig.server().add_rule(
        Rule::new(Action::Hang)
            .operation(Operation::Put)
            .key(&source.name),
    );
    let mut cp = rig.start_cp(&source);
    rig.server().wait_for(1, |request| {
        request.key.contains(&source.name) && request.method == "PUT"
    });
    send(cp.id(), libc::SIGKILL);
    rig.server().clear_rules();
    let ended = wait::for_exit("cp to end", &mut cp);
    assert_eq!(ended.signal(), Some(libc::SIGKILL));
    match rig.object(&source.name) {
        Some(_) => rig.assert_archived(&source),
        None => rig.assert_absent(&source.name),
    }
    rig.archive(&source);
}
