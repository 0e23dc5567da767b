//! Backups written through the mount that are not what their own manifest says (promise B2, B4).

use super::mounted::{Site, directory_has, on_s3};
use crate::common::postgres::send;
use crate::common::s3::{Operation, S3Server};
use crate::common::user::said;
use crate::common::wait;

/// B4: a backup that is complete passes `pg_verifybackup`. Other bytes in files of the right length are found, in one
/// that is in many parts and in one that is in a bundle; with the right ones put back, it becomes complete.
#[test]
fn b4_what_is_not_as_the_manifest_says_is_refused() {
    let site = Site::local("other");
    let large = site
        .server
        .query("SELECT pg_relation_filepath('pgbench_accounts')");
    let small = site.server.query("SELECT pg_relation_filepath('pg_proc')");
    for (name, algorithm, paths) in [
        ("crc", "CRC32C", [&large]),
        ("bundled", "CRC32C", [&small]),
        ("sha", "SHA256", [&large]),
        ("bundled-sha", "SHA512", [&small]),
    ] {
        refuse_other_bytes(&site, name, algorithm, paths[0]);
    }
}

#[test]
fn b4_what_is_not_as_the_manifest_says_is_refused_in_s3() {
    let store = S3Server::start();
    let site = Site::new("other-s3", |world| on_s3(&store, world));
    let large = site
        .server
        .query("SELECT pg_relation_filepath('pgbench_accounts')");
    refuse_other_bytes(&site, "crc", "CRC32C", &large);
    refuse_other_bytes(&site, "sha", "SHA256", &large);
}

fn refuse_other_bytes(site: &Site, name: &str, algorithm: &str, path: &str) {
    let source = site.world.owned_dir(&format!("local-{name}"));
    let taken = site.run_backup(
        &source,
        &["-Xfetch", &format!("--manifest-checksums={algorithm}")],
    );
    assert!(taken.status.success(), "{}", said(&taken));
    let (directory, before) = (site.backup(name), site.latest());
    site.shell("rsync -a \"$1\"/ \"$2\"/", &[&source, &directory]);
    let (right, wrong) = (source.join(path), directory.join(path));
    let line = "n=$(stat -c %s \"$1\") && printf walf | dd of=\"$1\" bs=1 seek=$((n / 2)) conv=notrunc";
    site.shell(line, &[&wrong]);
    site.sync_fails(&directory);
    let listed = site.listed(name);
    assert_eq!(listed["state"], "incomplete", "{listed}");
    let reason = listed["maker"]["refused"]["reason"].as_str().unwrap_or_default();
    for what in [algorithm, path, "HINT"] {
        assert!(
            reason.contains(what) && site.mount.log().contains(what),
            "{what}: {listed}"
        );
    }
    assert_eq!(site.latest(), before);
    site.shell(
        "cat \"$1\" > \"$2\" && sync \"$3\"",
        &[&right, &wrong, &directory],
    );
    site.assert_listed_complete(name);
    site.verify(&directory);
    site.shell("diff -r \"$1\" \"$2\"", &[&source, &directory]);
}

/// Whoever completes a backup waits for the comparison. A CRC-32C needs no byte of the files again: only the label and
/// `pg_control` are read, out of what has been sent.
#[test]
fn b4_a_crc_is_compared_without_reading() {
    let store = S3Server::start();
    let site = Site::new("unread", |world| on_s3(&store, world));
    let parts_read =
        || store.count(|request| request.operation == Operation::Get && request.key.contains(".tar."));
    site.take("crc", &["-Xnone"]);
    let few = parts_read();
    site.take("sha", &["-Xnone", "--manifest-checksums=SHA256"]);
    let many = parts_read() - few;
    assert!(few <= 8 && many > 2 * few, "{few} and {many} requests");
}

/// A file that PostgreSQL did not put there would make `pg_verifybackup` complain for ever; with it gone, it is a backup.
#[test]
fn b4_a_file_that_the_manifest_does_not_list_is_refused() {
    let site = Site::local("unlisted");
    let source = site.world.owned_dir("local");
    let taken = site.run_backup(&source, &["-Xfetch"]);
    assert!(taken.status.success(), "{}", said(&taken));
    let directory = site.backup("x");
    let note = directory.join("base/notes.txt");
    let line = "rsync -a \"$1\"/ \"$2\"/ && echo mine > \"$3\"";
    site.shell(line, &[&source, &directory, &note]);
    site.sync_fails(&directory);
    let listed = site.listed("x");
    assert_eq!(listed["state"], "incomplete", "{listed}");
    let reason = listed["maker"]["refused"]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("base/notes.txt is there") && reason.contains("HINT"),
        "{listed}"
    );
    site.shell("rm \"$1\" && sync \"$2\"", &[&note, &directory]);
    site.assert_listed_complete("x");
    site.verify(&directory);
}

/// What the manifest lists is inside of the tar files then.
#[test]
fn b4_tar_files_are_looked_into() {
    let site = Site::local("tarred");
    let source = site.world.owned_dir("local");
    let taken = site.run_backup(&source, &["-Ft", "-Xfetch"]);
    assert!(taken.status.success(), "{}", said(&taken));
    let directory = site.backup("x");
    let line = "mkdir \"$2\" && cp \"$1\"/* \"$2\" && n=$(stat -c %s \"$2\"/base.tar) && \
                printf walf | dd of=\"$2\"/base.tar bs=1 seek=$((n / 2)) conv=notrunc";
    site.shell(line, &[&source, &directory]);
    site.sync_fails(&directory);
    assert_eq!(site.listed("x")["state"], "incomplete");
    assert!(site.mount.log().contains("for base/"), "{}", site.mount.log());
    site.shell(
        "cat \"$1\"/base.tar > \"$2\"/base.tar && sync \"$2\"",
        &[&source, &directory],
    );
    site.assert_listed_complete("x");
}

/// Its rename of the manifest says that all is there: so it fails, and the manifest keeps its temporary name.
#[test]
fn b4_pg_basebackup_fails_where_other_bytes_have_come() {
    let site = Site::local("during");
    let directory = site.backup("x");
    let child = site.start_backup(&directory, &["-Xfetch", "--max-rate=4M"]);
    wait::until("the copy to have begun", || {
        directory_has(&site, &directory, "base/1/1259")
    });
    // As a bad disk would: PG_VERSION of this database comes at the end of its directory.
    wait::until("a file to be there", || {
        directory_has(&site, &directory, "base/1/PG_VERSION")
    });
    send(child.id(), libc::SIGSTOP);
    site.shell(
        "printf X | dd of=\"$1\" bs=1 conv=notrunc",
        &[&directory.join("base/1/1259")],
    );
    send(child.id(), libc::SIGCONT);
    let failed = child.wait_with_output().expect("wait for pg_basebackup");
    assert!(
        !failed.status.success() && said(&failed).contains("backup_manifest"),
        "{}",
        said(&failed)
    );
    assert!(
        site.mount.log().contains("for base/1/1259"),
        "{}",
        site.mount.log()
    );
    assert_eq!(site.latest(), None);
    assert!(site.summary("x").is_none());
}
