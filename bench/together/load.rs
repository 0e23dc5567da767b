//! The others: one base backup after the other, and listings of the mount as a restore makes them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::user::User;
use crate::common::walfs::BINARY;
use crate::common::world::World;
use crate::measure::{meter, setting};
use crate::scene::site::Site;

/// What others do in an archive and its mount.
#[derive(Clone, Debug)]
pub struct Others {
    walfs: PathBuf,
    /// `--archive` and what else says where it is.
    arguments: Vec<String>,
    /// Where the server listens.
    sockets: PathBuf,
    mountpoint: PathBuf,
}

/// What they have done meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    /// Whole backups.
    pub backups: u64,
    /// `ls -l wal/` and `find basebackups`, once each.
    pub listings: u64,
}

impl Others {
    pub fn new(world: &World, site: &Site, data: &Path, mountpoint: &Path) -> Self {
        let (archive, options) = site.walfs_archive();
        Self {
            walfs: world.public_program(Path::new(BINARY)),
            arguments: [vec!["--archive".into(), archive], options].concat(),
            sockets: data.with_file_name(""),
            mountpoint: mountpoint.to_owned(),
        }
    }

    fn backup(&self, name: &str) -> Command {
        let mut command = User::postgres().command(&self.walfs);
        command.arg("backup").args(&self.arguments);
        command.args([name, "--fast", "--json"]);
        command.env("PGHOST", &self.sockets).env("PGUSER", "postgres");
        command
    }

    fn list(&self) {
        let mut ls = User::postgres().command("ls");
        let mut find = User::postgres().command("find");
        ls.arg("-l").arg(self.mountpoint.join("wal"));
        find.arg(self.mountpoint.join("basebackups"));
        for command in [&mut ls, &mut find] {
            meter::succeed(command).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Runs until it is ended, or dropped by a benchmark that panics.
#[derive(Debug)]
pub struct Load {
    done: Arc<AtomicBool>,
    backups: Option<JoinHandle<u64>>,
    listings: Option<JoinHandle<u64>>,
}

impl Load {
    /// Starts it; `turn` makes names of backups that were not there.
    pub fn start(others: &Others, turn: usize) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (of_backups, of_listings) = (others.clone(), others.clone());
        let pause = Duration::from_millis(setting("WALFS_BENCH_PAUSE_MS", 100) as u64);
        let backups = repeat(&done, move |number| {
            let mut backup = of_backups.backup(&format!("turn-{turn}-{number}"));
            meter::succeed(&mut backup).unwrap_or_else(|error| panic!("{error}"));
        });
        let listings = repeat(&done, move |_| {
            of_listings.list();
            thread::sleep(pause);
        });
        Self {
            done,
            backups: Some(backups),
            listings: Some(listings),
        }
    }

    /// Lets what has begun come to its end.
    pub fn end(mut self) -> Busy {
        self.done.store(true, Ordering::Release);
        let ended = |work: Option<JoinHandle<u64>>| {
            let ended = work.map(JoinHandle::join);
            ended
                .and_then(Result::ok)
                .expect("what runs beside does not fail")
        };
        Busy {
            backups: ended(self.backups.take()),
            listings: ended(self.listings.take()),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
    }
}

/// Does it over and over; returns how often in the end.
fn repeat(done: &Arc<AtomicBool>, work: impl Fn(u64) + Send + 'static) -> JoinHandle<u64> {
    let done = done.clone();
    thread::spawn(move || {
        let mut times = 0;
        while !done.load(Ordering::Acquire) {
            work(times);
            times += 1;
        }
        times
    })
}
