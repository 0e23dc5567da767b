//! Databases of any name: each is dumped, under a name of its own, and none leads anywhere else.

use std::collections::BTreeSet;

use super::rig::Rig;
use crate::common::walfs::Mount;

const NAMES: [&str; 11] = [
    "it's \"quoted\"",
    "a/b",
    "../../etc",
    "..",
    "line\nfeed",
    "-x",
    "--all",
    "dbname=postgres host=nowhere",
    "postgresql://nowhere/postgres",
    "globals",
    "größe 大",
];

#[test]
fn a5_a_database_of_any_name_is_dumped_as_itself() {
    let rig = Rig::local("dumps-names");
    for name in NAMES {
        let quoted = name.replace('"', "\"\"");
        rig.server.query(&format!("CREATE DATABASE \"{quoted}\""));
        let mut psql = rig.server.program("psql");
        let conninfo = format!("dbname='{}'", name.replace('\\', "\\\\").replace('\'', "\\'"));
        let comment = format!("CREATE TABLE \"{quoted}\" (i int)");
        let made = psql.args(["-XAtq", "-d", &conninfo, "-c", &comment]).status();
        assert!(made.expect("run psql").success(), "{name:?}");
    }
    let told = rig.dumps(&["--all"]);
    let kept: BTreeSet<&str> = told.iter().filter_map(|told| told["name"].as_str()).collect();
    assert_eq!(kept.len(), NAMES.len() + 3, "{told:?}");
    for name in NAMES {
        let dump = told
            .iter()
            .find(|told| told["database"] == name)
            .expect("each database");
        assert!(dump["error"].is_null(), "{dump}");
        // It is the database of that name, and no other.
        let set = dump["name"].as_str().expect("a name");
        let file = rig
            .world
            .owned_dir(&format!("{:x}", fastrand::u64(..)))
            .join("dump");
        rig.succeeds("dump-restore", &[set, &file.display().to_string()]);
        let list = rig.user.shell("\"$1/pg_restore\" -l \"$2\"", &[&rig.bin, &file]);
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        assert!(list.contains(&name.replace('\n', " ")), "{name:?}: {list}");
        // Named alone it is the same.
        let alone = rig.dump(name);
        assert_eq!(
            (&alone["name"], &alone["unchanged"]),
            (&dump["name"], &true.into())
        );
    }
    // All of them are in the mount, below `dumps/`.
    let mount = Mount::local(&rig.world);
    let listed = mount.user().shell("ls \"$1/dumps\"", &[mount.path()]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.lines().collect::<BTreeSet<_>>(), kept);
}
