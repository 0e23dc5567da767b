//! What a backup and a restore may hold in memory (promise S3): as much as they are told, however slow the store is.

use std::fs;
use std::time::Duration;

use super::reading::{MIB, noise};
use crate::common::basebackup::{Place, Site};
use crate::common::s3::{Action, Operation, Rule, S3Server};
use crate::common::user::User;
use crate::common::walfs::peak_of;
use crate::common::world::World;

/// Three times as much as they may hold, which does not compress, and more threads than there is memory for.
#[test]
fn s3_a_backup_and_its_restore_stay_within_the_memory_they_are_given() {
    let world = World::new("memory");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(store) = &site.place else {
        unreachable!("made above");
    };
    for number in 0..8 {
        let file = site.server.data().join(format!("noise{number}"));
        fs::write(&file, noise(number, 64 * MIB)).expect("write a file that does not compress");
        User::postgres().own(&file);
    }
    for operation in [Operation::Put, Operation::Get] {
        let delay = Action::Delay(Duration::from_millis(300));
        store.add_rule(Rule::new(delay).operation(operation));
    }
    let small = ["--memory", "160MiB", "--jobs", "8"];
    let mut backup = site.walfs("backup");
    let taken = peak_of(backup.args(["--fast", "small"]).args(small));
    assert!(taken < 160, "{taken} MiB");
    let back = world.owned_dir("back").join("data");
    let mut restore = site.walfs("restore");
    let restored = peak_of(restore.args(small).args(["--no-sync", "small"]).arg(&back));
    assert!(restored < 160, "{restored} MiB");
    let file = back.join("noise7");
    assert!(fs::read(file).expect("read what came back") == noise(7, 64 * MIB));
}
