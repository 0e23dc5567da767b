//! Where a server is, as the tools of PostgreSQL find out: connection string, then options, then the service, then
//! environment, then the usual (libpq, `fe-connect.c`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, LoadBalanceHosts, SslNegotiation, TargetSessionAttrs};

use super::parameters::Parameters;
use super::tls::Tls;
use super::{Error, conninfo, passfile, service};

/// Where distributions and PostgreSQL itself put the socket.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// How long a connection may take if nobody says otherwise. libpq waits for as long as the system does.
const USUAL_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// May the connection string have a password? Not one from a command line, which everybody can read.
    pub secret: bool,
}

/// A server to connect to.
#[derive(Debug)]
pub struct Resolved {
    /// Where it is, for people.
    pub server: String,
    pub(super) config: Config,
    pub(super) tls: Tls,
    /// How long the whole of a connection may take; for ever when absent.
    pub(super) timeout: Option<Duration>,
    /// What was said otherwise than in the environment, without secrets, and the socket if none was named.
    pub(super) stated: Vec<(&'static str, String)>,
    /// Was a password said there, too?
    pub(super) has_own_password: bool,
}

impl Target {
    /// Fills in what was not said from the service, the environment (`PGHOST` and so on) and a password file.
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn resolve(&self, environment: impl Fn(&str) -> Option<OsString>) -> Result<Resolved, Error> {
        let env = |name: &str| -> Option<String> {
            let value = environment(name)?.into_string().ok()?;
            (!value.is_empty()).then_some(value)
        };
        let mut parameters = self.stated()?;
        if let Some(name) = parameters
            .get("service")
            .map(str::to_owned)
            .or_else(|| env("PGSERVICE"))
        {
            service::add(&mut parameters, &name, &env)?;
        }
        let stated = parameters.clone();
        parameters.add_environment(env)?;
        let mut config = Config::new();
        set_places(&mut config, &parameters)?;
        let user = parameters.get("user").map(str::to_owned);
        config.user(user.map_or_else(own_name, Ok)?);
        config.dbname(parameters.get("dbname").unwrap_or("postgres"));
        let name = parameters
            .get("application_name")
            .or_else(|| parameters.get("fallback_application_name"));
        config.application_name(name.unwrap_or("walfs backup"));
        if let Some(options) = parameters.get("options") {
            config.options(options);
        }
        set_network(&mut config, &parameters)?;
        let home = env("HOME").map(PathBuf::from);
        let tls = Tls::of(
            &parameters,
            is_by_network(&config),
            !config.get_hosts().is_empty(),
            home.as_deref(),
        )?;
        let password = parameters.get("password").map(|it| it.as_bytes().to_vec());
        if let Some(password) = password.or_else(|| from_file(&config, &parameters, env)) {
            config.password(password);
        }
        Ok(Resolved {
            server: place(&config),
            timeout: timeout(&parameters)?,
            stated: for_others(&stated, &parameters, &config),
            has_own_password: stated.get("password").is_some(),
            tls,
            config,
        })
    }

    /// What the connection string says, or the name of the database, and the options.
    fn stated(&self) -> Result<Parameters, Error> {
        let mut parameters = Parameters::default();
        match &self.database {
            Some(text) if conninfo::is_conninfo(text) => {
                let pairs = conninfo::parse(text).map_err(|error| Error::Settings {
                    reason: format!("the connection string is not understood: {error}"),
                })?;
                for (name, value) in pairs {
                    if !self.secret && matches!(&*name, "password" | "sslpassword") {
                        return Err(Error::Settings {
                            reason: PASSWORD_SEEN.to_owned(),
                        });
                    }
                    parameters.add(&name, &value, "the connection string")?;
                }
            }
            Some(name) => parameters.add("dbname", name, "--dbname")?,
            None => {}
        }
        let options = [
            ("host", self.host.clone()),
            ("port", self.port.map(|port| port.to_string())),
            ("user", self.user.clone()),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                parameters.add(name, &value, "the command line")?;
            }
        }
        Ok(parameters)
    }
}

const PASSWORD_SEEN: &str = "\
the connection string has a password, and everybody on this machine can read command lines.
HINT: put it into ~/.pgpass or a file that PGPASSFILE names.";

