//! Where a server is, as the tools of PostgreSQL find out: connection string, then options, then environment, then
//! the usual (libpq, `fe-connect.c`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::{Error, passfile};

/// Where distributions and PostgreSQL itself put the socket.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// What somebody said of the server.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// Name of a database, connection string or URI; what it says wins.
    pub database: Option<String>,
    /// Host, address, or directory of the socket.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Role.
    pub user: Option<String>,
}

/// A server to connect to.
#[derive(Debug)]
pub struct Resolved {
    /// Where it is, for people.
    pub server: String,
    pub(super) config: Config,
}

impl Target {
    /// Fills in what was not said from the environment (`PGHOST` and so on) and a password file.
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn resolve(&self, environment: impl Fn(&str) -> Option<OsString>) -> Result<Resolved, Error> {
        let env = |name: &str| -> Option<String> {
            let value = environment(name)?.into_string().ok()?;
            (!value.is_empty()).then_some(value)
        };
        let mut config = self.stated()?;
        demand_no_tls(&config, env("PGSSLMODE").as_deref())?;
        if config.get_ports().is_empty() {
            config.port(match self.port {
                Some(port) => port,
                None => env("PGPORT").map_or(Ok(5432), |text| port(&text))?,
            });
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            let said = self.host.clone().or_else(|| env("PGHOST"));
            let port = config.get_ports()[0];
            for host in said.unwrap_or_else(|| socket_directory(port)).split(',') {
                config.host(host);
            }
        }
        if config.get_user().is_none() {
            let said = self.user.clone().or_else(|| env("PGUSER"));
            config.user(said.map_or_else(own_name, Ok)?);
        }
        if config.get_dbname().is_none() {
            config.dbname(env("PGDATABASE").unwrap_or_else(|| "postgres".to_owned()));
        }
        if config.get_application_name().is_none() {
            config.application_name(env("PGAPPNAME").unwrap_or_else(|| "walfs backup".to_owned()));
        }
        // An idle session whose peer has gone without a word is noticed in minutes, not hours.
        config.keepalives_idle(Duration::from_secs(60));
        if let Some(password) =
            env("PGPASSWORD").map_or_else(|| from_file(&config, &environment), |it| Some(it.into()))
        {
            config.password(password);
        }
        Ok(Resolved {
            server: place(&config),
            config,
        })
    }

    /// What the connection string says, or the name of the database.
    fn stated(&self) -> Result<Config, Error> {
        let Some(text) = &self.database else {
            return Ok(Config::new());
        };
        let is_uri = text.starts_with("postgresql://") || text.starts_with("postgres://");
        if !is_uri && !text.contains('=') {
            let mut config = Config::new();
            config.dbname(text);
            return Ok(config);
        }
        let config: Config = text.parse().map_err(|error| Error::Settings {
            reason: format!("the connection string is not understood: {}", super::said(&error)),
        })?;
        if config.get_password().is_some() {
            return Err(Error::Settings {
                reason: "the connection string has a password, and everybody on this machine can read command lines.\n\
                         HINT: put it into ~/.pgpass or a file that PGPASSFILE names."
                    .to_owned(),
            });
        }
        Ok(config)
    }
}

fn demand_no_tls(config: &Config, mode: Option<&str>) -> Result<(), Error> {
    let wanted = config.get_ssl_mode() == SslMode::Require
        || mode.is_some_and(|mode| matches!(mode, "require" | "verify-ca" | "verify-full"));
    if wanted {
        return Err(Error::Settings {
            reason: format!(
                "TLS is asked for, and walfs does not speak it to PostgreSQL.{}",
                super::NO_TLS
            ),
        });
    }
    Ok(())
}

fn port(text: &str) -> Result<u16, Error> {
    text.parse().map_err(|_| Error::Settings {
        reason: format!("PGPORT is {text:?}, which is no port"),
    })
}

fn own_name() -> Result<String, Error> {
    whoami::username().map_err(|error| Error::Settings {
        reason: format!("the name of the user is not known: {error}\nHINT: -U names the role."),
    })
}

