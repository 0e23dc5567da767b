//! A4: one name for each setting, in a file, in the environment and as a flag.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::common::user::{User, said};
use super::common::wal;
use super::common::walfs::{BINARY, walfs};
use super::common::world::World;

const SEGMENT: &str = "000000010000000000000001";

/// An archive with one segment, and a configuration for it.
struct Desk {
    world: World,
    segment: PathBuf,
}

impl Desk {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let content = wal::segment(SEGMENT, 7, wal::SEGMENT_BYTES, 1);
        let segment = world.owned_file(SEGMENT, &content);
        let desk = Desk { world, segment };
        let archive = desk.archive();
        let pushed = desk.walfs(&["wal-push", "--create", "--archive", &archive, desk.segment()]);
        assert!(pushed.status.success(), "{}", said(&pushed));
        desk
    }

    fn archive(&self) -> String {
        self.world.archive().display().to_string()
    }

    fn segment(&self) -> &str {
        self.segment.to_str().expect("a path of text")
    }

    /// Writes a configuration.
    fn file(&self, content: &str) -> String {
        let file = self.world.owned_file("test.toml", content.as_bytes());
        file.to_str().expect("a path of text").to_owned()
    }

    fn command(&self) -> Command {
        walfs(&self.world, &User::postgres())
    }

    fn walfs(&self, words: &[&str]) -> Output {
        self.command().args(words).output().expect("run walfs")
    }

    /// What `config show --json` says of one setting: its value, and where that is from.
    #[track_caller]
    fn shown(&self, command: &mut Command, setting: &str) -> (Option<String>, Option<String>) {
        let output = command.args(["config", "show", "--json"]).output();
        let output = output.expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let settings = json["settings"].as_array().expect("an array");
        let found = settings.iter().find(|one| one["name"] == setting);
        let found = found.unwrap_or_else(|| panic!("{setting} is no setting: {json}"));
        let text = |name: &str| found[name].as_str().map(str::to_owned);
        (text("value"), text("from"))
    }
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

#[test]
fn a4_a_file_sets_what_flags_set() {
    let desk = Desk::new("settings-file");
    let file = desk.file(&format!(
        "archive = {:?}\n\n[prune]\nkeep-last = 7\n",
        desk.archive()
    ));
    let listed = desk.walfs(&["--config", &file, "wal-list"]);
    assert!(said(&listed).contains(SEGMENT), "{}", said(&listed));
    let listed = desk.walfs(&["wal-list", &format!("--config={file}")]);
    assert!(said(&listed).contains(SEGMENT), "{}", said(&listed));
    let listed = desk.command().env("WALFS_CONFIG", &file).arg("wal-list").output();
    assert!(said(&listed.expect("run walfs")).contains(SEGMENT));
    // The rules of prune: without any it refuses.
    let archive = desk.archive();
    let without = desk.walfs(&["prune", "--archive", &archive, "--dry-run"]);
    refused(&without, 2, &["--keep-last"]);
    let with = desk.walfs(&["prune", "--config", &file, "--dry-run"]);
    assert!(with.status.success(), "{}", said(&with));
}

#[test]
fn a4_flags_win_over_the_environment_and_that_over_the_file() {
    let desk = Desk::new("settings-precedence");
    let file = desk.file("archive = \"/nowhere/file\"\n");
    let from = |command: &mut Command| desk.shown(command.args(["--config", &file]), "archive");
    let some = |value: &str, from: &str| (Some(value.to_owned()), Some(from.to_owned()));
    let line = format!("{file}:1");
    assert_eq!(from(&mut desk.command()), some("/nowhere/file", &line));
    let mut command = desk.command();
    command.env("WALE_S3_PREFIX", "s3://bucket/wale");
    assert_eq!(from(&mut command), some("s3://bucket/wale", "WALE_S3_PREFIX"));
    let mut command = desk.command();
    command.env("WALE_S3_PREFIX", "s3://bucket/wale");
    command.env("WALFS_ARCHIVE", "/nowhere/environment");
    assert_eq!(from(&mut command), some("/nowhere/environment", "WALFS_ARCHIVE"));
    // The flag wins over all of them.
    let mut command = desk.command();
    command
        .env("WALFS_ARCHIVE", "/nowhere/environment")
        .arg("wal-list");
    let listed = command
        .args(["--config", &file, "--archive", &desk.archive()])
        .output();
    assert!(said(&listed.expect("run walfs")).contains(SEGMENT));
}

