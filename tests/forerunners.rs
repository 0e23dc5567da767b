//! A4: who comes from another system finds its words, and `docs/forerunners.md` tells the truth.

use std::fs;
use std::path::Path;

use super::common::basebackup::Site;
use super::common::garage::Garage;
use super::common::user::{User, said, succeeds};
use super::common::wal;
use super::common::walfs::walfs;
use super::common::world::World;

/// What a row says that names no test.
const UNPROVED: [&str; 3] = ["not yet", "not needed", "no test"];

#[test]
fn a4_the_verbs_of_the_forerunners_are_understood() {
    let world = World::new("verbs");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t AS SELECT 1 AS id");
    let segment = site.server.archive_all();
    let run = |verb: &str, words: &[&str]| {
        let output = site.walfs(verb).args(words).output().expect("run walfs");
        assert!(output.status.success(), "{verb}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // WAL: archived by the server, and again.
    let archived = site.server.data().join("pg_wal").join(&segment);
    for verb in ["archive", "wal-push"] {
        run(verb, &[archived.to_str().expect("a path of text")]);
    }
    assert!(run("lswal", &[]).contains(&segment));
    for verb in ["fetch", "wal-fetch"] {
        let to = world.owned_dir(verb).join("segment");
        run(verb, &[&segment, to.to_str().expect("a path of text")]);
        assert!(
            fs::read(&to).expect("read it") == fs::read(&archived).expect("read it"),
            "{verb}"
        );
        // PostgreSQL takes any other code than 1 for no end of the WAL.
        let absent = site.walfs(verb).args(["0000000100000000000000FF", "x"]).output();
        assert_eq!(absent.expect("run walfs").status.code(), Some(1), "{verb}");
        let wrong = site.walfs(verb).arg("--wrong").output();
        assert_eq!(wrong.expect("run walfs").status.code(), Some(255), "{verb}");
    }
    // Backups.
    for verb in ["basebackup", "backup-push"] {
        run(verb, &["--fast", &format!("by-{verb}")]);
    }
    let listed = run("ls", &[]);
    assert!(
        listed.contains("by-basebackup") && listed.contains("by-backup-push"),
        "{listed}"
    );
    let back = world.owned_dir("back").join("data");
    run(
        "backup-fetch",
        &["LATEST", back.to_str().expect("a path of text")],
    );
    assert!(back.join("global/pg_control").exists());
    // Their other words.
    let setup = ["--no-mount", "--keep-days", "7", "--dry-run"];
    let setup = site.walfs("setup").args(setup).output().expect("run walfs");
    assert!(matches!(setup.status.code(), Some(0 | 3)), "{}", said(&setup));
    let mut genman = walfs(&world, &User::postgres());
    let pages = world.owned_dir("man");
    succeeds(genman.arg("genman").arg(&pages));
    assert!(pages.join("walfs.1").exists());
    let mut version = walfs(&world, &User::postgres());
    assert!(succeeds(version.arg("--version")).starts_with("walfs "));
}

/// WAL-E's environment for a server that is not AWS: nothing of it goes to AWS.
#[test]
fn a4_the_environment_of_wal_e_leads_to_its_own_server() {
    let world = World::new("wale");
    let garage = Garage::start(&world.path().join("garage"), false);
    let name = "000000010000000000000001";
    let segment = world.owned_file(name, &wal::segment(name, 7, wal::SEGMENT_BYTES, 1));
    let place = garage.endpoint().replace("http://", "http+path://");
    let run = |endpoint: &str, words: &[&str]| {
        let mut command = walfs(&world, &User::postgres());
        command
            .envs(garage.env())
            .env("WALE_S3_PREFIX", format!("s3://{}/prefix", garage.bucket()))
            .env("WALE_S3_ENDPOINT", endpoint)
            .args(words);
        command.output().expect("run walfs")
    };
    let pushed = run(&place, &["wal-push", segment.to_str().expect("a path of text")]);
    assert!(pushed.status.success(), "{}", said(&pushed));
    let listed = run(&place, &["wal-list"]);
    assert!(said(&listed).contains(name), "{}", said(&listed));
    let refused = run("http+odd://localhost", &["wal-list"]);
    assert!(!refused.status.success(), "{}", said(&refused));
    assert!(said(&refused).contains("is no URL"), "{}", said(&refused));
}

/// The rows of the tables of the document: their cells.
fn rows(document: &str) -> Vec<Vec<&str>> {
    let lines = document
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    let cells = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    cells
        .filter(|row| row.last() != Some(&"proved by") && !row[0].starts_with("---"))
        .collect()
}

/// What is marked as code in a text.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn the_forerunners_document_names_tests_and_commands_that_exist() {
    let document = super::recipes::page("forerunners.md");
    let tests = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
    let rows = rows(&document);
    assert!(rows.len() > 60, "{}", rows.len());
    for row in &rows {
        assert_eq!(row.len(), 3, "{row:?}");
        let proofs: Vec<&str> = code(row[2]).collect();
        for proof in &proofs {
            assert!(tests.contains(&format!("fn {proof}(")), "no test {proof}");
        }
        let has_no_proof = UNPROVED.iter().any(|words| row[1].contains(words));
        assert!(
            !proofs.is_empty() || has_no_proof,
            "neither a test nor a reason: {row:?}"
        );
    }
    let world = World::new("named");
    let mut verbs: Vec<&str> = code(&document)
        .filter_map(|code| code.strip_prefix("walfs "))
        .filter_map(|words| words.split(' ').next())
        .filter(|verb| !verb.starts_with('-'))
        .collect();
    verbs.sort_unstable();
    verbs.dedup();
    assert!(verbs.len() > 15, "{verbs:?}");
    for verb in verbs {
        let help = walfs(&world, &User::postgres()).args([verb, "--help"]).output();
        let help = help.expect("run walfs");
        assert!(help.status.success(), "walfs {verb}: {}", said(&help));
    }
}

/// The text of all tests.
fn sources(directory: &Path) -> String {
    let entries = fs::read_dir(directory).expect("list the tests").flatten();
    let texts = entries.map(|entry| match entry.file_type().expect("its kind").is_dir() {
        true => sources(&entry.path()),
        false => fs::read_to_string(entry.path()).unwrap_or_default(),
    });
    texts.collect()
}
