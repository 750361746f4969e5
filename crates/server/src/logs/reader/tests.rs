//! Reading and following in a temporary directory; every wait is for an event.

use std::{fs, io::Write, path::Path};

use tokio::sync::oneshot;

use super::*;

struct Follower {
    chunks: mpsc::Receiver<Bytes>,
    seen: String,
}

impl Follower {
    /// Waits until that was seen.
    async fn sees(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let chunk = self.chunks.recv().await.unwrap_or_else(|| panic!("ended with {:?}", self.seen));
            self.seen.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn rest(mut self) -> String {
        while let Some(chunk) = self.chunks.recv().await {
            self.seen.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        self.seen
    }
}

fn line(text: &str) -> String {
    format!("2024-01-01T00:00:00Z stdout F {text}\n")
}

fn append(path: &Path, text: &str) {
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Begins to read `<root>/ns_p_u/c/0.log`; the container runs until the sender is used or dropped.
async fn read(root: &Path, options: LogOptions) -> (Follower, oneshot::Sender<()>) {
    let (end, ended) = oneshot::channel::<()>();
    let source = Source {
        root: root.into(),
        directory: "ns_p_u/c".into(),
        file: "0.log".into(),
        running: Running::new(async move {
            let _ = ended.await;
        }),
    };
    let log = source.open(options).await.unwrap();
    let (chunks, received) = mpsc::channel(4);
    tokio::spawn(async move { log.copy(&chunks).await.unwrap() });
    (Follower { chunks: received, seen: String::new() }, end)
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("ns_p_u/c");
    fs::create_dir_all(&directory).unwrap();
    let log = directory.join("0.log");
    (root, log)
}

fn follow() -> LogOptions {
    LogOptions { follow: true, ..LogOptions::default() }
}

#[tokio::test]
async fn without_follow_the_file_is_read_to_its_end_with_the_unfinished_line() {
    let (root, log) = directory();
    append(&log, &(line("a") + "2024-01-01T00:00:00Z stdout F b"));
    let (follower, _running) = read(root.path(), LogOptions::default()).await;
    assert_eq!(follower.rest().await, "a\nb");
}

#[tokio::test]
async fn the_last_lines_only() {
    let (root, log) = directory();
    append(&log, &(line("a") + &line("b") + &line("c")));
    let (follower, _running) = read(root.path(), LogOptions { tail_lines: Some(2), ..LogOptions::default() }).await;
    assert_eq!(follower.rest().await, "b\nc\n");
}

#[tokio::test]
async fn following_shows_new_lines_once_they_are_whole_and_ends_with_the_container() {
    let (root, log) = directory();
    append(&log, &line("a"));
    let (mut follower, running) = read(root.path(), follow()).await;
    follower.sees("a\n").await;
    append(&log, "2024-01-01T00:00:00Z stdout F b");
    append(&log, "c\n");
    follower.sees("bc\n").await;
    append(&log, &line("last"));
    running.send(()).unwrap();
    assert_eq!(follower.rest().await, "a\nbc\nlast\n");
}

#[tokio::test]
async fn following_goes_on_in_the_file_that_replaces_a_rotated_one_and_loses_nothing() {
    let (root, log) = directory();
    append(&log, &line("one"));
    let (mut follower, running) = read(root.path(), follow()).await;
    follower.sees("one\n").await;
    let old = log.with_extension("log.20240101-000000");
    fs::rename(&log, &old).unwrap();
    append(&old, &line("two, written before the runtime reopened"));
    follower.sees("two").await;
    append(&log, "");
    append(&old, &line("three, while the new one is empty"));
    follower.sees("three").await;
    append(&log, &line("four"));
    follower.sees("four\n").await;
    fs::remove_file(&old).unwrap();
    append(&log, &line("five"));
    running.send(()).unwrap();
    let all = follower.rest().await;
    let words: Vec<_> = all.lines().map(|l| l.split(',').next().unwrap()).collect();
    assert_eq!(words, ["one", "two", "three", "four", "five"]);
}

#[tokio::test]
async fn following_after_tail_shows_all_that_comes() {
    let (root, log) = directory();
    append(&log, &(line("a") + &line("b")));
    let (mut follower, running) = read(root.path(), LogOptions { tail_lines: Some(1), ..follow() }).await;
    follower.sees("b\n").await;
    append(&log, &line("c"));
    follower.sees("c\n").await;
    drop(running);
    assert_eq!(follower.rest().await, "b\nc\n");
}

#[tokio::test]
async fn following_stops_at_the_byte_limit() {
    let (root, log) = directory();
    append(&log, &line("abcdef"));
    let (follower, _running) = read(root.path(), LogOptions { limit_bytes: Some(3), ..follow() }).await;
    assert_eq!(follower.rest().await, "abc");
}

#[tokio::test]
async fn a_link_to_what_is_no_log_shows_nothing() {
    let (root, log) = directory();
    let secret = root.path().join("secret");
    append(&secret, "root:x:0:0\n{\"password\": \"x\"}\n");
    std::os::unix::fs::symlink(&secret, &log).unwrap();
    let (follower, _running) = read(root.path(), LogOptions::default()).await;
    assert_eq!(follower.rest().await, "");
}

#[tokio::test]
async fn a_log_directory_that_is_a_link_is_not_followed() {
    let (root, log) = directory();
    append(&log, &line("secret"));
    std::os::unix::fs::symlink(log.parent().unwrap(), root.path().join("linked")).unwrap();
    let source = Source {
        root: root.path().into(),
        directory: "linked".into(),
        file: "0.log".into(),
        running: Running::new(async {}),
    };
    assert!(source.open(LogOptions::default()).await.is_err());
}

#[tokio::test]
async fn a_log_may_be_a_link_to_dockers_own() {
    let docker = tempfile::tempdir().unwrap();
    let json = |text: &str| format!(r#"{{"log":"{text}\n","stream":"stdout","time":"2024-01-01T00:00:00Z"}}"#) + "\n";
    let target = docker.path().join("c-json.log");
    append(&target, &json("a"));
    let (root, log) = directory();
    std::os::unix::fs::symlink(&target, &log).unwrap();
    let (mut follower, running) = read(root.path(), follow()).await;
    follower.sees("a\n").await;
    fs::rename(&target, docker.path().join("c-json.log.1")).unwrap();
    append(&target, &json("b"));
    follower.sees("b\n").await;
    drop(running);
    assert_eq!(follower.rest().await, "a\nb\n");
}
