//! `walfs config show` and `walfs config check`: what is set, by whom.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory, Subcommand};
use serde::Serialize;

use super::connect::has_password;
use super::out::Out;
use super::settings::{FORERUNNERS, Origin, Setting, Settings, unknown_variables};
use super::{Cli, EXIT_USAGE, complain};

/// Shown in place of a secret.
const HIDDEN: &str = "(hidden)";

/// Show or check what is set in a configuration file and in the environment
///
/// Every option that shows [env: WALFS_NAME] in --help is a setting. Its name in a file is in small letters, with hyphens.
/// Flags win over the environment, the environment over the file.
#[derive(Debug, Args)]
#[command(after_long_help = format!("\
Examples:
  walfs config show
  walfs --config main config check
  walfs --config ./test.toml config show --json

A configuration, /etc/walfs/main.toml:
  archive = \"s3://bucket/prefix\"
  credentials-file = \"/etc/walfs/main.keys\"
  mountpoint = \"/mnt/walfs\"

  [prune]
  keep-last = 7
  pitr-days = 3

In a section, `keep-last` is the setting prune-keep-last, and WALFS_PRUNE_KEEP_LAST in the environment. A value like \
\"file:/run/secrets/name\" is read from that file, in the environment, too.

--config NAME reads /etc/walfs/NAME.toml; with a slash or .toml it is a file. Without it, /etc/walfs/main.toml is read if it is \
there, unless the command line or the environment names an archive: its settings are those of one archive.

Of other systems these variables are understood:
{}", forerunners()))]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show each setting, its value, and where that comes from
    Show(ShowArgs),
    /// Check the file and the environment: unknown names, values that cannot be
    ///
    /// It is read by every other command, too; this one does nothing else. Exit codes: 0 it is right, 2 it is not.
    Check,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Also settings that are not set
    #[arg(long)]
    all: bool,
    /// One JSON object: file, settings
    #[arg(long)]
    json: bool,
}

fn forerunners() -> String {
    let rows = FORERUNNERS.iter().map(|forerunner| {
        let (name, means, system) = (forerunner.name, forerunner.means, forerunner.system);
        format!("  {name:26} {means} ({system})")
    });
    let rows: Vec<_> = rows.collect();
    rows.join("\n") + "\n  AWS_..., PG...             as the tools of AWS and of PostgreSQL understand them"
}

/// Runs `walfs config`.
pub(super) fn run(arguments: &ConfigArgs, settings: &Settings) -> ExitCode {
    let unknown = unknown_variables(&command());
    unknown.iter().for_each(|word| complain(word));
    if matches!(arguments.action, Action::Check) {
        let refused = refused(settings);
        refused.iter().for_each(|word| complain(word));
        if !unknown.is_empty() || !refused.is_empty() {
            return ExitCode::from(EXIT_USAGE);
        }
    }
    let mut out = Out::new();
    let written = match &arguments.action {
        Action::Show(show) if show.json => json(&mut out, settings),
        Action::Show(show) => table(&mut out, settings, show.all),
        Action::Check => checked(&mut out, settings),
    };
    match written.and_then(|()| out.end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Values that no command takes, although they are of the right kind.
fn refused(settings: &Settings) -> Vec<String> {
    let known = settings.all(&command());
    let with_password = known.iter().filter(|setting| {
        let is_conninfo = matches!(setting.name.as_str(), "dbname" | "primary-conninfo");
        is_conninfo && setting.value.as_deref().is_some_and(has_password)
    });
    let told = with_password.map(|setting| {
        format!(
            "{} of {}: it has a password, and is refused wherever it is used.\n             HINT: ~/.pgpass, or the environment variable PGPASSWORD.",
            setting.name,
            origin(&setting.origin)
        )
    });
    told.collect()
}

fn checked(out: &mut Out, settings: &Settings) -> std::io::Result<()> {
    match &settings.file {
        Some(file) => writeln!(out, "{} is right", file.display()),
        None => writeln!(
            out,
            "no configuration file is read: none is named, and there is no /etc/walfs/main.toml, or the environment names \
             the archive"
        ),
    }
}

fn command() -> Command {
    Cli::command()
}

fn value(setting: &Setting) -> Option<&str> {
    let value = setting.value.as_deref()?;
    // A hook often has the token of where it tells.
    let may_be_secret = setting.name.starts_with("hook-") || has_password(value);
    Some(if may_be_secret { HIDDEN } else { value })
}

fn origin(origin: &Origin) -> String {
    match origin {
        Origin::File { path, line } => format!("{}:{line}", path.display()),
        Origin::Variable(name) => name.clone(),
        Origin::Usual => "default".to_owned(),
    }
}

fn table(out: &mut Out, settings: &Settings, all: bool) -> std::io::Result<()> {
    let known = settings.all(&command());
    let shown = known.iter().filter(|setting| all || setting.value.is_some());
    let rows: Vec<_> = shown
        .map(|setting| match value(setting) {
            Some(value) => (setting, value, origin(&setting.origin)),
            None => (setting, "-", String::new()),
        })
        .collect();
    let width = |text: fn(&(&Setting, &str, String)) -> usize| rows.iter().map(text).max().unwrap_or(0);
    let (names, values) = (width(|row| row.0.name.len()), width(|row| row.1.len()));
    for (setting, value, origin) in &rows {
        let line = format!("{:names$}  {value:values$}  {origin}", setting.name);
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What --json shows.
#[derive(Serialize)]
struct Json<'a> {
    file: Option<String>,
    settings: Vec<JsonSetting<'a>>,
}

#[derive(Serialize)]
struct JsonSetting<'a> {
    name: &'a str,
    about: &'a str,
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

fn json(out: &mut Out, settings: &Settings) -> std::io::Result<()> {
    let known = settings.all(&command());
    let shown = known.iter().map(|setting| JsonSetting {
        name: &setting.name,
        about: &setting.about,
        value: value(setting),
        from: setting.value.is_some().then(|| origin(&setting.origin)),
    });
    let json = Json {
        file: settings.file.as_ref().map(|file| file.display().to_string()),
        settings: shown.collect(),
    };
    writeln!(out, "{}", serde_json::to_string_pretty(&json)?)
}
