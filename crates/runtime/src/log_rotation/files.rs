//! The files of one log: `0.log` is being written, `0.log.20260102-030405` was set aside, older ones end in `.gz`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use pod::time::Timestamp;
use rustix::fs::OFlags;

use crate::files::{During, FilesError};

const COMPRESSED: &str = ".gz";
const UNFINISHED: &str = ".tmp";

/// Keeps the newest `keep` of the logs that were set aside and compresses them. The log itself stays.
pub fn tidy(log: &Path, keep: usize) -> Result<(), FilesError> {
    let (mut set_aside, useless) = sort_out(older(log)?);
    let excess = set_aside.len().saturating_sub(keep);
    for path in useless.into_iter().chain(set_aside.drain(..excess)) {
        fs::remove_file(&path).during("remove", &path)?;
    }
    for path in set_aside.iter().filter(|path| !ends_with(path, COMPRESSED)) {
        compress(path)?;
    }
    Ok(())
}

/// `LOG.*`, oldest first: their stamps sort so.
fn older(log: &Path) -> Result<Vec<PathBuf>, FilesError> {
    let Some(dir) = log.parent() else { return Ok(Vec::new()) };
    let prefix = suffixed(log, ".");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).during("list", dir)? {
        let path = entry.during("list", dir)?.path();
        if path.as_os_str().as_encoded_bytes().starts_with(prefix.as_os_str().as_encoded_bytes()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Logs that were set aside, and what a compression that was cut off has left.
fn sort_out(found: Vec<PathBuf>) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let all = found.clone();
    found.into_iter().partition(|path| {
        let done_already = !ends_with(path, COMPRESSED) && all.contains(&suffixed(path, COMPRESSED));
        !ends_with(path, UNFINISHED) && !done_already
    })
}

fn compress(path: &Path) -> Result<(), FilesError> {
    let unfinished = suffixed(path, UNFINISHED);
    let result = write_compressed(path, &unfinished)
        .and_then(|()| fs::rename(&unfinished, suffixed(path, COMPRESSED)).during("rename", &unfinished));
    if result.is_err() {
        // It would be found useless and removed the next time too.
        let _ = fs::remove_file(&unfinished);
    }
    result?;
    fs::remove_file(path).during("remove", path)
}

fn write_compressed(from: &Path, to: &Path) -> Result<(), FilesError> {
    // A link in the place of a log could make any file of the node readable.
    let mut options = OpenOptions::new();
    let mut source = options.read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(from).during("open", from)?;
    let mode = source.metadata().during("look at", from)?.permissions();
    let target = File::create(to).during("create", to)?;
    target.set_permissions(mode).during("set the mode of", to)?;
    let mut encoder = GzEncoder::new(target, Compression::default());
    io::copy(&mut source, &mut encoder).during("compress", from)?;
    encoder.finish().during("write", to).map(drop)
}

/// Out of the way of the runtime, but not compressed: it may still write a while, and readers may not be done.
pub fn set_aside(log: &Path, now: Timestamp) -> Result<PathBuf, FilesError> {
    let stamp = jiff::tz::TimeZone::system().to_datetime(now).strftime(".%Y%m%d-%H%M%S").to_string();
    let aside = suffixed(log, &stamp);
    fs::rename(log, &aside).during("rename", log)?;
    Ok(aside)
}

pub fn put_back(aside: &Path, log: &Path) -> Result<(), FilesError> {
    fs::rename(aside, log).during("rename back", aside)
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn ends_with(path: &Path, suffix: &str) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(suffix.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn dir_with(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            fs::write(dir.path().join(name), *name).unwrap();
        }
        let log = dir.path().join("0.log");
        (dir, log)
    }

    #[test]
    fn the_newest_logs_are_kept_and_compressed() {
        let files = ["0.log", "0.log.20260101-000000.gz", "0.log.20260102-000000", "0.log.20260103-000000", "10.log.1"];
        let (dir, log) = dir_with(&files);
        tidy(&log, 2).unwrap();
        let expected = ["0.log", "0.log.20260102-000000.gz", "0.log.20260103-000000.gz", "10.log.1"];
        assert_eq!(names(dir.path()), expected);
        let mut text = String::new();
        let compressed = File::open(dir.path().join("0.log.20260103-000000.gz")).unwrap();
        GzDecoder::new(compressed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "0.log.20260103-000000");
        tidy(&log, 0).unwrap();
        assert_eq!(names(dir.path()), ["0.log", "10.log.1"]);
    }

    #[test]
    fn what_a_compression_that_was_cut_off_left_is_removed() {
        let cut_off = ["0.log.20260101-000000", "0.log.20260101-000000.tmp"];
        let (dir, log) = dir_with(&cut_off);
        tidy(&log, 5).unwrap();
        assert_eq!(names(dir.path()), ["0.log.20260101-000000.gz"]);
        let not_removed = ["0.log.20260101-000000", "0.log.20260101-000000.gz"];
        let (dir, log) = dir_with(&not_removed);
        tidy(&log, 5).unwrap();
        assert_eq!(names(dir.path()), ["0.log.20260101-000000.gz"]);
    }

    #[test]
    fn a_link_in_the_place_of_a_log_is_not_followed() {
        let (dir, log) = dir_with(&["secret"]);
        std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("0.log.20260101-000000")).unwrap();
        assert!(tidy(&log, 5).is_err());
        assert_eq!(names(dir.path()), ["0.log.20260101-000000", "secret"]);
    }

    #[test]
    fn a_log_is_set_aside_with_its_time_and_put_back() {
        let (dir, log) = dir_with(&["0.log"]);
        let aside = set_aside(&log, "2026-01-02T03:04:05Z".parse().unwrap()).unwrap();
        let name = aside.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("0.log.2026010") && name.len() == "0.log.20260102-030405".len(), "{name}");
        assert!(names(dir.path()) != ["0.log"]);
        put_back(&aside, &log).unwrap();
        assert_eq!(names(dir.path()), ["0.log"]);
    }
}
