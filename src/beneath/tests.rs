use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use super::*;

/// A tree with links in it that lead out, and what they lead to.
struct Place {
    place: tempfile::TempDir,
    root: Root,
}

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("in"), place.path().join("out"));
        fs::create_dir_all(inside.join("base/1")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(inside.join("base/1/1259"), "relation").unwrap();
        fs::write(outside.join("kept"), "outside").unwrap();
        symlink(&outside, inside.join("folder")).unwrap();
        symlink(outside.join("kept"), inside.join("file")).unwrap();
        symlink("base", inside.join("near")).unwrap();
        let root = Root::open(&inside).unwrap();
        Self { place, root }
    }

    /// Everything outside, as it is now.
    fn outside(&self) -> Vec<(OsString, Vec<u8>, u32, i64)> {
        let entries = fs::read_dir(self.place.path().join("out")).unwrap();
        let mut found: Vec<_> = entries
            .map(|entry| {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                let content = fs::read(entry.path()).unwrap();
                (entry.file_name(), content, metadata.mode(), metadata.mtime())
            })
            .collect();
        found.sort();
        found
    }
}

fn path(text: &str) -> &Path {
    Path::new(text)
}

#[test]
fn s6_no_link_is_followed_by_anything() {
    let place = Place::new();
    let (root, before) = (&place.root, place.outside());
    for inside in ["folder/kept", "folder/new", "near/1/1259"] {
        let inside = path(inside);
        let told = [
            root.open_file(inside).err(),
            root.open_to_write(inside).err(),
            root.create(inside, 0o600).err(),
            root.make_directory(&inside.join("below"), 0o700).err(),
            root.link(path("/etc"), inside).err(),
            root.rename(path("base/1/1259"), inside).err(),
            root.rename(inside, path("base/2")).err(),
            root.remove_file(inside).err(),
            root.remove_tree(inside).err(),
            root.set_mode(inside, 0o777).err(),
            root.set_owner(inside, 1, 1).err(),
            root.set_modified(inside, UNIX_EPOCH).err(),
            root.metadata(inside).err(),
            root.read_link(inside).err(),
            root.list(inside.parent().unwrap()).err(),
            root.sync_directory(inside.parent().unwrap()).err(),
        ];
        for (at, error) in told.iter().enumerate() {
            let error = error
                .as_ref()
                .unwrap_or_else(|| panic!("{at} followed {inside:?}"));
            let said = error.to_string();
            assert!(
                said.contains("is a symbolic link, which is not followed"),
                "{at}: {said}"
            );
        }
    }
    for inside in ["file", "folder"].map(path) {
        assert!(root.open_file(inside).is_err());
        assert!(root.open_to_write(inside).is_err());
        assert!(root.read(inside, 100).is_err());
        assert!(root.set_mode(inside, 0o777).is_err());
        root.set_modified(inside, UNIX_EPOCH).unwrap();
    }
    assert_eq!(place.outside(), before);
    assert_eq!(root.read(path("base/1/1259"), 8).unwrap(), b"relation");
}

#[test]
fn s6_what_stands_in_the_way_goes_and_not_what_it_leads_to() {
    let place = Place::new();
    let (root, before) = (&place.root, place.outside());
    root.write(path("file"), b"own", 0o640).unwrap();
    assert_eq!(root.metadata(path("file")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(root.read(path("file"), 3).unwrap(), b"own");
    root.remove_tree(path("folder")).unwrap();
    root.make_directory(path("folder/deep"), 0o750).unwrap();
    assert_eq!(root.metadata(path("folder/deep")).unwrap().mode() & 0o7777, 0o750);
    symlink(
        place.place.path().join("out"),
        root.path().join("folder/deep/out"),
    )
    .unwrap();
    root.remove_tree(path("folder")).unwrap();
    assert_eq!(root.kind(path("folder")).unwrap(), None);
    // A second name of a file outside: it is made anew, not cut.
    let kept = place.place.path().join("out/kept");
    fs::hard_link(&kept, root.path().join("second")).unwrap();
    root.write(path("second"), b"", 0o600).unwrap();
    assert_eq!(place.outside(), before);
}

#[test]
fn paths_lead_down_only() {
    let place = Place::new();
    for inside in ["../out/kept", "/etc/passwd", "base/../../out/kept"] {
        let error = place.root.open_file(path(inside)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{inside}");
    }
    assert!(place.root.create(path(""), 0o600).is_err());
}

#[test]
fn only_regular_files_are_opened_and_none_longer_than_said() {
    let place = Place::new();
    let fifo = place.root.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        Mode::from(0o600),
        0,
    )
    .unwrap();
    // Without waiting for somebody at the other end.
    assert!(place.root.open_file(path("fifo")).is_err());
    assert!(place.root.open_to_write(path("fifo")).is_err());
    assert!(place.root.open_file(path("base")).is_err());
    let long = place.root.read(path("base/1/1259"), 7).unwrap_err();
    assert_eq!(long.kind(), ErrorKind::InvalidData);
    let kinds = place.root.list(path("")).unwrap();
    let expected = [
        ("base", Kind::Directory),
        ("fifo", Kind::Special),
        ("file", Kind::Link),
        ("folder", Kind::Link),
        ("near", Kind::Link),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (OsString::from(name), kind)));
}

#[test]
fn times_modes_and_names_are_set() {
    let place = Place::new();
    let (root, file) = (&place.root, path("base/1/1259"));
    let then = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    root.set_mode(file, 0o000).unwrap();
    root.set_mode(file, 0o640).unwrap();
    root.set_modified(file, then).unwrap();
    root.set_modified(path(""), then).unwrap();
    root.rename(file, path("base/2")).unwrap();
    assert_eq!(root.metadata(path("")).unwrap().modified().unwrap(), then);
    assert_eq!(root.metadata(path("base/2")).unwrap().mode() & 0o7777, 0o640);
    assert!(root.remove_file(path("base/2")).unwrap());
    assert!(!root.remove_file(path("base/2")).unwrap());
    assert!(!root.remove_file(path("none/2")).unwrap());
    root.directory(path("base"))
        .unwrap()
        .remove_tree(path("1"))
        .unwrap();
    root.sync_directory(path("base")).unwrap();
    assert_eq!(root.list(path("base")).unwrap(), []);
}

/// Somebody who can rename the directory puts a link in its place: what was opened stays what it is.
#[test]
fn s6_a_directory_is_known_however_its_name_is_used() {
    let scene = Place::new();
    let (inside, moved) = (scene.place.path().join("in"), scene.place.path().join("moved"));
    assert!(scene.root.is_at(&inside).unwrap());
    fs::rename(&inside, &moved).unwrap();
    assert!(!scene.root.is_at(&inside).unwrap());
    symlink(scene.place.path().join("out"), &inside).unwrap();
    assert!(!scene.root.is_at(&inside).unwrap() && scene.root.is_at(&moved).unwrap());
    let place = scene.place.path().canonicalize().unwrap();
    assert_eq!(scene.root.real().unwrap(), place.join("moved"));
    // Beside it is where it is, not where its name leads.
    let beside = scene.root.above().unwrap().make_new(path("new")).unwrap();
    assert_eq!(beside.real().unwrap(), place.join("new"));
    assert_eq!(beside.metadata(path("")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn s6_a_new_directory_is_new() {
    let scene = Place::new();
    let before = scene.outside();
    for taken in ["folder", "file", "near", "base"] {
        let error = scene.root.make_new(path(taken)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{taken}");
    }
    assert!(scene.root.make_new(path("folder/new")).is_err());
    assert_eq!(scene.outside(), before);
}
