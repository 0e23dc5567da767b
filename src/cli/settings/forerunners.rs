//! The environment variables of the systems that walfs follows, so that a container that was made for one of them runs walfs
//! as it is.

use std::path::Path;

use super::Error;

/// A variable, and what becomes of it.
#[derive(Debug)]
pub(in crate::cli) struct Forerunner {
    /// The variable.
    pub(in crate::cli) name: &'static str,
    /// Whose it is.
    pub(in crate::cli) system: &'static str,
    /// The setting that it sets, or what it means to walfs.
    pub(in crate::cli) means: &'static str,
}

/// What is understood, in one table.
pub(in crate::cli) const FORERUNNERS: [Forerunner; 24] = [
    Forerunner {
        name: "WALE_S3_PREFIX",
        system: "WAL-E, TimescaleDB's sidecar",
        means: "archive",
    },
    Forerunner {
        name: "WALE_S3_ENDPOINT",
        system: "WAL-E, TimescaleDB's sidecar",
        means: "endpoint, path-style: http+path://HOST:PORT",
    },
    Forerunner {
        name: "WALG_S3_PREFIX",
        system: "wal-g",
        means: "archive",
    },
    Forerunner {
        name: "TOTALRECALL_BUCKET",
        system: "TotalRecall",
        means: "archive: s3://BUCKET/STORAGE_PREFIX/DATABASE_ID",
    },
    Forerunner {
        name: "TOTALRECALL_STORAGE_PREFIX",
        system: "TotalRecall",
        means: "archive, see TOTALRECALL_BUCKET",
    },
    Forerunner {
        name: "TOTALRECALL_DATABASE_ID",
        system: "TotalRecall",
        means: "archive, see TOTALRECALL_BUCKET",
    },
    Forerunner {
        name: "START_MODE",
        system: SIDECAR,
        means: "start: CONTINOUS_BACKUP, BACKUP_PUSH (INITIAL), RESTORE",
    },
    Forerunner {
        name: "WALE_LISTEN_PORT",
        system: SIDECAR,
        means: "listen: 127.0.0.1:PORT; http-url",
    },
    Forerunner {
        name: "WALE_SIDECAR_HOSTNAME",
        system: SIDECAR,
        means: "http-url; listen: if not localhost, on all addresses",
    },
    Forerunner {
        name: "WALE_INIT_LOCKFILE",
        system: SIDECAR,
        means: "start-lock",
    },
    Forerunner {
        name: "CRON_TIMING",
        system: SIDECAR,
        means: "schedule-backup; if START_MODE is set, daily without it",
    },
    Forerunner {
        name: "WALE_RESTORE_LABEL",
        system: SIDECAR,
        means: "restore-name",
    },
    Forerunner {
        name: "RECOVERY_ADDITION",
        system: SIDECAR,
        means: "restore-recovery",
    },
    Forerunner {
        name: "PGCONF_BACKUP_DIR",
        system: SIDECAR,
        means: "settings-dir",
    },
    Forerunner {
        name: "PGDATA",
        system: SIDECAR,
        means: "pgdata, as for PostgreSQL's own programs",
    },
    Forerunner {
        name: "PGWAL",
        system: SIDECAR,
        means: "restore-waldir, if it is not PGDATA/pg_wal",
    },
    sealing("TOTALRECALL_ENCRYPTION_KEY", "TotalRecall"),
    sealing("WALE_GPG_KEY_ID", "WAL-E, TimescaleDB's sidecar"),
    sealing("WALG_GPG_KEY_ID", "wal-g"),
    sealing("WALG_PGP_KEY", "wal-g"),
    sealing("WALG_PGP_KEY_PATH", "wal-g"),
    sealing("WALG_LIBSODIUM_KEY", "wal-g"),
    sealing("WALG_LIBSODIUM_KEY_PATH", "wal-g"),
    sealing("WALG_CSE_KMS_ID", "wal-g"),
];

const SIDECAR: &str = "TimescaleDB's sidecar";

const REFUSED: &str = "refused: walfs does not encrypt what it stores";

/// A variable that asks for encryption.
const fn sealing(name: &'static str, system: &'static str) -> Forerunner {
    Forerunner {
        name,
        system,
        means: REFUSED,
    }
}

/// Variables of others that may hold `file:PATH` in place of a secret.
const SECRETS: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
];

/// May `file:PATH` stand in the variable?
pub(super) fn may_be_secret(name: &str) -> bool {
    SECRETS.contains(&name) || FORERUNNERS.iter().any(|forerunner| forerunner.name == name)
}

