//! What is kept, what is left out and named, what is refused.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::rig::Rig;
use crate::common::basebackup::Place;
use crate::common::s3::S3Server;
use crate::common::user::said;
use crate::common::world::World;

/// Everything that a directory can hold and that is kept.
fn fill(rig: &Rig) {
    rig.change(
        "mkdir -p deep/er closed && chmod 700 closed && echo one > deep/er/one && : > deep/empty && \
         printf two > closed/two && chmod 4751 closed/two && \
         ln -s one deep/er/link && ln -s /nowhere/at/all dangling && ln -s /etc outside && \
         truncate -s 50M sparse && echo end >> sparse && echo odd > \"$(printf 'od\\377d')\" && \
         touch -d '2001-02-03 04:05:06' deep/er/one && touch -h -d '1967-02-03 04:05:06.7' dangling && \
         chmod 555 deep/er && touch -d '2003-02-03 04:05:06' deep/er deep",
    );
    rig.noise("noise", 3 << 20, 1);
    rig.noise("large", 40 << 20, 2);
}

fn a_version_comes_back_whole_and_what_is_unchanged_costs_nothing(rig: &Rig) {
    fill(rig);
    let first = rig.store("etc");
    assert_eq!((&first["unchanged"], &first["base"]), (&false.into(), &().into()));
    let whole = rig.told(&rig.source);
    assert_eq!(rig.told(&rig.restore("etc")), whole);

    // Nothing has changed: nothing is stored, and it is said.
    let before = rig.stored_bytes();
    let again = rig.store("etc");
    assert_eq!(
        (&again["unchanged"], &again["version"]),
        (&true.into(), &first["version"])
    );
    assert_eq!(rig.stored_bytes(), before);
    let said = rig.run("files", &["-v", "etc", &rig.source.display().to_string()]);
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    let unchanged = format!(
        "unchanged since {}",
        first["version"].as_str().expect("a version")
    );
    assert!(text.contains(&unchanged), "{text}");

    // One byte has: little is stored, and both versions are whole.
    rig.change("printf X | dd of=large bs=1 seek=20000000 conv=notrunc status=none");
    let second = rig.store("etc");
    let stored = second["stored_bytes"].as_u64().expect("bytes");
    assert!(
        stored < 100_000,
        "{stored} bytes were stored for one that has changed"
    );
    assert_eq!(second["base"], first["version"]);
    assert_eq!(rig.told(&rig.restore("etc")), rig.told(&rig.source));
    let earlier = format!("etc/{}", first["version"].as_str().expect("a version"));
    assert_eq!(rig.told(&rig.restore(&earlier)), whole);

    // So has a mode, and a name.
    for change in [
        "chmod 600 noise",
        "mv noise louder",
        "rm -r closed",
        "ln -sf two dangling",
    ] {
        rig.change(change);
        assert_eq!(rig.store("etc")["unchanged"], false, "{change}");
        assert_eq!(rig.told(&rig.restore("etc")), rig.told(&rig.source), "{change}");
    }
    assert_eq!(rig.versions("etc").len(), 6);
    rig.succeeds("verify", &[]);
}

#[test]
fn a5_a_version_comes_back_whole_and_what_is_unchanged_costs_nothing() {
    let rig = Rig::local("files");
    a_version_comes_back_whole_and_what_is_unchanged_costs_nothing(&rig);
    // A hole comes back as one.
    let restored = rig.restore("etc");
    let used = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(restored.join("sparse")).expect("look"));
    assert!(used * 512 < 1 << 20, "{used} blocks");
}

#[test]
fn a5_a_version_in_s3_comes_back_whole_and_what_is_unchanged_costs_nothing() {
    let rig = Rig::new(World::new("files-s3"), Place::S3(S3Server::start()));
    a_version_comes_back_whole_and_what_is_unchanged_costs_nothing(&rig);
}

