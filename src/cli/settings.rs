//! What is set outside of the command line: in a configuration file, in the environment, in variables that the forerunners of
//! walfs know.
//!
//! A setting is an option with a variable `WALFS_NAME`; in a file it is `name`, and `section-name` may be written as `name`
//! below `[section]`. Flags win over `WALFS_...`, these over the variables of forerunners, those over the file. There is one
//! mechanism: what a file or a forerunner sets becomes the environment variable of the option, before anything else runs.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::complain;

mod file;
mod forerunners;
mod reference;

use file::Entry;
pub(super) use forerunners::FORERUNNERS;

/// Where a configuration is looked for by its name.
pub(super) const DIRECTORY: &str = "/etc/walfs";

/// The name of the one that is read if none is named.
const USUAL: &str = "main";

/// How the variable of each setting begins.
const PREFIX: &str = "WALFS_";

/// The setting that says which file is read, and so is in none.
const CONFIG: &str = "config";

/// Names no more alike than this are not suggested.
const ALIKE: f64 = 0.8;

/// What is wrong with it. Nothing was set.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, or has a value that is none of walfs's.
    #[error("{path}:{line}: {reason}", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A file that a value is in.
    #[error("{name} is in a file, {path:?}, that cannot be read: {reason}")]
    Reference {
        /// The setting, or the variable.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A variable of a forerunner asks for what walfs cannot do.
    #[error("{name} is set: {reason}")]
    Forerunner {
        /// The variable.
        name: &'static str,
        /// What it asks for, and a HINT.
        reason: &'static str,
    },
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// walfs's own.
    Usual,
}

/// A setting, and what it is set to.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// Its name in a file.
    pub(super) name: String,
    /// What it is, in a sentence.
    pub(super) about: String,
    /// Its value; that of a secret is the name of the file it is in. `None`: not set.
    pub(super) value: Option<String>,
    /// Where that comes from.
    pub(super) origin: Origin,
}

/// What was set from outside of the command line.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// The configuration file that was read.
    pub(super) file: Option<PathBuf>,
    /// By the name of the setting: its value as it was written, and where.
    set: BTreeMap<String, (String, Origin)>,
}

impl Settings {
    /// The file that a configuration of this name is in, or would be; that of the usual one without a name.
    pub(super) fn place(config: Option<&OsStr>) -> PathBuf {
        place(
            config
                .filter(|name| !name.is_empty())
                .unwrap_or(OsStr::new(USUAL)),
        )
    }

    /// Every setting of every command, in the order of their names.
    pub(super) fn all(&self, command: &Command) -> Vec<Setting> {
        let known = known(command).into_iter();
        known.map(|(name, option)| self.one(name, &option)).collect()
    }

    fn one(&self, name: String, option: &Arg) -> Setting {
        let about = option.get_help().map(ToString::to_string).unwrap_or_default();
        let usual = || {
            let usual: Vec<_> = option.get_default_values().iter().map(text).collect();
            let is_flag = !option.get_action().takes_values();
            (!usual.is_empty() && !is_flag).then(|| usual.join(","))
        };
        let (value, origin) = match self.set.get(&name) {
            Some((value, origin)) => (Some(value.clone()), origin.clone()),
            None => match std::env::var_os(variable(&name)) {
                Some(value) => (Some(text(&value)), Origin::Variable(variable(&name))),
                None => (usual(), Origin::Usual),
            },
        };
        Setting {
            name,
            about,
            value,
            origin,
        }
    }
}

fn text(value: impl AsRef<OsStr>) -> String {
    value.as_ref().to_string_lossy().into_owned()
}

/// The environment variable of a setting.
fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// Variables that are none of a setting, and mean something else.
const OTHER_VARIABLES: [&str; 4] = ["WALFS_CONFIG", "WALFS_READY_FD", "WALFS_OPTIONS", "WALFS"];

/// What is wrong with variables of the environment that look like settings and are none. Other programs may have set them, so
/// only who asks is told.
pub(super) fn unknown_variables(command: &Command) -> Vec<String> {
    let known = known(command);
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = names.filter(|name| name.starts_with(PREFIX) && !OTHER_VARIABLES.contains(&name.as_str()));
    let told = unknown.filter_map(|variable| {
        let name = variable
            .strip_prefix(PREFIX)?
            .to_ascii_lowercase()
            .replace('_', "-");
        (!known.contains_key(&name)).then(|| format!("{variable}: {}", file::unknown(&name, known.keys())))
    });
    told.collect()
}

