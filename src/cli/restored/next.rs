//! "Next": the commands with which a restored server starts, and what to know before.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::job::restore::{Options, Report, Target, TargetAction};
use crate::pg::exclude::SETTINGS_FOLDER;
use crate::pg::setting::assignment;

/// Where Debian and its relatives keep the settings of their clusters: a folder for each version, in it one for each cluster.
const DEBIAN: &str = "/etc/postgresql";

/// What starts them there.
const PG_CTLCLUSTER: &str = "/usr/bin/pg_ctlcluster";

/// The commands that an operator needs now; `user` must run the server, if it is another than who restores.
pub(super) fn print(
    out: &mut impl Write,
    report: &Report,
    options: &Options,
    place: &str,
    user: Option<&str>,
) -> io::Result<()> {
    let commands = Commands::new(report, options, user);
    writeln!(out, "\nNext:")?;
    commands.bring_settings(out, report)?;
    writeln!(out, "  {}", commands.start())?;
    if options.recovery.is_read() {
        let psql = &commands.psql;
        writeln!(
            out,
            "  {psql} -c 'SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()'"
        )?;
    } else {
        writeln!(out, "  tail -f {}", commands.log())?;
    }
    say_recovery(out, options)?;
    say_archiving(out, &commands, options, place)
}

/// What the server does during recovery, and at its end.
fn say_recovery(out: &mut impl Write, options: &Options) -> io::Result<()> {
    let recovery = &options.recovery;
    if recovery.standby {
        writeln!(out, "It is a standby: `SELECT pg_promote()` opens it.")?;
    } else if recovery.pauses() {
        writeln!(
            out,
            "It pauses at the target and can be read; `SELECT pg_wal_replay_resume()` opens it. What a statement under way \
             at the\ntarget had locked stays locked until then: a table just before its DROP cannot be read. Open it, or \
             end before the\nlock: --target-exclusive --target-lsn LSN, of the \"Standby LOCK\" that pg_waldump shows. Take no replica of it before it \
             is open:\nthat would stop at the target, too."
        )?;
    } else if recovery.action == Some(TargetAction::Shutdown) {
        writeln!(
            out,
            "It stops at the target. Started again with -o '-c recovery_target_action=promote' it opens there."
        )?;
    } else if recovery.target == Target::Latest {
        writeln!(out, "At the end of the WAL it opens on a new timeline.")?;
    } else {
        writeln!(out, "At the target it opens on a new timeline.")?;
    }
    match recovery.is_read() {
        true => writeln!(
            out,
            "If its log says \"insufficient parameter settings\", the original's were raised after the backup: append those \
             it names\nto postgresql.auto.conf, and start it again."
        ),
        false => writeln!(out, "Before that nobody can connect (hot_standby is off)."),
    }
}

fn say_archiving(
    out: &mut impl Write,
    commands: &Commands,
    options: &Options,
    place: &str,
) -> io::Result<()> {
    if options.recovery.takes_over {
        return writeln!(
            out,
            "It takes over and archives once it is open: the original server must never start again."
        );
    }
    writeln!(
        out,
        "It does not archive (archive_mode is off), so that the original may go on; beside it, add -o '-p 5433' to pg_ctl \
         and -p 5433\nto psql. If the original is gone and this server shall take over, once it is open, archive first how \
         its timeline began,\nwhich a server does only at the moment when it begins:\n  \
         for history in {}/*.history; do {}walfs wal-push --archive {} \"$history\"; done\n  \
         {} -c \"ALTER SYSTEM SET archive_mode = 'on'\"\n  {}",
        quoted(commands.directory.join("pg_wal").as_os_str()),
        commands.as_user,
        quoted(OsStr::new(place)),
        commands.psql,
        commands.restart()
    )
}

/// How this server's commands are written.
struct Commands {
    as_user: String,
    pg_ctl: String,
    psql: String,
    directory: PathBuf,
    /// Settings that lie elsewhere on this machine, where the backup has none.
    elsewhere: Option<PathBuf>,
    /// Version and name of the cluster, if it is one of Debian's that is restored into its own place.
    cluster: Option<(String, String)>,
}

impl Commands {
    fn new(report: &Report, options: &Options, user: Option<&str>) -> Self {
        let as_user = user.map_or_else(String::new, |user| format!("sudo -u {} ", as_sudo_reads(user)));
        let major = report.postgresql_major;
        let pg_ctl = major
            .map(|major| format!("/usr/lib/postgresql/{major}/bin/pg_ctl"))
            .filter(|program| Path::new(program).exists());
        let lacks_settings = report.lacking.contains(&"postgresql.conf");
        let elsewhere = major
            .filter(|_| lacks_settings)
            .and_then(|major| settings_in(&Path::new(DEBIAN).join(major.to_string()), &options.directory));
        Self {
            cluster: elsewhere
                .as_deref()
                .filter(|_| Path::new(PG_CTLCLUSTER).exists())
                .and_then(|file| cluster_of(file, &options.directory)),
            pg_ctl: format!("{as_user}{}", pg_ctl.unwrap_or_else(|| "pg_ctl".into())),
            psql: format!("{as_user}psql"),
            as_user,
            directory: options.directory.clone(),
            elsewhere,
        }
    }

