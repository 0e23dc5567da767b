//! What is written for which backup.

use super::files::tests::Made;
use super::*;

fn recovery(target: Target) -> Recovery {
    Recovery {
        target,
        timeline: TargetTimeline::Latest,
        action: None,
        inclusive: false,
        up_to_gap: false,
        standby: false,
        primary_conninfo: None,
        takes_over: false,
        restore_command: b"cp /mnt/it's/%f \"%p\"".to_vec(),
    }
}

fn planned(files: &Made, recovery: &Recovery) -> Plan {
    let settings = Settings::read(Path::new("/data"), files);
    let before = files.read(Path::new(AUTO)).unwrap_or_default();
    let given = Given {
        settings: &settings,
        recovery,
        timeline: TargetTimeline::Current,
        postgresql_major: Some(15),
        limits: Limits::DEFAULT,
        is_here: &|path| path.starts_with("/here"),
    };
    plan(before.as_bytes(), &given)
}

fn text(main: &'static str, auto: &'static str, recovery: &Recovery) -> String {
    let files = Made(vec![(MAIN, main), (AUTO, auto)]);
    String::from_utf8(planned(&files, recovery).auto_conf).unwrap()
}

/// Without the last but one line, the end command.
fn lines(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.starts_with("recovery_end_command"))
        .collect()
}

#[test]
fn older_settings_of_the_same_purpose_are_replaced() {
    let auto = "work_mem = '8MB'\nRecovery_Target_Time = '2020-01-01'\nrestore_command='x'";
    let first = text("", auto, &recovery(Target::Name("a'b".into())));
    assert_eq!(
        lines(&first),
        [
            "work_mem = '8MB'",
            "# walfs restore: begin",
            "# walfs restore: recovery_target_time = '2020-01-01' of postgresql.auto.conf: recovery would end there, and \
             every clone's as well",
            "archive_mode = 'off'",
            "restore_command = 'cp /mnt/it''s/%f \"%p\"'",
            "recovery_target_name = 'a''b'",
            "recovery_target_action = 'pause'",
            "recovery_target_timeline = 'current'",
            "# walfs restore: end",
        ]
    );
    let second = text("", first.leak(), &recovery(Target::Latest));
    assert_eq!(second.matches("restore: begin").count(), 1);
    assert!(
        !second.contains("_target_name") && !second.contains("2020"),
        "{second}"
    );
    // Nor do the lines pile up if ALTER SYSTEM has dropped the marks.
    let unmarked: String = second
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let third = text("", unmarked.leak(), &recovery(Target::Latest));
    let without_comments = |text: &str| -> Vec<String> {
        let kept = lines(text).into_iter().filter(|line| !line.starts_with('#'));
        kept.map(str::to_owned).collect()
    };
    assert_eq!(without_comments(&third), without_comments(&second));
}

#[test]
fn targets_are_spelled_as_postgresql_reads_them() {
    let time = Target::Time("2026-11-21T14:00:00.25+01:00".parse().unwrap());
    let text = text("", "", &recovery(time));
    assert!(
        text.contains("recovery_target_time = '2026-11-21 13:00:00.250000+00'"),
        "{text}"
    );
    assert!(text.contains("recovery_target_inclusive = 'off'"), "{text}");
}

#[test]
fn b12_a_copy_does_not_archive() {
    let auto = "archive_mode = 'on'\n";
    let copy = text("archive_mode = on", auto, &recovery(Target::Latest));
    assert!(
        copy.starts_with("# walfs") && copy.contains("\narchive_mode = 'off'\n"),
        "{copy}"
    );
    let takes_over = Recovery {
        takes_over: true,
        ..recovery(Target::Latest)
    };
    assert!(text("", auto, &takes_over).starts_with(auto));
    // What the restore of a copy has left in a backup of it does not keep its successor from archiving.
    let after = text("archive_mode = on", copy.leak(), &takes_over);
    assert!(!after.contains("archive_mode"), "{after}");
    let files = Made(vec![(MAIN, "")]);
    assert!(planned(&files, &takes_over).warnings[0].contains("archive nothing"));
}

