//! The configuration that `walfs init` writes, and what it tells to do next.

use std::fmt::Write;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{self, Path, PathBuf};

use tempfile::NamedTempFile;

use super::{Failed, InitArgs, questions, user};
use crate::cli::postgres_config;
use crate::linux::kernel::User;
use crate::store::Location;

/// Days that recovery reaches back, unless somebody says how many.
pub(super) const DAYS: u32 = 30;

/// Where archives are mounted.
const MOUNTPOINT: &str = "/mnt/walfs";

/// What is set up.
#[derive(Debug)]
pub(super) struct Draft {
    /// As the configuration has it: a path is absolute.
    pub(super) archive: String,
    /// The directory, if it is one.
    pub(super) directory: Option<PathBuf>,
    /// `None`: without a mount.
    pub(super) mountpoint: Option<PathBuf>,
    /// `None`: who calls.
    pub(super) user: Option<User>,
    keep_days: u32,
    schedule_backup: String,
    /// Other settings that were given, which belong into the file: name and value.
    others: Vec<(String, String)>,
}

impl Draft {
    /// From what was said, or `is_there`: by a configuration; with `asks` a person is asked for the rest.
    pub(super) fn new(arguments: &InitArgs, asks: bool, is_there: bool) -> Result<Self, Failed> {
        let archive = match (&arguments.archive, asks) {
            (Some(archive), _) => archive.clone(),
            (None, true) => questions::archive()?,
            (None, false) => {
                return Err(Failed::Usage(
                    "nothing says where the archive shall be.\n\
                     HINT: --archive s3://bucket/prefix, or --archive DIRECTORY; on a terminal it is asked for."
                        .into(),
                ));
            }
        };
        let location = Location::parse(&archive).map_err(|error| Failed::Usage(error.to_string()))?;
        let (archive, directory) = match location {
            Location::Dir(path) => {
                let (text, path) = in_a_line(&path)?;
                (text, Some(path))
            }
            Location::S3 { .. } => (archive, None),
        };
        let is_s3 = directory.is_none();
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let knows_endpoint = is_set("AWS_ENDPOINT_URL") || is_set("AWS_ENDPOINT_URL_S3");
        let mut others = others(arguments)?;
        if asks
            && is_s3
            && arguments.store.endpoint.is_none()
            && !knows_endpoint
            && let Some(endpoint) = questions::endpoint()?
        {
            others.push(("endpoint".to_owned(), endpoint));
        }
        let keep_days = match arguments.keep_days {
            None if asks => questions::keep_days()?,
            given => given.unwrap_or(DAYS),
        };
        let usual = (!is_there && !arguments.no_mount).then_some(Path::new(MOUNTPOINT));
        let mountpoint = arguments.mountpoint.as_deref().or(usual);
        let mountpoint = mountpoint.map(in_a_line).transpose()?.map(|(_, path)| path);
        if let Some(mountpoint) = &mountpoint {
            check_mountpoint(mountpoint, directory.as_deref())?;
        }
        Ok(Self {
            archive,
            directory,
            mountpoint,
            user: user(arguments.user.as_deref())?,
            keep_days,
            schedule_backup: arguments.schedule_backup.to_string(),
            others,
        })
    }

    /// The file.
    pub(super) fn content(&self) -> String {
        let mut text = String::from(
            "# Made by `walfs init`. `walfs config --help` explains, `walfs config show` tells what is set.\n\
             # No secrets here: access keys are where the AWS tools look for them, or in a credentials-file.\n\n",
        );
        let mut line = |name: &str, value: &str| {
            let value = toml::Value::from(value);
            // Which never fails.
            let _ = writeln!(text, "{name} = {value}");
        };
        line("archive", &self.archive);
        for (name, value) in &self.others {
            line(name, value);
        }
        if let Some(mountpoint) = self.mountpoint.as_deref().and_then(Path::to_str) {
            line("mountpoint", mountpoint);
        }
        if let Some(user) = &self.user {
            line("user", &user.name);
        }
        let schedule = toml::Value::from(self.schedule_backup.as_str());
        let days = self.keep_days;
        // Which never fails.
        let _ = write!(
            text,
            "\n# What `walfs agent` does, as crontab(5), or every so long: \"6h\".\n\
             [schedule]\nbackup = {schedule}\nfull-every = 7\nprune = \"@daily\"\nverify = \"@daily\"\n\
             \n# Recovery to any moment of so many days.\n[prune]\nkeep-days = {days}\n\
             \n# Everything is read back once in so long, at most so much at a time.\n[verify]\n\
             max-age = \"30d\"\nbudget = \"50GiB\"\n"
        );
        text
    }

