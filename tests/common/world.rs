//! A directory of its own for each test, with the places that a test of walfs needs. It goes with the test; set
//! `WALFS_TEST_KEEP=1` to look at what a failed test left behind.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::user::User;
use super::watch::Watched;

/// After that long what is kept for all tests is an earlier build's.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);

/// `archive/` (owned by postgres), `mnt/` (the caller's, so postgres cannot write beneath a mount that is gone), and
/// room for more. Mode 0755 up to here: postgres gets in, whoever runs the tests.
#[derive(Debug)]
pub struct World {
    dir: Option<TempDir>,
    path: PathBuf,
    _watched: Watched,
}

impl World {
    /// A new, empty one. `name` is seen in paths, keep it short: a socket's path may have 107 bytes.
    pub fn new(name: &str) -> World {
        // A shell has what runs in its background ignore it, and what a test interrupts would inherit that.
        // SAFETY: sets the disposition that every process begins with.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        let dir = tempfile::Builder::new()
            .prefix(&format!("walfs-{name}-"))
            .tempdir()
            .expect("make a directory");
        let path = dir.path().canonicalize().expect("resolve the directory's path");
        set_mode(&path, 0o755);
        User::postgres().make_dir(&path.join("archive"));
        fs::create_dir(path.join("mnt")).expect("make the mount point");
        set_mode(&path.join("mnt"), 0o755);
        let watched = Watched::begin(&path);
        World {
            dir: Some(dir),
            path,
            _watched: watched,
        }
    }

    /// The whole of it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The local archive.
    pub fn archive(&self) -> PathBuf {
        self.path.join("archive")
    }

    /// Where the archive is mounted.
    pub fn mountpoint(&self) -> PathBuf {
        self.path.join("mnt")
    }

    /// A new directory that postgres owns.
    pub fn owned_dir(&self, name: &str) -> PathBuf {
        let dir = self.path.join(name);
        User::postgres().make_dir(&dir);
        dir
    }

    /// A new file of these bytes that postgres owns: what a copier is to copy.
    pub fn owned_file(&self, name: &str, content: &[u8]) -> PathBuf {
        let file = self.path.join(name);
        fs::write(&file, content).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
        User::postgres().own(&file);
        file
    }

    /// A program where every user can run it: what cargo built is often in a home that only its owner may enter. It is
    /// copied once for all tests: a binary with its line numbers has some 80 MB.
    pub fn public_program(&self, program: &Path) -> PathBuf {
        let built = fs::metadata(program).expect("look at a program");
        let name = program.file_name().expect("a program has a name");
        let key = format!("{}-{}-{}", built.ino(), built.mtime(), built.mtime_nsec());
        let kept = kept_for_all(&key, |place| {
            // By a process of its own: a file that this one has open for writing cannot be run, and a fork of another
            // test's thread keeps it open for a moment longer.
            let copy = place.join(name);
            let status = Command::new("cp")
                .arg(program)
                .arg(&copy)
                .status()
                .expect("run cp");
            assert!(status.success(), "cannot copy {}", program.display());
            set_mode(&copy, 0o755);
        });
        kept.join(name)
    }
}

/// A file of `mount-helpers/`.
pub fn helper(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    source.join("mount-helpers").join(name)
}

/// A directory that all tests read and `make` fills, once, also for later runs. `key` tells what is in it.
pub fn kept_for_all(key: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = std::env::temp_dir().join(format!("walfs-tests-{}", User::caller().uid));
    fs::create_dir_all(&directory).expect("make a directory");
    let found = fs::symlink_metadata(&directory).expect("look at it");
    assert!(
        found.is_dir() && found.uid() == User::caller().uid,
        "{} is another user's",
        directory.display()
    );
    set_mode(&directory, 0o755);
    let kept = directory.join(key);
    if kept.exists() {
        return kept;
    }
    // What was made for earlier builds.
    for entry in fs::read_dir(&directory).expect("list it").flatten() {
        let made = entry.metadata().and_then(|meta| meta.modified()).ok();
        if made
            .and_then(|made| made.elapsed().ok())
            .is_some_and(|age| age > OLD)
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let making = tempfile::tempdir_in(&directory).expect("make a directory");
    set_mode(making.path(), 0o755);
    make(making.path());
    // Another run may have been quicker: then its directory is as good.
    if fs::rename(making.path(), &kept).is_ok() {
        let _ = making.keep();
    }
    kept
}

impl Drop for World {
    fn drop(&mut self) {
        // A mount left in it would be emptied with it.
        for mountpoint in mounts_beneath(&self.path) {
            detach(&mountpoint);
        }
        let keep = std::env::var_os("WALFS_TEST_KEEP").is_some_and(|value| !value.is_empty());
        if keep && let Some(dir) = self.dir.take() {
            eprintln!("kept: {}", dir.keep().display());
        } else if thread::panicking() {
            eprintln!(
                "removing {} (HINT: WALFS_TEST_KEEP=1 keeps it)",
                self.path.display()
            );
        }
    }
}

/// Every mount point at or under `dir`, the innermost first, as the kernel's table has it.
pub fn mounts_beneath(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read the table of mounts");
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    found.reverse();
    found
}

/// Takes a mount away, also one whose daemon is dead. For cleaning up only: walfs itself must unmount properly.
pub fn detach(mountpoint: &Path) {
    let path = CString::new(mountpoint.as_os_str().as_bytes()).expect("a path without NUL");
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    if result != 0 {
        eprintln!(
            "cannot unmount {}: {}",
            mountpoint.display(),
            std::io::Error::last_os_error()
        );
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set a mode");
}
