//! `walfs restore` and links (promise S6, E5): whatever an archive says, and whatever an old data directory has, nothing is
//! written, changed or removed but below the directories that the operator named.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tokio::runtime::Runtime;
use walfs::archive::tree::summary::{Backup, Shape, Summary, Tablespace};
use walfs::archive::{self, Archive};
use walfs::store::{self, Location, Patience};

use crate::common::basebackup::Site;
use crate::common::below::LONG;
use crate::common::packed;
use crate::common::user::{User, said};
use crate::common::walfs::walfs;
use crate::common::world::World;

/// Content, mode, owner and time of everything below a directory.
pub(super) fn seen(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).expect("look at a file");
        let content = if meta.is_dir() {
            let names = fs::read_dir(&path).expect("list a directory");
            left.extend(names.map(|name| name.expect("a name").path()));
            String::new()
        } else if meta.is_symlink() {
            fs::read_link(&path).expect("read a link").display().to_string()
        } else {
            blake3::hash(&fs::read(&path).expect("read a file")).to_string()
        };
        let (mode, owner, time) = (meta.mode(), meta.uid(), (meta.mtime(), meta.mtime_nsec()));
        found.insert(path, format!("{mode:o} {owner} {time:?} {content}"));
    }
    found
}

/// A real backup as files, and a directory of somebody else's that no restore may touch.
struct Forge<'a> {
    site: Site<'a>,
    /// The backup's files.
    good: PathBuf,
    outside: PathBuf,
    described: Backup,
    archive: Archive,
    runtime: Runtime,
}

impl<'a> Forge<'a> {
    fn new(world: &'a World) -> Self {
        let site = Site::local(world);
        let taken = site.backup("monday");
        let described = serde_json::from_value(taken["backup"].clone()).expect("what a backup is");
        let good = site.unpack(&taken, &world.path().join("unpacked"));
        let outside = world.path().join("outside");
        for directory in ["full/5", "empty"] {
            fs::create_dir_all(outside.join(directory)).expect("make a directory");
        }
        for file in ["precious", "full/5/1259", "full/1262", "full/pg_control"] {
            fs::write(outside.join(file), format!("precious {file}")).expect("write a file");
        }
        let runtime = Runtime::new().expect("a runtime");
        let archive = runtime.block_on(open(world));
        Self {
            site,
            good,
            outside,
            described,
            archive,
            runtime,
        }
    }

    fn world(&self) -> &World {
        self.site.world
    }

    /// Stores a directory as a backup.
    fn pack(&self, name: &str, directory: &Path, backup: Backup) {
        self.runtime
            .block_on(packed::pack(&self.archive, name, directory, backup));
    }

    /// The files of the backup, with something in the place of one of them.
    fn changed(&self, name: &str, change: impl FnOnce(&Path)) -> PathBuf {
        let copy = self.world().path().join(format!("forged-{name}"));
        let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[&self.good, &copy]);
        assert!(copied.status.success(), "{}", said(&copied));
        change(&copy);
        copy
    }

    /// `walfs restore NAME DIR` by whoever runs the tests: root, where it hurts most.
    fn restore(&self, name: &str, data: &Path, arguments: &[&str]) -> Output {
        let mut restore = walfs(self.world(), &User::caller());
        restore
            .args(["restore", "--no-archiving", "--no-sync", "--json"])
            .arg("--archive")
            .arg(self.world().archive())
            .args(arguments)
            .arg(name)
            .arg(data);
        restore.output().expect("run walfs")
    }

    /// A restore that leaves everything outside of its directory as it was.
    #[track_caller]
    fn restore_beside(&self, name: &str, data: &Path, arguments: &[&str]) -> Output {
        let before = seen(&self.outside);
        let output = self.restore(name, data, arguments);
        assert_eq!(seen(&self.outside), before, "{name}: {}", said(&output));
        output
    }
}

async fn open(world: &World) -> Archive {
    let store = store::open(&Location::Dir(world.archive()), &store::Options::default()).await;
    let options = archive::Options::default();
    let archive = Archive::open(
        store.expect("open the store"),
        &options,
        Patience::for_at_most(LONG),
    );
    archive.await.expect("open the archive")
}

#[track_caller]
pub(super) fn assert_refused(output: &Output, texts: &[&str]) {
    let message = said(output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("HINT: "), "{message}");
    assert!(
        texts.iter().all(|text| message.contains(text)),
        "{texts:?}: {message}"
    );
}