/// The options that are settings, by their names, in all commands. Of one that several commands have, the first.
fn known(command: &Command) -> BTreeMap<String, Arg> {
    let mut known = BTreeMap::new();
    let own = command.get_arguments().cloned();
    let below = command.get_subcommands().flat_map(known_to);
    for option in own.chain(below) {
        let name = option.get_env().and_then(OsStr::to_str);
        let name = name.and_then(|name| name.strip_prefix(PREFIX));
        if let Some(name) = name.map(|name| name.to_ascii_lowercase().replace('_', "-"))
            && name != CONFIG
        {
            known.entry(name).or_insert(option);
        }
    }
    known
}

fn known_to(command: &Command) -> Vec<Arg> {
    let below = command.get_subcommands().flat_map(known_to);
    command.get_arguments().cloned().chain(below).collect()
}

/// Reads the configuration, and sets the environment variables of what it says. To be called before there are threads.
///
/// # Errors
/// [`Error`]; then nothing is set.
pub(super) fn adopt(command: &Command, arguments: &[OsString]) -> Result<Settings, Error> {
    let environment: BTreeMap<String, OsString> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .collect();
    let found = read(command, arguments, &environment)?;
    for (name, value) in found.variables {
        // SAFETY: there are no other threads yet.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(found.settings)
}

/// Sets the environment variables of what was said on the command line, for commands that this one runs. To be called before
/// there are threads.
pub(super) fn hand_on(command: &Command, matches: &ArgMatches) {
    let Some((name, of_command)) = matches.subcommand() else {
        return;
    };
    let options = command.find_subcommand(name).into_iter().flat_map(known_to);
    for option in options {
        let id = option.get_id().as_str();
        let is_said = of_command.value_source(id) == Some(ValueSource::CommandLine);
        let Some(variable) = option.get_env().filter(|_| is_said) else {
            continue;
        };
        let raw = of_command.get_raw(id).into_iter().flatten().next();
        // SAFETY: there are no other threads yet.
        unsafe { std::env::set_var(variable, raw.unwrap_or(OsStr::new("true"))) };
    }
}

/// What there is, and what is to be set for it.
struct Found {
    settings: Settings,
    variables: BTreeMap<String, OsString>,
}

fn read(
    command: &Command,
    arguments: &[OsString],
    environment: &BTreeMap<String, OsString>,
) -> Result<Found, Error> {
    let mut found = Found {
        settings: Settings::default(),
        variables: BTreeMap::new(),
    };
    found.take_references(environment)?;
    found.take_forerunners(environment)?;
    let Some((path, is_named)) = chosen(command, arguments, environment, &found) else {
        return Ok(found);
    };
    let known = known(command);
    let entries = match file::read(&path) {
        // Others' commands need no archive, or are told that one is missing.
        Err(Error::Read { source, .. }) if !is_named && source.kind() == ErrorKind::PermissionDenied => {
            complain(&format_args!("{} is left aside: {source}", path.display()));
            return Ok(found);
        }
        // It will write one.
        Err(Error::Read { source, .. })
            if source.kind() == ErrorKind::NotFound && is_init(command, arguments) =>
        {
            return Ok(found);
        }
        read => read?,
    };
    for entry in entries {
        entry.check(&path, &known)?;
        found.take_entry(entry, &path, environment)?;
    }
    found.settings.file = Some(path);
    Ok(found)
}

impl Found {
    /// `WALFS_X=file:/run/secrets/x`: the value is in that file.
    fn take_references(&mut self, environment: &BTreeMap<String, OsString>) -> Result<(), Error> {
        for (name, value) in environment {
            let is_ours = name.starts_with(PREFIX) || forerunners::may_be_secret(name);
            let Some(value) = value.to_str().filter(|_| is_ours) else {
                continue;
            };
            if let Some(resolved) = reference::resolve(name, value)? {
                self.variables.insert(name.clone(), resolved.into());
                if let Some(setting) = name.strip_prefix(PREFIX) {
                    let setting = setting.to_ascii_lowercase().replace('_', "-");
                    let origin = Origin::Variable(name.clone());
                    self.settings.set.insert(setting, (value.to_owned(), origin));
                }
            }
        }
        Ok(())
    }

    fn take_forerunners(&mut self, environment: &BTreeMap<String, OsString>) -> Result<(), Error> {
        let read = |name: &str| {
            let resolved = self.variables.get(name).or_else(|| environment.get(name));
            Some(resolved?.to_str()?.to_owned()).filter(|value| !value.is_empty())
        };
        for (setting, value, by) in forerunners::settings(&read)? {
            if !environment.contains_key(&variable(setting)) {
                let origin = Origin::Variable(by.to_owned());
                self.variables.insert(variable(setting), value.clone().into());
                self.settings.set.insert(setting.to_owned(), (value, origin));
            }
        }
        Ok(())
    }

    fn take_entry(
        &mut self,
        entry: Entry,
        path: &Path,
        environment: &BTreeMap<String, OsString>,
    ) -> Result<(), Error> {
        let variable = variable(&entry.name);
        if environment.contains_key(&variable) || self.variables.contains_key(&variable) {
            return Ok(());
        }
        let resolved = reference::resolve(&entry.name, &entry.value)?;
        let value = resolved.unwrap_or_else(|| entry.value.clone());
        self.variables.insert(variable, value.into());
        let origin = Origin::File {
            path: path.to_owned(),
            line: entry.line,
        };
        self.settings.set.insert(entry.name, (entry.value, origin));
        Ok(())
    }
}

/// The file to read, and whether it is the one that is named; or the usual one, if it is there, and the archive is named nowhere else. Its
/// settings are those of one archive, and must not be taken for another.
fn chosen(
    command: &Command,
    arguments: &[OsString],
    environment: &BTreeMap<String, OsString>,
    found: &Found,
) -> Option<(PathBuf, bool)> {
    let named = named(arguments).or_else(|| environment.get(&variable(CONFIG)).cloned());
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return Some((place(&named), true));
    }
    let archive = variable("archive");
    let elsewhere = environment.contains_key(&archive)
        || found.variables.contains_key(&archive)
        || names_archive(command, arguments);
    let usual = place(OsStr::new(USUAL));
    (!elsewhere && usual.exists()).then_some((usual, false))
}

