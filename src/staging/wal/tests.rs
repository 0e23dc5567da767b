//! Small files, against a local archive.

use super::*;
use crate::store::Location;

const BACKUP: &str = "000000010000000000000002.00000028.backup";
const TEXT: &[u8] = b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
STOP WAL LOCATION: 0/2000138 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2024-01-01 00:00:00 UTC
LABEL: demo
START TIMELINE: 1
STOP TIME: 2024-01-01 00:00:01 UTC
STOP TIMELINE: 1
";

async fn archive(directory: &std::path::Path) -> Arc<Archive> {
    let location = Location::Dir(directory.to_owned());
    let store = store::open(&location, &store::Options::default()).await.unwrap();
    let options = crate::archive::Options {
        create: true,
        ..Default::default()
    };
    let patience = Patience::for_at_most(Duration::from_secs(45));
    Arc::new(Archive::open(store, &options, patience).await.unwrap())
}

/// Its name begins with a segment's, but it is no segment: `pg_backup_stop` writes one, and archiving stands still
/// until it is archived.
#[tokio::test]
async fn backup_history_is_archived_as_the_text_it_is() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let staging = Staging::new(Compression::default(), &Default::default());
    let name: WalName = BACKUP.parse().unwrap();
    let deadline = Duration::from_secs(45);
    let mut draft = WalDraft::new(archive.clone(), &staging, name, deadline);
    draft.write(0, &Bytes::from_static(TEXT), || None).await.unwrap();
    draft.finish().await.unwrap();
    let patience = Patience::for_at_most(deadline);
    let found = archive.read_small(name, patience).await.unwrap();
    assert_eq!(found.as_deref(), Some(TEXT));
    let listed = archive.list_wal(None, patience).await.unwrap().entries;
    assert_eq!((listed[0].0, listed[0].1.bytes), (name, TEXT.len() as u64));
}