#[test]
fn a5_what_is_not_kept_is_named() {
    let rig = Rig::local("files-left");
    rig.change("mkfifo fifo && echo x > one && ln one two && echo y > attributed");
    let _socket = UnixListener::bind(rig.source.join("socket")).expect("a socket");
    let attributed = rig.user.shell(
        "setfattr -n user.walfs -v 1 \"$1\"",
        &[&rig.source.join("attributed")],
    );
    let told = rig.store("etc");
    let named = |what: &str| {
        let named = &told["left_out"][what];
        (
            named["count"].as_u64().expect("a count"),
            named["first"].to_string(),
        )
    };
    assert_eq!(named("special"), (2, r#"["fifo","socket"]"#.into()));
    assert_eq!(named("hard_links"), (2, r#"["one","two"]"#.into()));
    if attributed.status.success() {
        assert_eq!(named("attributes"), (1, r#"["attributed"]"#.into()));
    }
    let restored = rig.restore("etc");
    let names = rig.user.shell("ls \"$1\"", &[&restored]);
    assert_eq!(String::from_utf8_lossy(&names.stdout), "attributed\none\ntwo\n");
}

#[test]
fn s6_links_are_stored_and_never_followed() {
    let rig = Rig::local("files-links");
    let secret = rig.world.owned_dir("secret");
    fs::write(secret.join("key"), "secret").expect("write");
    symlink(&secret, rig.source.join("way")).expect("a link");
    let told = rig.store("etc");
    assert_eq!(told["summary"]["files"], 0);
    let restored = rig.restore("etc");
    assert_eq!(fs::read_link(restored.join("way")).expect("a link"), secret);
    // Nor where it is restored to: what is there is in the way, whatever it is.
    let over = rig.world.owned_dir("over");
    symlink(&secret, over.join("way")).expect("a link");
    let refused = rig.run("files-restore", &["etc", &over.display().to_string()]);
    assert!(!refused.status.success());
    assert!(said(&refused).contains("is not empty"), "{}", said(&refused));
    assert_eq!(fs::read_dir(&secret).expect("list").count(), 1);
}

#[test]
fn s7_an_archive_is_not_stored_in_itself() {
    let rig = Rig::local("files-self");
    rig.store("first");
    for directory in [rig.world.path().to_owned(), rig.world.archive().join("trees")] {
        let refused = rig.run("files", &["all", &directory.display().to_string()]);
        assert!(!refused.status.success());
        assert!(
            said(&refused).contains("would store itself"),
            "{}",
            said(&refused)
        );
    }
    assert_eq!(rig.versions("all"), Vec::<String>::new());
}

#[test]
fn b9_what_changes_while_it_is_read_is_read_again_or_named() {
    let rig = Rig::local("files-busy");
    rig.noise("quiet", 1 << 20, 1);
    rig.noise("busy", 64 << 20, 2);
    let stop = Arc::new(AtomicBool::new(false));
    let (path, stopped) = (rig.source.join("busy"), stop.clone());
    let writer = thread::spawn(move || {
        let mut file = fs::OpenOptions::new().append(true).open(path).expect("open");
        while !stopped.load(Ordering::Relaxed) {
            file.write_all(b"more").expect("write");
            thread::sleep(Duration::from_millis(1));
        }
    });
    let output = rig.run("files", &["etc", &rig.source.display().to_string()]);
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("busy") && !said(&output).contains("quiet"),
        "{}",
        said(&output)
    );
    // Once it is quiet all is as it is.
    assert_eq!(rig.store("etc")["unsteady"].as_array().map(Vec::len), Some(0));
    assert_eq!(rig.told(&rig.restore("etc")), rig.told(&rig.source));
}

#[test]
fn s6_a_restore_changes_nothing_before_it_may() {
    let rig = Rig::local("files-dry");
    rig.noise("one", 1000, 1);
    rig.store("etc");
    let to = rig.world.owned_dir("to").join("new");
    let told = rig.succeeds("files-restore", &["--dry-run", "etc", &to.display().to_string()]);
    assert!(told.contains("would restore") && !to.exists(), "{told}");
    rig.succeeds("files-restore", &["etc", &to.display().to_string()]);
    assert_eq!(rig.told(&to), rig.told(&rig.source));
    let missing = rig.run(
        "files-restore",
        &["etc/2001-01-01T000000Z", &to.display().to_string()],
    );
    assert!(said(&missing).contains("files-list"), "{}", said(&missing));
}
