//! The way in: a connection, with TLS or without, and why there is none.

use tokio::sync::oneshot;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Error, Resolved, said};

/// What a server says to whom no line of pg_hba.conf lets in.
const NOT_LET_IN: &str = "28000";

const NO_PLAIN: &str = "\nHINT: the server wants TLS: sslmode=prefer, which is the usual, or a stronger one.";

const NO_TLS: &str = "\nHINT: ssl = on in the settings of the server gives it TLS; without, a network that nobody else is on needs \
sslmode=prefer.";

const NOT_TRUSTED: &str = "\nHINT: sslrootcert (or ~/.postgresql/root.crt) has to have the certificate of the authority that has signed the \
server's, which needs the name of the host in its subjectAltName for sslmode=verify-full.";

const NOT_THERE: &str =
    "\nHINT: is the server running? -h names a host or the directory of its socket, -p the port.";

/// A connection whose end is told.
pub(super) struct Entered {
    pub(super) client: Client,
    pub(super) lost: oneshot::Receiver<String>,
}

/// Connects, in time.
pub(super) async fn enter(resolved: &Resolved) -> Result<Entered, Error> {
    let Some(most) = resolved.timeout else {
        return any_way(resolved).await;
    };
    let entered = tokio::time::timeout(most, any_way(resolved)).await;
    entered.map_err(|_| Error::Connect {
        server: resolved.server.clone(),
        reason: format!("no answer in {} seconds", most.as_secs()),
        hint: NOT_THERE,
    })?
}

/// With TLS or without, as the mode says. As libpq does it, the second way is tried if the first was refused for what it is.
async fn any_way(resolved: &Resolved) -> Result<Entered, Error> {
    let mut config = named(&resolved.config);
    let mut before: Option<tokio_postgres::Error> = None;
    for way in resolved.tls.ways {
        config.ssl_mode(*way);
        let connector = resolved.tls.connector.clone();
        let tried = match connector.filter(|_| *way != SslMode::Disable) {
            Some(connector) => config.connect(connector).await.map(watched),
            None => config.connect(NoTls).await.map(watched),
        };
        match tried {
            Ok(entered) => return Ok(entered),
            Err(error) if before.is_none() && is_of_the_way(&error) => before = Some(error),
            Err(error) => return Err(refused_entry(before.as_ref(), &error, &resolved.server)),
        }
    }
    let error = before.expect("there is a way");
    Err(refused_entry(None, &error, &resolved.server))
}

/// An address is as good as a name for a handshake.
fn named(config: &Config) -> Config {
    let mut named = config.clone();
    if config.get_hosts().is_empty() {
        let addresses = config.get_hostaddrs().iter();
        addresses.for_each(|address| _ = named.host(address.to_string()));
    }
    named
}

fn watched<S>((client, connection): (Client, Connection<Socket, S>)) -> Entered
where
    S: TlsStream + Unpin + Send + 'static,
{
    let (lose, lost) = oneshot::channel();
    tokio::spawn(async move {
        let reason = match connection.await {
            Ok(()) => "the server ended the session".to_owned(),
            Err(error) => said(&error),
        };
        // Nobody listens once the session is over.
        let _ = lose.send(reason);
    });
    Entered { client, lost }
}

/// Ends what a client is doing, the same way.
pub(super) async fn cancel(client: &Client, connector: Option<&MakeRustlsConnect>) {
    let token = client.cancel_token();
    // Should it not come through: the server notices the closed connection once the statement is done.
    let _ = match connector {
        Some(connector) => token.cancel_query(connector.clone()).await,
        None => token.cancel_query(NoTls).await,
    };
}

/// May another way lead in?
fn is_of_the_way(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(answer) => answer.code().code() == NOT_LET_IN,
        None => is_of_tls(error),
    }
}

fn is_of_tls(error: &tokio_postgres::Error) -> bool {
    // The library has no other word for it.
    error.to_string().starts_with("error performing TLS handshake")
}

fn refused_entry(
    before: Option<&tokio_postgres::Error>,
    error: &tokio_postgres::Error,
    server: &str,
) -> Error {
    let reason = match before {
        Some(before) => format!("{}; then: {}", said(before), said(error)),
        None => said(error),
    };
    // "no pg_hba.conf entry for host ..., no encryption" (auth.c)
    let wants_tls = reason.contains("no encryption") || reason.contains("SSL off");
    let hint = if reason.contains("peer certificate") {
        NOT_TRUSTED
    } else if reason.contains("server does not support TLS") {
        NO_TLS
    } else if wants_tls && before.is_none() {
        NO_PLAIN
    } else if error.as_db_error().is_none() {
        NOT_THERE
    } else {
        ""
    };
    Error::Connect {
        server: server.to_owned(),
        hint,
        reason,
    }
}