/// What the variables set: the setting, its value, and the variable that says so.
///
/// # Errors
/// [`Error::Forerunner`].
pub(super) fn settings(read: &impl Fn(&str) -> Option<String>) -> Result<Vec<Set>, Error> {
    let mut sealing = FORERUNNERS
        .iter()
        .filter(|forerunner| forerunner.means == REFUSED);
    if let Some(asked) = sealing.find(|forerunner| read(forerunner.name).is_some()) {
        return Err(Error::Forerunner {
            name: asked.name,
            reason: "walfs does not encrypt what it stores, and stores nothing plain where that was asked for. HINT: let \
                     the bucket encrypt (SSE-S3 or SSE-KMS) and unset the variable",
        });
    }
    let prefix = ["WALE_S3_PREFIX", "WALG_S3_PREFIX"];
    let mut archives = prefix.iter().filter_map(|name| Some((read(name)?, *name)));
    let archive = archives.next().or_else(|| totalrecall(read));
    let archive = archive.map(|(value, by)| ("archive", value, by));
    let sets = archive.into_iter().chain(endpoint(read)).chain(sidecar(read));
    Ok(sets.collect())
}

/// What a variable sets: the setting, its value, and the variable.
type Set = (&'static str, String, &'static str);

/// WAL-E's server that is not AWS: the protocol, how buckets are addressed, and where it is. What is not of that form stays as it
/// is, and is refused as an address.
fn endpoint(read: &impl Fn(&str) -> Option<String>) -> Vec<Set> {
    let by = "WALE_S3_ENDPOINT";
    let Some(value) = read(by) else {
        return Vec::new();
    };
    let parts = value.split_once("://").and_then(|(scheme, host)| {
        let (protocol, convention) = scheme.split_once('+')?;
        let path_style = match convention {
            "path" => "always",
            "virtualhost" | "subdomain" => "never",
            _ => return None,
        };
        Some((format!("{protocol}://{host}"), path_style))
    });
    match parts {
        Some((url, path_style)) => vec![("endpoint", url, by), ("path-style", path_style.to_owned(), by)],
        None => vec![("endpoint", value, by)],
    }
}

/// What the variables of TimescaleDB's sidecar set.
fn sidecar(read: &impl Fn(&str) -> Option<String>) -> Vec<Set> {
    let plain = [
        ("schedule-backup", "CRON_TIMING"),
        ("start-lock", "WALE_INIT_LOCKFILE"),
        ("restore-name", "WALE_RESTORE_LABEL"),
        ("restore-recovery", "RECOVERY_ADDITION"),
        ("settings-dir", "PGCONF_BACKUP_DIR"),
    ];
    let mut set: Vec<Set> = Vec::new();
    set.extend(
        plain
            .iter()
            .filter_map(|(setting, by)| Some((*setting, read(by)?, *by))),
    );
    set.extend(listen(read));
    if let Some(mode) = read("START_MODE") {
        set.push(("start", start(mode), "START_MODE"));
        if read("CRON_TIMING").is_none() {
            // As it was there.
            set.push(("schedule-backup", "0 0 * * *".to_owned(), "START_MODE"));
        }
    }
    let usual = read("PGDATA").map(|data| Path::new(&data).join("pg_wal"));
    let waldir = read("PGWAL").filter(|waldir| usual.as_deref() != Some(Path::new(waldir)));
    set.extend(waldir.map(|waldir| ("restore-waldir", waldir, "PGWAL")));
    set
}

/// The mode in our words; one that nobody knows is refused by the option.
fn start(mode: String) -> String {
    match mode.as_str() {
        "CONTINOUS_BACKUP" | "CONTINUOUS_BACKUP" => "continuous".to_owned(),
        "BACKUP_PUSH" | "INITIAL" => "backup-first".to_owned(),
        "RESTORE" => "restore-first".to_owned(),
        _ => mode,
    }
}

fn listen(read: &impl Fn(&str) -> Option<String>) -> Vec<Set> {
    let (port, host) = ("WALE_LISTEN_PORT", "WALE_SIDECAR_HOSTNAME");
    let by = if read(port).is_some() { port } else { host };
    let host = read(host);
    let Some(port) = read(port).or_else(|| host.as_ref().map(|_| "5000".to_owned())) else {
        return Vec::new();
    };
    let loopback = "127.0.0.1".to_owned();
    let host = host.filter(|host| host != "localhost").unwrap_or(loopback);
    let address = match host.as_str() {
        "127.0.0.1" => "127.0.0.1",
        _ => "0.0.0.0",
    };
    vec![
        ("listen", format!("{address}:{port}"), by),
        ("http-url", format!("http://{host}:{port}"), by),
    ]
}

fn totalrecall(read: &impl Fn(&str) -> Option<String>) -> Option<(String, &'static str)> {
    let parts = [
        Some(read("TOTALRECALL_BUCKET")?),
        read("TOTALRECALL_STORAGE_PREFIX"),
        read("TOTALRECALL_DATABASE_ID"),
    ];
    let parts = parts.iter().flatten().map(|part| part.trim_matches('/'));
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    Some((format!("s3://{}", parts.join("/")), "TOTALRECALL_BUCKET"))
}
