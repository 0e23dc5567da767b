//! An archive that has grown for years, made up in a moment: day by day a thousand segments, and a backup in their middle.
//!
//! What is read of it is whole: summaries, manifests, the segments that backups end in, the last segment of all with its
//! index. The other segments are many names of one file, as whoever lists them looks at names and sizes only; it is as long as
//! one that would be taken for cut is not.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Runtime;
use walfs::archive::tree::backup::Backup;
use walfs::archive::tree::ended::{Ended, KnownFrom};
use walfs::archive::tree::summary::Description;
use walfs::archive::{self, Archive};
use walfs::codec::{Compression, FRAME_BYTES, ObjectBuilder, trailer_bytes};
use walfs::pg::Lsn;
use walfs::pg::landmark::{Known, Landmark};
use walfs::store::{self, Location, Patience};

use crate::common::made_up::{self, Daily};
use crate::common::user::User;
use crate::common::wal;
use crate::common::walfs::walfs;
use crate::common::world::World;
use crate::measure;

/// Each day has so many.
pub(super) const SEGMENTS_OF_A_DAY: u64 = 1000;

const SEGMENT_BYTES: u32 = 1 << 20;

/// What every segment here belongs to.
const SYSTEM_ID: u64 = 7;

/// Names that one file may have, on every file system.
const MOST_NAMES: u64 = 30_000;

const PATIENCE: Duration = Duration::from_secs(600);

/// Records of the WAL: their resource manager, and what it writes.
const CHECKPOINT: (u8, u8) = (0, 0x10);
const BACKUP_END: (u8, u8) = (0, 0x50);
const COMMIT: (u8, u8) = (1, 0);

/// The archive so far.
pub(super) struct Past<'a> {
    world: &'a World,
    runtime: Runtime,
    archive: Archive,
    daily: Daily,
    days: u64,
}

impl<'a> Past<'a> {
    /// A new archive, whose backups will have so many files.
    pub(super) fn new(world: &'a World, files: u32) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let archive = runtime.block_on(async {
            let location = Location::Dir(world.archive());
            let store = store::open(&location, &store::Options::default()).await;
            let create = archive::Options {
                create: true,
                ..Default::default()
            };
            let patience = Patience::for_at_most(PATIENCE);
            Archive::open(store.expect("a store"), &create, patience).await
        });
        Self {
            world,
            runtime,
            archive: archive.expect("an archive"),
            daily: Daily::new(files),
            days: 0,
        }
    }

    /// Until there are so many days.
    pub(super) fn go_on_to(&mut self, days: u64) {
        let first = number(self.days, 0);
        // It ends in a commit, some time later than every backup.
        self.push_segment(number(days, 0) - 1);
        let mut one: Option<PathBuf> = None;
        for number in first..number(days, 0) - 1 {
            let path = self.object(number);
            match one.as_ref().filter(|_| !number.is_multiple_of(MOST_NAMES)) {
                Some(one) => fs::hard_link(one, &path).expect("give a file another name"),
                None => {
                    let bytes = trailer_bytes(u64::from(SEGMENT_BYTES)) as usize + 1;
                    fs::write(&path, vec![0; bytes]).expect("make an object");
                    one = Some(path);
                }
            }
        }
        for day in self.days..days {
            self.back_up(day);
        }
        self.days = days;
    }

    fn object(&self, number: u64) -> PathBuf {
        let object = format!("wal/{}.lz4", name(number));
        self.world.archive().join(object)
    }

    /// Archives a segment with one commit.
    fn push_segment(&self, number: u64) {
        let commit = wal::record(COMMIT, &1_000_000_i64.to_le_bytes());
        let (content, _) = wal::segment_of_records(&name(number), SYSTEM_ID, SEGMENT_BYTES, &[commit]);
        let file = self.world.owned_file(&name(number), &content);
        let mut push = walfs(self.world, &User::caller());
        push.arg("wal-push").arg(file);
        measure::run(push.arg("--archive").arg(self.world.archive()), None);
    }

    /// Stores a backup, and the segment that it is in: from its checkpoint to the record of its end.
    fn back_up(&mut self, day: u64) {
        let number = number(day, SEGMENTS_OF_A_DAY / 2);
        let begin = number * u64::from(SEGMENT_BYTES);
        let start = begin + wal::FIRST_RECORD as u64;
        let mut checkpoint = [0; 88];
        checkpoint[..8].copy_from_slice(&start.to_le_bytes());
        checkpoint[8] = 1;
        let records = [
            wal::record(CHECKPOINT, &checkpoint),
            wal::record(BACKUP_END, &start.to_le_bytes()),
        ];
        let (content, end) = wal::segment_of_records(&name(number), SYSTEM_ID, SEGMENT_BYTES, &records);
        // Not into the file that has many names.
        fs::remove_file(self.object(number)).expect("remove an object");
        fs::write(self.object(number), packed(&content)).expect("make an object");
        let description = describe(day, Lsn(start), Lsn(begin + end as u64));
        let name = format!("day-{day:04}").parse().expect("a name");
        let patience = Patience::for_at_most(PATIENCE);
        let stored = self.daily.store(&self.archive, &name, description, patience);
        self.runtime.block_on(stored);
    }
}

/// The number of a segment of a day.
fn number(day: u64, segment: u64) -> u64 {
    1 + day * SEGMENTS_OF_A_DAY + segment
}

fn name(number: u64) -> String {
    wal::segment_name(1, number, SEGMENT_BYTES)
}

fn packed(content: &[u8]) -> Vec<u8> {
    let mut object = ObjectBuilder::new(Compression::default(), Vec::new());
    for frame in content.chunks(FRAME_BYTES) {
        object.push(frame).expect("memory takes all");
    }
    object.finish(&[]).expect("memory takes all").0
}

fn describe(day: u64, start: Lsn, end: Lsn) -> Description {
    let at = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * day as i64);
    let description = made_up::description();
    let mut wal = description.backup.wal;
    (wal[0].start, wal[0].end) = (start, end);
    let checkpoint = Landmark::Checkpoint {
        at: start,
        known: Known::Redo(start),
    };
    Description {
        began: at,
        backup: Backup {
            wal,
            ended: Ended {
                at,
                known_from: KnownFrom::Server,
            },
            landmarks: vec![checkpoint, Landmark::End { at: end, start }],
            ..description.backup
        },
        ..description
    }
}