/// `main` is /etc/walfs/main.toml; what has a slash or ends in .toml is a file.
fn place(named: &OsStr) -> PathBuf {
    let path = Path::new(named);
    let is_name = path.components().count() == 1 && path.extension().is_none();
    match (is_name, named.to_str()) {
        (true, Some(name)) if !name.contains('/') => Path::new(DIRECTORY).join(format!("{name}.toml")),
        _ => path.to_owned(),
    }
}

/// The value of --config among the arguments.
fn named(arguments: &[OsString]) -> Option<OsString> {
    let mut words = arguments.iter().take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().cloned();
        }
        if let Some(value) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            return Some(value.into());
        }
    }
    None
}

/// The command line, as far as it can be read without the file.
fn matched(command: &Command, arguments: &[OsString]) -> Option<ArgMatches> {
    let command = command.clone().ignore_errors(true);
    command.try_get_matches_from(arguments).ok()
}

fn is_init(command: &Command, arguments: &[OsString]) -> bool {
    matched(command, arguments).is_some_and(|matches| matches.subcommand_name() == Some("init"))
}

/// Does the command line say which archive, as far as it can be read without the file?
fn names_archive(command: &Command, arguments: &[OsString]) -> bool {
    let is_option = |word: &OsString| {
        word.to_str()
            .is_some_and(|word| word == "--archive" || word.starts_with("--archive="))
    };
    let parsed = matched(command, arguments).and_then(|matches| {
        let (_, of_command) = matches.subcommand()?;
        ["archive", "from"].into_iter().find_map(|id| {
            let value = of_command.try_get_one::<String>(id).ok().flatten()?;
            Some(!value.is_empty())
        })
    });
    arguments.iter().any(is_option) || parsed.is_some()
}

#[cfg(test)]
mod tests;
