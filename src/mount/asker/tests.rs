//! Askers that are real processes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::staging::wal::CopySource;

use super::*;

/// A child that is ended with its test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        // A shell that started the tests in the background has made them, and so their children, ignore two signals;
        // `nohup` a third.
        // SAFETY: `signal` is async-signal-safe, and the child has no threads yet.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                libc::signal(libc::SIGQUIT, libc::SIG_DFL);
                libc::signal(libc::SIGHUP, libc::SIG_DFL);
                Ok(())
            })
        };
        Self(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    /// A shell that says a line once it has done `script`, and then waits for its input to end.
    fn shell(script: &str) -> Self {
        let mut process = Self::start(
            Command::new("sh")
                .arg("-c")
                .arg(format!("{script}; echo ready; read line")),
        );
        let mut line = String::new();
        BufReader::new(process.0.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        process
    }

    fn asker(&self) -> Asker {
        Asker::of(self.0.id()).unwrap()
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: our own child, not yet waited for.
        assert_eq!(unsafe { libc::kill(self.0.id().cast_signed(), signal) }, 0);
    }

    /// Stopped, a process leaves its signals pending, as one does that waits in the kernel.
    fn stop(&self) {
        self.signal(libc::SIGSTOP);
        let mut status = 0;
        // SAFETY: our own child; `status` is a place for a number.
        let stopped = unsafe { libc::waitpid(self.0.id().cast_signed(), &raw mut status, libc::WUNTRACED) };
        assert!(stopped > 0 && libc::WIFSTOPPED(status));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for one that has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nobody_is_known_behind_zero() {
    assert_eq!(Asker::of(0), None);
}

#[test]
fn this_thread_has_a_process_and_a_parent() {
    // SAFETY: no preconditions.
    let thread = unsafe { libc::gettid() }.cast_unsigned();
    let asker = Asker::of(thread).unwrap();
    assert_eq!(asker.tgid(), Some(std::process::id()));
    assert_eq!(asker.parent(), Some(std::os::unix::process::parent_id()));
    assert_eq!(asker.is_dying(), Some(false));
    assert!(!asker.doomed());
}

#[test]
fn child_knows_its_parent() {
    let child = Process::shell("true");
    assert_eq!(child.asker().parent(), Some(std::process::id()));
    assert_eq!(child.asker().tgid(), Some(child.0.id()));
}

#[test]
fn zombie_is_doomed_and_dying_and_then_gone() {
    let mut child = Process::shell("trap 'exit 3' EXIT");
    let asker = child.asker();
    assert!(!asker.doomed());
    drop(child.0.stdin.take());
    let mut rest = String::new();
    child
        .0
        .stdout
        .as_mut()
        .unwrap()
        .read_to_string(&mut rest)
        .unwrap();
    // SAFETY: waits for our own child to end but leaves it a zombie; zero bytes are a valid `siginfo_t`.
    let status = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(
            libc::P_PID,
            child.0.id(),
            &raw mut info,
            libc::WEXITED | libc::WNOWAIT,
        )
    };
    assert_eq!(status, 0);
    assert!(asker.doomed());
    assert_eq!(asker.is_dying(), Some(true));
    child.0.wait().unwrap();
    assert!(asker.doomed());
    assert_eq!(asker.is_dying(), None);
    assert_eq!(asker.parent(), None);
}

#[test]
fn pending_signal_that_ends_dooms() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
        // Not a shell: some catch SIGINT for themselves.
        let child = Process::start(&mut Command::new("cat"));
        child.stop();
        assert!(!child.asker().doomed());
        child.signal(signal);
        assert!(child.asker().doomed(), "signal {signal}");
    }
}

#[test]
fn pending_signal_that_is_caught_or_ignored_does_not_doom() {
    for trap in ["trap 'true' TERM", "trap '' TERM"] {
        let child = Process::shell(trap);
        child.stop();
        child.signal(libc::SIGTERM);
        assert!(!child.asker().doomed(), "{trap}");
    }
}