#[test]
fn a4_what_is_wrong_in_the_file_is_told_with_its_line_and_nothing_is_done() {
    let desk = Desk::new("settings-wrong");
    let target = desk.world.path().join("fetched");
    for (content, words) in [
        (
            "archive = \"/nowhere\"\ncredentials_file = \"x\"\n",
            &["test.toml:2", "credentials_file", "HINT: is it credentials-file?"][..],
        ),
        (
            "[prune]\nkeep-lats = 1\n",
            &["test.toml:2", "prune-keep-lats", "prune-keep-last?"],
        ),
        ("\nzebra = 1\n", &["test.toml:2", "zebra", "walfs config show"]),
        (
            "deadline = 45\n",
            &["test.toml:1", "deadline", "45s, 10m or 1h 30m"],
        ),
        (
            "path-style = \"maybe\"\n",
            &["test.toml:1", "path-style", "maybe"],
        ),
        (
            "archive = \"x\"\narchive = \"y\"\n",
            &["test.toml:2", "duplicate key"],
        ),
        ("archive = [\"x\"]\n", &["test.toml:1", "archive has to be"]),
        (
            "archive = \"file:/nowhere/secret\"\n",
            &["archive", "/nowhere/secret"],
        ),
    ] {
        let file = desk.file(content);
        refused(&desk.walfs(&["--config", &file, "config", "check"]), 2, words);
        refused(
            &desk.walfs(&["--config", &file, "wal-push", desk.segment()]),
            2,
            words,
        );
        // PostgreSQL takes 2 for the end of the archive.
        let target = target.to_str().expect("a path of text");
        for before in [
            &["wal-fetch", "--config", &file][..],
            &["--config", &file, "wal-fetch"],
        ] {
            let fetch = [before, &[SEGMENT, target]].concat();
            refused(&desk.walfs(&fetch), 255, words);
        }
    }
    assert!(!target.exists());
    for (config, word) in [
        ("/nowhere/test.toml", "No such file"),
        ("/dev/null/x", "Not a dir"),
    ] {
        refused(&desk.walfs(&["--config", config, "wal-list"]), 2, &[config, word]);
    }
    // A file of keys that never ends, and one that is a directory.
    for (keys, word) in [("/dev/zero", "no regular file"), ("/dev", "no regular file")] {
        let words = [
            "wal-list",
            "--archive",
            "s3://bucket/prefix",
            "--endpoint",
            "http://127.0.0.1:9",
        ];
        let words = [&words[..], &["--deadline", "2s", "--credentials-file", keys]].concat();
        refused(&desk.walfs(&words), 1, &[keys, word]);
    }
    // A verb that there is not, as a restore_command: PostgreSQL takes 2 for the end of the archive.
    let target = target.to_str().expect("a path of text");
    refused(
        &desk.walfs(&["wal-restore", SEGMENT, target]),
        255,
        &["wal-restore"],
    );
    // A variable that is misspelt is told to who asks.
    let mut check = desk.command();
    check.env("WALFS_PRUNE_KEEP_LSAT", "3").args(["config", "check"]);
    let words = ["WALFS_PRUNE_KEEP_LSAT", "prune-keep-last?"];
    refused(&check.output().expect("run walfs"), 2, &words);
    // What is in a file is not shown, also where it is wrong.
    let secret = desk.world.owned_file("secret", b"geheim\n");
    let file = desk.file(&format!("[prune]\nkeep-last = \"file:{}\"\n", secret.display()));
    let check = desk.walfs(&["--config", &file, "config", "check"]);
    refused(&check, 2, &["test.toml:2", "prune-keep-last"]);
    assert!(!said(&check).contains("geheim"), "{}", said(&check));
    // Nor is a password in a connection string, which every command refuses.
    let file = desk.file("dbname = \"host=db password=geheim\"\n");
    let check = desk.walfs(&["--config", &file, "config", "check"]);
    refused(
        &check,
        2,
        &["dbname", "test.toml:1", "has a password", "PGPASSWORD"],
    );
    assert!(!said(&check).contains("geheim"), "{}", said(&check));
    let nameless = desk.walfs(&["--config", "no-such-name", "wal-list"]);
    refused(&nameless, 2, &["/etc/walfs/no-such-name.toml"]);
}

