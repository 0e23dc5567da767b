//! `walfs restore` and links (promise S6, E5): whatever an archive says, and whatever an old data directory has, nothing is
//! written, changed or removed but below the directories that the operator named.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::runtime::Runtime;
use walfs::archive::tree::backup::{Backup, Shape, Tablespace};
use walfs::archive::{self, Archive};
use walfs::codec::SeekTable;
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
pub(super) struct Forge<'a> {
    pub(super) site: Site<'a>,
    /// The backup's files.
    pub(super) good: PathBuf,
    pub(super) outside: PathBuf,
    pub(super) described: Backup,
    archive: Archive,
    runtime: Runtime,
}

impl<'a> Forge<'a> {
    pub(super) fn new(world: &'a World) -> Self {
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
    pub(super) fn pack(&self, name: &str, directory: &Path, backup: Backup) {
        self.runtime
            .block_on(packed::pack(&self.archive, name, directory, backup));
    }

    /// The files of the backup, with something in the place of one of them.
    pub(super) fn changed(&self, name: &str, change: impl FnOnce(&Path)) -> PathBuf {
        let copy = self.world().path().join(format!("forged-{name}"));
        let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[&self.good, &copy]);
        assert!(copied.status.success(), "{}", said(&copied));
        change(&copy);
        copy
    }

    /// `walfs restore NAME DIR` by whoever runs the tests: root, where it hurts most.
    pub(super) fn restore(&self, name: &str, data: &Path, arguments: &[&str]) -> Output {
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
    pub(super) fn restore_beside(&self, name: &str, data: &Path, arguments: &[&str]) -> Output {
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

pub(super) fn put_link(at: &Path, to: &Path) {
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
pub(super) fn member(
    archive: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    path: &str,
    link: &str,
    content: &[u8],
) {
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
    pub(super) fn pack_tar(&self, name: &str, more: impl FnOnce(&mut tar::Builder<Vec<u8>>)) {
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

/// Page hashes only save work: where they are damaged, all pages are brought again, and that is said.
#[test]
fn r3_damaged_page_hashes_cost_a_restore_over_something_only_work() {
    let world = World::new("page-hashes");
    let site = Site::local(&world);
    let taken = site.backup("monday");
    let data = world.owned_dir("back").join("data");
    let restore = |more: &[&str]| {
        let mut restore = site.walfs("restore");
        restore.args(["--no-archiving", "--no-sync"]).args(more);
        let output = restore.arg("monday").arg(&data).output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    restore(&[]);
    let relation = data.join("global/1262");
    let before = fs::read(&relation).expect("read a relation");
    let id = taken["id"].as_str().expect("an id");
    let keys = site.place.keys(&format!("trees/{id}"));
    for key in keys.iter().filter(|key| key.contains(".tar.")) {
        let part = world.archive().join(key);
        let mut object = fs::read(&part).expect("read a part");
        let annex = SeekTable::of_whole(&object).expect("a part").annex_range();
        object[annex.end as usize - 1] ^= 1;
        fs::write(&part, object).expect("damage its annex");
    }
    fs::write(&relation, vec![7; before.len()]).expect("change a file");
    let told = restore(&["--delta"]);
    assert!(told.contains("page hashes"), "{told}");
    assert!(fs::read(&relation).expect("read it again") == before);
}
