//! The settings that a restored data directory has: `postgresql.conf` with the files that it includes, and
//! `postgresql.auto.conf`, in the order in which the server reads them.
//!
//! Only regular files in the data directory are read: the archive says which, and leads nowhere else. That there are others is
//! known, and what is in them is not.

use std::path::{Component, Path, PathBuf};

use super::{BEGIN, END};
use crate::pg::setting::assignment;

/// The file that `ALTER SYSTEM` writes, and which is read last.
pub(in super::super) const AUTO: &str = "postgresql.auto.conf";

/// The file with which the server begins.
pub(in super::super) const MAIN: &str = "postgresql.conf";

/// How deep files include each other (`CONF_FILE_MAX_DEPTH` of conffiles.h), and how many there may be.
const DEPTH: usize = 10;

const FILES: usize = 1000;

/// One setting in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub name: String,
    pub value: String,
    /// From the data directory.
    pub file: PathBuf,
}

/// All that are there.
#[derive(Debug, Default)]
pub(in super::super) struct Settings {
    found: Vec<Setting>,
    /// Files whose settings are not known.
    pub unseen: Vec<PathBuf>,
    files: usize,
}

/// What the data directory has.
pub(in super::super) trait Files {
    /// The text of a regular file; `None` if there is none.
    fn read(&self, file: &Path) -> Option<String>;

    /// The names in a directory.
    fn list(&self, directory: &Path) -> Vec<PathBuf>;
}

impl Settings {
    /// Reads them all.
    pub(in super::super) fn read(data: &Path, files: &impl Files) -> Self {
        let mut settings = Self::default();
        settings.add(data, files, Path::new(MAIN), 0);
        if files.read(Path::new(AUTO)).is_some() {
            settings.add(data, files, Path::new(AUTO), 0);
        }
        settings
    }

    /// What counts: the last one.
    pub(super) fn effective(&self, name: &str) -> Option<&Setting> {
        self.found.iter().rfind(|setting| setting.name == name)
    }

    /// The last one in a file that `restore` does not write anew.
    pub(super) fn elsewhere(&self, name: &str) -> Option<&Setting> {
        let others = self
            .found
            .iter()
            .filter(|setting| setting.file != Path::new(AUTO));
        others.rev().find(|setting| setting.name == name)
    }

    /// Every file that sets it.
    pub(super) fn files_with(&self, name: &str) -> Vec<&Path> {
        let with = self.found.iter().filter(|setting| setting.name == name);
        let mut files: Vec<&Path> = with.map(|setting| setting.file.as_path()).collect();
        files.dedup();
        files
    }

    fn add(&mut self, data: &Path, files: &impl Files, file: &Path, depth: usize) {
        self.files += 1;
        let within = depth < DEPTH && self.files < FILES;
        let Some(text) = files.read(file).filter(|_| within) else {
            self.unseen.push(file.to_owned());
            return;
        };
        for (name, value) in lines_of_others(&text).filter_map(assignment) {
            let named = file.parent().unwrap_or(Path::new("")).join(&value);
            match name.as_str() {
                "include" | "include_if_exists" | "include_dir" => {
                    self.include(data, files, (&name, &named), depth);
                }
                _ => self.found.push(Setting {
                    name,
                    value,
                    file: file.to_owned(),
                }),
            }
        }
    }

    fn include(&mut self, data: &Path, files: &impl Files, (how, named): (&str, &Path), depth: usize) {
        let inside = named.strip_prefix(data).unwrap_or(named);
        let is_inside = inside
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        match how {
            _ if !is_inside => self.unseen.push(inside.to_owned()),
            "include_dir" => {
                let mut names = files.list(inside);
                names.retain(|name| is_conf(name));
                names.sort();
                names
                    .iter()
                    .for_each(|name| self.add(data, files, &inside.join(name), depth + 1));
            }
            "include_if_exists" if files.read(inside).is_none() => {}
            _ => self.add(data, files, inside, depth + 1),
        }
    }
}

/// Without those that an earlier restore has left.
fn lines_of_others(text: &str) -> impl Iterator<Item = &str> {
    let mut ours = false;
    text.lines().filter(move |line| {
        let was_ours = ours;
        ours = match line.trim_end() {
            BEGIN => true,
            END => false,
            _ => ours,
        };
        !was_ours
    })
}

fn is_conf(name: &Path) -> bool {
    let name = name.to_string_lossy();
    name.ends_with(".conf") && !name.starts_with('.')
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Files by name.
    pub(in super::super) struct Made(pub(in super::super) Vec<(&'static str, &'static str)>);

    impl Files for Made {
        fn read(&self, file: &Path) -> Option<String> {
            let found = self.0.iter().find(|(name, _)| Path::new(name) == file);
            found.map(|(_, text)| (*text).to_owned())
        }

        fn list(&self, directory: &Path) -> Vec<PathBuf> {
            let inside = self
                .0
                .iter()
                .filter_map(|(name, _)| Path::new(name).strip_prefix(directory).ok());
            inside.map(Path::to_owned).collect()
        }
    }

    #[test]
    fn the_last_one_counts_over_all_files() {
        let made = Made(vec![
            (
                "postgresql.conf",
                "port = 1\ninclude_dir 'conf.d'\ninclude '/data/more.conf'\ninclude_if_exists 'none'",
            ),
            ("conf.d/b.conf", "port = 3\n"),
            ("conf.d/a.conf", "port = 2\nwork_mem = 1\ninclude '../more.conf'"),
            ("conf.d/.c.conf", "port = 4\n"),
            ("more.conf", "fsync=off"),
            ("postgresql.auto.conf", "work_mem = '8MB'\n"),
        ]);
        let settings = Settings::read(Path::new("/data"), &made);
        let value = |name| settings.effective(name).map(|setting| setting.value.as_str());
        assert_eq!(
            (value("port"), value("fsync"), value("work_mem")),
            (Some("3"), Some("off"), Some("8MB"))
        );
        let elsewhere = settings.elsewhere("work_mem").expect("one");
        assert_eq!(elsewhere.file, Path::new("conf.d/a.conf"));
        // Up and in again is not read: nothing climbs.
        assert_eq!(settings.unseen, [Path::new("conf.d/../more.conf")]);
    }

    #[test]
    fn what_lies_elsewhere_is_known_to_be_unknown() {
        let made = Made(vec![(
            "postgresql.conf",
            "include '/etc/x.conf'\ninclude 'postgresql.conf'",
        )]);
        let unseen = Settings::read(Path::new("/data"), &made).unseen;
        assert_eq!(unseen.first(), Some(&PathBuf::from("/etc/x.conf")));
        assert!(unseen.len() < 50, "{unseen:?}");
        assert_eq!(
            Settings::read(Path::new("/data"), &Made(vec![])).unseen,
            [Path::new(MAIN)]
        );
    }
}