/// Hosts, addresses and ports; one port for all, or one for each.
fn set_places(config: &mut Config, parameters: &Parameters) -> Result<(), Error> {
    let ports = parameters.get("port").unwrap_or("5432").split(',');
    let ports: Vec<u16> = ports
        .map(|text| match text.trim() {
            "" => Ok(5432),
            text => text.parse().map_err(|_| wrong("port", text, "a port")),
        })
        .collect::<Result<_, _>>()?;
    for port in &ports {
        config.port(*port);
    }
    let addresses = parameters
        .get("hostaddr")
        .into_iter()
        .flat_map(|text| text.split(','));
    for address in addresses.clone() {
        let parsed = address.trim().parse();
        config.hostaddr(parsed.map_err(|_| wrong("hostaddr", address, "an address"))?);
    }
    match parameters.get("host") {
        Some(hosts) => {
            for host in hosts.split(',').map(str::trim) {
                match host {
                    "" => config.host(socket_directory(ports[0])),
                    // A name in the kernel's own space of sockets.
                    host if host.starts_with('@') => {
                        return Err(wrong("host", host, "a host or a directory"));
                    }
                    host => config.host(host),
                };
            }
        }
        None if addresses.count() == 0 => {
            config.host(socket_directory(ports[0]));
        }
        None => {}
    }
    let places = config.get_hosts().len().max(config.get_hostaddrs().len());
    let counts = [config.get_hosts().len(), config.get_hostaddrs().len()];
    if counts.iter().any(|count| *count != 0 && *count != places) {
        return Err(Error::Settings {
            reason: format!(
                "there are {} hosts and {} addresses of hosts",
                counts[0], counts[1]
            ),
        });
    }
    if ports.len() != 1 && ports.len() != places {
        return Err(Error::Settings {
            reason: format!("there are {} ports for {places} hosts", ports.len()),
        });
    }
    Ok(())
}

/// Does anything but Unix sockets lead there?
fn is_by_network(config: &Config) -> bool {
    let is_socket = |host: &Host| matches!(host, Host::Unix(_));
    !config.get_hostaddrs().is_empty() || !config.get_hosts().iter().all(is_socket)
}

/// What another program of PostgreSQL needs to be told: what was stated, but for what it is told otherwise.
fn for_others(stated: &Parameters, all: &Parameters, config: &Config) -> Vec<(&'static str, String)> {
    const OTHERWISE: [&str; 5] = ["dbname", "password", "sslpassword", "service", "servicefile"];
    let mut told: Vec<(&'static str, String)> = stated
        .all()
        .filter(|(name, _)| !OTHERWISE.contains(name))
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    let is_named = ["host", "hostaddr"].iter().any(|name| all.get(name).is_some());
    if !is_named && let Some(Host::Unix(directory)) = config.get_hosts().first() {
        told.push(("host", directory.display().to_string()));
    }
    told
}

fn set_network(config: &mut Config, parameters: &Parameters) -> Result<(), Error> {
    let number = |name: &str| -> Result<Option<u32>, Error> {
        let text = parameters.get(name);
        text.map(|text| text.trim().parse().map_err(|_| wrong(name, text, "a number")))
            .transpose()
    };
    let seconds = |number: u32| Duration::from_secs(number.into());
    config.keepalives(number("keepalives")? != Some(0));
    // An idle session whose peer has gone without a word is noticed in minutes, not hours.
    config.keepalives_idle(seconds(
        number("keepalives_idle")?.filter(|it| *it > 0).unwrap_or(60),
    ));
    if let Some(interval) = number("keepalives_interval")?.filter(|it| *it > 0) {
        config.keepalives_interval(seconds(interval));
    }
    if let Some(count) = number("keepalives_count")?.filter(|it| *it > 0) {
        config.keepalives_retries(count);
    }
    if let Some(milliseconds) = number("tcp_user_timeout")?.filter(|it| *it > 0) {
        config.tcp_user_timeout(Duration::from_millis(milliseconds.into()));
    }
    match parameters.get("target_session_attrs") {
        Some("read-write") => _ = config.target_session_attrs(TargetSessionAttrs::ReadWrite),
        Some("read-only") => _ = config.target_session_attrs(TargetSessionAttrs::ReadOnly),
        _ => {}
    }
    if parameters.get("sslnegotiation") == Some("direct") {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    match parameters.get("load_balance_hosts") {
        None | Some("disable") => {}
        Some("random") => _ = config.load_balance_hosts(LoadBalanceHosts::Random),
        Some(other) => return Err(wrong("load_balance_hosts", other, "disable or random")),
    }
    match parameters.get("channel_binding") {
        None | Some("prefer") => {}
        Some("disable") => _ = config.channel_binding(ChannelBinding::Disable),
        Some("require") => _ = config.channel_binding(ChannelBinding::Require),
        Some(other) => return Err(wrong("channel_binding", other, "disable, prefer or require")),
    }
    Ok(())
}

/// How long to wait for a connection, as libpq counts: 0 and less is for ever, 1 is 2.
fn timeout(parameters: &Parameters) -> Result<Option<Duration>, Error> {
    let Some(text) = parameters.get("connect_timeout") else {
        return Ok(Some(USUAL_TIMEOUT));
    };
    let seconds: i64 = text
        .trim()
        .parse()
        .map_err(|_| wrong("connect_timeout", text, "a number of seconds"))?;
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.max(2))))
}

