//! The text of `walfs postgres-config`: lines for `postgresql.conf`, safe variants first, each with its
//! reason.
//!
//! A command in that file is quoted three times: for the shell, for PostgreSQL's `%` placeholders, and as a
//! string of the configuration file. Mount points with spaces, quotes, percent signs, newlines or bytes that
//! are not UTF-8 come out right. Nothing is read or checked here: neither the mount nor a server.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::complain;
use super::out::Out;
use crate::pg::setting::quoted as setting;

pub(super) mod http;

/// Print the lines for postgresql.conf, and why they are as they are
///
/// The safe ones come first. Looks at nothing and changes nothing: neither mount nor server need be there.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  walfs postgres-config --mountpoint /mnt/walfs >> postgresql.conf")]
pub struct PostgresConfigArgs {
    /// Where the archive is mounted
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/mnt/walfs",
        env = "WALFS_MOUNTPOINT",
        hide_env_values = true
    )]
    mountpoint: PathBuf,
    /// For the lines that need no mount: s3://bucket/prefix, file:///directory or a path
    #[arg(long, value_name = "ARCHIVE", env = "WALFS_ARCHIVE", hide_env_values = true)]
    archive: Option<OsString>,
    /// The lines for a server without a mount that reaches `walfs agent --listen` here, like http://127.0.0.1:5000
    #[arg(long, value_name = "URL", value_parser = url)]
    http: Option<String>,
}

/// Reads the address of an agent.
///
/// # Errors
/// Why the text is none.
pub(super) fn url(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    match text.starts_with("http://") || text.starts_with("https://") {
        true if is_plain => Ok(text.to_owned()),
        _ => Err("give a URL like http://127.0.0.1:5000".into()),
    }
}

/// Runs `walfs postgres-config`.
pub fn print(arguments: &PostgresConfigArgs) -> ExitCode {
    if let Some(url) = &arguments.http {
        let mut out = Out::new();
        let _ = write!(out, "{}", http::postgres_config(url));
        return ExitCode::SUCCESS;
    }
    let mountpoint = match path::absolute(&arguments.mountpoint) {
        Ok(mountpoint) => mountpoint,
        Err(error) => {
            complain(&format_args!("{}: {error}", arguments.mountpoint.display()));
            return ExitCode::FAILURE;
        }
    };
    let archive = arguments
        .archive
        .as_deref()
        .unwrap_or(OsStr::new("s3://bucket/prefix"));
    let call = |command| {
        [
            OsStr::new("walfs"),
            OsStr::new(command),
            OsStr::new("--archive"),
            archive,
        ]
    };
    let direct = DirectCommands {
        push: &call("wal-push"),
        fetch: &call("wal-fetch"),
    };
    let mut out = Out::new();
    let _ = write!(out, "{}", postgres_config(&mountpoint, direct));
    ExitCode::SUCCESS
}

/// How to call walfs without a mount: program, subcommand and options, unquoted.
#[derive(Debug, Clone, Copy)]
pub struct DirectCommands<'a> {
    /// Takes the path of a file to archive, which is appended: `walfs wal-push`.
    pub push: &'a [&'a OsStr],
    /// Takes a name and the path to bring it to, which are appended: `walfs wal-fetch`.
    pub fetch: &'a [&'a OsStr],
}

/// Lines for `postgresql.conf` to archive to and restore from the archive at `mountpoint`, an absolute path.
///
/// The first of each kind is active, the alternatives are comments.
pub fn postgres_config(mountpoint: &Path, direct: DirectCommands<'_>) -> String {
    let restore = standby_restore_command(mountpoint);
    let fetch = fetch_command(direct.fetch);
    let standby_fetch = standby_fetch_command(direct.fetch);
    [
        ARCHIVING.to_owned(),
        line("archive_mode", "on"),
        line("archive_command", &setting(&archive_command(mountpoint))),
        line("archive_timeout", "60s"),
        RESTORING.to_owned(),
        line("restore_command", &setting(&restore_command(mountpoint))),
        line("recovery_target_timeline", "'latest'"),
        STANDBY_ONLY.to_owned(),
        line("#primary_conninfo", "'host=PRIMARY user=REPLICATOR'"),
        line("#restore_command", &setting(&restore)),
        WITHOUT_MOUNT.to_owned(),
        line("#archive_command", &setting(&push_command(direct.push))),
        line("#restore_command", &setting(&fetch)),
        STANDBY_WITHOUT_MOUNT.to_owned(),
        line("#restore_command", &setting(&standby_fetch)),
    ]
    .concat()
}

