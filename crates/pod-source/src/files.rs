//! Manifests in a directory, or one file. Wakes on: a change in the directory, and a slow rescan for file systems
//! that tell of none.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use host::{Clock, inotify::DirWatch};
use pod::{DesiredPod, static_pod::Manifest};

use crate::{
    manifest::{self, ManifestError},
    statics::Statics,
};

/// A file may be half written when its first event comes; the writer's last event comes right after.
const SETTLE: Duration = Duration::from_millis(20);
/// How soon to look again for a directory that isn't there.
const ABSENT: Duration = Duration::from_secs(1);

pub(crate) async fn watch(path: PathBuf, rescan: Duration, node_name: String, clock: Clock, mut statics: Statics) {
    let mut reader = Reader::new(path, node_name);
    loop {
        // Made anew at every rescan: the directory may have been replaced by another one of its name.
        let dir = reader.dir();
        let watch = DirWatch::new(&dir).inspect_err(|error| {
            tracing::debug!(path = %dir.display(), %error, "manifests are only rescanned");
        });
        let mut watch = watch.ok();
        let rescan_at = match watch {
            Some(_) => clock.next_beat(rescan),
            None => clock.mono() + rescan.min(ABSENT),
        };
        loop {
            let pods;
            (reader, pods) = scan(reader).await;
            if let Some(pods) = pods {
                statics.now(pods).await;
            }
            tokio::select! {
                changed = changed(&mut watch) => if changed.is_err() { break },
                () = clock.sleep_until(rescan_at) => break,
            }
            tokio::time::sleep(SETTLE).await;
        }
    }
}

async fn changed(watch: &mut Option<DirWatch>) -> io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Off the runtime's threads: the directory may be on a file system that hangs.
async fn scan(mut reader: Reader) -> (Reader, Option<Vec<DesiredPod>>) {
    let work = tokio::task::spawn_blocking(move || {
        let pods = reader.scan();
        (reader, pods)
    });
    work.await.expect("reading manifests does not panic")
}

struct Reader {
    path: PathBuf,
    node_name: String,
    hasher: RandomState,
    files: BTreeMap<PathBuf, File>,
    complaints: HashMap<PathBuf, String>,
}

/// A file as it was when it was last good.
struct File {
    contents: u64,
    pods: Vec<DesiredPod>,
}

impl Reader {
    fn new(path: PathBuf, node_name: String) -> Self {
        let (hasher, files, complaints) = (RandomState::new(), BTreeMap::new(), HashMap::new());
        Self { path, node_name, hasher, files, complaints }
    }

    fn dir(&self) -> PathBuf {
        let parent = self.path.parent().filter(|_| self.path.is_file());
        parent.unwrap_or(&self.path).to_owned()
    }

    /// Reads every manifest. One that cannot be read keeps the pods it gave last: an editor's accident ends none.
    /// None when the directory itself can't be read: that says nothing about its manifests.
    fn scan(&mut self) -> Option<Vec<DesiredPod>> {
        let files = match manifests(&self.path) {
            Ok(files) => files,
            Err(error) => {
                self.complain(self.path.clone(), format!("cannot list it: {error}"));
                return None;
            }
        };
        self.files.retain(|file, _| files.contains(file));
        self.complaints.retain(|file, _| files.contains(file));
        for file in files {
            match self.read(&file) {
                Ok(()) => drop(self.complaints.remove(&file)),
                // Deleted between the listing and the reading: the next event tells.
                Err(FileError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.complain(file, error.to_string()),
            }
        }
        Some(self.files.values().flat_map(|file| &file.pods).cloned().collect())
    }

    fn read(&mut self, file: &Path) -> Result<(), FileError> {
        if std::fs::metadata(file)?.len() > manifest::MAX_BYTES {
            return Err(ManifestError::TooLarge.into());
        }
        let text = std::fs::read(file)?;
        let contents = self.hasher.hash_one(&text);
        if self.files.get(file).is_some_and(|known| known.contents == contents) {
            return Ok(());
        }
        let pods = manifest::read(&text, Manifest::File(&file.to_string_lossy()), &self.node_name)?;
        self.files.insert(file.to_owned(), File { contents, pods });
        Ok(())
    }

    /// Once per file and reason, not at every rescan.
    fn complain(&mut self, file: PathBuf, error: String) {
        if self.complaints.get(&file) != Some(&error) {
            tracing::error!(file = %file.display(), error, "a static pod manifest is passed over; mend it, the others go on");
            self.complaints.insert(file, error);
        }
    }
}

/// In order of name; none when there is no such path.
fn manifests(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with('.') && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: a, image: i}}]}}\n"
        )
    }
    fn names(reader: &mut Reader) -> Vec<String> {
        let pods = reader.scan().expect("a directory");
        let mut names: Vec<String> = pods.iter().map(|p| p.key.name.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_manifest_that_breaks_keeps_its_pod_and_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(dir.path().to_owned(), "n".to_owned());
        std::fs::write(dir.path().join("a.yaml"), pod("a")).unwrap();
        std::fs::write(dir.path().join("b.yaml"), pod("b")).unwrap();
        std::fs::write(dir.path().join(".hidden"), pod("h")).unwrap();
        assert_eq!(names(&mut reader), ["a-n", "b-n"]);
        std::fs::write(dir.path().join("a.yaml"), "kind: Pod\nmeta").unwrap();
        assert_eq!(names(&mut reader), ["a-n", "b-n"]);
        assert_eq!(reader.complaints.len(), 1);
        std::fs::remove_file(dir.path().join("a.yaml")).unwrap();
        assert_eq!(names(&mut reader), ["b-n"]);
    }

    #[test]
    fn a_path_that_is_no_directory_yet_has_no_manifests() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(dir.path().join("later"), "n".to_owned());
        assert!(names(&mut reader).is_empty());
        std::fs::write(dir.path().join("later"), pod("single")).unwrap();
        assert_eq!(names(&mut reader), ["single-n"]);
    }
}
