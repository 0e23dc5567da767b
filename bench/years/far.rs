//! The objects of an archive in a directory, once more in an S3 server that is far away and counts what is asked of it.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::common::s3::{Action, Operation, Rule, S3Server};
use crate::measure::files;

/// The prefix of the archive in the bucket.
const PREFIX: &str = "archive";

/// What was asked.
pub(super) struct Requests {
    pub(super) all: usize,
    pub(super) lists: usize,
}

/// The server.
pub(super) struct Far {
    server: S3Server,
    taken: HashSet<String>,
    stored_bytes: u64,
}

impl Far {
    pub(super) fn start(delay: Duration) -> Self {
        let server = S3Server::start();
        server.add_rule(Rule::new(Action::Delay(delay)));
        Self {
            server,
            taken: HashSet::new(),
            stored_bytes: 0,
        }
    }

    /// Takes the objects of a directory that it has not yet.
    pub(super) fn take(&mut self, directory: &Path) {
        // Many names of few files: each is read once.
        let mut contents: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for path in files::beneath(directory) {
            let key = path.strip_prefix(directory).expect("beneath it");
            let key = key.to_str().expect("a key is text").to_owned();
            let is_object = !key.ends_with("/.archive_id") && !key.starts_with(".tmp/");
            if !is_object || self.taken.contains(&key) {
                continue;
            }
            let found = fs::metadata(&path).expect("look at an object");
            let read = || fs::read(&path).expect("read an object");
            let content = match found.nlink() {
                1 => read(),
                _ => contents.entry(found.ino()).or_insert_with(read).clone(),
            };
            self.stored_bytes += content.len() as u64;
            self.server.put_object(&format!("{PREFIX}/{key}"), content);
            self.taken.insert(key);
        }
    }

    pub(super) fn objects(&self) -> usize {
        self.taken.len()
    }

    /// Bytes of all objects.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// What `--archive` is to say.
    pub(super) fn archive(&self) -> String {
        format!("s3://{}/{PREFIX}", self.server.bucket())
    }

    pub(super) fn env(&self) -> Vec<(&'static str, String)> {
        self.server.env()
    }

    pub(super) fn forget_requests(&self) {
        self.server.clear_requests();
    }

    pub(super) fn requests(&self) -> Requests {
        let all = self.server.requests();
        let lists = all.iter().filter(|request| request.operation == Operation::List);
        Requests {
            lists: lists.count(),
            all: all.len(),
        }
    }
}
