//! Options that say which PostgreSQL server, as the tools of PostgreSQL spell them.

use std::ffi::OsString;

use clap::{ArgAction, Args};

use crate::server::{self, Resolved, Target};

/// Help of a command whose -h is a host; it has no other (`disable_help_flag`).
#[derive(Debug, Clone, Args)]
pub struct HelpArgs {
    /// Print help: -? in short
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Print help in short
    #[arg(short = '?', action = ArgAction::HelpShort, hide = true)]
    short_help: Option<bool>,
}

/// Which server, and as whom.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// Database to connect to, or a connection string or URI; what it says wins over other options [default: postgres]
    ///
    /// Any database of the cluster will do: a backup is of all of them. A password in it is refused, because everybody
    /// on the machine can read command lines. Parameters, variables (PGSERVICE, PGOPTIONS ...) and pg_service.conf mean
    /// what they mean to psql, those of TLS too; what walfs cannot do (GSSAPI, for example) is refused.
    #[arg(
        short,
        long,
        value_name = "DBNAME",
        help_heading = "Server",
        env = "WALFS_DBNAME",
        hide_env_values = true
    )]
    dbname: Option<String>,
    /// Host of the server, or directory of its Unix socket [default: PGHOST, /var/run/postgresql, /tmp]
    #[arg(
        short = 'h',
        long,
        value_name = "HOST",
        help_heading = "Server",
        env = "WALFS_HOST",
        hide_env_values = true
    )]
    host: Option<String>,
    /// Port of the server [default: PGPORT, 5432]
    #[arg(
        short,
        long,
        value_name = "PORT",
        help_heading = "Server",
        env = "WALFS_PORT",
        hide_env_values = true
    )]
    port: Option<u16>,
    /// Role to connect as [default: PGUSER, the user's name]
    #[arg(
        short = 'U',
        long,
        value_name = "NAME",
        help_heading = "Server",
        env = "WALFS_USERNAME",
        hide_env_values = true
    )]
    username: Option<String>,
}

impl ConnectArgs {
    /// The options that were given, as words of another command line.
    pub fn words(&self) -> Vec<OsString> {
        let port = self.port.map(|port| port.to_string());
        let given = [
            ("--dbname", self.dbname.clone()),
            ("--host", self.host.clone()),
            ("--port", port),
            ("--username", self.username.clone()),
        ];
        let given = given
            .into_iter()
            .filter_map(|(name, value)| Some([name.into(), value?.into()]));
        given.flatten().collect()
    }

    /// Fills in what was not said, from the environment and the password file.
    ///
    /// # Errors
    /// [`server::Error::Settings`].
    pub fn resolve(&self) -> Result<Resolved, server::Error> {
        let target = Target {
            database: self.dbname.clone(),
            host: self.host.clone(),
            port: self.port,
            user: self.username.clone(),
            secret: false,
        };
        target.resolve(|name| std::env::var_os(name))
    }
}

/// The server at a connection string or URI.
///
/// # Errors
/// [`server::Error::Settings`].
pub fn at(conninfo: &str) -> Result<Resolved, server::Error> {
    let target = Target {
        database: Some(conninfo.to_owned()),
        ..Target::default()
    };
    target.resolve(|name| std::env::var_os(name))
}

/// Does a connection string or URI carry a password?
pub(super) fn has_password(conninfo: &str) -> bool {
    let keyword = conninfo.replace(' ', "").to_ascii_lowercase();
    let in_uri = keyword
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('@'))
        .is_some_and(|(user, _)| user.contains(':'));
    keyword.contains("password=") || in_uri
}
