//! Versions of files in the mount.

use super::rig::Rig;
use crate::common::user::said;
use crate::common::walfs::Mount;

#[test]
fn a5_versions_are_read_and_compared_in_the_mount() {
    let rig = Rig::local("files-mount");
    rig.change("mkdir -p deep/pg_wal && echo one > deep/one && echo same > same && ln -s deep/one link");
    rig.noise("large", 40 << 20, 1);
    rig.store("etc");
    rig.store("other");
    rig.change("echo two > deep/one");
    rig.store("etc");
    let mount = Mount::local(&rig.world);
    let files = mount.path().join("files");
    let shell = |line: &str| {
        let output = mount.user().shell(line, &[&files, &rig.source]);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let versions = rig.versions("etc");
    assert_eq!(shell("ls $1"), (Some(0), "etc\nother\n".into()));
    let listed = format!("{}\n{}\nLATEST\n", versions[0], versions[1]);
    assert_eq!(shell("ls $1/etc"), (Some(0), listed));
    assert_eq!(shell("readlink $1/etc/LATEST").1.trim(), versions[1]);
    // As the directory is, and as it was.
    assert_eq!(
        shell("diff -r --no-dereference $2 $1/etc/LATEST/"),
        (Some(0), String::new())
    );
    let between = shell(&format!(
        "diff -rq --no-dereference $1/etc/{} $1/etc/LATEST/",
        versions[0]
    ));
    assert_eq!(between.0, Some(1));
    assert!(
        between.1.contains("deep/one") && between.1.lines().count() == 1,
        "{}",
        between.1
    );
    assert_eq!(
        shell("readlink $1/etc/LATEST/link"),
        (Some(0), "deep/one\n".into())
    );
    assert_eq!(shell("cat $1/other/LATEST/deep/one").1, "one\n");
    // Nothing is there that is not, and nothing can be changed.
    for missing in [
        "nothing",
        "etc/nothing",
        "etc/2001-01-01T000000Z",
        "etc/LATEST/nothing",
    ] {
        assert_eq!(shell(&format!("test -e $1/{missing}")).0, Some(1), "{missing}");
    }
    let changes = [
        "mkdir $1/etc",
        "rm -r $1/etc",
        "touch $1/etc/LATEST/new",
        "rm $1/etc/LATEST/same",
        "echo x > $1/etc/LATEST/same",
        "rmdir $1/etc",
        "mv $1/etc $1/more",
    ];
    for change in changes {
        let output = mount.user().shell(change, &[&files]);
        assert!(!output.status.success(), "{change}: {}", said(&output));
    }
    // What comes while it is mounted is there.
    rig.change("echo three > deep/one");
    rig.store("etc");
    let three = crate::common::wait::within(crate::common::wait::LONG, || {
        (shell("cat $1/etc/LATEST/deep/one").1 == "three\n").then_some(())
    });
    assert!(three.is_some(), "{}", mount.log());
}