fn put_link(at: &Path, to: &Path) {
    match fs::symlink_metadata(at).map(|found| found.is_dir()) {
        Ok(true) => fs::remove_dir_all(at).expect("remove a directory"),
        Ok(false) => fs::remove_file(at).expect("remove a file"),
        Err(_) => {}
    }
    symlink(to, at).expect("make a link");
}

/// Each of these was followed: settings, maps and WAL were written through it.
#[test]
fn s6_links_in_a_backup_are_never_followed() {
    let world = World::new("links");
    let forge = Forge::new(&world);
    let (file, full) = (forge.outside.join("precious"), forge.outside.join("full"));
    let empty = forge.outside.join("empty");
    // Refused before anything is touched: what the links lead to is not in the backup.
    for (case, (path, to)) in [
        ("global", &full),
        ("base", &full),
        ("base/1", &full),
        ("pg_tblspc", &empty),
        ("pg_tblspc/16400", &empty),
        ("pg_xact", &full),
        ("tablespace_map", &file),
        ("backup_label", &file),
        ("global/pg_control", &file),
        ("walfs-restore.json", &file),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("refused-{case}");
        let forged = forge.changed(&name, |copy| put_link(&copy.join(path), to));
        forge.pack(&name, &forged, forge.described.clone());
        let data = world.path().join("back-refused");
        let output = forge.restore_beside(&name, &data, &[]);
        assert_refused(&output, &[path]);
        assert!(!data.exists(), "{path}");
        fs::remove_dir_all(forged).expect("remove the copy");
    }
    // Restored, with something real in the place of the link, and said.
    let links = [
        ("pg_wal", &empty),
        ("pg_replslot", &full),
        ("postgresql.auto.conf", &file),
        ("recovery.signal", &file),
        ("standby.signal", &file),
    ];
    let forged = forge.changed("real", |copy| {
        for (path, to) in links {
            put_link(&copy.join(path), to);
        }
        // One that no restore has to do with.
        put_link(&copy.join("pg_hba.conf"), &file);
    });
    forge.pack("real", &forged, forge.described.clone());
    let data = world.path().join("back-real");
    let output = forge.restore_beside(
        "real",
        &data,
        &["--owner", &User::postgres().name][..owner_words()],
    );
    assert!(output.status.success(), "{}", said(&output));
    for (path, _) in links {
        let found = fs::symlink_metadata(data.join(path));
        assert!(!found.is_ok_and(|found| found.is_symlink()), "{path}");
    }
    assert!(data.join("pg_wal").is_dir() && data.join("postgresql.auto.conf").is_file());
    assert!(
        said(&output).contains("warning: pg_wal is a link"),
        "{}",
        said(&output)
    );
    assert_eq!(fs::read_link(data.join("pg_hba.conf")).expect("the link"), file);
}

/// Only root names an owner.
pub(super) fn owner_words() -> usize {
    if crate::common::user::is_root() { 2 } else { 0 }
}

