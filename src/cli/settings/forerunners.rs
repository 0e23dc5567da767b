//! The environment variables of the systems that walfs follows, so that a container that was made for one of them runs walfs
//! as it is.

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
pub(in crate::cli) const FORERUNNERS: [Forerunner; 9] = [
    Forerunner {
        name: "WALE_S3_PREFIX",
        system: "WAL-E, TimescaleDB's sidecar",
        means: "archive",
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
        name: "WALE_LISTEN_PORT",
        system: SIDECAR,
        means: "listen: 127.0.0.1:PORT",
    },
    Forerunner {
        name: "WALE_SIDECAR_HOSTNAME",
        system: SIDECAR,
        means: "listen: if not localhost, on all addresses",
    },
    Forerunner {
        name: "CRON_TIMING",
        system: SIDECAR,
        means: "schedule-backup",
    },
    Forerunner {
        name: ENCRYPTION_KEY,
        system: "TotalRecall",
        means: "refused: walfs does not encrypt what it stores",
    },
];

const SIDECAR: &str = "TimescaleDB's sidecar";

const ENCRYPTION_KEY: &str = "TOTALRECALL_ENCRYPTION_KEY";

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
pub(super) fn settings(
    read: &impl Fn(&str) -> Option<String>,
) -> Result<Vec<(&'static str, String, &'static str)>, Error> {
    if read(ENCRYPTION_KEY).is_some() {
        return Err(Error::Forerunner {
            name: ENCRYPTION_KEY,
            reason: "walfs does not encrypt what it stores, and stores nothing plain where that was asked for. HINT: let \
                     the bucket encrypt (SSE-S3 or SSE-KMS) and unset the variable",
        });
    }
    let prefix = ["WALE_S3_PREFIX", "WALG_S3_PREFIX"];
    let mut archives = prefix.iter().filter_map(|name| Some((read(name)?, *name)));
    let archive = archives.next().or_else(|| totalrecall(read));
    let archive = archive.map(|(value, by)| ("archive", value, by));
    let schedule = read("CRON_TIMING").map(|value| ("schedule-backup", value, "CRON_TIMING"));
    Ok(archive.into_iter().chain(listen(read)).chain(schedule).collect())
}

fn listen(read: &impl Fn(&str) -> Option<String>) -> Option<(&'static str, String, &'static str)> {
    let (port, host) = ("WALE_LISTEN_PORT", "WALE_SIDECAR_HOSTNAME");
    let by = if read(port).is_some() { port } else { host };
    let host = read(host);
    let address = match host.as_deref() {
        None | Some("localhost" | "127.0.0.1") => "127.0.0.1",
        Some(_) => "0.0.0.0",
    };
    let port = read(port).or_else(|| host.map(|_| "5000".to_owned()))?;
    Some(("listen", format!("{address}:{port}"), by))
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
