//! walfs, by its mount and without one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::postgres::Postgres;
use crate::common::user::User;
use crate::common::walfs::{BINARY, Mount, Options};
use crate::common::world::World;
use crate::contender::{BaseTool, Failure, WalTool};
use crate::local::cp;
use crate::measure::meter;
use crate::scene::site::Site;
use crate::{BaseGround, WalGround};

/// The binary, where postgres can run it.
fn program(world: &World) -> PathBuf {
    world.public_program(Path::new(BINARY))
}

fn mount(world: &World, site: &Site, options: &[&str]) -> Mount {
    let (archive, place) = site.walfs_archive();
    let place: Vec<&str> = place.iter().map(String::as_str).collect();
    let walfs = Options::of(world, &archive).at(&site.mountpoint());
    walfs.args(&place).args(options).mount()
}

/// `cp` into and out of the mount.
#[derive(Debug)]
pub struct Mounted {
    mount: Mount,
}

impl Mounted {
    /// Mounted as the manual says.
    pub fn set_up(ground: &WalGround<'_>) -> Result<Box<dyn WalTool>, Failure> {
        Ok(Box::new(Mounted {
            mount: mount(ground.world, ground.site, &[]),
        }))
    }

    /// Told not to look at `pg_wal`.
    pub fn not_ahead(ground: &WalGround<'_>) -> Result<Box<dyn WalTool>, Failure> {
        let mount = mount(ground.world, ground.site, &["--pg-wal", "off"]);
        Ok(Box::new(Mounted { mount }))
    }
}

impl WalTool for Mounted {
    fn workers(&self) -> Vec<u32> {
        vec![self.mount.process()]
    }

    fn push(&mut self, wal: &Path) -> Result<(), Failure> {
        cp(wal, &self.mount.wal())
    }

    fn fetch(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        cp(&self.mount.wal().join(name), to)
    }

    /// With the proof that `walfs postgres-config` prints, by the shell that PostgreSQL runs it with.
    fn fetch_missing(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        let mut shell = User::postgres().command("/bin/sh");
        let line = r#"cp "$1/wal/$2" "$3" || { test -e "$1/.absent/$2" && exit 1; exit 255; }"#;
        shell
            .args(["-c", line, "sh"])
            .arg(self.mount.path())
            .arg(name)
            .arg(to);
        absent(meter::exit_of(&mut shell))
    }

    fn restart(&mut self) {
        self.mount.restart();
    }
}

/// 1, and no other exit code, says that a segment is not there.
fn absent(status: std::process::ExitStatus) -> Result<(), Failure> {
    match status.code() {
        Some(1) => Ok(()),
        _ => Err(format!("a segment that is not there: {status}")),
    }
}

/// `walfs wal-push` and `wal-fetch`: a process for each segment.
#[derive(Debug)]
pub struct Direct {
    program: PathBuf,
    archive: String,
    place: Vec<String>,
}

impl Direct {
    /// Nothing to set up: the first push makes the archive.
    pub fn set_up(ground: &WalGround<'_>) -> Result<Box<dyn WalTool>, Failure> {
        let (archive, place) = ground.site.walfs_archive();
        let program = program(ground.world);
        Ok(Box::new(Direct {
            program,
            archive,
            place,
        }))
    }

    fn command(&self, verb: &str, arguments: &[&Path]) -> Command {
        let mut command = User::postgres().command(&self.program);
        command
            .arg(verb)
            .args(arguments)
            .args(["--archive", &self.archive])
            .args(&self.place);
        command
    }
}

impl WalTool for Direct {
    fn push(&mut self, wal: &Path) -> Result<(), Failure> {
        meter::succeed(&mut self.command("wal-push", &[wal]))
    }

    fn fetch(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        meter::succeed(&mut self.command("wal-fetch", &[Path::new(name), to]))
    }

    fn fetch_missing(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        absent(meter::exit_of(
            &mut self.command("wal-fetch", &[Path::new(name), to]),
        ))
    }
}

/// `walfs backup` and `walfs restore`, with a mount that archives the WAL meanwhile.
#[derive(Debug)]
pub struct Backups {
    program: PathBuf,
    mount: Mount,
    archive: String,
    place: Vec<String>,
}

/// The name of the only backup.
const NAME: &str = "bench";

impl Backups {
    /// Mounted; PostgreSQL archives into it.
    pub fn set_up(ground: &BaseGround<'_>) -> Result<Box<dyn BaseTool>, Failure> {
        let (archive, place) = ground.site.walfs_archive();
        let mount = mount(ground.world, ground.site, &[]);
        let program = program(ground.world);
        Ok(Box::new(Backups {
            program,
            mount,
            archive,
            place,
        }))
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = User::postgres().command(&self.program);
        command
            .args([verb, NAME, "--archive", &self.archive])
            .args(&self.place);
        command
    }
}

impl BaseTool for Backups {
    fn archive_command(&self) -> String {
        self.mount.archive_command()
    }

    fn backup(&self, server: &Postgres) -> Command {
        let mut command = self.command("backup");
        let sockets = server.data().with_file_name("");
        command
            .args(["--fast", "--json"])
            .env("PGHOST", sockets)
            .env("PGUSER", "postgres");
        command
    }

    fn restore(&self, data: &Path) -> Command {
        let mut command = self.command("restore");
        command.arg("--no-archiving").arg(data);
        command
    }

    fn restore_command(&self) -> String {
        self.mount.restore_command()
    }
}