/// The first directory with a server's socket, so that an error names the place where one is expected.
fn socket_directory(port: u16) -> String {
    let has_socket = |directory: &&str| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists();
    let found = SOCKET_DIRECTORIES.into_iter().find(has_socket);
    found.unwrap_or(SOCKET_DIRECTORIES[0]).to_owned()
}

fn from_file(config: &Config, environment: impl Fn(&str) -> Option<OsString>) -> Option<Vec<u8>> {
    let named = environment("PGPASSFILE")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let file = named.or_else(|| Some(PathBuf::from(environment("HOME")?).join(".pgpass")))?;
    let wanted = passfile::Wanted {
        host: &hosts(config).next().unwrap_or_default(),
        port: config.get_ports()[0],
        database: config.get_dbname().unwrap_or_default(),
        user: config.get_user().unwrap_or_default(),
    };
    passfile::password(&file, &wanted)
}

fn hosts(config: &Config) -> impl Iterator<Item = String> {
    let names = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(directory) => directory.display().to_string(),
    });
    names.chain(config.get_hostaddrs().iter().map(ToString::to_string))
}

fn place(config: &Config) -> String {
    let hosts: Vec<String> = hosts(config).collect();
    format!(
        "{}, port {}, as {} in database {}",
        hosts.join(","),
        config.get_ports()[0],
        config.get_user().unwrap_or_default(),
        config.get_dbname().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(target: &Target, environment: &[(&str, &str)]) -> Result<Resolved, Error> {
        target.resolve(|name| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_string_wins_then_options_then_environment() {
        let environment = [
            ("PGHOST", "/env"),
            ("PGPORT", "1"),
            ("PGUSER", "env"),
            ("PGDATABASE", "env"),
        ];
        let mut target = Target::default();
        let server = |target: &Target| resolve(target, &environment).unwrap().server;
        assert_eq!(server(&target), "/env, port 1, as env in database env");
        target = Target {
            database: Some("mine".into()),
            host: Some("/option".into()),
            port: Some(2),
            user: Some("option".into()),
        };
        assert_eq!(server(&target), "/option, port 2, as option in database mine");
        target.database = Some("host=/string port=3 user=string dbname=its".into());
        assert_eq!(server(&target), "/string, port 3, as string in database its");
        target.database = Some("postgresql://uri@127.0.0.1:4/db".into());
        assert_eq!(server(&target), "127.0.0.1, port 4, as uri in database db");
    }

    #[test]
    fn secrets_and_tls_are_refused_before_anything_is_tried() {
        for (text, expected) in [
            ("postgresql://me:hush@localhost/", "~/.pgpass"),
            ("host=x password=hush", "~/.pgpass"),
            ("host=x sslmode=require", "Unix socket"),
        ] {
            let target = Target {
                database: Some(text.into()),
                ..Target::default()
            };
            let error = resolve(&target, &[]).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hush"), "{error}");
        }
        assert!(
            resolve(
                &Target::default(),
                &[("PGSSLMODE", "verify-full"), ("PGUSER", "me")]
            )
            .is_err()
        );
        assert!(resolve(&Target::default(), &[("PGPORT", "many"), ("PGUSER", "me")]).is_err());
    }

    #[test]
    fn a_password_comes_from_the_environment_or_its_file() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "*:*:*:me:from file\n").unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        let path = file.path().to_str().unwrap();
        let password = |environment: &[(&str, &str)]| {
            let resolved = resolve(&Target::default(), environment).unwrap();
            resolved.config.get_password().map(<[u8]>::to_vec)
        };
        let me = ("PGUSER", "me");
        assert_eq!(password(&[me, ("PGPASSFILE", path)]).unwrap(), b"from file");
        assert_eq!(
            password(&[me, ("PGPASSFILE", path), ("PGPASSWORD", "it")]).unwrap(),
            b"it"
        );
        assert_eq!(password(&[("PGUSER", "you"), ("PGPASSFILE", path)]), None);
    }
}