#[test]
fn s5_a_value_may_be_in_a_file_of_its_own_and_is_not_shown() {
    let desk = Desk::new("settings-reference");
    let archive = desk
        .world
        .owned_file("archive-name", format!("{}\n", desk.archive()).as_bytes());
    let reference = format!("file:{}", archive.display());
    let file = desk.file(&format!("archive = \"{reference}\"\n"));
    let listed = desk.walfs(&["--config", &file, "wal-list"]);
    assert!(said(&listed).contains(SEGMENT), "{}", said(&listed));
    let listed = desk
        .command()
        .env("WALFS_ARCHIVE", &reference)
        .arg("wal-list")
        .output();
    assert!(said(&listed.expect("run walfs")).contains(SEGMENT));
    let listed = desk
        .command()
        .env("WALG_S3_PREFIX", &reference)
        .arg("wal-list")
        .output();
    assert!(said(&listed.expect("run walfs")).contains(SEGMENT));
    // What is shown is where it is, not what it is.
    let mut command = desk.command();
    let (shown, _) = desk.shown(command.args(["--config", &file]), "archive");
    assert_eq!(shown, Some(reference.clone()));
    let (shown, from) = desk.shown(desk.command().env("WALFS_ARCHIVE", &reference), "archive");
    assert_eq!((shown, from), (Some(reference), Some("WALFS_ARCHIVE".into())));
    let mut command = desk.command();
    command.env("WALFS_BACKUP_PRIMARY", "host=a password=geheim");
    assert_eq!(
        desk.shown(&mut command, "backup-primary").0,
        Some("(hidden)".into())
    );
    let mut command = desk.command();
    command.env("WALFS_HOOK_FAILED", "curl -H 'Authorization: Bearer geheim' x");
    let (shown, from) = desk.shown(&mut command, "hook-failed");
    assert_eq!(
        (shown, from),
        (Some("(hidden)".into()), Some("WALFS_HOOK_FAILED".into()))
    );
    // Two lines, or no file, are no value.
    let two = desk.world.owned_file("two", b"one\ntwo\n");
    for path in [
        two.as_path(),
        Path::new("/nowhere"),
        Path::new("/tmp"),
        Path::new("/dev/zero"),
    ] {
        let reference = format!("file:{}", path.display());
        let output = desk
            .command()
            .env("WALFS_ARCHIVE", reference)
            .arg("wal-list")
            .output();
        refused(
            &output.expect("run walfs"),
            2,
            &["WALFS_ARCHIVE", &path.display().to_string()],
        );
    }
}

#[test]
fn a4_the_variables_of_the_forerunners_are_understood() {
    let desk = Desk::new("settings-forerunners");
    let shown = |variables: &[(&str, &str)]| {
        let mut command = desk.command();
        command.envs(variables.iter().copied());
        desk.shown(&mut command, "archive").0.expect("it is set")
    };
    assert_eq!(shown(&[("WALG_S3_PREFIX", "s3://bucket/g")]), "s3://bucket/g");
    let totalrecall = [
        ("TOTALRECALL_BUCKET", "bucket"),
        ("TOTALRECALL_STORAGE_PREFIX", "/some/prefix/"),
        ("TOTALRECALL_DATABASE_ID", "main"),
    ];
    assert_eq!(shown(&totalrecall), "s3://bucket/some/prefix/main");
    assert_eq!(shown(&totalrecall[..1]), "s3://bucket");
    // TimescaleDB's sidecar.
    let set = |variables: &[(&str, &str)], setting: &str| {
        let mut command = desk.command();
        command.envs(variables.iter().copied());
        desk.shown(&mut command, setting).0
    };
    for (value, endpoint, style) in [
        ("http+path://h:3900", "http://h:3900", "always"),
        ("https+virtualhost://h", "https://h", "never"),
        ("http+odd://h", "http+odd://h", "auto"),
    ] {
        let variables = [("WALE_S3_ENDPOINT", value)];
        assert_eq!(set(&variables, "endpoint").as_deref(), Some(endpoint));
        assert_eq!(set(&variables, "path-style").as_deref().unwrap_or("auto"), style);
    }
    for (mode, start) in [
        ("CONTINOUS_BACKUP", "continuous"),
        ("BACKUP_PUSH", "backup-first"),
        ("INITIAL", "backup-first"),
        ("RESTORE", "restore-first"),
    ] {
        let variables = [("START_MODE", mode)];
        assert_eq!(set(&variables, "start").as_deref(), Some(start));
        assert_eq!(set(&variables, "schedule-backup").as_deref(), Some("0 0 * * *"));
    }
    let sidecar = [
        ("START_MODE", "RESTORE"),
        ("CRON_TIMING", "0 3 * * *"),
        ("WALE_SIDECAR_HOSTNAME", "sidecar"),
        ("WALE_LISTEN_PORT", "5001"),
        ("WALE_INIT_LOCKFILE", "/run/lock/wale"),
        ("WALE_RESTORE_LABEL", "monday"),
        ("RECOVERY_ADDITION", "recovery_target_xid = '7'"),
        ("PGCONF_BACKUP_DIR", "/conf"),
        ("PGDATA", "/data"),
        ("PGWAL", "/wal"),
    ];
    for (setting, value) in [
        ("schedule-backup", Some("0 3 * * *")),
        ("listen", Some("0.0.0.0:5001")),
        ("http-url", Some("http://sidecar:5001")),
        ("start-lock", Some("/run/lock/wale")),
        ("restore-name", Some("monday")),
        ("restore-recovery", Some("recovery_target_xid = '7'")),
        ("settings-dir", Some("/conf")),
        ("restore-waldir", Some("/wal")),
    ] {
        assert_eq!(set(&sidecar, setting).as_deref(), value, "{setting}");
    }
    let usual = [("PGDATA", "/data"), ("PGWAL", "/data/pg_wal")];
    assert_eq!(set(&usual, "restore-waldir"), None);
    let here = [
        ("WALE_LISTEN_PORT", "5000"),
        ("WALE_SIDECAR_HOSTNAME", "localhost"),
    ];
    assert_eq!(set(&here, "http-url").as_deref(), Some("http://127.0.0.1:5000"));
}

