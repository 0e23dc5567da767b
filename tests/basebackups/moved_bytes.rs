//! Damage that moves bytes, which checksums of pages do not find: `walfs backup` names it, and nothing else (promise B4).

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Output};

use crate::common::basebackup::Site;
use crate::common::postgres::StopMode;
use crate::common::user::said;
use crate::common::world::World;

/// Every kind of index of PostgreSQL, in tables that grow, shrink and are emptied, also in those that no backup has.
const TABLES: &str = "
    CREATE TABLE kinds (id int, place point, word text, many int[]);
    CREATE INDEX ON kinds USING btree (word);
    CREATE INDEX ON kinds USING hash (id);
    CREATE INDEX ON kinds USING spgist (place);
    CREATE INDEX ON kinds USING spgist (word);
    CREATE INDEX ON kinds USING gist (place);
    CREATE INDEX ON kinds USING gin (many);
    CREATE INDEX ON kinds USING brin (id);
    CREATE UNLOGGED TABLE unlogged (id int, place point);
    CREATE INDEX ON unlogged USING gist (place);
    CREATE TABLE emptied (id int);
    CREATE SEQUENCE numbers;
    INSERT INTO kinds SELECT i, point(i % 1000, i), md5(i::text), array[i, i % 10] FROM generate_series(1, 30000) i";

const LOAD: &str = "
    \\set i random(1, 100000)
    INSERT INTO kinds SELECT i, point(i % 1000, i), md5(i::text), array[i, i % 10]
      FROM generate_series(:i, :i + 50) i;
    DELETE FROM kinds WHERE id = :i;
    UPDATE kinds SET place = point(:i, 7) WHERE word = md5((:i + 20)::text);
    INSERT INTO unlogged SELECT i, point(i, i) FROM generate_series(:i, :i + 50) i;
    INSERT INTO emptied SELECT nextval('numbers') FROM generate_series(1, 500);
    \\set often :i % 50
    \\if :often
    \\else
    TRUNCATE emptied;
    CREATE TEMP TABLE IF NOT EXISTS temporary (id int);
    INSERT INTO temporary SELECT generate_series(1, 5000);
    DELETE FROM kinds WHERE ctid > '(1500, 0)';
    VACUUM kinds;
    CHECKPOINT;
    \\endif";

/// Clients that never rest.
fn load(site: &Site<'_>) -> Child {
    let script = site.world.owned_file("load.sql", LOAD.as_bytes());
    let mut pgbench = site.server.program("pgbench");
    pgbench.args(["-n", "-c", "4", "-T", "600", "-f"]).arg(script);
    let log = File::create(site.world.path().join("load.log")).expect("make a log");
    pgbench.stderr(log).stdout(std::process::Stdio::null());
    pgbench.spawn().expect("run pgbench")
}

/// A backup of a server whose pages are all in order, and are written while they are read.
#[track_caller]
fn nothing_is_wrong(site: &Site<'_>, name: &str) {
    let mut load = load(site);
    let output = site.try_backup(name, &["--rate-limit", "16MiB"]);
    assert!(
        load.try_wait().expect("look at pgbench").is_none(),
        "{}",
        fs::read_to_string(site.world.path().join("load.log")).expect("its log")
    );
    load.kill().expect("kill pgbench");
    load.wait().expect("wait for pgbench");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

/// Tables of 100 pages whose files will be damaged.
fn victims<'a>(site: &Site<'_>) -> [(&'a str, String); 4] {
    ["shifted", "longer", "later", "zeroed"].map(|name| {
        site.server.query(&format!(
            "CREATE TABLE {name} WITH (autovacuum_enabled = off) AS
               SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i"
        ));
        (
            name,
            site.server
                .query(&format!("SELECT pg_relation_filepath('{name}')")),
        )
    })
}

fn append(path: &PathBuf, bytes: usize) {
    let mut file = File::options().append(true).open(path).expect("open a file");
    file.write_all(&vec![b'x'; bytes]).expect("make it longer");
}

#[track_caller]
fn damage_is_named(output: &Output, expected: &[(String, &str)]) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    let taken: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let listed = taken["backup"]["pages"]["first_bad"].as_array().expect("a list");
    for (path, reason) in expected {
        let of_path = listed.iter().filter(|page| page["path"] == path.as_str());
        let reasons: Vec<&str> = of_path.filter_map(|page| page["reason"].as_str()).collect();
        assert!(
            reasons.iter().any(|found| found.contains(reason)),
            "{path}: {reasons:?}\n{text}"
        );
    }
    let known = |path: &str| expected.iter().any(|(expected, _)| expected == path);
    assert!(
        listed
            .iter()
            .all(|page| known(page["path"].as_str().expect("a path"))),
        "{text}"
    );
}

/// B4: "a bad page is reported by file and block, and marks the backup", with checksums and without; and no page is that
/// is only being written.
#[test]
fn b4_damage_that_moves_bytes_is_named_and_nothing_else() {
    let world = World::new("moved");
    let mut site = Site::local(&world);
    site.server.query(TABLES);
    nothing_is_wrong(&site, "sound");
    let victims = victims(&site);
    site.server.stop(StopMode::Fast);
    let file = |path: &str| site.server.data().join(path);
    let [shifted, longer, later, zeroed] = victims.each_ref().map(|(_, path)| path.clone());
    let whole = fs::read(file(&shifted)).expect("read a relation");
    let moved = [&whole[..16384], b"sixmor", &whole[16384..]].concat();
    fs::write(file(&shifted), moved).expect("insert six bytes");
    append(&file(&longer), 100);
    append(&file("pg_xact/0000"), 100);
    let page = File::options()
        .write(true)
        .open(file(&later))
        .expect("open a relation");
    page.write_all_at(&[0x7f, 0, 0, 0], 3 * 8192)
        .expect("move its position");
    let page = File::options()
        .write(true)
        .open(file(&zeroed))
        .expect("open a relation");
    page.write_all_at(&[0; 24], 5 * 8192).expect("zero its header");
    let expected = [
        (shifted, "begin"),
        (longer, "whole pages"),
        (later, "WAL had not reached"),
        (zeroed, "not all zeros"),
        ("pg_xact/0000".to_owned(), "whole pages"),
    ];
    site.server.start();
    damage_is_named(&site.try_backup("damaged", &[]), &expected);
    site.server.stop(StopMode::Fast);
    let disabled = site
        .server
        .program("pg_checksums")
        .arg("--disable")
        .arg("-D")
        .arg(site.server.data())
        .output();
    assert!(
        disabled.as_ref().is_ok_and(|output| output.status.success()),
        "{disabled:?}"
    );
    site.server.start();
    damage_is_named(&site.try_backup("without-checksums", &[]), &expected);

    for (name, _) in victims {
        site.server.query(&format!("DROP TABLE {name}"));
    }
    site.server.stop(StopMode::Fast);
    let states = File::options()
        .write(true)
        .open(site.server.data().join("pg_xact/0000"))
        .expect("open it");
    let bytes = states.metadata().expect("its length").len();
    states.set_len(bytes / 8192 * 8192).expect("cut it");
    site.server.start();
    nothing_is_wrong(&site, "sound-again");
}
