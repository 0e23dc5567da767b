//! The floor: a process that runs already, has its connection, and does one request for each line it is sent, packing
//! before it or unpacking after it. What a tool can do without doing two things at once.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use lzzzz::lz4f;

use crate::WalGround;
use crate::contender::{Failure, WalTool};
use crate::scene::site::S3;

/// The first argument of the process.
pub const ARGUMENT: &str = "--client";

/// The process, and what it has been sent.
#[derive(Debug)]
pub struct Client {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Client {
    /// Starts it, with its first request behind it.
    pub fn set_up(ground: &WalGround<'_>) -> Result<Box<dyn WalTool>, Failure> {
        let s3 = ground.site.s3.as_ref().expect("the floor of S3");
        let mut client = Client::start(s3);
        // A connection, and everything that is done once.
        client
            .ask("get none /dev/null")
            .expect_err("a new bucket is empty");
        Ok(Box::new(client))
    }

    fn start(s3: &S3) -> Client {
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command
            .args([ARGUMENT, &s3.endpoint(), s3.bucket()])
            .envs(s3.environment());
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run this program again");
        Client {
            requests: process.stdin.take().expect("a pipe"),
            answers: BufReader::new(process.stdout.take().expect("a pipe")),
            process,
        }
    }

    fn ask(&mut self, request: &str) -> Result<(), Failure> {
        writeln!(self.requests, "{request}").map_err(|error| error.to_string())?;
        let mut answer = String::new();
        self.answers
            .read_line(&mut answer)
            .map_err(|error| error.to_string())?;
        match answer.trim_end() {
            "done" => Ok(()),
            error => Err(error.to_owned()),
        }
    }
}

impl WalTool for Client {
    fn workers(&self) -> Vec<u32> {
        vec![self.process.id()]
    }

    fn push(&mut self, wal: &Path) -> Result<(), Failure> {
        let name = wal
            .file_name()
            .expect("a segment has a name")
            .to_string_lossy()
            .into_owned();
        self.ask(&format!("put {name} {}", wal.display()))
    }

    fn fetch(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        self.ask(&format!("get {name} {}", to.display()))
    }

    fn fetch_missing(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        match self.fetch(name, to) {
            Err(error) if error.contains("NoSuchKey") => Ok(()),
            other => Err(format!("{name} is not there, and the answer was {other:?}")),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the process does: `[ARGUMENT, endpoint, bucket]`. Until its standard input ends.
pub fn serve(arguments: &[String]) {
    let [_, endpoint, bucket, ..] = arguments else {
        panic!("{ARGUMENT} ENDPOINT BUCKET");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("start a runtime").block_on(async {
        let shared = aws_config::load_from_env().await;
        let config = aws_sdk_s3::config::Builder::from(&shared)
            .endpoint_url(endpoint)
            .force_path_style(true)
            .build();
        let client = aws_sdk_s3::Client::from_conf(config);
        for line in std::io::stdin().lines() {
            let line = line.expect("a request");
            let words: Vec<&str> = line.split(' ').collect();
            match answer(&client, bucket, &words).await {
                Ok(()) => println!("done"),
                Err(error) => println!("{}", error.replace('\n', " ")),
            }
        }
    });
}

async fn answer(client: &aws_sdk_s3::Client, bucket: &str, words: &[&str]) -> Result<(), Failure> {
    let said = |error: &dyn std::error::Error| DisplayErrorContext(error).to_string();
    match words {
        ["put", key, file] => {
            let plain = std::fs::read(file).map_err(|error| said(&error))?;
            let mut packed = Vec::new();
            lz4f::compress_to_vec(&plain, &mut packed, &lz4f::Preferences::default())
                .map_err(|error| said(&error))?;
            let put = client
                .put_object()
                .bucket(bucket)
                .key(*key)
                .body(ByteStream::from(packed));
            put.send().await.map(drop).map_err(|error| said(&error))
        }
        ["get", key, file] => {
            let got = client.get_object().bucket(bucket).key(*key).send().await;
            let body = got.map_err(|error| said(&error))?.body.collect().await;
            let stored = body.map_err(|error| said(&error))?.into_bytes();
            let mut plain = Vec::new();
            lz4f::decompress_to_vec(&stored, &mut plain).map_err(|error| said(&error))?;
            std::fs::write(file, plain).map_err(|error| said(&error))
        }
        _ => Err(format!("no such request: {words:?}")),
    }
}
