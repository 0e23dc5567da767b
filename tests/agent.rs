//! A1, A2: what an agent does by a schedule. Each due run is done once, by one of the hosts that have the schedule; what was
//! missed is done once; what fails is tried again, and told.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::common::agent::Agent;
use super::common::basebackup::{Place, Site};
use super::common::postgres::send;
use super::common::s3::S3Server;
use super::common::user::{User, is_root};
use super::common::wait;
use super::common::walfs::BINARY;
use super::common::world::{World, mounts_beneath};

/// Starts one with a lease of 6 s. `name` is that of its log.
fn start(site: &Site<'_>, name: &str, settings: &[(&str, &str)], arguments: &[&str]) -> Agent {
    let mut command = site.walfs("agent");
    command
        .args(["--create", "--schedule-retry", "1s"])
        .args(arguments)
        .env("WALFS_SCHEDULE_LEASE", "6s")
        .env("WALFS_BACKUP_FAST", "true")
        .envs(settings.iter().copied());
    Agent::start(&mut command, &site.world.path().join(name))
}

/// Words of turns in the archive: `.claim.json`, `.done.json`.
fn words(site: &Site<'_>, job: &str, word: &str) -> Vec<String> {
    let keys = site.place.keys("schedule");
    let of_job = keys.into_iter().filter(|key| key.contains(&format!("{job}/")));
    let mut found: Vec<_> = of_job.filter(|key| key.ends_with(word)).collect();
    found.sort();
    found
}

fn complete(site: &Site<'_>) -> usize {
    let listed = site.list();
    listed.iter().filter(|one| one["state"] == "complete").count()
}

/// A script that keeps what a hook is told, a line each.
fn kept_by(path: &Path) -> String {
    format!("cat >> '{0}'; echo >> '{0}'", path.display())
}

fn told(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).expect("a hook gets JSON"))
        .collect()
}

#[test]
fn a2_the_first_backup_is_taken_at_once_and_the_next_when_it_is_due() {
    let world = World::new("agent");
    let site = Site::local(&world);
    let hooks = world.owned_dir("hooks");
    let (after, failed) = (hooks.join("after"), hooks.join("failed"));
    let archive = site.backup("by-hand");
    assert_eq!(archive["complete"], true);
    let discard = site
        .walfs("prune")
        .args(["--keep-last", "1", "--dry-run"])
        .output();
    assert!(discard.expect("run walfs").status.success());
    // With a backup there is nothing to be done at once: it waits.
    let agent = start(
        &site,
        "agent.log",
        &[],
        &[
            "--schedule-backup",
            "8s",
            "--schedule-verify",
            "8s",
            "--schedule-full-every",
            "2",
            "--hook-after",
            &kept_by(&after),
            "--hook-failed",
            &kept_by(&failed),
        ],
    );
    wait::until("three backups and two verifications", || {
        let done = |job| words(&site, job, ".done.json").len();
        let has_told = told(&after)
            .iter()
            .filter(|facts| facts["job"] == "backup")
            .count();
        (has_told >= 3 && done("verify") >= 2).then_some(())
    });
    let log = agent.stop();
    assert!(complete(&site) >= 4, "{log}");
    assert_eq!(told(&failed), Vec::<Value>::new(), "{log}");
    let told = told(&after);
    let backups: Vec<_> = told.iter().filter(|facts| facts["job"] == "backup").collect();
    assert!(backups.len() >= 3, "{told:?}");
    for facts in &backups {
        assert_eq!(facts["result"], "done", "{facts}");
        assert_eq!(facts["report"]["complete"], true, "{facts}");
    }
    // By hand full, then one that builds on it, then a full one.
    let base = |index: usize| backups[index]["report"]["base"].as_str();
    assert_eq!(
        (base(0), base(1).is_none(), base(2).is_some()),
        (Some("by-hand"), true, true)
    );
    // No run was done twice, nor left.
    let (claims, done) = (
        words(&site, "backup", ".claim.json"),
        words(&site, "backup", ".done.json"),
    );
    assert!(claims.iter().all(|claim| claim.contains(".0001.")), "{claims:?}");
    assert!(claims.len() - done.len() <= 1, "{claims:?} {done:?}");
}

