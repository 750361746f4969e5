//! Tests of `beneath`: links, races, depth, mounts.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;

fn dir() -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(temp.path()).unwrap().join("root");
    fs::create_dir(&path).unwrap();
    let dir = Dir::open(&path).unwrap();
    (temp, dir)
}

fn inode(fd: &OwnedFd) -> u64 {
    fstat(fd).unwrap().st_ino
}

#[test]
fn links_are_refused_unless_asked_for() {
    let (_temp, dir) = dir();
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    assert!(dir.open_path(Path::new("link/x")).is_err());
    assert!(dir.open_dir(Path::new("link")).is_err());
    let real = fs::metadata(dir.path().join("real")).unwrap().ino();
    assert_eq!(inode(&dir.open_following(Path::new("link")).unwrap()), real);
}

#[test]
fn an_absolute_link_that_stays_inside_is_followed_and_one_that_leaves_is_not() {
    let (temp, dir) = dir();
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink(dir.path().join("real"), dir.path().join("inside")).unwrap();
    symlink(temp.path(), dir.path().join("outside")).unwrap();
    symlink("../..", dir.path().join("up")).unwrap();
    let real = fs::metadata(dir.path().join("real")).unwrap().ino();
    assert_eq!(inode(&dir.open_following(Path::new("inside")).unwrap()), real);
    assert!(dir.open_following(Path::new("outside")).is_err());
    assert!(dir.open_following(Path::new("up")).is_err());
    assert!(dir.open_following(Path::new("../x")).is_err());
}

#[test]
fn a_racing_renamer_never_leads_a_lookup_outside() {
    let (temp, dir) = dir();
    let outside = temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "host").unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/file"), "pod").unwrap();
    let bad = inode(&Dir::open(&outside).unwrap().open_path(Path::new("file")).unwrap());
    symlink(&outside, dir.path().join("evil")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (dir.path().join("sub"), dir.path().join("evil"));
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &a, CWD, &b, flags).unwrap();
            }
        });
        let mut opened = 0;
        for _ in 0..5_000 {
            if let Ok(fd) = dir.open_following(Path::new("sub/file")) {
                assert_ne!(inode(&fd), bad);
                opened += 1;
            }
            if let Ok(fd) = dir.open_path(Path::new("sub/file")) {
                assert_ne!(inode(&fd), bad);
            }
            let _ = dir.make_following(Path::new("sub/new/deeper"), Mode::from_raw_mode(0o755));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(opened > 0);
    });
    assert!(!outside.join("new").exists());
}

#[test]
fn made_directories_get_the_mode_and_existing_ones_keep_theirs() {
    let (_temp, dir) = dir();
    fs::create_dir(dir.path().join("old")).unwrap();
    fs::set_permissions(dir.path().join("old"), fs::Permissions::from_mode(0o700)).unwrap();
    dir.make_following(Path::new("old/a/b"), Mode::from_raw_mode(0o2777)).unwrap();
    let mode = |p: &str| fs::metadata(dir.path().join(p)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("old"), mode("old/a"), mode("old/a/b")), (0o700, 0o2777, 0o2777));
}

#[test]
fn a_file_in_the_way_of_a_directory_is_an_error() {
    let (_temp, dir) = dir();
    fs::write(dir.path().join("file"), "x").unwrap();
    assert!(dir.make_following(Path::new("file"), Mode::from_raw_mode(0o755)).is_err());
    assert!(dir.make_following(Path::new("file/sub"), Mode::from_raw_mode(0o755)).is_err());
}

#[test]
fn removing_follows_no_link() {
    let (temp, dir) = dir();
    let outside = temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "x").unwrap();
    fs::create_dir_all(dir.path().join("v/sub")).unwrap();
    symlink(&outside, dir.path().join("v/sub/link")).unwrap();
    dir.remove_all(Path::new("v")).unwrap();
    assert!(outside.join("keep").exists() && !dir.path().join("v").exists());
    symlink(&outside, dir.path().join("v")).unwrap();
    dir.remove_all(Path::new("v")).unwrap();
    assert!(outside.join("keep").exists());
    dir.remove_all(Path::new("v")).unwrap();
}

#[test]
fn a_directory_of_many_names_is_removed_batch_by_batch() {
    let (_temp, dir) = dir();
    fs::create_dir(dir.path().join("v")).unwrap();
    for i in 0..2 * REMOVE_BATCH + 1 {
        fs::write(dir.path().join(format!("v/{i}")), "").unwrap();
    }
    dir.remove_all(Path::new("v")).unwrap();
    assert_eq!(dir.entries().unwrap(), vec![]);
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let (_temp, dir) = dir();
    let mut at = dir.mkdir(Path::new("v"), Mode::from_raw_mode(0o755)).unwrap();
    for _ in 0..3_000 {
        at = at.mkdir(Path::new("deep"), Mode::from_raw_mode(0o755)).unwrap();
        at.path = PathBuf::from("...");
    }
    at.create(Path::new("file"), b"x", Mode::from_raw_mode(0o644)).unwrap();
    // What a removal that was cut off had moved up.
    fs::create_dir_all(dir.path().join(format!("v/.removing-{}-1/rest", std::process::id()))).unwrap();
    dir.remove_all(Path::new("v")).unwrap();
    assert_eq!(dir.entries().unwrap(), vec![]);
}

#[test]
fn files_are_made_once_with_their_mode_and_read_up_to_a_limit() {
    let (_temp, dir) = dir();
    dir.create(Path::new("a"), b"12345", Mode::from_raw_mode(0o440)).unwrap();
    assert!(dir.create(Path::new("a"), b"", Mode::from_raw_mode(0o440)).is_err());
    assert_eq!(dir.read(Path::new("a"), 5).unwrap(), b"12345");
    assert!(dir.read(Path::new("a"), 4).is_err());
    assert_eq!(dir.lstat(Path::new("a")).unwrap().st_mode & 0o777, 0o440);
}
