//! `walfs agent` that answers by HTTP, and a client that asks it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::postgres::send;
use super::user::User;
use super::wait;
use super::walfs::walfs;
use super::world::World;

/// An agent that listens on a port of its own.
pub struct Sidecar {
    pub process: Child,
    log: PathBuf,
    pub address: String,
}

impl Sidecar {
    #[track_caller]
    pub fn start(world: &World, settings: &[(&str, &str)], arguments: &[&str]) -> Sidecar {
        let archive = world.archive();
        let archive = ("WALFS_ARCHIVE", archive.to_str().expect("a path of text"));
        Sidecar::run(world, &[&[archive], settings].concat(), arguments)
    }

    /// Of an archive that the settings name.
    #[track_caller]
    pub fn run(world: &World, settings: &[(&str, &str)], arguments: &[&str]) -> Sidecar {
        let log = world.path().join("sidecar.log");
        let file = fs::File::create(&log).expect("make the log");
        let mut command = walfs(world, &User::postgres());
        command
            .args(["agent", "--create"])
            .args(arguments)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        let process = command.spawn().expect("run walfs");
        let mut sidecar = Sidecar {
            process,
            log,
            address: String::new(),
        };
        sidecar.address = wait::until("it to listen", || {
            let log = sidecar.log();
            let line = log.lines().find(|line| line.contains("listening on "))?;
            Some(line.rsplit(' ').next()?.to_owned())
        });
        // It answers once the archive is open.
        wait::until("an answer", || {
            (sidecar.asks("GET", "/ping", &[], b"").0 != 0).then_some(())
        });
        sidecar
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Status and body of an answer; 0: there was none that is whole.
    pub fn asks(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> (u16, Vec<u8>) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for header in headers {
            request.push_str(&format!("{header}\r\n"));
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut answer = Vec::new();
        let mut talk = |stream: &mut dyn Duplex| {
            stream.write_all(request.as_bytes())?;
            stream.write_all(body)?;
            stream.read_to_end(&mut answer)
        };
        let talked = match self.address.starts_with('/') {
            true => UnixStream::connect(&self.address).and_then(|mut stream| talk(&mut stream)),
            false => TcpStream::connect(&self.address).and_then(|mut stream| talk(&mut stream)),
        };
        let _ = talked;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = end else { return (0, answer) };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let body = answer.split_off(end + 4);
        let is_whole = method == "HEAD" || length.and_then(|length| length.parse().ok()) == Some(body.len());
        (if is_whole { status } else { 0 }, body)
    }

    #[track_caller]
    pub fn gets(&self, path: &str, status: u16) -> String {
        let (found, body) = self.asks("GET", path, &[], b"");
        let text = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(found, status, "{path}: {text}\n{}", self.log());
        text
    }

    #[track_caller]
    pub fn stop(mut self) {
        send(self.process.id(), libc::SIGTERM);
        let status = wait::for_exit("the agent to end", &mut self.process);
        assert!(status.success(), "{status}: {}", self.log());
    }
}

trait Duplex: Read + Write {}
impl<S: Read + Write> Duplex for S {}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", wait::tail(&self.log, 60));
        }
    }
}
