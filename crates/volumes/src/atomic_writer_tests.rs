//! Tests of the atomic writer: layout, updates, leftovers of interrupted runs, refused paths.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use super::*;
use crate::payload::Content;

fn volume() -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    (temp, dir)
}

fn payload(files: &[(&str, &str)]) -> Payload {
    let file = |text: &str| Projection { content: Content::new(text), mode: 0o640, owner: None };
    files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
}

fn put(volume: &Dir, files: &[(&str, &str)]) -> Written {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    write(volume, &payload(files), now, |_| Ok(())).unwrap()
}

fn text(volume: &Dir, path: &str) -> String {
    fs::read_to_string(volume.path().join(path)).unwrap()
}

fn names(volume: &Dir) -> Vec<String> {
    let mut names: Vec<_> = volume.entries().unwrap().into_iter().map(|e| e.name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn versions(volume: &Dir) -> Vec<String> {
    names(volume).into_iter().filter(|n| n.starts_with("..2")).collect()
}

#[test]
fn the_layout_is_upstreams() {
    let (_temp, volume) = volume();
    assert_eq!(put(&volume, &[("a", "1"), ("d/e/f", "2")]), Written::Replaced);
    assert_eq!(names(&volume), ["..2027_01_15_08_00_00.000000000", "..data", "a", "d"]);
    let link = |name: &str| volume.read_link(Path::new(name)).unwrap();
    assert_eq!(link("..data"), Path::new("..2027_01_15_08_00_00.000000000"));
    assert_eq!((link("a"), link("d")), (PathBuf::from("..data/a"), PathBuf::from("..data/d")));
    assert_eq!((text(&volume, "a"), text(&volume, "d/e/f")), ("1".into(), "2".into()));
    let mode = |p: &str| fs::metadata(volume.path().join(p)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a"), mode("d"), mode("..data")), (0o640, 0o755, 0o755));
}

#[test]
fn an_unchanged_payload_writes_nothing() {
    let (_temp, volume) = volume();
    put(&volume, &[("a", "1")]);
    let before = versions(&volume);
    assert_eq!(put(&volume, &[("a", "1")]), Written::Unchanged);
    assert_eq!(versions(&volume), before);
}

#[test]
fn an_update_replaces_adds_and_removes() {
    let (_temp, volume) = volume();
    put(&volume, &[("a", "1"), ("b", "1"), ("d/x", "1"), ("d/y", "1")]);
    put(&volume, &[("a", "2"), ("c", "1"), ("d/y", "1")]);
    assert_eq!(names(&volume)[1..], ["..data", "a", "c", "d"]);
    assert_eq!(text(&volume, "a"), "2");
    assert!(!volume.path().join("d/x").exists());
    assert_eq!(versions(&volume).len(), 1);
    put(&volume, &[]);
    assert_eq!(names(&volume)[1..], ["..data"]);
}

#[test]
fn a_file_may_become_a_directory() {
    let (_temp, volume) = volume();
    put(&volume, &[("a", "1")]);
    put(&volume, &[("a/b", "2")]);
    assert_eq!(text(&volume, "a/b"), "2");
    put(&volume, &[("a", "3")]);
    assert_eq!(text(&volume, "a"), "3");
}

#[test]
fn a_reader_sees_old_or_new_never_a_mix() {
    let (_temp, volume) = volume();
    put(&volume, &[("a", "0"), ("b", "0")]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..200 {
                let n = n.to_string();
                put(&volume, &[("a", &n), ("b", &n)]);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            // One version, opened once: both files of it agree.
            let Ok(version) = fs::File::open(volume.path().join("..data")) else { continue };
            let at = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&version));
            let read = |name: &str| fs::read_to_string(format!("{at}/{name}"));
            if let (Ok(a), Ok(b)) = (read("a"), read("b")) {
                assert_eq!(a, b);
            }
            assert!(fs::read_link(volume.path().join("..data")).is_ok());
        }
    });
}

#[test]
fn a_run_that_was_killed_is_cleaned_up_by_the_next() {
    let (_temp, volume) = volume();
    put(&volume, &[("a", "1")]);
    fs::create_dir_all(volume.path().join("..2020_01_01_00_00_00.1/d")).unwrap();
    symlink("..2020_01_01_00_00_00.1", volume.path().join("..data_tmp")).unwrap();
    fs::remove_file(volume.path().join("a")).unwrap();
    assert_eq!(put(&volume, &[("a", "1")]), Written::Unchanged);
    assert_eq!(text(&volume, "a"), "1");
    put(&volume, &[("a", "2")]);
    assert_eq!(versions(&volume).len(), 1);
    assert!(!names(&volume).contains(&"..data_tmp".to_owned()));
}

#[test]
fn planted_links_lead_no_write_outside() {
    let (_temp, volume) = volume();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("a"), "host").unwrap();
    symlink(outside.path(), volume.path().join("..data")).unwrap();
    symlink(outside.path(), volume.path().join("d")).unwrap();
    put(&volume, &[("a", "1"), ("d/a", "1")]);
    assert_eq!(fs::read_to_string(outside.path().join("a")).unwrap(), "host");
    assert_eq!(text(&volume, "a"), "1");
    put(&volume, &[]);
    assert_eq!(fs::read_to_string(outside.path().join("a")).unwrap(), "host");
}

#[test]
fn a_mount_point_inside_the_volume_stays() {
    let (_temp, volume) = volume();
    fs::create_dir(volume.path().join("nested")).unwrap();
    put(&volume, &[("a", "1"), ("nested/x", "1")]);
    put(&volume, &[("a", "2")]);
    assert!(volume.path().join("nested").is_dir());
}

#[test]
fn a_failed_finish_leaves_the_old_version() {
    let (_temp, volume) = volume();
    put(&volume, &[("a", "1")]);
    let now = Timestamp::from_second(1_800_000_001).unwrap();
    let refuse = |dir: &Dir| dir.unlink(Path::new("..")).map(|()| unreachable!());
    write(&volume, &payload(&[("a", "2")]), now, refuse).unwrap_err();
    assert_eq!((text(&volume, "a"), versions(&volume).len()), ("1".into(), 1));
}

#[test]
fn owners_are_set_where_asked() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let (_temp, volume) = volume();
    let mut files = payload(&[("token", "t")]);
    files.get_mut("token").unwrap().owner = Some(1234);
    write(&volume, &files, Timestamp::UNIX_EPOCH, |_| Ok(())).unwrap();
    assert_eq!(fs::metadata(volume.path().join("token")).unwrap().uid(), 1234);
    assert_eq!(fs::symlink_metadata(volume.path().join("token")).unwrap().uid(), 1234, "the link too");
}

#[test]
fn bad_paths_are_refused() {
    let long = "x".repeat(256);
    for bad in ["", "/etc/passwd", "../x", "a/../b", "..x", "./..x", ".", long.as_str()] {
        assert!(matches!(checked_path(bad), Err(Cause::PayloadPath(_))), "{bad:?}");
    }
    assert_eq!(checked_path("a//b/./c").unwrap(), Path::new("a/b/c"));
    assert_eq!(checked_path("a..b/..c").unwrap(), Path::new("a..b/..c"));
}
