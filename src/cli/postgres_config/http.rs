//! The lines for a server that reaches the archive by HTTP, from a container without walfs and without a mount.

use std::ffi::OsStr;

use super::{line, quoted, setting};

/// What is written for the agent at `url`, like `http://127.0.0.1:5000`. By curl first, by wget as alternatives.
pub(super) fn postgres_config(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let at = |way: &str| {
        String::from_utf8_lossy(&quoted(OsStr::new(&format!("{url}/{way}/")))).into_owned() + "%f"
    };
    let (wal, absent, push) = (at("wal"), at("absent"), at("wal-push"));
    // `%%` is PostgreSQL's for a percent sign.
    let code = r#"-w "%%{http_code}""#;
    let curl = r#"curl -sS --noproxy "*""#;
    let archive = format!(r#"test "$({curl} -T "%p" {wal})" = "%f is archived""#);
    let restore = format!(
        r#"c=$({curl} -o "%p" {code} {wal}) && test "$c" = 200 || {{ e=255; test "$c:$(cat "%p")" = "404:%f is not archived" && e=1; rm -f "%p"; exit $e; }}"#
    );
    let wget = format!(
        r#"wget -q -O "%p" {wal} || {{ rm -f "%p"; test "$(wget -q -O - {absent})" = "%f is not archived" && exit 1; exit 255; }}"#
    );
    let push = format!(r#"test "$(wget -q -O - {push})" = "%f is archived""#);
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