    /// Writes it under a name of its own, readable by the user: it goes away unless it is kept.
    pub(super) fn write_aside(&self, directory: &Path) -> Result<NamedTempFile, Failed> {
        let written = || -> io::Result<NamedTempFile> {
            let mut file = tempfile::Builder::new()
                .prefix(".walfs-init-")
                .suffix(".toml")
                .tempfile_in(directory)?;
            io::Write::write_all(&mut file, self.content().as_bytes())?;
            if let Some(user) = &self.user {
                fchown(file.as_file(), None, Some(user.owner.gid))?;
            }
            file.as_file().set_permissions(Permissions::from_mode(0o640))?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        written().map_err(|error| {
            Failed::Deed(format!(
                "cannot write into {}: {error}.\n\
                 HINT: sudo, or `walfs --config ./main.toml init` for a file elsewhere.",
                directory.display()
            ))
        })
    }

    /// The command for `archive_command`.
    pub(super) fn archive_command(&self, place: &Path) -> Vec<u8> {
        match &self.mountpoint {
            Some(mountpoint) => postgres_config::archive_command(mountpoint),
            None => {
                let program = program();
                let words = [
                    program.as_os_str(),
                    "--config".as_ref(),
                    place.as_os_str(),
                    "wal-push".as_ref(),
                ];
                postgres_config::push_command(&words)
            }
        }
    }

    /// What is next, for a person.
    pub(super) fn next(&self, place: &Path, applied: bool) -> String {
        let name = usual_name(place);
        let config = match name {
            Some("main") => String::new(),
            Some(name) => format!(" --config {name}"),
            None => format!(" --config {}", place.display()),
        };
        let user = self.user.as_ref();
        let as_user = user.map_or(String::new(), |user| format!("sudo -u {} ", user.name));
        let mut steps = Vec::new();
        if let Some(mountpoint) = self.mountpoint.as_deref().filter(|place| !place.exists()) {
            steps.push(format!("sudo mkdir -m 0555 {}", mountpoint.display()));
        }
        match name.filter(|_| Path::new("/run/systemd/system").is_dir()) {
            Some(name) => steps.extend(self.services(name)),
            None => {
                if self.mountpoint.is_some() {
                    steps.push(format!(
                        "walfs{config} mount --daemon --log-file /var/log/walfs.log"
                    ));
                }
                steps.push(format!("{as_user}walfs{config} agent --mountpoint= &"));
            }
        }
        if !applied {
            steps.push(format!(
                "walfs{config} init --apply       # or by hand: `walfs{config} postgres-config`"
            ));
        }
        steps.push(format!("{as_user}walfs{config} check       # is WAL archived?"));
        steps.push(format!("{as_user}walfs{config} status"));
        format!("Next:\n  {}", steps.join("\n  "))
    }

    fn services(&self, name: &str) -> Vec<String> {
        let mut steps = Vec::new();
        if let Some(directory) = &self.directory {
            let unit = format!("/etc/systemd/system/walfs-agent@{name}.service.d");
            steps.push(format!(
                "mkdir -p {unit} && printf '[Service]\\nReadWritePaths=%s\\n' '{}' > {unit}/archive.conf && systemctl daemon-reload",
                directory.display()
            ));
        }
        let mount = self.mountpoint.as_ref().map(|_| format!("walfs@{name} "));
        steps.push(format!(
            "systemctl enable --now {}walfs-agent@{name}",
            mount.unwrap_or_default()
        ));
        steps
    }
}

/// The name of a configuration that is in its usual place.
fn usual_name(place: &Path) -> Option<&str> {
    let is_usual = place.parent() == Some(Path::new(crate::cli::settings::DIRECTORY));
    place.file_stem()?.to_str().filter(|_| is_usual)
}

/// The program as commands of the server call it: by its name if it is where everybody looks.
fn program() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_else(|_| "walfs".into());
    let usual = [Path::new("/usr/bin"), Path::new("/usr/local/bin")];
    match program.parent() {
        Some(parent) if usual.contains(&parent) => program.file_name().map_or(program.clone(), PathBuf::from),
        _ => program,
    }
}

/// A path as a configuration has it, absolute and in a line of text.
fn in_a_line(path: &Path) -> Result<(String, PathBuf), Failed> {
    let absolute = path::absolute(path);
    let path = absolute.map_err(|error| Failed::Usage(format!("{}: {error}", path.display())))?;
    match path.to_str().filter(|text| !text.contains(char::is_control)) {
        Some(text) => Ok((text.to_owned(), path)),
        None => Err(Failed::Usage(format!(
            "{path:?}: a configuration is text, line by line, and this name is none"
        ))),
    }
}

/// A mount hides what is below it, and the archive cannot be a part of what it shows.
fn check_mountpoint(mountpoint: &Path, archive: Option<&Path>) -> Result<(), Failed> {
    let place = mountpoint.display();
    if mountpoint.symlink_metadata().is_ok() && !mountpoint.is_dir() {
        return Err(Failed::Usage(format!(
            "the mount point {place} is no directory.\nHINT: --mountpoint DIRECTORY, which is made if it is missing."
        )));
    }
    // A name that is missing leads nowhere else yet.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (mountpoint, archive) = (real(mountpoint), archive.map(real));
    if let Some(archive) = archive
        && (mountpoint.starts_with(&archive) || archive.starts_with(&mountpoint))
    {
        return Err(Failed::Usage(format!(
            "the mount point {place} and the archive {} lie one in the other.\nHINT: --mountpoint DIRECTORY elsewhere.",
            archive.display()
        )));
    }
    Ok(())
}

/// What was given of the store and of the server: name and value.
fn others(arguments: &InitArgs) -> Result<Vec<(String, String)>, Failed> {
    let words = arguments.store.words();
    let mut words = words.map_err(|error| Failed::Usage(format!("the current directory: {error}")))?;
    words.extend(arguments.connect.words());
    let pairs = words
        .chunks_exact(2)
        .map(|pair| match (pair[0].to_str(), pair[1].to_str()) {
            (Some(name), Some(value)) => Ok((name.trim_start_matches('-').to_owned(), value.to_owned())),
            _ => Err(Failed::Usage(format!(
                "{:?}: a configuration is text, and this is none",
                pair[1]
            ))),
        });
    pairs.collect()
}