/// Two hosts have the same schedule; one is frozen in the middle of a backup and wakes up when the other has done it.
fn frozen(world: &World, place: Place) {
    let site = Site::new(world, place);
    let hourly = ["--schedule-backup", "1h"];
    let slow = [("WALFS_BACKUP_RATE_LIMIT", "4MiB")];
    let frozen = start(&site, "frozen.log", &slow, &hourly);
    frozen.wait_for("backup: begins");
    wait::until("the backup to be begun", || {
        let keys = site.place.keys("trees");
        keys.iter().any(|key| key.ends_with("begun.json")).then_some(())
    });
    frozen.signal_all(libc::SIGSTOP);
    if complete(&site) > 0 {
        panic!("the backup was over before it was frozen");
    }
    let other = start(&site, "other.log", &[], &hourly);
    other.wait_for("backup: done");
    assert_eq!(complete(&site), 1);
    frozen.signal_all(libc::SIGCONT);
    frozen.wait_for("another host has taken the turn");
    let logs = (frozen.stop(), other.stop());
    assert_eq!(complete(&site), 1, "{logs:?}");
    // What the frozen one has stored is gone.
    let listed = site.list();
    assert_eq!(listed.len(), 1, "{listed:?} {logs:?}");
    let claims = words(&site, "backup", ".claim.json");
    assert_eq!(claims.len(), 2, "{claims:?}");
    assert!(claims[1].contains(".0002."), "{claims:?}");
    assert_eq!(words(&site, "backup", ".done.json").len(), 1);
}

#[test]
fn a2_a_frozen_host_loses_its_turn_and_makes_nothing_when_it_wakes_up() {
    let world = World::new("frozen");
    let place = Place::Local(world.archive());
    frozen(&world, place);
}

#[test]
fn a2_s3_a_frozen_host_loses_its_turn_and_makes_nothing_when_it_wakes_up() {
    frozen(&World::new("frozen-s3"), Place::S3(S3Server::start()));
}

/// Hours were missed while no agent ran: that is made up for once, by one of two that start then.
#[test]
fn a2_what_was_missed_is_done_once() {
    let world = World::new("missed");
    let site = Site::local(&world);
    site.backup("by-hand");
    let schedule = ["--schedule-backup", "1h"];
    let plan = world.archive().join("schedule/backup/plan.json");
    let agent = start(&site, "first.log", &[], &schedule);
    wait::until("the plan", || plan.exists().then_some(()));
    agent.stop();
    assert_eq!(words(&site, "backup", ".claim.json"), Vec::<String>::new());
    // It was scheduled long ago.
    let mut told: Value = serde_json::from_slice(&fs::read(&plan).expect("read the plan")).expect("JSON");
    told["since"] = "2026-01-01T00:00:00Z".into();
    fs::write(&plan, told.to_string()).expect("write the plan");
    let agents = [
        start(&site, "one.log", &[], &schedule),
        start(&site, "two.log", &[], &schedule),
    ];
    wait::until("a backup more", || (complete(&site) == 2).then_some(()));
    wait::until("its end", || {
        (!words(&site, "backup", ".done.json").is_empty()).then_some(())
    });
    let logs = agents.map(Agent::stop);
    // Unless an hour has begun just now.
    let claims = words(&site, "backup", ".claim.json");
    assert!(claims.len() <= 2, "{claims:?} {logs:?}");
    assert!(
        claims.iter().all(|claim| claim.contains(".0001.")),
        "{claims:?} {logs:?}"
    );
}

