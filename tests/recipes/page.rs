//! The commands of a page of the documentation, as they stand there, with the places of a test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::common::postgres::Version;
use crate::common::user::User;
use crate::common::wait;
use crate::common::walfs::BINARY;
use crate::common::world::World;

/// Beginnings of places that are of the real machine, and must not be left in what a test runs.
const REAL: [&str; 6] = ["s3://", "/var/", "/srv/", "/mnt/", "/etc/", "sudo "];

/// A page of `docs/`.
pub(crate) fn page(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The headings of recipes.
pub(crate) fn headings() -> Vec<String> {
    let page = page("recipes.md");
    let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
    headings.map(str::to_owned).collect()
}

/// The blocks of one recipe, in order.
pub(crate) struct Recipe<'a> {
    world: &'a World,
    /// Language and text of each.
    blocks: Vec<(String, String)>,
    places: BTreeMap<String, String>,
    env: Vec<(String, String)>,
}

impl<'a> Recipe<'a> {
    /// That below a heading, with the programs of this version.
    #[track_caller]
    pub(crate) fn of(heading: &str, world: &'a World, version: &Version) -> Recipe<'a> {
        let page = page("recipes.md");
        let (_, below) = page
            .split_once(&format!("\n## {heading}\n"))
            .unwrap_or_else(|| panic!("no recipe {heading:?}"));
        let section = below.split("\n## ").next().expect("a first part");
        let mut recipe = Recipe {
            world,
            blocks: blocks(section),
            places: BTreeMap::new(),
            env: Vec::new(),
        };
        let walfs = world.public_program(Path::new(BINARY));
        let beside = walfs.parent().expect("a directory").display();
        recipe.set(
            "PATH",
            &format!("{beside}:{}:/usr/bin:/bin:/usr/sbin", version.bin.display()),
        );
        recipe
    }

    /// What stands on the page, and what it is here.
    pub(crate) fn place(&mut self, there: &str, here: impl ToString) -> &mut Self {
        let is_there = self.blocks.iter().any(|(_, text)| text.contains(there));
        assert!(is_there, "the recipe has no {there:?}");
        self.places.insert(there.to_owned(), here.to_string());
        self
    }

    /// One more variable of its environment.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// How many blocks there are.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The text of a block, with the places of the test; panics if one of the real machine is left.
    #[track_caller]
    pub(crate) fn text(&self, block: usize, language: &str) -> String {
        let (of, text) = &self.blocks[block];
        assert_eq!(of, language, "block {block}");
        // The longest first: one may be the beginning of another.
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_by_key(|(there, _)| std::cmp::Reverse(there.len()));
        let mut marked = text.clone();
        for (at, (there, _)) in places.iter().enumerate() {
            marked = marked.replace(*there, &format!("\u{1}{at}\u{2}"));
        }
        for real in REAL {
            assert!(!marked.contains(real), "a place {real:?} is left in\n{marked}");
        }
        for (at, (_, here)) in places.iter().enumerate() {
            marked = marked.replace(&format!("\u{1}{at}\u{2}"), here);
        }
        marked
    }

    /// Runs the commands of a block in one shell, as user postgres, and gives what they print.
    #[track_caller]
    pub(crate) fn run(&self, block: usize) -> String {
        self.run_line(&self.text(block, "sh"))
    }

    /// Runs other commands in the same way.
    #[track_caller]
    pub(crate) fn run_line(&self, commands: &str) -> String {
        // Not through pipes: a server that is started keeps them open.
        let told: PathBuf = self.world.path().join("recipe.log");
        let log = File::create(&told).expect("make a log");
        let mut shell = User::postgres().command("/bin/sh");
        shell
            .args(["-eux", "-c", commands])
            // Nothing that a reader of the page does not have.
            .env_remove("WALFS_CREATE")
            .env("PGUSER", "postgres")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.world.path())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log);
        let status = shell.status().expect("run /bin/sh");
        assert!(status.success(), "{status}\n{}", wait::tail(&told, 60));
        fs::read_to_string(&told).expect("read the log")
    }

    /// The value of a variable that it runs with.
    #[track_caller]
    pub(crate) fn variable(&self, name: &str) -> String {
        let set = self.env.iter().find(|(known, _)| known == name);
        set.expect("it is set").1.clone()
    }
}

/// Language and text of each fenced block.
pub(crate) fn blocks(text: &str) -> Vec<(String, String)> {
    let fenced = text.split("\n```").skip(1).step_by(2);
    let parted = fenced.map(|block| block.split_once('\n').expect("a language, and a text"));
    parted
        .map(|(language, text)| (language.to_owned(), text.to_owned()))
        .collect()
}