/// A directory that a restore is made over may have links as well.
#[test]
fn s6_links_in_an_old_directory_are_never_followed() {
    let world = World::new("oldlinks");
    let forge = Forge::new(&world);
    let outside = &forge.outside;
    let data = world.path().join("back");
    let output = forge.restore("monday", &data, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let right = seen(&data);
    for (path, to) in [
        ("postgresql.auto.conf", "precious"),
        ("backup_manifest", "precious"),
        ("base/1", "full"),
        ("pg_xact", "full"),
        ("pg_tblspc", "empty"),
        ("recovery.signal", "precious"),
        ("pg_wal/archive_status", "empty"),
    ] {
        put_link(&data.join(path), &outside.join(to));
    }
    fs::hard_link(outside.join("precious"), data.join("PG_VERSION.new")).expect("a second name");
    fs::rename(data.join("PG_VERSION.new"), data.join("PG_VERSION")).expect("in place of the first");
    let output = forge.restore_beside("monday", &data, &["--delta"]);
    assert!(output.status.success(), "{}", said(&output));
    let again = seen(&data);
    let differs = |(path, found): &(&PathBuf, &String)| {
        // Times of directories and of what the restore itself writes.
        let ours = ["auto.conf", "signal", ".done", "manifest", "/0000", "pg_control"];
        let text = path.to_string_lossy();
        let content = |found: &str| found.rsplit(' ').next().map(str::to_owned);
        let is_ours = ours.iter().any(|own| text.contains(own)) || path.is_dir();
        match again.get(*path) {
            Some(now) if is_ours => content(now) != content(found),
            Some(now) => now != *found,
            None => true,
        }
    };
    let wrong: Vec<_> = right.iter().filter(differs).collect();
    assert!(wrong.is_empty() && again.len() == right.len(), "{wrong:?}");
    // A directory of the cluster itself is not there: nothing is looked for behind the link.
    put_link(&data.join("global"), &outside.join("full"));
    let output = forge.restore_beside("monday", &data, &["--delta"]);
    assert_refused(&output, &["global"]);
}

/// A member of a tar file, as bytes.
fn member(archive: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, path: &str, link: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path(path).expect("a path");
    if !link.is_empty() {
        header.set_link_name(link).expect("a link's name");
    }
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    archive.append(&header, content).expect("append a member");
}

impl Forge<'_> {
    /// A tar backup whose `base.tar` has these members behind those that belong there.
    fn pack_tar(&self, name: &str, more: impl FnOnce(&mut tar::Builder<Vec<u8>>)) {
        let mut base = tar::Builder::new(Vec::new());
        base.follow_symlinks(false);
        base.append_dir_all("", &self.good).expect("append the files");
        more(&mut base);
        let base = base.into_inner().expect("end the tar file");
        let directory = self.world().path().join(format!("tar-{name}"));
        fs::create_dir(&directory).expect("make a directory");
        fs::write(directory.join("base.tar"), base).expect("write base.tar");
        fs::copy(
            self.good.join("backup_manifest"),
            directory.join("backup_manifest"),
        )
        .expect("copy the manifest");
        let backup = Backup {
            shape: Shape::Tar,
            ..self.described.clone()
        };
        self.pack(name, &directory, backup);
    }
}

#[test]
fn s6_members_of_a_tar_file_stay_below_the_directory() {
    use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
    let world = World::new("members");
    let forge = Forge::new(&world);
    let outside = forge.outside.to_str().expect("UTF-8");
    let (file, full) = (format!("{outside}/precious"), format!("{outside}/full"));
    type Members<'a> = Vec<(tar::EntryType, &'a str, &'a str)>;
    let cases: [(&str, Members); 9] = [
        ("below", vec![(Symlink, "x", &full), (Regular, "x/pwned", "")]),
        ("deeper", vec![(Symlink, "x", &full), (Regular, "x/5/1259", "")]),
        (
            "directory",
            vec![(Symlink, "x", outside), (Directory, "x/new/", "")],
        ),
        ("hard", vec![(Link, "hard", &file)]),
        (
            "hard-within",
            vec![(Symlink, "x", &full), (Link, "hard", "x/1262")],
        ),
        ("device", vec![(Char, "null", "")]),
        ("fifo", vec![(Fifo, "fifo", "")]),
        ("mark", vec![(Regular, "walfs-restore.json", "")]),
        ("data", vec![(Symlink, "global/1262", &file)]),
    ];
    for (name, members) in &cases {
        forge.pack_tar(name, |tar| {
            for (kind, path, link) in members {
                member(
                    tar,
                    *kind,
                    path,
                    link,
                    if *kind == Regular { b"pwned" } else { b"" },
                );
            }
        });
        let data = world.path().join(format!("back-{name}"));
        let output = forge.restore_beside(name, &data, &[]);
        assert_refused(&output, &["base.tar", name]);
        assert!(!data.join("global/pg_control").exists(), "{name}");
    }
    // Of a link's name: the link goes, a file comes. And numbers that no clock or disk has.
    forge.pack_tar("replaced", |tar| {
        member(tar, Symlink, "f", &file, b"");
        member(tar, Regular, "f", "", b"a file");
        member(tar, Symlink, "postgresql.auto.conf", &file, b"");
        member(tar, Symlink, "pg_wal", &full, b"");
        member(tar, Regular, "pg_wal/1262", "", b"within");
        let mut header = tar::Header::new_ustar();
        header.set_path("old").expect("a path");
        header.set_size(0);
        header.set_mode(0o600);
        header.set_mtime(u64::MAX);
        header.set_cksum();
        tar.append(&header, &b""[..]).expect("append a member");
    });
    let data = world.path().join("back-replaced");
    let output = forge.restore_beside("replaced", &data, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read(data.join("f")).expect("a file"), b"a file");
    assert_eq!(fs::read(data.join("pg_wal/1262")).expect("a file"), b"within");
    // A length of 2^62 bytes is not believed.
    forge.pack_tar("long", |tar| {
        let mut header = tar::Header::new_gnu();
        header.set_path("global/pg_control").expect("a path");
        header.set_size(1 << 62);
        header.set_mode(0o600);
        header.set_cksum();
        tar.get_mut().write_all(header.as_bytes()).expect("a header");
    });
    let output = forge.restore_beside("long", &world.path().join("back-long"), &[]);
    assert_refused(&output, &["pg_control", "4611686018427387904"]);
}

