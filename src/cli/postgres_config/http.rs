//! The lines for a server that reaches the archive by HTTP, from a container without walfs and without a mount.

use std::ffi::OsStr;

use super::{line, quoted, setting};

/// How curl is called: with words of errors, and without a proxy.
const CURL: &str = r#"curl -sS --noproxy "*""#;

/// The address of a file, as the shell reads it.
fn at(url: &str, way: &str) -> String {
    let address = format!("{}/{way}/", url.trim_end_matches('/'));
    String::from_utf8_lossy(&quoted(OsStr::new(&address))).into_owned() + "%f"
}

/// `restore_command` by curl.
fn by_curl(url: &str) -> String {
    // `%%` is PostgreSQL's for a percent sign.
    let (wal, code) = (at(url, "wal"), r#"-w "%%{http_code}""#);
    format!(
        r#"c=$({CURL} -o "%p" {code} {wal}) && test "$c" = 200 || {{ e=255; test "$c:$(cat "%p")" = "404:%f is not archived" && e=1; rm -f "%p"; exit $e; }}"#
    )
}

/// `restore_command` by wget.
fn by_wget(url: &str) -> String {
    let (wal, absent) = (at(url, "wal"), at(url, "absent"));
    format!(
        r#"wget -q -O "%p" {wal} || {{ rm -f "%p"; test "$(wget -q -O - {absent})" = "%f is not archived" && exit 1; exit 255; }}"#
    )
}

/// The safe `restore_command` by the agent at `url`, unquoted: 1 only with a proof of absence, 255 otherwise. It calls curl, or
/// wget where that is not there.
pub(in crate::cli) fn restore_command(url: &str) -> Vec<u8> {
    let (curl, wget) = (by_curl(url), by_wget(url));
    format!("if command -v curl >/dev/null; then {curl}; else {wget}; fi").into_bytes()
}

/// The same for a standby: never more than 125, so that the server goes on.
pub(in crate::cli) fn standby_restore_command(url: &str) -> Vec<u8> {
    [b"( ", &restore_command(url)[..], b" ) || exit 1"].concat()
}

/// What is written for the agent at `url`, like `http://127.0.0.1:5000`. By curl first, by wget as alternatives.
pub(super) fn postgres_config(url: &str) -> String {
    let archive = format!(
        r#"test "$({CURL} -T "%p" {})" = "%f is archived""#,
        at(url, "wal")
    );
    let push = format!(
        r#"test "$(wget -q -O - {})" = "%f is archived""#,
        at(url, "wal-push")
    );
    let (restore, wget) = (by_curl(url), by_wget(url));
    let value = |command: &str| setting(command.as_bytes());
    [
        ARCHIVING.to_owned(),
        line("archive_mode", "on"),
        line("archive_command", &value(&archive)),
        line("archive_timeout", "60s"),
        RESTORING.to_owned(),
        line("restore_command", &value(&restore)),
        line("recovery_target_timeline", "'latest'"),
        WGET.to_owned(),
        line("#archive_command", &value(&push)),
        line("#restore_command", &value(&wget)),
        STANDBY.to_owned(),
        line("#restore_command", &value(&format!("( {restore} ) || exit 1"))),
    ]
    .concat()
}

const ARCHIVING: &str = "\
# Archiving through `walfs agent --listen`. archive_mode needs a restart of the server, the others only a reload.
# The whole file is sent, and the agent says \"is archived\" only when the archive has it and has verified its checksum.
# Only these words are success: whatever else listens there, or a proxy, may answer 200 as well.
# Where clients need a token: curl -H @FILE ..., a file with the line `Authorization: Bearer TOKEN`.
";

const RESTORING: &str = "
# Restoring, for a server with recovery.signal (it opens at the end of the archive); harmless without.
# PostgreSQL takes every exit code from 1 to 125 as \"the archive ends here\". The agent answers 404, and says
# \"is not archived\", only with a proof of that; at everything else, a hole too, 255 stops the recovery, which can be
# started again.
";

const WGET: &str = "
# Alternatives where there is only wget. /wal-push/ names a file that the agent reads in pg_wal of its --pgdata: both
# containers need that volume.
";

const STANDBY: &str = "
# Restoring, for a standby (standby.signal): never more than 125, so that it goes on, by streaming or by asking again.
";
