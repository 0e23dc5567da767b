//! Dumps in the mount.

use super::rig::Rig;
use crate::common::user::said;
use crate::common::walfs::Mount;

#[test]
fn a5_pg_restore_reads_straight_from_the_mount() {
    let rig = Rig::local("dumps-mount");
    rig.fill("app", 20_000);
    rig.dump("app");
    let first = rig.told("app");
    rig.sql("app", "DELETE FROM t WHERE id BETWEEN 5000 AND 6000");
    rig.dump("app");
    rig.succeeds("dump", &["--globals"]);
    let mount = Mount::local(&rig.world);
    let dumps = mount.path().join("dumps");
    let shell = |line: &str| {
        let output = mount.user().shell(line, &[&dumps]);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let versions = rig.versions("app");
    assert_eq!(shell("ls $1"), (Some(0), "app\nglobals\n".into()));
    let listed = format!("{}\n{}\nLATEST\n", versions[0], versions[1]);
    assert_eq!(shell("ls $1/app"), (Some(0), listed));
    assert_eq!(shell("ls $1/app/LATEST/"), (Some(0), "app.dump\n".into()));
    assert_eq!(shell("stat -c %a $1/app/LATEST/app.dump").1, "600\n");
    assert!(rig.restored_from(&dumps.join("app/LATEST/app.dump")) == rig.told("app"));
    let earlier = dumps.join("app").join(&versions[0]).join("app.dump");
    assert!(rig.restored_from(&earlier) == first);
    let script = shell("cat $1/globals/LATEST/globals.sql").1;
    assert!(script.contains("CREATE ROLE postgres;"), "{script}");
    // Nothing can be changed, or made.
    let changes = [
        "mkdir $1/app",
        "echo x > $1/app/LATEST/app.dump",
        "rm $1/app/LATEST/app.dump",
        "mv $1/app $1/more",
        "echo x > $1/app",
    ];
    for change in changes {
        let output = mount.user().shell(change, &[&dumps]);
        assert!(!output.status.success(), "{change}: {}", said(&output));
    }
}