#[test]
fn odd_process_names_are_read_over() {
    let child = Process::shell("printf 'a) Z 1 (b' > /proc/$$/comm");
    assert_eq!(child.asker().parent(), Some(std::process::id()));
    assert_eq!(child.asker().is_dying(), Some(false));
}

#[test]
fn copier_is_known_by_its_command_line() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path().canonicalize().unwrap();
    // `cat` under the name of a copier, so that it stays until we have looked.
    let mut command = Command::new("cat");
    command
        .arg0("dd")
        .current_dir(&place)
        .arg("-")
        .arg("of=mnt/wal/0001");
    let child = Process::start(&mut command);
    let mount = place.join("mnt");
    assert_eq!(child.asker().intent(&mount, "wal", "0001"), Intent::Writes);
    assert_eq!(child.asker().intent(&mount, "wal", "0002"), Intent::Unknown);
    assert_eq!(child.asker().intent(&place, "wal", "0001"), Intent::Unknown);
    assert_eq!(
        Asker::of(u32::MAX).unwrap().intent(&mount, "wal", "0001"),
        Intent::Unknown
    );
}

/// A shell with these redirections, in a directory with files of 5, 7 and 0 bytes.
fn opens(redirections: &str) -> (tempfile::TempDir, Process) {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("other")).unwrap();
    fs::write(place.path().join("seg"), "12345").unwrap();
    fs::write(place.path().join("other/seg"), "1234567").unwrap();
    File::create(place.path().join("unrelated")).unwrap();
    let script = format!("cd '{}' && exec {redirections}", place.path().display());
    let process = Process::shell(&script);
    (place, process)
}

#[test]
fn size_of_the_only_source() {
    let (_place, child) = opens("5<seg 6<unrelated");
    assert_eq!(child.asker().source("seg").map(|source| source.bytes()), Some(5));
    assert_eq!(child.asker().source("other").map(|source| source.bytes()), None);
}

#[test]
fn source_is_open_for_reading_only() {
    let (_place, child) = opens("5<>seg");
    assert_eq!(child.asker().source("seg").map(|source| source.bytes()), None);
    let (_place, child) = opens("5>>seg 6<other/seg");
    assert_eq!(child.asker().source("seg").map(|source| source.bytes()), Some(7));
}

#[test]
fn two_sources_are_none() {
    let (_place, child) = opens("5<seg 6<other/seg");
    assert_eq!(child.asker().source("seg").map(|source| source.bytes()), None);
}

#[test]
fn origin_is_the_file_that_is_open() {
    let (place, child) = opens("5<seg");
    let origin = child.asker().origin("seg").unwrap();
    assert_eq!(origin.path, place.path().canonicalize().unwrap().join("seg"));
    let here = fs::metadata(&origin.path).unwrap();
    assert_eq!(origin.identity, Identity::from(&here));
    let (_place, child) = opens("5>>seg");
    assert_eq!(child.asker().origin("seg"), None);
}

/// The titles are PostgreSQL's; the processes here are named so by their first argument.
#[test]
fn an_archivers_command_is_told_by_title_and_name() {
    let under = |title: &str, script: &str| {
        let line = format!("sh -c '{script}; :'; :");
        let mut shell = Command::new("sh");
        shell.arg0(title).args(["-c", &line]);
        let mut process = Process::start(&mut shell);
        let mut child = String::new();
        BufReader::new(process.0.stdout.as_mut().unwrap())
            .read_line(&mut child)
            .unwrap();
        let asker = Asker::of(child.trim().parse().unwrap()).unwrap();
        let archives = asker.is_archiving("SEG");
        drop(process);
        archives
    };
    let script = "echo $$; test -e pg_wal/SEG; read line";
    assert!(under("postgres: archiver archiving SEG", script));
    assert!(under("postgres: 15/main: archiver ", script));
    assert!(!under(
        "postgres: archiver last was SEG",
        "echo $$; test -e OTHER; read line"
    ));
    assert!(!under("postgres: startup recovering SEG", script));
    assert!(!under("archiver", script));
}