#[test]
fn a2_what_fails_is_tried_again_and_told() {
    let world = World::new("failing");
    let site = Site::local(&world);
    let hooks = world.owned_dir("hooks");
    let (after, failed, ready) = (hooks.join("after"), hooks.join("failed"), hooks.join("ready"));
    let agent = start(
        &site,
        "agent.log",
        &[],
        &[
            "--schedule-backup",
            "1h",
            "--hook-before",
            &format!(
                "test -e '{}' || {{ echo not ready >&2; exit 1; }}",
                ready.display()
            ),
            "--hook-after",
            &kept_by(&after),
            "--hook-failed",
            &kept_by(&failed),
        ],
    );
    wait::until("the first failure", || (!told(&failed).is_empty()).then_some(()));
    let status = site.walfs("status").output().expect("run walfs");
    let text = super::common::user::said(&status);
    assert_eq!(status.status.code(), Some(3), "{text}");
    assert!(
        text.contains("schedule   backup at \"1h\": not done yet"),
        "{text}"
    );
    assert!(
        text.contains("the scheduled backup has failed") && text.contains("not ready"),
        "{text}"
    );
    let first = &told(&failed)[0];
    assert_eq!(first["result"], "failed", "{first}");
    assert!(
        first["error"]
            .as_str()
            .is_some_and(|error| error.contains("not ready")),
        "{first}"
    );
    assert_eq!((&first["job"], &first["try"]), (&"backup".into(), &1.into()));
    fs::write(&ready, "").expect("write it");
    wait::until("the backup", || (!told(&after).is_empty()).then_some(()));
    let done = &told(&after)[0];
    assert_eq!(done["result"], "done", "{done}");
    assert!(done["try"].as_u64() >= Some(2), "{done}");
    agent.stop();
    assert_eq!(complete(&site), 1);
    let status = site.walfs("status").output().expect("run walfs");
    let text = super::common::user::said(&status);
    assert!(text.contains("schedule   backup at \"1h\": done"), "{text}");
    assert!(!text.contains("the scheduled backup"), "{text}");
    let metrics = site.walfs("status").arg("--metrics").output().expect("run walfs");
    let text = super::common::user::said(&metrics);
    for line in [
        "walfs_job_failed_tries{command=\"backup\"} 0",
        "walfs_job_overdue{command=\"backup\"} 0",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

/// A job ends with its agent, however that ends; and the backup is done by the next one.
#[test]
fn a2_a_killed_agent_leaves_no_job_behind() {
    let world = World::new("killed");
    let site = Site::local(&world);
    let slow = [("WALFS_BACKUP_RATE_LIMIT", "1MiB")];
    let begun = |log: &Agent| {
        log.wait_for("backup: begins");
        wait::until("backup mode", || (site.sessions() > 0).then_some(()));
    };
    let agent = start(&site, "killed.log", &slow, &["--schedule-backup", "1h"]);
    begun(&agent);
    agent.signal(libc::SIGKILL);
    wait::until("the end of backup mode", || (site.sessions() == 0).then_some(()));
    // Its process is seen to be gone: nobody waits for a lease.
    let agent = start(
        &site,
        "told.log",
        &slow,
        &["--schedule-backup", "1h", "--schedule-lease", "1h"],
    );
    begun(&agent);
    let log = agent.stop();
    assert_eq!(complete(&site), 0, "{log}");
    assert_eq!(site.sessions(), 0, "{log}");
    let agent = start(
        &site,
        "last.log",
        &[],
        &["--schedule-backup", "1h", "--schedule-lease", "1h"],
    );
    wait::until("the backup", || (complete(&site) == 1).then_some(()));
    agent.stop();
    assert_eq!(site.list().len(), 1);
}

/// A verification that finds something has done its work; it is not read again and again, and somebody is told.
#[test]
fn a2_what_a_verification_finds_is_told_once() {
    let world = World::new("found");
    let site = Site::local(&world);
    site.backup("monday");
    let hooks = world.owned_dir("hooks");
    let failed = hooks.join("failed");
    let keys = site.place.keys("trees");
    let part = keys.iter().find(|key| key.contains(".tar.")).expect("a part");
    let path = world.archive().join(part);
    let mut content = fs::read(&path).expect("read a part");
    let middle = content.len() / 2;
    content[middle] ^= 0xff;
    fs::write(&path, content).expect("damage it");
    let schedule = ["--schedule-verify", "4s", "--hook-failed", &kept_by(&failed)];
    let agent = start(&site, "agent.log", &[], &schedule);
    wait::until("it to be told", || (!told(&failed).is_empty()).then_some(()));
    let log = agent.stop();
    let told = told(&failed);
    assert_eq!(told[0]["result"], "trouble", "{log}");
    assert_eq!(told[0]["report"]["is_sound"], false, "{log}");
    let done = words(&site, "verify", ".done.json").len();
    assert!(
        told.len() <= done + 1 && told.iter().all(|facts| facts["try"] == 1),
        "{told:?}"
    );
}

/// What an operator would only notice at night is refused at once.
#[test]
fn a2_a_schedule_that_cannot_work_is_refused() {
    let world = World::new("refused");
    let site = Site::local(&world);
    for (arguments, word) in [
        (&["--schedule-backup", "0 0 3 * * *"][..], "five"),
        (&["--schedule-backup", "0 3 31 2 *"], "never"),
        (&["--schedule-prune", "@daily"], "keep-last"),
        (&["--schedule-copy", "@daily"], "copy-to"),
        (&[], "schedule"),
    ] {
        let output = site.walfs("agent").args(arguments).output().expect("run walfs");
        let text = super::common::user::said(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

/// Dumps are a job as others are: all databases, once for all hosts, and each is a version.
#[test]
fn a2_databases_are_dumped_by_a_schedule() {
    let world = World::new("dumping");
    let site = Site::local(&world);
    let sockets = world.path().join("pg").display().to_string();
    let bin = super::common::postgres::newest().bin.display().to_string();
    let settings = [
        ("PGHOST", sockets.as_str()),
        ("PGUSER", "postgres"),
        ("WALFS_BIN_DIR", &bin),
    ];
    let agents = ["one.log", "two.log"].map(|log| start(&site, log, &settings, &["--schedule-dump", "10s"]));
    let listed = || {
        let output = site.walfs("dump-list").arg("--json").output().expect("run walfs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    wait::until("the dumps", || (listed().lines().count() == 3).then_some(()));
    wait::until("its end", || {
        (!words(&site, "dump", ".done.json").is_empty()).then_some(())
    });
    let logs = agents.map(Agent::stop);
    // Nothing has changed since: three names, of which each has one version.
    let names = ["globals", "postgres", "template1"];
    for name in names {
        assert_eq!(
            listed().matches(&format!("\"name\":\"{name}\"")).count(),
            1,
            "{logs:?}"
        );
    }
    let claims = words(&site, "dump", ".claim.json");
    assert!(
        claims.iter().all(|claim| claim.contains(".0001.")),
        "{claims:?} {logs:?}"
    );
    let status = site.walfs("status").output().expect("run walfs");
    let text = super::common::user::said(&status);
    assert!(text.contains("schedule   dump at \"10s\""), "{text}");
}

/// A2: files are of a host, which has turns of its own; each of its directories is stored under its name.
#[test]
fn a2_files_are_stored_by_a_schedule_on_the_host_that_has_them() {
    let world = World::new("storing");
    let site = Site::local(&world);
    let directories = ["one", "two"].map(|name| {
        let directory = world.owned_dir(name);
        fs::write(directory.join("file"), name).expect("write a file");
        format!("{name}={}", directory.display())
    });
    let none = site
        .walfs("agent")
        .args(["--create", "--schedule-files", "10s"])
        .output()
        .expect("run walfs");
    let words_of = super::common::user::said(&none);
    assert!(
        none.status.code() == Some(2) && words_of.contains("files-directories"),
        "{words_of}"
    );
    let (directories, missing) = (directories.join(","), world.path().join("missing"));
    let all = format!("{directories},gone={}", missing.display());
    let settings = [("WALFS_FILES_DIRECTORIES", all.as_str())];
    let agent = start(&site, "files.log", &settings, &["--schedule-files", "10s"]);
    let listed = || {
        let output = site
            .walfs("files-list")
            .arg("--json")
            .output()
            .expect("run walfs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // One that is not there keeps no other.
    wait::until("the files", || (listed().lines().count() == 2).then_some(()));
    agent.wait_for("cannot store gone");
    let status = site.walfs("status").output().expect("run walfs");
    let told = super::common::user::said(&status);
    assert!(
        told.contains("the scheduled files of") && told.contains("missing"),
        "{told}"
    );
    User::postgres().make_dir(&missing);
    wait::until("its end", || {
        let keys = site.place.keys("schedule");
        let done = keys.iter().filter(|key| key.ends_with(".done.json"));
        let mut of_files = done.filter(|key| key.starts_with("schedule/files@"));
        of_files.next().map(drop)
    });
    let log = agent.stop();
    // Nothing has changed since in the others.
    for name in ["one", "two", "gone"] {
        assert_eq!(
            listed().matches(&format!("\"name\":\"{name}\"")).count(),
            1,
            "{log}"
        );
    }
}

/// A host that cannot do the job does not keep it from one that can.
#[test]
fn a2_a_host_that_fails_lets_another_try() {
    let world = World::new("fails");
    let site = Site::local(&world);
    let schedule = ["--schedule-backup", "1h"];
    let mut broken = site.walfs("agent");
    broken
        .args(["--create", "--schedule-retry", "1h"])
        .args(schedule)
        .env("WALFS_SCHEDULE_LEASE", "6s")
        .env("PGPORT", "1");
    let broken = Agent::start(&mut broken, &world.path().join("broken.log"));
    broken.wait_for("backup: failed");
    let healthy = start(&site, "healthy.log", &[], &schedule);
    wait::until("the backup", || (complete(&site) == 1).then_some(()));
    healthy.stop();
    broken.stop();
}

/// What a host with a clock that was ahead has said holds up nobody.
#[test]
fn a2_a_clock_that_was_ahead_holds_up_nobody() {
    let world = World::new("ahead");
    let site = Site::local(&world);
    let schedule = ["--schedule-backup", "1h"];
    let agent = start(&site, "first.log", &[], &schedule);
    wait::until("the backup", || {
        (words(&site, "backup", ".done.json").len() == 1).then_some(())
    });
    agent.stop();
    let folder = world.archive().join("schedule/backup");
    for word in [".claim.json", ".done.json"] {
        let own = words(&site, "backup", word).remove(0);
        let ahead = folder.join(format!("20991130T030000Z.0001{word}"));
        fs::copy(world.archive().join(own), &ahead).expect("copy a word");
    }
    let plan = folder.join("plan.json");
    let mut told: Value = serde_json::from_slice(&fs::read(&plan).expect("read the plan")).expect("JSON");
    told["since"] = "2026-01-01T00:00:00Z".into();
    fs::write(&plan, told.to_string()).expect("write the plan");
    // The run of this hour is done: nothing is missed. One of an earlier hour would be.
    for word in [".claim.json", ".alive.json", ".done.json"] {
        for own in words(&site, "backup", word) {
            if !own.contains("2099") {
                fs::remove_file(world.archive().join(own)).expect("forget it");
            }
        }
    }
    let agent = start(&site, "second.log", &[], &schedule);
    wait::until("a backup more", || (complete(&site) == 2).then_some(()));
    agent.stop();
}

/// A hook may say what it likes, and sleep: it costs no memory, and the agent ends when it is told to.
#[test]
fn s3_a_hook_that_floods_or_sleeps_is_bounded() {
    let world = World::new("hooks");
    let site = Site::local(&world);
    let told = world.owned_dir("told").join("failed");
    let flood = "timeout 2 yes >&2; printf 'its \\0 end' >&2; exit 1";
    let mut hooks = vec!["--schedule-backup", "1h", "--hook-before", flood];
    let failed = kept_by(&told);
    hooks.extend(["--hook-failed", &failed]);
    let agent = start(&site, "flood.log", &[], &hooks);
    wait::until("it to be told", || told.exists().then_some(()));
    let peak = super::common::walfs::peak_memory_mib(agent.id());
    assert!(peak.is_some_and(|peak| peak < 200), "{peak:?} MiB");
    agent.stop();
    let sleep = ["--schedule-backup", "1h", "--hook-before", "sleep 900"];
    let agent = start(&site, "sleep.log", &[], &sleep);
    wait::until("the turn", || {
        (!words(&site, "backup", ".claim.json").is_empty()).then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    agent.stop();
    // One that leaves something running has ended all the same.
    let leaves = [
        "--schedule-backup",
        "1h",
        "--hook-before",
        "sleep 60 >/dev/null & exit 0",
    ];
    let agent = start(&site, "leaves.log", &[], &leaves);
    wait::until("the backup", || (complete(&site) == 1).then_some(()));
    agent.stop();
}

/// The mount of an agent is there again when its process has died, and goes with the agent.
#[test]
fn a1_the_mount_of_an_agent_is_made_again() {
    let world = World::new("mounts");
    let mut command = User::caller().command(BINARY);
    command
        .args(["agent", "--create", "--archive"])
        .arg(world.archive())
        .arg("--mountpoint")
        .arg(world.mountpoint());
    if is_root() {
        command.env("WALFS_USER", &User::postgres().name);
    }
    let agent = Agent::start(&mut command, &world.path().join("agent.log"));
    let user = User::postgres();
    let answers = || {
        let listed = user.command("ls").arg(world.mountpoint().join("wal")).output();
        listed.expect("run ls").status.success().then_some(())
    };
    wait::until("the mount", answers);
    // Each thread has children of its own.
    let threads = fs::read_dir(format!("/proc/{}/task", agent.id())).expect("its threads");
    let children = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let children = children.collect::<String>();
    let mount = children
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok());
    send(mount.expect("a mount"), libc::SIGKILL);
    agent.wait_for("starting it again");
    wait::until("the mount again", answers);
    agent.stop();
    assert_eq!(mounts_beneath(world.path()), Vec::<PathBuf>::new());
}
