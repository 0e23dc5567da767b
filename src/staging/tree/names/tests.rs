//! Names against a map from paths to numbers.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn attributes() -> Attributes {
    Attributes {
        mode: 0o700,
        uid: 0,
        gid: 0,
        modified: Timestamp::UNIX_EPOCH,
    }
}

#[derive(Debug, Clone)]
enum Step {
    File(String),
    Directory(String),
    Unlink(String),
    RemoveDirectory(String),
    Rename(String, String, bool),
}

/// Paths of at most three of three names: collisions are the point.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc]", 1..4).prop_map(|names| names.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => path().prop_map(Step::File),
        4 => path().prop_map(Step::Directory),
        1 => path().prop_map(Step::Unlink),
        1 => path().prop_map(Step::RemoveDirectory),
        3 => (path(), path(), any::<bool>()).prop_map(|(from, to, replace)| Step::Rename(from, to, replace)),
    ]
}

/// Number of each path; directories are those whose number is in `directories`.
#[derive(Debug, Default)]
struct Model {
    paths: BTreeMap<String, (u32, bool)>,
}

impl Model {
    fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || self.paths.get(path).is_some_and(|(_, directory)| *directory)
    }

    fn has_children(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        self.paths.keys().any(|path| path.starts_with(&inside))
    }

    fn can_add(&self, path: &str) -> bool {
        self.is_directory(split(path).0) && !self.paths.contains_key(path)
    }

    fn can_rename(&self, from: &str, to: &str, replace: bool) -> bool {
        let Some(&(_, directory)) = self.paths.get(from) else {
            return false;
        };
        let target = self.paths.get(to);
        let fits = match target {
            _ if from == to => true,
            None => true,
            Some(_) if !replace => false,
            Some(&(_, other)) => directory == other && !self.has_children(to),
        };
        self.is_directory(split(to).0) && !to.starts_with(&format!("{from}/")) && fits
    }

    fn rename(&mut self, from: &str, to: &str) {
        if from == to {
            return;
        }
        self.paths.remove(to);
        let inside = format!("{from}/");
        let moved: Vec<String> = self
            .paths
            .keys()
            .filter(|path| *path == from || path.starts_with(&inside))
            .cloned()
            .collect();
        for path in moved {
            let number = self.paths.remove(&path).unwrap();
            self.paths.insert(format!("{to}{}", &path[from.len()..]), number);
        }
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Directory and name of a path, where its directory is one.
fn place<'a>(names: &Names<()>, path: &'a str) -> Option<(u32, &'a [u8])> {
    let (directory, name) = split(path);
    Some((names.find(directory.as_bytes())?, name.as_bytes()))
}

fn take(names: &mut Names<()>, model: &mut Model, step: &Step) -> Result<(), TestCaseError> {
    match step {
        Step::File(path) | Step::Directory(path) => {
            let directory = matches!(step, Step::Directory(_));
            let kind = if directory {
                Kind::Directory(BTreeMap::new())
            } else {
                Kind::File(())
            };
            let made = place(names, path).and_then(|(at, name)| names.add(at, name, kind, attributes()).ok());
            prop_assert_eq!(made.is_some(), model.can_add(path));
            if let Some(number) = made {
                model.paths.insert(path.clone(), (number, directory));
            }
        }
        Step::Unlink(path) => {
            let gone = place(names, path).is_some_and(|(at, name)| names.unlink(at, name).is_ok());
            let expected = model.paths.contains_key(path) && !model.is_directory(path);
            prop_assert_eq!(gone, expected);
            if gone {
                model.paths.remove(path);
            }
        }
        Step::RemoveDirectory(path) => {
            let gone = place(names, path).is_some_and(|(at, name)| names.remove_directory(at, name).is_ok());
            let expected =
                model.paths.contains_key(path) && model.is_directory(path) && !model.has_children(path);
            prop_assert_eq!(gone, expected);
            if gone {
                model.paths.remove(path);
            }
        }
        Step::Rename(from, to, replace) => {
            let places = place(names, from).zip(place(names, to));
            let moved = places.is_some_and(|(from, to)| names.rename(from, to, *replace).is_ok());
            prop_assert_eq!(moved, model.can_rename(from, to, *replace));
            if moved {
                model.rename(from, to);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn names_are_those_of_a_file_system(steps in prop::collection::vec(step(), 1..60)) {
        let mut names = Names::new(attributes());
        let mut model = Model::default();
        for step in &steps {
            take(&mut names, &mut model, step)?;
            let found: BTreeMap<String, (u32, bool)> = names
                .all()
                .filter(|(number, _)| *number != ROOT)
                .map(|(number, kind)| {
                    let path = String::from_utf8(names.path(number).unwrap()).unwrap();
                    (path, (number, matches!(kind, Kind::Directory(_))))
                })
                .collect();
            prop_assert_eq!(&found, &model.paths);
            for (path, (number, _)) in &model.paths {
                prop_assert_eq!(names.find(path.as_bytes()), Some(*number));
            }
        }
    }
}

#[test]
fn what_is_open_lives_until_it_is_closed() {
    let mut names = Names::new(attributes());
    let number = names.add(ROOT, b"a", Kind::File(()), attributes()).unwrap();
    names.open(number).unwrap();
    names.open(number).unwrap();
    assert!(names.unlink(ROOT, b"a").unwrap().is_none());
    assert!(names.close(number).is_none());
    assert!(names.kind(number).is_ok() && names.path(number).is_none());
    assert!(names.close(number).is_some());
    assert_eq!(names.kind(number).err(), Some(NameError::NotFound));
}

#[test]
fn names_have_a_length() {
    let mut names = Names::new(attributes());
    let name = [b'x'; 256];
    assert!(names.add(ROOT, &name[1..], Kind::File(()), attributes()).is_ok());
    let long = names.add(ROOT, &name, Kind::File(()), attributes());
    assert_eq!(long, Err(NameError::TooLong));
}
