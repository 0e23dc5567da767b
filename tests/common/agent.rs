//! `walfs agent`, in a process group of its own.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::postgres::send;
use super::wait;

/// An agent, which leads a group of processes.
#[derive(Debug)]
pub struct Agent {
    process: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts what the command says, `walfs agent`.
    pub fn start(command: &mut Command, log: &Path) -> Agent {
        let file = File::options().create(true).append(true).open(log);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file.expect("open the log"))
            .process_group(0);
        Agent {
            process: command.spawn().expect("run walfs"),
            log: log.to_owned(),
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        wait::until(&format!("{text:?} in the log"), || {
            self.log().contains(text).then_some(())
        });
    }

    /// A signal to it, or to it and all that it runs.
    pub fn signal(&self, signal: i32) {
        send(self.process.id(), signal);
    }

    pub fn signal_all(&self, signal: i32) {
        let group = i32::try_from(self.process.id()).expect("a process number");
        // SAFETY: a signal to a group that this test has made.
        assert_eq!(unsafe { libc::kill(-group, signal) }, 0);
    }

    /// Tells it to end, which it does with exit code 0.
    #[track_caller]
    pub fn stop(mut self) -> String {
        self.signal(libc::SIGTERM);
        let status = wait::for_exit("the agent to end", &mut self.process);
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let group = i32::try_from(self.process.id()).expect("a process number");
        // SAFETY: as above; it may be gone.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", wait::tail(&self.log, 80));
        }
    }
}