pub(super) fn wrong(name: &str, found: &str, expected: &str) -> Error {
    Error::Settings {
        reason: format!("{name} is {found:?}, expected {expected}"),
    }
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

fn from_file(
    config: &Config,
    parameters: &Parameters,
    env: impl Fn(&str) -> Option<String>,
) -> Option<Vec<u8>> {
    let named = parameters.get("passfile").map(PathBuf::from);
    let file = named.or_else(|| Some(PathBuf::from(env("HOME")?).join(".pgpass")))?;
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
            secret: false,
        };
        assert_eq!(server(&target), "/option, port 2, as option in database mine");
        target.database = Some("host=/string port=3 user=string dbname=its".into());
        assert_eq!(server(&target), "/string, port 3, as string in database its");
        target.database = Some("postgresql://uri@127.0.0.1:4/db".into());
        assert_eq!(server(&target), "127.0.0.1, port 4, as uri in database db");
    }

    #[test]
    fn what_cannot_be_done_is_refused_before_anything_is_tried() {
        for (text, expected) in [
            ("postgresql://me:hush@localhost/", "~/.pgpass"),
            ("host=x password=hush", "~/.pgpass"),
            ("host=x sslmode=verify-ca", "sslrootcert"),
            ("hostaddr=::1 sslrootcert=system", "no host is named"),
            ("requirepeer=postgres", "requirepeer"),
            ("host=a,b port=1,2,3", "3 ports"),
            ("host=a,b hostaddr=::1", "2 hosts"),
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
                &[
                    ("PGSSLMODE", "verify-full"),
                    ("PGHOST", "localhost"),
                    ("PGUSER", "me")
                ]
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

    #[test]
    fn what_libpq_obeys_is_obeyed() {
        let me = ("PGUSER", "me");
        let string = |text: &str| Target {
            database: Some(text.into()),
            ..Target::default()
        };
        let config = |text: &str, environment: &[(&str, &str)]| {
            let environment = [&[me], environment].concat();
            resolve(&string(text), &environment).unwrap()
        };
        let found = config("options='-c a=b' keepalives=0 keepalives_idle=5 host=x", &[]);
        assert_eq!(found.config.get_options(), Some("-c a=b"));
        assert!(!found.config.get_keepalives());
        assert_eq!(found.config.get_keepalives_idle(), Duration::from_secs(5));
        assert_eq!(found.timeout, Some(USUAL_TIMEOUT));
        let found = config(
            "connect_timeout=1 host=/run",
            &[("PGSSLMODE", "require"), ("PGOPTIONS", "-c c=d")],
        );
        assert_eq!(found.timeout, Some(Duration::from_secs(2)));
        assert_eq!(found.config.get_options(), Some("-c c=d"));
        assert_eq!(config("connect_timeout=0", &[]).timeout, None);
        // The address is where it is; the name is for the password file.
        let found = config("host=db", &[("PGHOSTADDR", "127.0.0.1")]);
        assert_eq!(found.config.get_hostaddrs().len(), 1);
    }

    #[test]
    fn a_service_stands_between_options_and_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "[main]\nhost=/service\nport=7\nuser=its\npassword=hush\n",
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let environment = [("PGSERVICEFILE", path), ("PGHOST", "/env"), ("PGSERVICE", "main")];
        let target = Target {
            port: Some(8),
            ..Target::default()
        };
        let found = resolve(&target, &environment).unwrap();
        assert_eq!(found.server, "/service, port 8, as its in database postgres");
        assert_eq!(found.config.get_password(), Some(&b"hush"[..]));
        let named = Target {
            database: Some("service=main dbname=mine".into()),
            ..Target::default()
        };
        let found = resolve(&named, &environment[..2]).unwrap();
        assert_eq!(found.server, "/service, port 7, as its in database mine");
        let unknown = resolve(&Target::default(), &[("PGSERVICE", "other"), environment[0]]);
        assert!(unknown.unwrap_err().to_string().contains("no service \"other\""));
    }
}