/// The `archive_command` for the archive at `mountpoint`, unquoted.
pub fn archive_command(mountpoint: &Path) -> Vec<u8> {
    let wal = quoted(mountpoint.join("wal").as_os_str());
    [br#"cp "%p" "#, &wal[..], b"/%f"].concat()
}

/// [`archive_command`] without a mount, by `walfs wal-push` and its options.
pub fn push_command(push: &[&OsStr]) -> Vec<u8> {
    [&words(push)[..], br#" "%p""#].concat()
}

/// The safe `restore_command` for the archive at `mountpoint`, unquoted: 1 only with a proof of absence, 255 otherwise.
pub fn restore_command(mountpoint: &Path) -> Vec<u8> {
    let wal = quoted(mountpoint.join("wal").as_os_str());
    let absent = quoted(mountpoint.join(".absent").as_os_str());
    let proof = [b" || { test -e ", &absent[..], b"/%f && exit 1; exit 255; }"].concat();
    [plain_restore(&wal), proof].concat()
}

/// The `restore_command` of a standby for the archive at `mountpoint`, unquoted: never more than 125, so that the server
/// goes on, by streaming or by asking again.
pub fn standby_restore_command(mountpoint: &Path) -> Vec<u8> {
    plain_restore(&quoted(mountpoint.join("wal").as_os_str()))
}

/// [`restore_command`] without a mount, by `walfs wal-fetch` and its options.
pub fn fetch_command(fetch: &[&OsStr]) -> Vec<u8> {
    [&words(fetch)[..], br#" %f "%p""#].concat()
}

/// [`standby_restore_command`] without a mount, by `walfs wal-fetch` and its options.
pub fn standby_fetch_command(fetch: &[&OsStr]) -> Vec<u8> {
    [&fetch_command(fetch)[..], b" || exit 1"].concat()
}

fn plain_restore(wal: &[u8]) -> Vec<u8> {
    [b"cp ", wal, br#"/%f "%p""#].concat()
}

const ARCHIVING: &str = "\
# Archiving. archive_mode needs a restart of the server, the others only a reload.
# cp returns 0 only when the archive has the whole file and has verified its checksum.
# If walfs is not mounted there is no directory wal: cp fails, PostgreSQL keeps the segment and tries again.
# archive_timeout bounds how old the newest archived change of an idle server is; the empty rest of a segment
# compresses to almost nothing.
";

const RESTORING: &str = "
# Restoring, for a server with recovery.signal (it opens at the end of the archive); harmless without.
# PostgreSQL takes every exit code from 1 to 125 as \"the archive ends here\": it opens the database and forgets
# the rest. cp exits with 1 for a file that does not exist, and for a mount that is gone as well. So 1 is
# returned only if walfs proves that the archive ends there (it shows the name in .absent), and 255 otherwise,
# also at a hole (the segment is missing, and later ones are there): recovery stops, and can be started again.
";

const STANDBY_ONLY: &str = "
# Restoring, for a standby (standby.signal), streaming or not: plain cp. At 255 the whole standby would stop. With
# cp, which exits with 1, it goes on: it streams what the archive does not give, or asks again and again, and never
# opens by itself. Promoted meanwhile, it lacks what it could not get: compare pg_last_wal_replay_lsn() first.
# Never with recovery.signal: a hole, or a mount that is gone, would end recovery early.
";

const WITHOUT_MOUNT: &str = "
# Alternative without a mount, with the same promises: 0 means stored, or restored; wal-fetch returns 1 only where
# the archive ends, and 255 for everything else.
";

const STANDBY_WITHOUT_MOUNT: &str = "\
# ... and for a standby:
";

fn line(name: &str, value: &str) -> String {
    format!("{name} = {value}\n")
}

fn words(command: &[&OsStr]) -> Vec<u8> {
    command
        .iter()
        .map(|word| quoted(word))
        .collect::<Vec<_>>()
        .join(&b' ')
}

/// One word for the shell, inside a command with PostgreSQL's placeholders.
fn quoted(word: &OsStr) -> Vec<u8> {
    let bytes = word.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:@,=".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return bytes.to_vec();
    }
    let inner = bytes.iter().flat_map(|byte| match byte {
        b'\'' => &br"'\''"[..],
        b'%' => b"%%",
        other => std::slice::from_ref(other),
    });
    [b"'", &inner.copied().collect::<Vec<_>>()[..], b"'"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::ffi::OsStringExt;
    use std::process::{Command, Stdio};

    const SEGMENT: &str = "000000010000000000000001";

    /// Names of mount points, each of which breaks a command that is quoted once too little.
    const ODD_NAMES: [&[u8]; 10] = [
        b"walfs",
        b"my archive",
        b"it's",
        b"a\"quoted\"",
        b"50%f%p%%",
        b"back\\slash\\040",
        b"$HOME `id` $(id)",
        b"new\nline\ttab\x7F",
        b"not utf-8 \xFF\xC3",
        "größe; exit 0 #".as_bytes(),
    ];

    fn text(mountpoint: &Path) -> String {
        let push = ["walfs", "wal-push", "s3://bucket/it's 100%"].map(OsStr::new);
        let fetch = ["walfs", "wal-fetch", "s3://bucket/it's 100%"].map(OsStr::new);
        postgres_config(
            mountpoint,
            DirectCommands {
                push: &push,
                fetch: &fetch,
            },
        )
    }

    /// The first string setting of that name, read as `GUC_scanstr` of PostgreSQL's `guc-file.l` does.
    fn value(text: &str, name: &str) -> Vec<u8> {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = '"));
        scan(found.and_then(|rest| rest.strip_suffix('\'')).unwrap().as_bytes())
    }

    fn scan(mut rest: &[u8]) -> Vec<u8> {
        let mut value = Vec::new();
        while let [first, tail @ ..] = rest {
            let (byte, length) = match (first, tail) {
                (b'\\', [b'0'..=b'7', _, _, ..]) => (
                    u8::from_str_radix(str::from_utf8(&tail[..3]).unwrap(), 8).unwrap(),
                    3,
                ),
                (b'\\' | b'\'', [second, ..]) if first == second => (*first, 1),
                (b'\\' | b'\'', _) => panic!("not doubled: {}", rest.escape_ascii()),
                _ => (*first, 0),
            };
            value.push(byte);
            rest = &tail[length..];
        }
        value
    }

    /// The command with its placeholders replaced as PostgreSQL replaces them.
    fn replaced(command: &[u8], file: &str, path: &str) -> OsString {
        let mut bytes = command.iter();
        let mut result = Vec::new();
        while let Some(byte) = bytes.next() {
            match byte {
                b'%' => result.extend(match bytes.next() {
                    Some(b'f') => file.bytes(),
                    Some(b'p') => path.bytes(),
                    Some(b'%') => "%".bytes(),
                    other => panic!("% before {other:?}"),
                }),
                other => result.push(*other),
            }
        }
        OsString::from_vec(result)
    }

    fn shell(directory: &Path, command: OsString) -> Option<i32> {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(command)
            .current_dir(directory)
            .stderr(Stdio::null());
        shell.status().unwrap().code()
    }

    #[test]
    fn plain_mount_point() {
        let text = text(Path::new("/mnt/walfs"));
        let active: Vec<_> = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        let proof = "{ test -e /mnt/walfs/.absent/%f && exit 1; exit 255; }";
        assert_eq!(
            active,
            [
                "archive_mode = on",
                r#"archive_command = 'cp "%p" /mnt/walfs/wal/%f'"#,
                "archive_timeout = 60s",
                &format!(r#"restore_command = 'cp /mnt/walfs/wal/%f "%p" || {proof}'"#),
                "recovery_target_timeline = 'latest'",
            ]
        );
        for alternative in [
            r#"#restore_command = 'cp /mnt/walfs/wal/%f "%p"'"#,
            r#"#archive_command = 'walfs wal-push ''s3://bucket/it''\\''''s 100%%'' "%p"'"#,
            r#"#restore_command = 'walfs wal-fetch ''s3://bucket/it''\\''''s 100%%'' %f "%p"'"#,
            r#"#restore_command = 'walfs wal-fetch ''s3://bucket/it''\\''''s 100%%'' %f "%p" || exit 1'"#,
        ] {
            assert!(
                text.lines().any(|line| line == alternative),
                "{alternative} is not in\n{text}"
            );
        }
    }

    #[test]
    fn every_line_is_a_comment_a_setting_or_empty() {
        for name in ODD_NAMES {
            for line in text(&Path::new("/mnt").join(OsStr::from_bytes(name))).lines() {
                let setting = line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
                assert!(line.is_empty() || line.starts_with('#') || setting, "{line}");
                assert!(
                    !line.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER),
                    "{line:?}"
                );
            }
        }
    }

    #[test]
    fn restore_command_tells_absent_from_unproved() {
        for name in ODD_NAMES {
            let root = tempfile::tempdir().unwrap();
            let mountpoint = root.path().join(OsStr::from_bytes(name));
            fs::create_dir_all(mountpoint.join("wal")).unwrap();
            fs::create_dir_all(mountpoint.join(".absent")).unwrap();
            let command = value(&text(&mountpoint), "restore_command");
            let run = |file| shell(root.path(), replaced(&command, file, "RECOVERYXLOG"));
            let shown = mountpoint.display();

            fs::write(mountpoint.join("wal").join(SEGMENT), "content").unwrap();
            assert_eq!(run(SEGMENT), Some(0), "{shown}");
            assert_eq!(
                fs::read(root.path().join("RECOVERYXLOG")).unwrap(),
                b"content",
                "{shown}"
            );

            fs::write(mountpoint.join(".absent/00000002.history"), "").unwrap();
            assert_eq!(run("00000002.history"), Some(1), "{shown}");
            assert_eq!(run("00000003.history"), Some(255), "{shown}");

            fs::rename(&mountpoint, root.path().join("gone")).unwrap();
            assert_eq!(run(SEGMENT), Some(255), "{shown}");
        }
    }

    #[test]
    fn archive_command_fails_without_the_mount() {
        for name in ODD_NAMES {
            let root = tempfile::tempdir().unwrap();
            let mountpoint = root.path().join(OsStr::from_bytes(name));
            fs::create_dir(&mountpoint).unwrap();
            fs::write(root.path().join("segment"), "content").unwrap();
            let command = value(&text(&mountpoint), "archive_command");
            let run = || shell(root.path(), replaced(&command, SEGMENT, "segment"));

            assert_eq!(run(), Some(1), "{}", mountpoint.display());
            fs::create_dir(mountpoint.join("wal")).unwrap();
            assert_eq!(run(), Some(0), "{}", mountpoint.display());
            assert_eq!(
                fs::read(mountpoint.join("wal").join(SEGMENT)).unwrap(),
                b"content"
            );
        }
    }

    #[test]
    fn words_of_direct_commands_reach_the_program_whole() {
        let words = [&[b"printf", &br"%s\0"[..]], &ODD_NAMES[..], &[b""]].concat();
        let command: Vec<_> = words.iter().map(|word| OsStr::from_bytes(word)).collect();
        let text = postgres_config(
            Path::new("/mnt"),
            DirectCommands {
                push: &command,
                fetch: &command,
            },
        );
        for (name, appended) in [
            ("#archive_command", &[&b"pg_wal/x"[..], b""][..]),
            ("#restore_command", &[SEGMENT.as_bytes(), b"pg_wal/x", b""]),
        ] {
            // The plain cp is the first #restore_command.
            let last = text.rfind(name).unwrap();
            let script = replaced(&value(&text[last..], name), SEGMENT, "pg_wal/x");
            let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
            let expected = [&words[2..], appended].concat().join(&0);
            assert_eq!(
                output.stdout.escape_ascii().to_string(),
                expected.escape_ascii().to_string()
            );
        }
    }
}