/// To PostgreSQL a target in capitals is another one than that which overrides it, and two are refused.
#[test]
fn b11_a_target_in_capitals_becomes_a_comment() {
    let main = "Recovery_Target_Name = 'x'\nport = 5433\n";
    let files = Made(vec![(MAIN, main)]);
    let plan = planned(&files, &recovery(Target::Latest));
    assert_eq!(plan.comments, [(PathBuf::from(MAIN), "recovery_target_name")]);
    assert_eq!(plan.set_aside.len(), 1, "{:?}", plan.set_aside);
    let after = String::from_utf8(commented(main.as_bytes(), "recovery_target_name")).unwrap();
    let left: Vec<&str> = after.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(left, ["port = 5433"]);
}

#[test]
fn b11_what_would_hold_up_or_harm_is_set_aside_and_said() {
    let main = "recovery_min_apply_delay = 4h\nprimary_slot_name = 'a'\nport = 5433\n\
                data_directory = '/var/lib/main'\nssl = on\nssl_cert_file = '/gone/x'\nhba_file = '/here/hba'\n";
    let files = Made(vec![(MAIN, main), (AUTO, "archive_cleanup_command = 'rm %r'\n")]);
    let plan = planned(&files, &recovery(Target::Latest));
    let text = String::from_utf8(plan.auto_conf).unwrap();
    for line in [
        "recovery_min_apply_delay = '0'",
        "primary_slot_name = ''",
        "hot_standby = 'off'",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(
        !text
            .lines()
            .any(|line| line.starts_with("archive_cleanup_command")),
        "{text}"
    );
    let said = plan.set_aside.join("\n");
    for name in [
        "recovery_min_apply_delay",
        "primary_slot_name",
        "archive_cleanup_command",
        "data_directory",
    ] {
        assert!(said.contains(&format!("{name} = '")), "{name}: {said}");
    }
    assert_eq!(plan.comments, [(PathBuf::from(MAIN), "data_directory")]);
    assert!(plan.warnings[0].contains("/gone/x"), "{:?}", plan.warnings);
    let after = commented(main.as_bytes(), "data_directory");
    assert_eq!(
        String::from_utf8(after)
            .unwrap()
            .matches("\n# walfs restore: data_directory")
            .count(),
        1
    );
}

#[test]
fn b11_settings_that_are_not_known_are_overridden_as_far_as_the_version_knows_them() {
    let plan = planned(&Made(vec![]), &recovery(Target::Immediate));
    let text = String::from_utf8(plan.auto_conf).unwrap();
    for line in [
        "recovery_target_time = ''",
        "promote_trigger_file = ''",
        "hot_standby = 'on'",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(
        !text.contains("sync_replication_slots") && plan.set_aside.is_empty(),
        "{text}"
    );
    // A target is refused while another one is set.
    let at = |line: &str| text.lines().position(|found| found == line);
    assert!(
        at("recovery_target_lsn = ''") < at("recovery_target = 'immediate'"),
        "{text}"
    );
}

#[test]
fn b11_a_server_that_shall_be_read_has_what_the_wal_asks_for() {
    let needed = Limits::DEFAULT;
    let settings = Settings::read(
        Path::new("/data"),
        &Made(vec![(MAIN, "max_connections = 30\nmax_wal_senders = 20")]),
    );
    let recovery = recovery(Target::Immediate);
    let given = Given {
        settings: &settings,
        recovery: &recovery,
        timeline: TargetTimeline::Current,
        postgresql_major: Some(15),
        limits: needed,
        is_here: &|_| true,
    };
    assert_eq!(given.reading(), [("max_connections", b"100".to_vec())]);
}

#[test]
fn the_end_command_takes_out_what_was_for_the_recovery() {
    let directory = tempfile::tempdir().unwrap();
    let main = "recovery_target_time = '2020-01-01'";
    let written = text(main, "work_mem = '8MB'\n", &recovery(Target::Name("x".into())));
    let command = assignment(
        written
            .lines()
            .find(|line| line.starts_with("recovery_end"))
            .unwrap(),
    )
    .unwrap()
    .1;
    std::fs::write(directory.path().join(AUTO), &written).unwrap();
    // Whoever has put a link there gets nothing written through it.
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), directory.path().join(NEW_AUTO)).unwrap();
    let status = std::process::Command::new("sh")
        .args(["-c", &command])
        .current_dir(directory.path())
        .status();
    assert!(status.unwrap().success(), "{command}");
    let after = std::fs::read_to_string(directory.path().join(AUTO)).unwrap();
    assert_eq!(
        after,
        "work_mem = '8MB'\nrecovery_target_time = ''\narchive_mode = 'off'\n"
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(elsewhere.path()).unwrap(), b"");
}
