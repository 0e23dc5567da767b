//! Complete backups, read in the mount by the tools that people have: what PostgreSQL wrote is what is seen, and
//! nothing of it can be changed. The directory is one that `pg_basebackup` made.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::runtime::Runtime;
use walfs::archive::tree::backup::{Backup, Shape, WalRange};
use walfs::archive::tree::ended::{Ended, KnownFrom};
use walfs::archive::{self, Archive};
use walfs::pg::backup_manifest::Manifest;
use walfs::store::{self, Location, Patience};

use crate::common::below::LONG;
use crate::common::packed;
use crate::common::postgres::{Options as ServerOptions, Postgres};
use crate::common::s3::S3Server;
use crate::common::user::{User, said};
use crate::common::walfs::{Mount, Options};
use crate::common::world::World;

const SEGMENT_MIB: u32 = 1;

/// A store of one of the two kinds.
enum Place {
    Local,
    S3(S3Server),
}

impl Place {
    fn options(&self, world: &World) -> Options {
        match self {
            Place::Local => Options::local(world),
            Place::S3(server) => {
                let environment = server.env().into_iter();
                let environment: Vec<_> = environment
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect();
                Options::s3(world, &Self::bucket(server), &server.endpoint(), &environment)
            }
        }
    }

    fn bucket(server: &S3Server) -> String {
        format!("s3://{}/pg/main", server.bucket())
    }

    /// The archive, by the library in this process.
    async fn open(&self, world: &World) -> Archive {
        let mut options = store::Options::default();
        let location = match self {
            Place::Local => Location::Dir(world.archive()),
            Place::S3(server) => {
                let keys = world.path().join("credentials");
                let text = format!(
                    "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
                    server.access_key(),
                    server.secret_key()
                );
                fs::write(&keys, text).expect("write the keys");
                options.endpoint = Some(server.endpoint());
                options.region = Some("us-east-1".into());
                options.credentials_file = Some(keys);
                Location::parse(&Self::bucket(server)).expect("a place")
            }
        };
        let store = store::open(&location, &options).await.expect("open the store");
        let create = archive::Options {
            create: true,
            ..Default::default()
        };
        let archive = Archive::open(store, &create, Patience::for_at_most(LONG)).await;
        archive.expect("open the archive")
    }
}

/// A server that archives into the mount, and what `pg_basebackup` took of it.
struct Site {
    world: World,
    place: Place,
    mount: Mount,
    server: Postgres,
    taken: PathBuf,
}

impl Site {
    fn new(name: &str, place: Place) -> Site {
        let world = World::new(name);
        let mount = place.options(&world).mount();
        let options = ServerOptions {
            segment_mib: SEGMENT_MIB,
            ..ServerOptions::default()
        };
        let mut server = Postgres::init(&world.path().join("pg"), &options);
        server.configure(&[
            ("archive_mode", "on"),
            ("archive_command", &mount.archive_command()),
        ]);
        server.start();
        // One relation of more than a slice, a link and an empty file: what a data directory may have.
        server.pgbench_init(3);
        let spaced = world.owned_dir("space");
        server.query(&format!(
            "CREATE TABLESPACE spaced LOCATION '{}'",
            spaced.display()
        ));
        server.query("CREATE TABLE there (id bigint) TABLESPACE spaced");
        server.query("INSERT INTO there SELECT generate_series(1, 10000)");
        let taken = world.owned_dir("taken");
        let mut site = Site {
            world,
            place,
            mount,
            server,
            taken,
        };
        site.take();
        site
    }

    /// `pg_basebackup` to a plain directory, without WAL; the server archives what it needs meanwhile.
    fn take(&mut self) {
        let mut command = self.server.program("pg_basebackup");
        command
            .args(["-X", "none", "-c", "fast", "--no-sync", "-D"])
            .arg(&self.taken);
        let moved = self.world.owned_dir("space-taken");
        let space = self.world.path().join("space");
        command.arg(format!("-T{}={}", space.display(), moved.display()));
        let output = command.output().expect("run pg_basebackup");
        assert!(output.status.success(), "pg_basebackup: {}", said(&output));
        let user = User::postgres();
        let script = r#"cd "$1" && chmod 0640 PG_VERSION && ln -s /somewhere/else link && : > empty"#;
        succeeds(&user.shell(script, &[&self.taken]));
    }