/// The archive says where a tablespace was, and PostgreSQL reads lines.
#[test]
fn s6_places_of_tablespaces_are_names_of_one_line() {
    let world = World::new("places");
    let forge = Forge::new(&world);
    let forged = forge.changed("lines", |copy| {
        fs::create_dir_all(copy.join("pg_tblspc/16400")).expect("make a directory");
        File::create(copy.join("tablespace_map")).expect("make a map");
    });
    let within = |name: &str| forge.outside.join(name).display().to_string();
    for (case, location) in [
        format!("{}\n16401 {}", within("a"), within("full")),
        format!("{}\u{1b}[2J", within("b")),
        format!("{}/../../b", within("c")),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("lines-{case}");
        let oid = 16400;
        let backup = Backup {
            tablespaces: vec![Tablespace { oid, location }],
            ..forge.described.clone()
        };
        forge.pack(&name, &forged, backup);
        let data = world.path().join("back");
        let output = forge.restore_beside(&name, &data, &[]);
        assert_refused(&output, &["--tablespace-mapping 16400="]);
        assert!(!data.exists());
        let elsewhere = world.path().join(format!("space-{case}"));
        let mapping = format!("16400={}", elsewhere.display());
        let output = forge.restore_beside(&name, &data, &["--tablespace-mapping", &mapping]);
        assert!(output.status.success(), "{}", said(&output));
        let map = fs::read_to_string(data.join("tablespace_map")).expect("the map");
        assert_eq!(map, format!("16400 {}\n", elsewhere.display()));
        fs::remove_dir_all(&data).expect("remove what was restored");
    }
}

/// What is said of a list of chunks that is damaged: a later `--delta`, or going on, would need it.
#[test]
fn r3_a_damaged_list_of_chunks_is_said_by_a_plain_restore() {
    let world = World::new("chunks");
    let site = Site::local(&world);
    let taken = site.backup("monday");
    let id = taken["id"].as_str().expect("an id");
    let keys = site.place.keys(&format!("trees/{id}"));
    let key = keys.iter().find(|key| key.contains("/chunks.")).expect("a list");
    let list = world.archive().join(key);
    let whole = fs::read(&list).expect("read the list");
    for damaged in [None, Some(&whole[..whole.len() / 2])] {
        let _ = fs::remove_file(&list);
        if let Some(damaged) = damaged {
            fs::write(&list, damaged).expect("damage the list");
            User::postgres().own(&list);
        }
        let dir = world.owned_dir("back");
        let mut restore = site.walfs("restore");
        let restored = restore.args(["--no-archiving", "--no-sync", "--json", "monday"]);
        let output = restored.arg(dir.join("data")).output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let warnings = report["warnings"].to_string();
        assert!(
            warnings.contains("chunks") && warnings.contains("--delta"),
            "{report}"
        );
        fs::remove_dir_all(&dir).expect("remove what was restored");
    }
}

