//! A ground for one tool and its archive: a directory, or an S3 server of its own, near or far.
//!
//! Its own server, because Garage keeps equal blocks once: of two tools that store the same bytes the second would have
//! it cheaper.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::garage::Garage;
use crate::common::user::User;
use crate::common::world::World;
use crate::measure::files;
use crate::measure::line::Line;
use crate::scene::cluster;

/// Where archives are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine's file system.
    Directory,
    /// In S3, with so many milliseconds of added round trip.
    S3 { round_trip_ms: u64 },
}

impl Place {
    /// As in tables.
    pub fn name(self) -> String {
        match self {
            Place::Directory => "directory".into(),
            Place::S3 { round_trip_ms } => format!("S3 + {round_trip_ms} ms"),
        }
    }
}

/// One tool's ground in one place; what is beneath it goes when it is dropped.
#[derive(Debug)]
pub struct Site {
    /// All its files.
    pub dir: PathBuf,
    /// The archive, if it is in S3.
    pub s3: Option<S3>,
}

/// An S3 server of its own, and the way to it. The order is that of their ends.
#[derive(Debug)]
pub struct S3 {
    line: Option<Line>,
    round_trip: Duration,
    garage: Garage,
    /// Access key in the form of `~/.aws/credentials`, readable by postgres.
    pub keys: PathBuf,
}

impl Site {
    /// A new one beneath the world; no other site of this name may live.
    pub fn new(world: &World, name: &str, place: Place) -> Site {
        let dir = world.owned_dir(name);
        let s3 = match place {
            Place::Directory => None,
            Place::S3 { round_trip_ms } => Some(S3::start(world, name, round_trip_ms)),
        };
        Site { dir, s3 }
    }

    /// The directory of an archive that is not in S3.
    pub fn archive(&self) -> PathBuf {
        self.dir.join("archive")
    }

    /// A new directory to mount something at.
    pub fn mountpoint(&self) -> PathBuf {
        let mountpoint = self.dir.join("mnt");
        fs::create_dir(&mountpoint).expect("make the mount point");
        mountpoint
    }

    /// What walfs is told: the archive, and options that say where it is.
    pub fn walfs_archive(&self) -> (String, Vec<String>) {
        let Some(s3) = &self.s3 else {
            return (owned(self, "archive").display().to_string(), Vec::new());
        };
        let keys = s3.keys.display().to_string();
        let options = [
            "--endpoint",
            &s3.endpoint(),
            "--region",
            s3.region(),
            "--credentials-file",
            &keys,
        ];
        (
            format!("s3://{}/archive", s3.bucket()),
            options.map(str::to_owned).to_vec(),
        )
    }

    /// Where the bytes of all that is archived are: in S3 those of objects, not Garage's database.
    pub fn bytes_in(&self) -> PathBuf {
        match &self.s3 {
            None => self.archive(),
            Some(_) => self.dir.join("garage/data"),
        }
    }

    /// Bytes in there.
    pub fn stored_bytes(&self) -> u64 {
        files::bytes_beneath(&self.bytes_in())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.s3 = None;
        cluster::remove(&self.dir);
    }
}

impl S3 {
    fn start(world: &World, name: &str, round_trip_ms: u64) -> S3 {
        let garage = Garage::start(&world.path().join(name).join("garage"), true);
        let round_trip = Duration::from_millis(round_trip_ms);
        let (id, key) = (
            secret(&garage, "AWS_ACCESS_KEY_ID"),
            secret(&garage, "AWS_SECRET_ACCESS_KEY"),
        );
        let keys = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {key}\n");
        let keys = world.owned_file(&format!("{name}/keys"), keys.as_bytes());
        let mut s3 = S3 {
            line: None,
            round_trip,
            garage,
            keys,
        };
        s3.line = s3.line_to(s3.server());
        s3
    }

    /// A way to `server` that takes as long as this one's; `None` if it takes no time.
    pub fn line_to(&self, server: SocketAddr) -> Option<Line> {
        (!self.round_trip.is_zero()).then(|| Line::to(server, self.round_trip))
    }

    /// Garage itself, near.
    pub fn server(&self) -> SocketAddr {
        let endpoint = self.garage.endpoint();
        endpoint
            .trim_start_matches("http://")
            .parse()
            .expect("Garage's address")
    }

    /// `http://` and the far end of the line.
    pub fn endpoint(&self) -> String {
        let near = self.server();
        format!("http://{}", self.line.as_ref().map_or(near, Line::address))
    }

    pub fn bucket(&self) -> &'static str {
        self.garage.bucket()
    }

    /// Name of the region.
    pub fn region(&self) -> &'static str {
        "garage"
    }

    /// The server's process.
    pub fn process(&self) -> u32 {
        self.garage.process()
    }

    /// Access key and its secret, for a tool that wants them in a file of its own.
    pub fn access_key(&self) -> (String, String) {
        (
            secret(&self.garage, "AWS_ACCESS_KEY_ID"),
            secret(&self.garage, "AWS_SECRET_ACCESS_KEY"),
        )
    }

    /// What a client of the AWS SDKs needs in its environment: no secret itself.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_SHARED_CREDENTIALS_FILE", self.keys.display().to_string()),
            ("AWS_DEFAULT_REGION", self.region().into()),
            ("AWS_REGION", self.region().into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ]
    }
}

fn secret(garage: &Garage, wanted: &str) -> String {
    let mut all = garage.env().into_iter();
    all.find(|(name, _)| name == wanted)
        .expect("Garage has this variable")
        .1
}

/// A directory of the site that postgres owns.
pub fn owned(site: &Site, name: &str) -> PathBuf {
    let dir = site.dir.join(name);
    User::postgres().make_dir(&dir);
    dir
}

/// A file of the site that only its owner, postgres or root, may read.
pub fn private(path: &Path, text: &str) {
    fs::write(path, text).expect("write a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("set a mode");
}
