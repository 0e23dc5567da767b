//! A real S3 server for one test: Garage, one node on loopback, in a directory of its own. It checks every checksum
//! and ignores `If-None-Match`, as stores do that walfs must be right on all the same.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::copiers::{cache_dir, cached_program};
use super::postgres::send;
use super::wait;

const ACCESS_KEY: &str = "GK31c2f218a2e44f485b94239e";
const SECRET_KEY: &str = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";
const BUCKET: &str = "walfs-test";

/// One node, its data, and while it runs its process.
#[derive(Debug)]
pub struct Garage {
    program: PathBuf,
    dir: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Garage {
    /// Starts a new store in `dir` (made here). With `fsync`, what it has acknowledged survives a power loss.
    #[track_caller]
    pub fn start(dir: &Path, fsync: bool) -> Garage {
        let program = program();
        fs::create_dir_all(dir).expect("make Garage's directory");
        let mut garage = Garage {
            program,
            dir: dir.into(),
            port: 0,
            server: None,
        };
        // Somebody else may take a port between our look and Garage's bind: then others are tried.
        for _ in 0..5 {
            garage.port = free_ports();
            fs::write(garage.config(), garage.settings(fsync)).expect("write garage.toml");
            if garage.try_start() {
                return garage;
            }
        }
        panic!("Garage did not start\n{}", wait::tail(&garage.log(), 20));
    }

    /// Starts it again after [`Self::kill9`], with the same data at the same place.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(
            self.try_start(),
            "Garage did not start again\n{}",
            wait::tail(&self.log(), 20)
        );
    }

    /// `kill -9`: connections are reset, new ones refused.
    pub fn kill9(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("kill Garage");
            server.wait().expect("wait for Garage");
        }
    }

    /// Stops it without ending it: connections stay open and nothing answers.
    pub fn pause(&self) {
        send(self.server.as_ref().expect("Garage runs").id(), libc::SIGSTOP);
    }

    /// Goes on after [`Self::pause`].
    pub fn resume(&self) {
        send(self.server.as_ref().expect("Garage runs").id(), libc::SIGCONT);
    }

    /// The server's process id.
    pub fn process(&self) -> u32 {
        self.server.as_ref().expect("Garage runs").id()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The one bucket, which [`Self::env`]'s key may read and write.
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// Credentials and region for a client.
    pub fn env(&self) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", "garage"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    fn config(&self) -> PathBuf {
        self.dir.join("garage.toml")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("garage.log")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("-c")
            .arg(self.config())
            .env("RUST_LOG", "garage=warn")
            .stdin(Stdio::null());
        command
            .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET_KEY);
        command.env("GARAGE_DEFAULT_BUCKET", BUCKET);
        command
    }

    /// Starts the process and waits until it serves the bucket; `false` if it ends instead.
    fn try_start(&mut self) -> bool {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("open Garage's log");
        let mut command = self.command();
        command.args(["server", "--single-node", "--default-bucket"]);
        command
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log);
        let server = self.server.insert(command.spawn().expect("run Garage"));
        let serves = wait::until("Garage to serve its bucket", || {
            if server.try_wait().expect("wait for Garage").is_some() {
                return Some(false);
            }
            bucket_is_known(self.port).then_some(true)
        });
        if !serves {
            self.server = None;
        }
        serves
    }

    /// Three ports in a row from `port`: S3, between nodes, administration.
    fn settings(&self, fsync: bool) -> String {
        let (dir, port, rpc, admin) = (self.dir.display(), self.port, self.port + 1, self.port + 2);
        format!(
            r#"metadata_dir = "{dir}/meta"
data_dir = "{dir}/data"
db_engine = "lmdb"
replication_factor = 1
metadata_fsync = {fsync}
data_fsync = {fsync}
compression_level = "none"
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{secret}"
[s3_api]
api_bind_addr = "127.0.0.1:{port}"
s3_region = "garage"
[admin]
api_bind_addr = "127.0.0.1:{admin}"
"#,
            secret = "5".repeat(64),
        )
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", wait::tail(&self.log(), 20));
        }
        self.kill9();
    }
}

/// Garage as `.ci/needs` built it. Figures are taken with the optimised one only; a benchmark has no test harness, and so
/// no `cfg(test)`.
fn program() -> PathBuf {
    let optimised = "garage-2.5.0/bin/garage";
    if cfg!(test) && !cache_dir().join(optimised).exists() {
        cached_program("garage-2.5.0-quick/bin/garage")
    } else {
        cached_program(optimised)
    }
}

/// Whether an unsigned request for the bucket is denied (403); before Garage is ready it is refused, 404 or 503.
fn bucket_is_known(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        write!(
            stream,
            "GET /{BUCKET} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 403"))
}

/// The first of three ports in a row that nobody listens on, below the range the kernel gives to outgoing connections.
fn free_ports() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let candidates = std::iter::repeat_with(|| fastrand::u16(10_000..32_000));
    candidates
        .take(1000)
        .find(|port| (0..3).all(|next| free(port + next)))
        .expect("three free ports")
}
