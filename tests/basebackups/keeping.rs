//! Done stays done, and what is not done is not thrown away (promise B9).

use std::path::Path;
use std::process::Output;

use super::mounted::Site;
use crate::common::user::said;

/// B9: "What a tool was told is finished (exit 0) is complete, under the path it used, or the tool was told otherwise."
#[test]
fn b9_a_backup_in_a_deeper_folder_is_refused() {
    let site = Site::local("deeper");
    let deep = site.backup("host1/monday");
    let target = format!("--target=server:{}", deep.display());
    let mut ways = vec![
        vec!["-Xfetch"],
        vec!["-Xfetch", "--no-manifest", "--no-sync"],
        vec!["-Ft", "-Xfetch"],
        vec!["-Ft", "-Xfetch", "-z", "--no-manifest", "--no-sync"],
    ];
    if site.server.version.major >= 15 {
        ways.push(vec![&target, "-Xfetch"]);
    }
    site.shell("mkdir \"$1\"", &[&site.backup("host1")]);
    for arguments in ways {
        let by_server = arguments.contains(&target.as_str());
        let output = if by_server {
            let mut command = site.server.program("pg_basebackup");
            command
                .args(["-c", "fast"])
                .args(&arguments)
                .output()
                .expect("run pg_basebackup")
        } else {
            site.run_backup(&deep, &arguments)
        };
        assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
        site.shell("rm -rf \"$1\"", &[&deep]);
    }
    let log = site.mount.log();
    assert!(log.contains("basebackups/host1-monday"), "{log}");
    let source = site.local_backup();
    let copied = site.mount.user().shell("cp -a \"$1\" \"$2\"", &[&source, &deep]);
    assert!(!copied.status.success(), "{}", said(&copied));
    site.shell("rm -r \"$1\" && test ! -e \"$1\"", &[&site.backup("host1")]);
    // In a backup a folder may hold anything: somebody keeps an old label there.
    let directory = site.backup("flat");
    site.shell(
        "cp -a \"$1\" \"$2\" && mkdir \"$2\"/kept && cp \"$2\"/backup_label \"$2\"/kept/",
        &[&source, &directory],
    );
}

/// B9: "Nothing that may be somebody's only copy is swept without the operator's word."
#[test]
fn b9_what_was_brought_is_kept_until_the_operator_says_otherwise() {
    let mut site = Site::local("kept");
    // Nothing can tell it: it asks for nothing at its end.
    site.take("only", &["-Xfetch", "--no-manifest", "--no-sync"]);
    let running = discard(&site, "only", &[]);
    assert_eq!(running.status.code(), Some(1), "{}", said(&running));
    assert!(said(&running).contains("is at it"), "{}", said(&running));
    for round in 0..2 {
        if round == 0 {
            site.mount.kill9();
        }
        site.mount.restart();
        assert_eq!(backup(&site, &format!("direct-{round}")).status.code(), Some(0));
        let listed = site.listed("only");
        assert_eq!(listed["state"], "incomplete", "{listed}");
        assert_eq!(listed["maker"]["state"], "abandoned", "{listed}");
        assert!(
            listed["maker"]["stored_bytes"].as_u64() > Some(1 << 20),
            "{listed}"
        );
    }
    let plan = discard(&site, "only", &["--dry-run"]);
    assert!(plan.status.success(), "{}", said(&plan));
    assert_eq!(
        site.listed("only")["state"],
        "incomplete",
        "a plan changes nothing"
    );
    let done = discard(&site, "only", &[]);
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success() && told.contains("removed only."),
        "{told}{}",
        said(&done)
    );
    let left = site.shell("ls \"$1\"", &[&site.world.archive().join("trees")]);
    assert!(
        !String::from_utf8_lossy(&left.stdout).contains("only."),
        "{}",
        said(&left)
    );
    for name in ["only", "direct-0"] {
        let none = discard(&site, name, &[]);
        assert_eq!(none.status.code(), Some(1), "{}", said(&none));
    }
    site.assert_listed_complete("direct-1");
}

fn discard(site: &Site, name: &str, arguments: &[&str]) -> Output {
    let mut discard = site.mount.command(&site.world, "backup-discard");
    discard.args(arguments).arg(name).output().expect("run walfs")
}

fn backup(site: &Site, name: &str) -> Output {
    let mut backup = site.mount.command(&site.world, "backup");
    let sockets: &Path = &site.world.path().join("pg");
    backup
        .env("PGHOST", sockets)
        .env("PGUSER", "postgres")
        .args(["--fast", name])
        .output()
        .expect("run walfs")
}