/// What walfs, or the command that it gives the server, writes for a moment in the data directory is never a backup's.
#[test]
fn s6_names_that_walfs_writes_do_not_come_from_a_backup() {
    let world = World::new("own-names");
    let forge = Forge::new(&world);
    let file = forge.outside.join("precious");
    let own = ["postgresql.auto.conf.walfs", "global/.walfs-pg_control"];
    let forged = forge.changed("own", |copy| {
        for name in own {
            put_link(&copy.join(name), &file);
        }
        fs::create_dir_all(copy.join("more/postgresql.auto.conf.walfs/deeper")).expect("make a directory");
        fs::write(copy.join("more/postgresql.auto.conf.walfs/deeper/file"), "x").expect("write a file");
        fs::write(copy.join("more/zz"), "behind it").expect("write a file");
    });
    forge.pack("own", &forged, forge.described.clone());
    forge.pack_tar("own-tar", |tar| {
        for name in own {
            let to = file.to_str().expect("UTF-8");
            member(tar, tar::EntryType::Symlink, name, to, b"");
        }
    });
    for name in ["own", "own-tar"] {
        let data = world.path().join(format!("back-{name}"));
        let output = forge.restore_beside(name, &data, &[]);
        assert!(output.status.success(), "{}", said(&output));
        for own in own {
            assert!(fs::symlink_metadata(data.join(own)).is_err(), "{name}: {own}");
            assert!(said(&output).contains(&format!("warning: {own} of the backup is left out")));
        }
        // Should there be a link all the same, the server does not write through it.
        put_link(&data.join(own[0]), &file);
        let before = seen(&forge.outside);
        end_recovery(&data);
        assert_eq!(seen(&forge.outside), before, "{name}");
        let settings = fs::read_to_string(data.join("postgresql.auto.conf")).expect("the settings");
        assert!(!settings.contains("restore_command"), "{settings}");
    }
    let data = world.path().join("back-own");
    assert!(!data.join("more/postgresql.auto.conf.walfs").exists());
    // The file behind it is whole, also when it is compared by its hash.
    fs::write(data.join("more/zz"), "changed").expect("change a file");
    let output = forge.restore_beside("own", &data, &["--delta"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read(data.join("more/zz")).expect("a file"), b"behind it");
}

/// The archive says where a tablespace was. Were it to say what is in there as well, it could put any file into any directory
/// that is empty.
#[test]
fn s6_a_tablespace_holds_nothing_but_a_tablespaces_content() {
    let world = World::new("contents");
    let forge = Forge::new(&world);
    let empty = forge.outside.join("empty");
    let backup = Backup {
        tablespaces: vec![Tablespace {
            oid: 16400,
            location: empty.display().to_string(),
        }],
        ..forge.described.clone()
    };
    type Make = fn(&Path);
    let cases: [(&str, Make); 3] = [
        ("authorized_keys", |at| fs::write(at, "x").expect("write a file")),
        ("PG_15_202209061", |at| put_link(at, Path::new("/etc"))),
        ("cron.d", |at| fs::create_dir(at).expect("make a directory")),
    ];
    for (case, (name, make)) in cases.into_iter().enumerate() {
        let backup_name = format!("content-{case}");
        let forged = forge.changed(&backup_name, |copy| {
            fs::create_dir_all(copy.join("pg_tblspc/16400")).expect("make a directory");
            make(&copy.join("pg_tblspc/16400").join(name));
        });
        forge.pack(&backup_name, &forged, backup.clone());
        let data = world.path().join("back");
        let output = forge.restore_beside(&backup_name, &data, &[]);
        assert_refused(&output, &[name, "tablespace"]);
        assert!(!data.exists());
        fs::remove_dir_all(forged).expect("remove the copy");
    }
    forge.pack_tar("content-tar", |tar| {
        member(tar, tar::EntryType::Directory, "pg_tblspc/16400/", "", b"");
        member(tar, tar::EntryType::Regular, "pg_tblspc/16400/cron", "", b"x");
    });
    let output = forge.restore_beside("content-tar", &world.path().join("back-tar"), &[]);
    assert_refused(&output, &["pg_tblspc/16400/cron", "tablespace"]);
}

/// A cluster that is stopped has no process that could be seen.
#[test]
fn s6_nothing_is_restored_into_another_clusters_data_directory() {
    let world = World::new("inside");
    let forge = Forge::new(&world);
    let forged = forge.changed("spaced", |copy| {
        fs::create_dir_all(copy.join("pg_tblspc/16400")).expect("make a directory");
    });
    let location = world.path().join("space").display().to_string();
    let backup = Backup {
        tablespaces: vec![Tablespace { oid: 16400, location }],
        ..forge.described.clone()
    };
    forge.pack("spaced", &forged, backup);
    let other = world.path().join("other");
    let output = forge.restore("monday", &other, &[]);
    assert!(output.status.success(), "{}", said(&output));
    fs::create_dir(other.join("empty")).expect("make a directory");
    let link = world.path().join("link");
    symlink(other.join("base"), &link).expect("make a link");
    let before = seen(&other);
    let data = world.path().join("back");
    let hint = ["lies in", "data directory of another cluster"];
    for within in [other.join("empty"), other.join("base/new"), link.join("new/deep")] {
        let output = forge.restore("monday", &within, &[]);
        assert_refused(&output, &hint);
        let waldir = ["--waldir", within.to_str().expect("UTF-8")];
        assert_refused(&forge.restore("monday", &data, &waldir), &hint);
        let mapping = format!("16400={}", within.display());
        let mapping = ["--tablespace-mapping", &mapping];
        assert_refused(&forge.restore("spaced", &data, &mapping), &hint);
    }
    assert_eq!(seen(&other), before);
    assert!(!data.exists());
    // Its own directory, by another name.
    let alias = world.path().join("alias");
    symlink(world.path(), &alias).expect("make a link");
    let mapping = format!("16400={}", alias.join("back/base/space").display());
    let output = forge.restore("spaced", &data, &["--tablespace-mapping", &mapping]);
    assert_refused(&output, &["leads to where", "back"]);
    assert!(!data.exists());
    // A server that runs is known by its process, and its directory as a whole is its own.
    let within = forge.site.server.data().join("new");
    let output = forge.restore("monday", &within, &[]);
    assert_refused(&output, &hint);
}

/// A `postmaster.pid` that no server wrote: no number in it ends the restore, and no socket holds it up.
#[test]
fn s8_a_pid_file_neither_panics_nor_hangs_a_restore() {
    let world = World::new("pid-file");
    let forge = Forge::new(&world);
    let data = world.path().join("back");
    let output = forge.restore("monday", &data, &[]);
    assert!(output.status.success(), "{}", said(&output));
    fs::write(data.join("postmaster.pid"), "-2147483648\n").expect("write a file");
    let output = forge.restore("monday", &data, &["--delta"]);
    assert!(output.status.success(), "{}", said(&output));
    // Somebody listens, accepts nothing, and as many wait as may.
    let run = tempfile::tempdir().expect("a short path");
    let listener = UnixListener::bind(run.path().join(".s.PGSQL.5432")).expect("listen");
    // SAFETY: a system call on an open descriptor, without pointers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let waiting = fill_queue(&run.path().join(".s.PGSQL.5432"));
    let lines = format!("-2147483648\n/data\n1\n5432\n{}\n", run.path().display());
    fs::write(data.join("postmaster.pid"), lines).expect("write a file");
    let output = forge.restore("monday", &data, &["--delta"]);
    assert_refused(&output, &["not known whether", ".s.PGSQL.5432", "pg_ctl stop"]);
    assert!(data.join("global/pg_control").exists());
    drop((listener, waiting));
    let output = forge.restore("monday", &data, &["--delta"]);
    assert!(output.status.success(), "{}", said(&output));
}

/// Connects until no more may wait.
fn fill_queue(socket: &Path) -> Vec<UnixStream> {
    let mut waiting = Vec::new();
    loop {
        let (sender, receiver) = std::sync::mpsc::channel();
        let socket = socket.to_owned();
        std::thread::spawn(move || sender.send(UnixStream::connect(socket)));
        match receiver.recv_timeout(std::time::Duration::from_secs(1)) {
            Ok(connected) => waiting.push(connected.expect("connect")),
            Err(_) => return waiting,
        }
    }
}

/// A process that has the number by now would keep the restored server from its start.
#[test]
fn b11_what_a_running_server_writes_for_itself_is_left_out() {
    let world = World::new("servers-own");
    let forge = Forge::new(&world);
    let own = ["postmaster.opts", "postmaster.pid"];
    let forged = forge.changed("running", |copy| {
        for name in own {
            fs::write(copy.join(name), "1\n").expect("write a file");
        }
    });
    forge.pack("running", &forged, forge.described.clone());
    forge.pack_tar("running-tar", |tar| {
        for name in own {
            member(tar, tar::EntryType::Regular, name, "", b"1\n");
        }
    });
    for name in ["running", "running-tar"] {
        let data = world.path().join(format!("back-{name}"));
        let output = forge.restore(name, &data, &[]);
        assert!(output.status.success(), "{}", said(&output));
        for own in own {
            assert!(!data.join(own).exists(), "{name}: {own}");
            assert!(said(&output).contains(&format!("warning: {own} of the backup is left out")));
        }
    }
    // Every file that follows in the list of hashes is still compared with its own.
    let data = world.path().join("back-running");
    let output = forge.restore("running", &data, &["--delta", "--dry-run"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let number = |name: &str| report[name].as_u64().expect("a number");
    assert!(number("kept_bytes") * 10 > number("bytes") * 9, "{report}");
}

/// The WAL was looked for by the summary; the server goes by these two files.
#[test]
fn r3_what_recovery_begins_from_is_that_of_the_backup() {
    let world = World::new("beginning");
    let forge = Forge::new(&world);
    let label = fs::read_to_string(forge.good.join("backup_label")).expect("the label");
    let start = forge.described.wal[0].start.to_string();
    let elsewhere = label.replace(&start, "0/100028");
    assert_ne!(label, elsewhere);
    let timeline = label.replace("(file 00000001", "(file 00000002");
    let timeline = timeline.replace("TIMELINE: 1", "TIMELINE: 2");
    assert_ne!(label, timeline);
    // Whose it is differs; its checksum is right again.
    let mut another = fs::read(forge.good.join("global/pg_control")).expect("the control file");
    let sum_at = |at: &usize| another[*at..at + 4] == crc32c::crc32c(&another[..*at]).to_le_bytes();
    let end = (8..another.len() - 4).find(sum_at).expect("its checksum");
    another[0] ^= 1;
    let sum = crc32c::crc32c(&another[..end]);
    another[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    let cases: [(&str, &[u8], &str); 5] = [
        ("backup_label", b"", "not complete"),
        ("backup_label", b"rubbish\n", "not complete"),
        ("backup_label", elsewhere.as_bytes(), "by its summary"),
        ("backup_label", timeline.as_bytes(), "on timeline 2"),
        ("global/pg_control", &another, "by its summary"),
    ];
    for (case, (file, content, reason)) in cases.into_iter().enumerate() {
        let name = format!("begins-{case}");
        let forged = forge.changed(&name, |copy| {
            fs::write(copy.join(file), content).expect("write a file");
        });
        forge.pack(&name, &forged, forge.described.clone());
        let data = world.path().join("back");
        assert_refused(&forge.restore(&name, &data, &[]), &[file, reason]);
        assert!(!data.exists());
        fs::remove_dir_all(forged).expect("remove the copy");
        forge.pack_tar(&format!("{name}-tar"), |tar| {
            member(tar, tar::EntryType::Regular, file, "", content);
        });
        let data = world.path().join(format!("back-{case}"));
        let output = forge.restore(&format!("{name}-tar"), &data, &[]);
        assert_refused(&output, &[file, reason]);
        assert!(!data.join("global/pg_control").exists());
    }
}

/// What is said of a restore is what was restored.
#[test]
fn s8_numbers_of_a_summary_are_claims() {
    let world = World::new("claims");
    let site = Site::local(&world);
    site.backup("monday");
    let restore = |dir: &str| {
        let mut restore = site.walfs("restore");
        let restore = restore.args(["--no-archiving", "--no-sync", "--json", "--dry-run", "monday"]);
        let output = restore.arg(world.path().join(dir)).output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (report["files"].clone(), report["bytes"].clone())
    };
    let right = restore("back");
    let path = world.archive().join("basebackups/monday.json");
    let mut summary = Summary::parse(&fs::read(&path).expect("the summary")).expect("a summary");
    assert_eq!(right, (summary.files.into(), summary.bytes.into()));
    (summary.files, summary.bytes) = (1 << 50, 1 << 60);
    fs::remove_file(&path).expect("remove the summary");
    fs::write(&path, summary.to_text()).expect("write another");
    User::postgres().own(&path);
    assert_eq!(restore("again"), right);
}

/// What the server does when it has recovered.
fn end_recovery(data: &Path) {
    let settings = fs::read_to_string(data.join("postgresql.auto.conf")).expect("the settings");
    let mut lines = settings.lines();
    let command = lines.find_map(|line| line.strip_prefix("recovery_end_command = '"));
    let command = command.and_then(|command| command.strip_suffix('\''));
    let command = command.expect("a command").replace("''", "'");
    let mut shell = std::process::Command::new("sh");
    let ended = shell.arg("-c").arg(&command).current_dir(data).output();
    let ended = ended.expect("run sh");
    assert!(ended.status.success(), "{command}: {}", said(&ended));
}