    /// Stores what was taken as a complete backup of that name. `pg_verifybackup` knows nothing of what was added.
    fn store(&self, name: &str) {
        let runtime = Runtime::new().expect("threads");
        runtime.block_on(async {
            let archive = self.place.open(&self.world).await;
            packed::pack(&archive, name, &self.taken, self.described()).await;
        });
        // By the library of this process, which may be root.
        succeeds(&User::caller().shell(r#"chown -R "$(stat -c %u "$1")" "$1""#, &[&self.world.archive()]));
    }

    fn described(&self) -> Backup {
        let text = fs::read(self.taken.join("backup_manifest")).expect("read the manifest");
        let manifest = Manifest::parse(&text).expect("a manifest");
        let ranges = manifest.wal_ranges.iter().rev();
        Backup {
            shape: Shape::Plain,
            system_identifier: None,
            postgresql_major: None,
            segment_bytes: u64::from(SEGMENT_MIB) << 20,
            wal: ranges
                .map(|range| WalRange {
                    timeline: range.timeline,
                    start: range.start,
                    end: range.end,
                })
                .collect(),
            label: "taken".into(),
            ended: Ended {
                at: manifest.label_made.expect("its label"),
                known_from: KnownFrom::Start,
            },
            from_standby: false,
            incremental_from: None,
            dump_hash: None,
            plain_file: false,
            own_wal: vec![],
            awaited: vec![],
            landmarks: vec![],
            tablespaces: vec![],
            links: vec![],
            outside: vec![],
            pages: None,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.mount.path().join("basebackups").join(name)
    }

    /// What a shell line says, run by the mount's user; `$1` is the backup in the mount, `$2` what was taken.
    fn shell(&self, backup: &str, line: &str) -> Output {
        self.mount.user().shell(line, &[&self.at(backup), &self.taken])
    }
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn b4_browsed_backup_is_what_was_taken_local() {
    is_what_was_taken("browse", Place::Local);
}

#[test]
fn b4_browsed_backup_is_what_was_taken_s3() {
    is_what_was_taken("browse-s3", Place::S3(S3Server::start()));
}

fn is_what_was_taken(name: &str, place: Place) {
    let mut site = Site::new(name, place);
    assert_eq!(
        succeeds(&site.mount.user().shell(r#"ls "$1""#, &[&site.at("")])),
        ""
    );
    site.store("monday");
    has_the_same_files(&site);
    pleases_postgresql(&site);
    is_read_at_random(&site);
    cannot_be_changed(&site);
    owners_are_shown_to_root(&site);
    latest_follows(&site);
    damage_is_told(&mut site);
    site.server.kill9();
}

/// Content, names, kinds, modes, sizes, times and links; `pg_wal` has the needed segments besides.
fn has_the_same_files(site: &Site) {
    let differs = succeeds(&site.shell(
        "monday",
        r#"diff -r --no-dereference "$1" "$2" > /dev/null 2>&1; diff -rq --no-dereference "$1" "$2" || true"#,
    ));
    assert!(!differs.is_empty(), "pg_wal shows nothing more");
    for line in differs.lines() {
        assert!(
            line.starts_with(&format!("Only in {}/pg_wal: 0000", site.at("monday").display())),
            "{line}"
        );
    }
    let attributes = r#"cd "$1" && find . -mindepth 1 ! -path './pg_wal/0*' -printf '%P %y %m %l ' \
        \( -type d -printf '\n' -o -printf '%s %T@\n' \) | sort"#;
    let (seen, taken) = (site.at("monday"), site.taken.clone());
    let [seen, taken] = [seen, taken].map(|path| succeeds(&site.mount.user().shell(attributes, &[&path])));
    assert!(seen.lines().count() > 900, "{seen}");
    for (seen, taken) in seen.lines().zip(taken.lines()) {
        assert_eq!(seen, taken);
    }
    assert_eq!(seen.len(), taken.len());
    let packed = r#"set -e; tar -C "$1" -cf - --sort=name . | tar -tf - | grep -v '^./pg_wal/0' > "$2".list
        tar -C "$2" -cf - --sort=name . | tar -tf - | diff - "$2".list; du -s "$1" > /dev/null"#;
    let listed = site.world.owned_dir("lists").join("x");
    succeeds(&site.mount.user().shell(
        &packed.replace("\"$2\".list", &format!("'{}'", listed.display())),
        &[&site.at("monday"), &site.taken],
    ));
}

/// No flag is needed although the WAL is not in the backup: `pg_wal` shows what is archived.
fn pleases_postgresql(site: &Site) {
    let mut verify = site.server.program("pg_verifybackup");
    // Of the files that this test has added.
    let output = verify
        .args(["-i", "link", "-i", "empty"])
        .arg(site.at("monday"))
        .output()
        .expect("run it");
    assert!(output.status.success(), "pg_verifybackup: {}", said(&output));
    let range = &site.described().wal[0];
    let mut dump = site.server.program("pg_waldump");
    let (start, end) = (range.start.to_string(), range.end.to_string());
    dump.args(["-s", &start, "-e", &end, "-p"])
        .arg(site.at("monday").join("pg_wal"));
    let dumped = succeeds(&dump.output().expect("run pg_waldump"));
    assert!(dumped.contains("BACKUP_END"), "{dumped}");
}

/// Four processes, each at places of its own; and a mapping of the file.
fn is_read_at_random(site: &Site) {
    let script = r#"
import mmap, multiprocessing, os, random, sys
backup, taken = sys.argv[1:]
paths = sorted((os.path.getsize(f), f) for d, _, fs in os.walk(taken) for f in
               (os.path.join(d, n) for n in fs) if not os.path.islink(f) and os.path.getsize(f) > 8192)
paths = [os.path.relpath(f, taken) for _, f in paths[-40:]]
def check(seed):
    chance = random.Random(seed)
    for _ in range(400):
        path = chance.choice(paths)
        a, b = (os.open(os.path.join(top, path), os.O_RDONLY) for top in (backup, taken))
        at, size = chance.randrange(os.fstat(b).st_size), chance.choice([1, 100, 8192, 300000])
        assert os.pread(a, size, at) == os.pread(b, size, at), (path, at, size)
        os.close(a), os.close(b)
    with open(os.path.join(backup, paths[-1]), 'rb') as a, open(os.path.join(taken, paths[-1]), 'rb') as b:
        assert mmap.mmap(a.fileno(), 0, prot=mmap.PROT_READ)[:] == b.read()
    return True
with multiprocessing.Pool(4) as pool:
    assert pool.map(check, range(4)) == [True] * 4
"#;
    let mut python = site.mount.user().command("python3");
    let output = python
        .args(["-c", script])
        .arg(site.at("monday"))
        .arg(&site.taken)
        .output();
    succeeds(&output.expect("run python3"));
}

/// B7: "`rm`, `mv`, writing in a complete backup fail with EPERM/EROFS".
fn cannot_be_changed(site: &Site) {
    for line in [
        r#"rm "$1/PG_VERSION""#,
        r#"rm "$1/link""#,
        r#"rmdir "$1/pg_notify""#,
        r#"mv "$1/PG_VERSION" "$1/x""#,
        r#"mv "$1" "$1-moved""#,
        r#"mv "$2/PG_VERSION" "$1/PG_VERSION""#,
        r#"echo x > "$1/PG_VERSION""#,
        r#"cat "$2/PG_VERSION" >> "$1/PG_VERSION""#,
        r#"echo x > "$1/new""#,
        r#"mkdir "$1/new""#,
        r#"ln -s x "$1/new""#,
        r#"ln "$1/PG_VERSION" "$1/new""#,
        r#"mkfifo "$1/new""#,
        r#"chmod 0600 "$1/PG_VERSION""#,
        r#"touch "$1/PG_VERSION""#,
        r#"truncate -s 1 "$1/PG_VERSION""#,
        r#"for s in "$1"/pg_wal/0*; do rm -f "$s" || exit 1; done"#,
        r#"for s in "$1"/pg_wal/0*; do cat "$2/PG_VERSION" >> "$s" || exit 1; done"#,
    ] {
        let output = site.shell("monday", line);
        let text = said(&output);
        let refused = ["Operation not permitted", "Read-only file system"];
        assert!(
            !output.status.success() && refused.iter().any(|why| text.contains(why)),
            "{line}: {text}"
        );
    }
    assert_eq!(
        succeeds(&site.shell("monday", r#"cmp "$1/PG_VERSION" "$2/PG_VERSION""#)),
        ""
    );
    let log = site.mount.log();
    for said in [
        "PG_VERSION is not changed",
        "pg_notify is not changed",
        "new is not changed",
    ] {
        assert!(
            log.contains(&format!("{said}: backup monday is complete")),
            "{said}\n{log}"
        );
    }
}

/// Everything belongs to the mounting user, unless that is root, who sees whose it was.
fn owners_are_shown_to_root(site: &Site) {
    let owner = |at: &Path| {
        format!(
            "{}\n",
            fs::metadata(at.join("PG_VERSION")).expect("look at it").uid()
        )
    };
    let stat = |user: &User, at: &Path| succeeds(&user.shell(r#"stat -c %u "$1/PG_VERSION""#, &[at]));
    assert_eq!(
        stat(site.mount.user(), &site.at("monday")),
        format!("{}\n", site.mount.user().uid)
    );
    let mountpoint = site.world.path().join("roots");
    fs::create_dir(&mountpoint).expect("make a mount point");
    let mut options = site.place.options(&site.world).at(&mountpoint);
    options.user = User::caller();
    let mount = options.mount();
    let seen = stat(mount.user(), &mount.path().join("basebackups/monday"));
    assert_eq!(seen, owner(&site.taken));
}

fn latest_follows(site: &Site) {
    let latest = || succeeds(&site.mount.user().shell(r#"readlink "$1""#, &[&site.at("LATEST")]));
    assert_eq!(latest(), "monday\n");
    site.store("tuesday");
    // For a second the last answer holds.
    crate::common::wait::until("LATEST to follow", || (latest() == "tuesday\n").then_some(()));
    succeeds(&site.mount.user().shell(
        r#"cmp "$1/PG_VERSION" "$2/PG_VERSION""#,
        &[&site.at("LATEST"), &site.taken],
    ));
    assert_eq!(
        succeeds(&site.mount.user().shell(r#"ls "$1""#, &[&site.at("")])),
        "LATEST\nmonday\ntuesday\n"
    );
}

/// R3: "Damage is EIO and a message naming the object".
fn damage_is_told(site: &mut Site) {
    let flip = |bytes: &mut Vec<u8>| bytes[20] ^= 1;
    match &site.place {
        Place::Local => {
            let tree = fs::read_dir(site.world.archive().join("trees")).expect("list the trees");
            let tree = tree
                .map(|tree| tree.expect("a tree").path())
                .find(|tree| tree.to_string_lossy().contains("/monday."));
            let part = tree.expect("the tree of monday").join("000000.00000.tar.lz4");
            let mut bytes = fs::read(&part).expect("read a part");
            flip(&mut bytes);
            fs::write(&part, bytes).expect("change a part");
        }
        Place::S3(server) => {
            let keys = server.keys("pg/main/trees/monday.");
            let part = keys.iter().find(|key| key.ends_with("000000.00000.tar.lz4"));
            server.corrupt(part.expect("the first part"), flip);
        }
    }
    // With nothing in any memory.
    site.mount.restart();
    let output = site.shell("monday", r#"cat "$1"/* "$1"/global/*"#);
    let text = said(&output);
    assert!(
        !output.status.success() && text.contains("Input/output error"),
        "{text}"
    );
    let log = site.mount.log();
    let told = log
        .lines()
        .find(|line| line.contains("backup monday") && line.contains("is damaged"));
    let told = told.unwrap_or_else(|| panic!("damage is not told\n{log}"));
    assert!(
        told.contains("000000.00000.tar.lz4") && told.contains(", of which a part is in"),
        "{told}"
    );
    succeeds(&site.shell("tuesday", r#"cmp "$1/PG_VERSION" "$2/PG_VERSION""#));
}
