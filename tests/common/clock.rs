//! Processes whose clock is wrong.

use std::path::PathBuf;
use std::process::Command;

use super::world::World;

/// Takes the place of what asks the kernel for the time.
const SHIFTED: &str = r#"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    int outcome = syscall(SYS_clock_gettime, clock, time);
    if (outcome == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += SECONDS;
    return outcome;
}
int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    int outcome = syscall(SYS_gettimeofday, time, zone);
    if (outcome == 0)
        time->tv_sec += SECONDS;
    return outcome;
}
"#;

/// For `LD_PRELOAD`: the clock of the day is so many seconds ahead.
#[track_caller]
pub fn ahead(world: &World, seconds: i64) -> PathBuf {
    let source = world.owned_file("clock.c", SHIFTED.as_bytes());
    let library = world.path().join(format!("clock{seconds}.so"));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", &format!("-DSECONDS=({seconds})"), "-o"]);
    let made = cc.arg(&library).arg(&source).status().expect("run cc");
    assert!(made.success(), "cc made no library");
    library
}
