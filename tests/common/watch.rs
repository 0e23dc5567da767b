//! A test that never ends is a failed test: it is named, with what its processes wait for, and the run ends. Without
//! this, one file operation that hangs takes the whole run's time and leaves no word.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::wait;
use super::world::mounts_beneath;

/// Many times what the longest test takes.
const NEVER: Duration = Duration::from_secs(30 * 60);

/// The tests that are under way: the directory, the thread's name (it is the test's) and the beginning of each.
static UNDER_WAY: Mutex<Vec<(PathBuf, String, Instant)>> = Mutex::new(Vec::new());

/// A test that is under way in `world`, from now until it is dropped.
#[derive(Debug)]
pub struct Watched {
    world: PathBuf,
}

impl Watched {
    /// The calling thread's test.
    pub fn begin(world: &Path) -> Watched {
        static WATCHMAN: Once = Once::new();
        WATCHMAN.call_once(|| drop(thread::spawn(watch)));
        let test = thread::current()
            .name()
            .unwrap_or("a thread of a test")
            .to_owned();
        let mut under_way = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.push((world.to_owned(), test, Instant::now()));
        Watched {
            world: world.to_owned(),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut under_way = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|(world, ..)| *world != self.world);
    }
}

fn watch() {
    loop {
        thread::sleep(Duration::from_secs(5));
        let under_way = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
        let hangs: Vec<_> = under_way
            .iter()
            .filter(|(.., began)| began.elapsed() > NEVER)
            .collect();
        if hangs.is_empty() {
            continue;
        }
        let mut report = processes();
        for (world, test, began) in hangs {
            let minutes = began.elapsed().as_secs() / 60;
            report += &format!("{}\ntest {test} hangs, after {minutes} min\n", logs(world));
        }
        // Not by `eprintln`: what a test's threads print so is kept until the test ends.
        let _ = std::io::stderr().write_all(report.as_bytes());
        process::exit(101);
    }
}

/// What every process here waits for: its number, state, name and place in the kernel. Of `/proc` only what the kernel
/// gives without a look into the process: a command line is not given while the process waits for a mount.
fn processes() -> String {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let mut lines = String::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = read(entry.path().join("stat"));
        // "number (name) state ..."; a kernel thread has no memory, and nothing to tell.
        let Some((name, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        if !read(entry.path().join("statm")).starts_with("0 ") {
            let place = read(entry.path().join("wchan"));
            lines += &format!("{name}) {} {place}\n", &rest[..1]);
        }
    }
    lines
}

/// The ends of the logs of a test and of its servers. Only by their names: a mount beside them may hang.
fn logs(world: &Path) -> String {
    let list = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mounts = mounts_beneath(world);
    let here = list(world);
    let dirs = here.iter().filter(|path| !mounts.contains(path));
    let below: Vec<PathBuf> = dirs.flat_map(|dir| list(dir)).collect();
    let is_log = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "log");
    let logs = here.iter().chain(&below).filter(is_log);
    logs.map(|log| wait::tail(log, 30)).collect::<Vec<_>>().join("\n")
}
