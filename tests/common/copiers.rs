//! The zoo of copy tools. Each has its own idea of when to check what the system said: GNU `cp` looks at `close`,
//! uutils `cp` does not, `rsync` renames, a shell's `cat` flushes nothing. What one of them calls success must be stored.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::user::User;
use super::world::World;

/// One way to bring a file to a place.
#[derive(Clone, Debug)]
pub struct Copier {
    pub name: &'static str,
    /// Program and arguments; `{from}` and `{to}` stand for the paths.
    line: Vec<String>,
}

impl Copier {
    /// Copies as `user`, and returns what came of it.
    pub fn copy(&self, user: &User, from: &Path, to: &Path) -> Output {
        let mut command = self.command(user, from, to);
        command
            .output()
            .unwrap_or_else(|error| panic!("run {}: {error}", self.name))
    }

    /// The command, for a test that means to kill it.
    pub fn command(&self, user: &User, from: &Path, to: &Path) -> Command {
        let path = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        let filled = |word: &String| word.replace("{from}", &path(from)).replace("{to}", &path(to));
        let mut command = user.command(&self.line[0]);
        command.args(self.line[1..].iter().map(filled));
        command
    }
}

/// All of them; panics, naming what to do, if one is not there.
pub fn all(world: &World) -> Vec<Copier> {
    let shell = |script: &str| {
        vec![
            "/bin/sh".into(),
            "-c".into(),
            script.into(),
            "sh".into(),
            "{from}".into(),
            "{to}".into(),
        ]
    };
    let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
    let uutils = world.public_program(&cached_program("coreutils-0.12.0/bin/coreutils"));
    let copyfile = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])";
    let python = ["/usr/bin/python3", "-c", copyfile, "{from}", "{to}"];
    vec![
        Copier {
            name: "GNU cp",
            line: vec![gnu_cp().into(), "{from}".into(), "{to}".into()],
        },
        Copier {
            name: "uutils cp",
            line: vec![
                uutils.display().to_string(),
                "cp".into(),
                "{from}".into(),
                "{to}".into(),
            ],
        },
        Copier {
            name: "dd",
            line: words("dd if={from} of={to} bs=1M status=none"),
        },
        Copier {
            name: "dd conv=fsync",
            line: words("dd if={from} of={to} bs=64K conv=fsync status=none"),
        },
        Copier {
            name: "rsync",
            line: words("rsync {from} {to}"),
        },
        Copier {
            name: "install",
            line: words("install -m 0600 {from} {to}"),
        },
        Copier {
            name: "python3 shutil.copyfile",
            line: python.map(String::from).to_vec(),
        },
        Copier {
            name: "cat >",
            line: shell(r#"cat "$1" > "$2""#),
        },
        Copier {
            name: "cp .tmp && mv",
            line: shell(r#"cp "$1" "$2.tmp" && mv "$2.tmp" "$2""#),
        },
    ]
}

/// A program that `.ci/needs test` built into the cache; panics with the command that builds it.
pub fn cached_program(path: &str) -> PathBuf {
    let program = cache_dir().join(path);
    assert!(
        program.exists(),
        "{} is missing\nHINT: `.ci/needs test` once, for a benchmark `.ci/needs bench`",
        program.display()
    );
    program
}

/// Where `.ci/needs` keeps what it has built and brought.
pub fn cache_dir() -> PathBuf {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home_cache =
        || variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    let cache = variable("WALFS_TEST_CACHE").or_else(|| home_cache().map(|cache| cache.join("walfs-test")));
    cache.expect("WALFS_TEST_CACHE or HOME is set")
}

/// Where the cp of GNU is: some distributions have another one under the name `cp`.
fn gnu_cp() -> &'static str {
    let is_gnu = |program: &&str| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("GNU coreutils"))
    };
    let found = ["/usr/bin/cp", "/usr/bin/gnucp"]
        .into_iter()
        .filter(|program| fs::exists(program).unwrap_or(false));
    found
        .into_iter()
        .find(is_gnu)
        .expect("the cp of GNU coreutils\nHINT: apt-get install coreutils")
}
