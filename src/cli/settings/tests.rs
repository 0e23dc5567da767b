use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;

use super::{known, known_to, named, names_archive, place, variable};
use crate::cli::Cli;

/// A4: file, environment and flag have one name; a section of the file is the command.
#[test]
fn a_setting_has_the_name_of_its_flag() {
    for command in Cli::command().get_subcommands() {
        for option in known_to(command) {
            let Some(name) = option.get_env() else { continue };
            let name = name.to_str().expect("a name of text");
            let flag = option.get_long().unwrap_or(option.get_id().as_str());
            let sectioned = format!("{}-{flag}", command.get_name());
            let fits = [flag, &sectioned].into_iter().any(|flag| variable(flag) == name);
            // The archive that `walfs copy` reads.
            assert!(
                fits || (flag, name) == ("from", "WALFS_ARCHIVE"),
                "{name}: --{flag}"
            );
        }
    }
}

/// Two commands that share a setting take the same values for it.
#[test]
fn a_shared_setting_is_the_same_everywhere() {
    let mut kinds = BTreeMap::new();
    for command in Cli::command().get_subcommands() {
        for option in known_to(command)
            .into_iter()
            .filter(|option| option.get_env().is_some())
        {
            let takes = (
                option.get_value_parser().type_id(),
                option.get_action().takes_values(),
            );
            let name = option.get_env().expect("it has one").to_owned();
            let first = *kinds.entry(name.clone()).or_insert(takes);
            // postgres-config only prints it.
            let is_shown = command.get_name() == "postgres-config";
            assert!(is_shown || first == takes, "{name:?} of {}", command.get_name());
        }
    }
    assert!(!known(&Cli::command()).contains_key("config"));
}

#[test]
fn the_file_is_the_one_that_is_named() {
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    assert_eq!(
        named(&words(&["walfs", "status", "--config", "x"])),
        Some("x".into())
    );
    assert_eq!(
        named(&words(&["walfs", "--config=x", "status"])),
        Some("x".into())
    );
    assert_eq!(named(&words(&["walfs", "status", "--", "--config", "x"])), None);
    assert_eq!(place("main".as_ref()), Path::new("/etc/walfs/main.toml"));
    assert_eq!(place("main.toml".as_ref()), Path::new("main.toml"));
    assert_eq!(place("./main".as_ref()), Path::new("./main"));
}

#[test]
fn whoever_names_an_archive_does_not_get_the_settings_of_another() {
    let names = |words: &[&str]| {
        let words: Vec<_> = ["walfs"].iter().chain(words).map(OsString::from).collect();
        names_archive(&Cli::command(), &words)
    };
    for words in [
        &["wal-list", "--archive", "x"][..],
        &["prune", "--archive=x"],
        &["prune", "--archive", "x", "--no-such-flag"],
        &["mount", "x", "/mnt"],
        &["copy", "x", "y"],
        &["restore", "--archive", "x"],
    ] {
        assert!(names(words), "{words:?}");
    }
    for words in [
        &["wal-list"][..],
        &["umount", "/mnt"],
        &["config", "show"],
        &["restore", "LATEST", "/x"],
    ] {
        assert!(!names(words), "{words:?}");
    }
}