    /// Without them no server starts.
    fn bring_settings(&self, out: &mut impl Write, report: &Report) -> io::Result<()> {
        if report.lacking.is_empty() || self.elsewhere.is_some() {
            return Ok(());
        }
        writeln!(
            out,
            "  # The backup has no {}: bring back the original's, or begin with",
            report.lacking.join(", no ")
        )?;
        let brought = self.directory.join(SETTINGS_FOLDER);
        if brought.exists() {
            writeln!(out, "  # (the original's are in {})", brought.display())?;
        }
        for file in &report.lacking {
            let line = match *file {
                "pg_hba.conf" => "local all all peer",
                _ => "# The defaults.",
            };
            let (path, tee) = (
                quoted(self.directory.join(file).as_os_str()),
                format!("{}tee", self.as_user),
            );
            writeln!(out, "  echo '{line}' | {tee} {path}")?;
        }
        Ok(())
    }

    fn start(&self) -> String {
        if let Some((version, name)) = &self.cluster {
            return format!("pg_ctlcluster {version} {name} start");
        }
        let directory = quoted(self.directory.as_os_str());
        let settings = self.elsewhere.as_ref().map_or_else(String::new, |file| {
            // They name the original's directory, and the file of its process.
            let options = format!(
                "-c config_file={} -c data_directory={directory} -c external_pid_file=",
                quoted(file.as_os_str())
            );
            format!(" -o {}", quoted(OsStr::new(&options)))
        });
        format!(
            "{} -D {directory}{settings} -l /tmp/recovery.log start",
            self.pg_ctl
        )
    }

    /// Where it tells of its recovery.
    fn log(&self) -> String {
        match &self.cluster {
            Some((version, name)) => format!("/var/log/postgresql/postgresql-{version}-{name}.log"),
            None => "/tmp/recovery.log".to_owned(),
        }
    }

    /// `pg_ctl` keeps the options of the start.
    fn restart(&self) -> String {
        if let Some((version, name)) = &self.cluster {
            return format!("pg_ctlcluster {version} {name} restart");
        }
        let directory = quoted(self.directory.as_os_str());
        format!("{} -D {directory} -l /tmp/recovery.log restart", self.pg_ctl)
    }
}

/// The settings of a version's clusters: those of the one that has its data in this directory, or the first.
fn settings_in(version: &Path, directory: &Path) -> Option<PathBuf> {
    let clusters = fs::read_dir(version).ok()?.flatten();
    let mut files: Vec<PathBuf> = clusters
        .map(|cluster| cluster.path().join("postgresql.conf"))
        .collect();
    files.retain(|file| file.exists());
    files.sort();
    let own = files.iter().find(|file| names_directory(file, directory));
    own.or(files.first()).cloned()
}

/// Are these the settings of the cluster that has its data in this directory?
fn names_directory(file: &Path, directory: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut settings = text.lines().filter_map(assignment);
    settings.any(|(name, value)| name == "data_directory" && Path::new(&value) == directory)
}

/// Version and name of the cluster whose settings these are, if it has its data in this directory.
fn cluster_of(file: &Path, directory: &Path) -> Option<(String, String)> {
    let cluster = file.parent().filter(|_| names_directory(file, directory))?;
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    Some((name(cluster.parent()?)?, name(cluster)?))
}

/// A user without a name is a number, which sudo takes for a name without its sign.
fn as_sudo_reads(user: &str) -> String {
    match user.bytes().all(|byte| byte.is_ascii_digit()) {
        true => format!("'#{user}'"),
        false => user.to_owned(),
    }
}

/// As a shell reads it.
fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_cluster_in_this_directory_come_first() {
        let version = tempfile::tempdir().unwrap();
        for (cluster, directory) in [("a", "/srv/a"), ("main", "/srv/main")] {
            let folder = version.path().join(cluster);
            fs::create_dir(&folder).unwrap();
            fs::write(
                folder.join("postgresql.conf"),
                format!("data_directory = '{directory}'\n"),
            )
            .unwrap();
        }
        let found = |directory| settings_in(version.path(), Path::new(directory)).unwrap();
        assert!(found("/srv/main").ends_with("main/postgresql.conf"));
        assert!(found("/srv/other").ends_with("a/postgresql.conf"));
        assert_eq!(settings_in(Path::new("/nowhere"), Path::new("/srv/a")), None);
        let version_of = version.path().file_name().unwrap().to_str().unwrap().to_owned();
        let cluster = |directory| cluster_of(&found("/srv/main"), Path::new(directory));
        assert_eq!(cluster("/srv/main"), Some((version_of, "main".to_owned())));
        assert_eq!(cluster("/srv/other"), None);
    }
}