#[test]
fn s5_an_archive_that_was_to_be_encrypted_is_never_stored_plain() {
    let desk = Desk::new("settings-sealed");
    let archive = desk.archive();
    for words in [
        &["wal-push", "--archive", &archive, desk.segment()][..],
        &["backup", "--archive", &archive],
        &["wal-list", "--archive", &archive],
    ] {
        for variable in [
            "TOTALRECALL_ENCRYPTION_KEY",
            "WALE_GPG_KEY_ID",
            "WALG_LIBSODIUM_KEY",
        ] {
            let mut command = desk.command();
            command.env(variable, "geheim").args(words);
            let output = command.output().expect("run walfs");
            refused(&output, 2, &[variable, "encrypt", "HINT"]);
            assert!(!said(&output).contains("geheim"));
        }
    }
}

/// The configuration that is read if none is named belongs to one archive, and is not taken for another.
#[test]
fn a4_the_usual_file_is_for_its_own_archive_only() {
    let desk = Desk::new("settings-usual");
    // /etc/walfs/main.toml, for this process alone.
    let etc = desk.world.path().join("etc");
    fs::create_dir_all(etc.join("walfs")).expect("make a directory");
    for name in ["passwd", "group", "nsswitch.conf"] {
        let _ = fs::copy(Path::new("/etc").join(name), etc.join(name));
    }
    let write = |content: &str| fs::write(etc.join("walfs/main.toml"), content).expect("write it");
    let run = |words: &str| {
        let script = format!("mount --bind '{}' /etc && exec {BINARY} {words}", etc.display());
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        unshare.env_remove("WALFS_ARCHIVE").output().expect("run unshare")
    };
    let archive = desk.archive();
    write(&format!(
        "archive = \"{archive}\"\ndeadline = \"50s\"\n[prune]\nkeep-last = 1\n"
    ));
    let listed = run("wal-list");
    assert!(said(&listed).contains(SEGMENT), "{}", said(&listed));
    assert!(said(&run("config show")).contains("/etc/walfs/main.toml:1"));
    assert!(
        said(&run("prune --dry-run")).contains("would remove"),
        "{}",
        said(&run("prune --dry-run"))
    );
    // Others may not read it, and need not.
    let main = etc.join("walfs/main.toml");
    User::postgres().own(&main);
    fs::set_permissions(&main, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("close it");
    let other = run("--version");
    assert!(other.status.success(), "{}", said(&other));
    let program = desk.world.public_program(Path::new(BINARY));
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let config = format!("{nobody} {} postgres-config", program.display());
    let script = format!("mount --bind '{}' /etc && {config}", etc.display());
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let printed = unshare.output().expect("run unshare");
    assert!(printed.status.success(), "{}", said(&printed));
    assert!(said(&printed).contains("left aside"), "{}", said(&printed));
    fs::set_permissions(&main, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("open it");
    // Another archive: neither its rules nor its mistakes are this one's.
    let other = format!("--archive {archive}");
    refused(&run(&format!("prune {other} --dry-run")), 2, &["--keep-last"]);
    write("no-such-setting = 1\n");
    assert!(run(&format!("wal-list {other}")).status.success());
    let copied = run(&format!("copy --create {archive} {archive}-copy"));
    assert!(copied.status.success(), "{}", said(&copied));
    refused(&run("wal-list"), 2, &["main.toml:1", "no-such-setting"]);
}
