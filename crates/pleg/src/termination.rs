//! Termination messages: what a container left to say when it ended.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cri::labels;
use pod::{ContainerId, ContainerState, ObservedContainer, ObservedPod};
use rustix::fs::{Mode, OFlags};

use crate::log_tail;

const MAX_MESSAGE: u64 = 4096;

/// Read once per container, at the first sight of its end: its log may be rotated away later.
#[derive(Default)]
pub(crate) struct Messages(Mutex<HashMap<ContainerId, String>>);

impl Messages {
    fn known(&self) -> MutexGuard<'_, HashMap<ContainerId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends its message to that of every exited container.
    pub async fn fill(&self, pods: &mut [ObservedPod]) {
        let missing: Vec<Source> = {
            let known = self.known();
            let exited = pods.iter().flat_map(|p| &p.containers).filter(|c| c.state == ContainerState::Exited);
            exited.filter(|c| !known.contains_key(&c.id)).map(Source::of).collect()
        };
        if !missing.is_empty() {
            let read = move || missing.into_iter().map(|s| (s.id.clone(), s.read())).collect::<Vec<_>>();
            // Fails only when the runtime shuts down.
            let found = tokio::task::spawn_blocking(read).await.unwrap_or_default();
            let mut known = self.known();
            for (id, message) in found {
                known.entry(id).or_insert(message);
            }
        }
        let known = self.known();
        for c in pods.iter_mut().flat_map(|p| &mut p.containers) {
            match known.get(&c.id) {
                Some(message) if c.state == ContainerState::Exited && !message.is_empty() => {
                    append(&mut c.message, message)
                }
                _ => {}
            }
        }
    }

    pub fn retain(&self, containers: &HashSet<ContainerId>) {
        self.known().retain(|id, _| containers.contains(id));
    }
}

fn append(to: &mut String, message: &str) {
    if !to.is_empty() {
        to.push_str(": ");
    }
    to.push_str(message);
}

/// Where one container's message is to be found.
#[derive(Clone, Debug, PartialEq)]
struct Source {
    id: ContainerId,
    file: Option<String>,
    /// Read where the file has nothing to say.
    log: Option<String>,
}

impl Source {
    fn of(c: &ObservedContainer) -> Self {
        let annotation = |key| c.annotations.get(key).map(String::as_str).unwrap_or_default();
        let mut path = annotation(labels::TERMINATION_MESSAGE_PATH).to_owned();
        if !path.is_empty() && !path.starts_with('/') {
            path.insert(0, '/');
        }
        let mounted = c.mounts.iter().find(|m| !path.is_empty() && m.container_path == path);
        // What could not even be started has no log.
        let falls_back = annotation(labels::TERMINATION_MESSAGE_POLICY) == "FallbackToLogsOnError"
            && c.exit_code != 0
            && c.reason != "ContainerCannotRun";
        Self {
            id: c.id.clone(),
            file: mounted.map(|m| m.host_path.clone()),
            log: falls_back.then(|| c.log_path.clone()),
        }
    }

    fn read(&self) -> String {
        let written = match self.file.as_deref().map(|path| (path, read_end(Path::new(path), MAX_MESSAGE))) {
            Some((_, Ok((bytes, _)))) => text(&bytes),
            Some((path, Err(e))) if e.kind() != io::ErrorKind::NotFound => {
                return format!("Error on reading termination log {path}: {e}");
            }
            _ => String::new(),
        };
        match &self.log {
            Some(log) if written.is_empty() => match read_end(Path::new(log), log_tail::WINDOW) {
                Ok((window, whole)) => text(&log_tail::tail(&window, whole)),
                Err(e) => format!("Error on reading termination message from logs: {e}"),
            },
            _ => written,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// At most `limit` bytes from the end of a file, and whether that is all of it. A container may have had a hand in
/// what is there: no link is followed, and nothing but a regular file is read.
fn read_end(path: &Path, limit: u64) -> io::Result<(Vec<u8>, bool)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let start = metadata.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok((bytes, start == 0))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pod::observed::ObservedMount;

    use super::*;

    /// A container that ended with `exit_code`, its message file and log in `dir`.
    fn ended(dir: &Path, policy: &str, exit_code: i32) -> ObservedContainer {
        let annotations =
            [(labels::TERMINATION_MESSAGE_PATH, "/dev/termination-log"), (labels::TERMINATION_MESSAGE_POLICY, policy)];
        let mount = ObservedMount {
            container_path: "/dev/termination-log".into(),
            host_path: dir.join("message").to_string_lossy().into_owned(),
            readonly: false,
            recursive_read_only: false,
            image: None,
        };
        ObservedContainer {
            id: "c1".into(),
            sandbox_id: "s1".into(),
            name: "app".into(),
            restart_count: 0,
            state: ContainerState::Exited,
            image: String::new(),
            image_id: String::new(),
            created_at: Default::default(),
            started_at: None,
            finished_at: None,
            exit_code,
            reason: "Error".into(),
            message: String::new(),
            annotations: annotations.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            mounts: vec![mount],
            user: None,
            resources: None,
            log_path: dir.join("0.log").to_string_lossy().into_owned(),
        }
    }
    fn message(c: &ObservedContainer) -> String {
        Source::of(c).read()
    }
    fn dir_with(message: Option<&str>, log: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        if let Some(message) = message {
            fs::write(dir.path().join("message"), message).unwrap();
        }
        if let Some(log) = log {
            fs::write(dir.path().join("0.log"), log).unwrap();
        }
        dir
    }
    const LOG: &str = "t stderr F from the log\n";

    #[test]
    fn the_file_is_the_message() {
        let dir = dir_with(Some("bye"), Some(LOG));
        assert_eq!(message(&ended(dir.path(), "FallbackToLogsOnError", 1)), "bye");
    }

    #[test]
    fn an_empty_file_falls_back_to_the_log_only_by_policy_and_only_on_error() {
        let dir = dir_with(Some(""), Some(LOG));
        assert_eq!(message(&ended(dir.path(), "FallbackToLogsOnError", 1)), "from the log\n");
        assert_eq!(message(&ended(dir.path(), "FallbackToLogsOnError", 0)), "");
        assert_eq!(message(&ended(dir.path(), "File", 1)), "");
    }

    #[test]
    fn a_missing_file_counts_as_empty() {
        let dir = dir_with(None, Some(LOG));
        assert_eq!(message(&ended(dir.path(), "FallbackToLogsOnError", 1)), "from the log\n");
    }

    #[test]
    fn what_could_not_be_started_has_no_log() {
        let dir = dir_with(Some(""), Some(LOG));
        let c = ObservedContainer {
            reason: "ContainerCannotRun".into(),
            ..ended(dir.path(), "FallbackToLogsOnError", 128)
        };
        assert_eq!(message(&c), "");
    }

    #[test]
    fn only_the_last_4096_bytes_of_the_file_count() {
        let dir = dir_with(Some(&format!("{}end", "x".repeat(5000))), None);
        let text = message(&ended(dir.path(), "File", 0));
        assert_eq!(text.len(), 4096);
        assert!(text.ends_with("xend"));
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = dir_with(None, None);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("message")).unwrap();
        let text = message(&ended(dir.path(), "File", 0));
        assert!(text.starts_with("Error on reading termination log") && !text.contains("root:"), "{text}");
    }

    #[test]
    fn a_directory_is_not_read() {
        let dir = dir_with(None, None);
        fs::create_dir(dir.path().join("message")).unwrap();
        assert!(message(&ended(dir.path(), "File", 0)).contains("not a regular file"));
    }

    #[test]
    fn a_relative_path_is_meant_from_the_root() {
        let dir = dir_with(Some("bye"), None);
        let mut c = ended(dir.path(), "File", 0);
        c.annotations.insert(labels::TERMINATION_MESSAGE_PATH.into(), "dev/termination-log".into());
        assert_eq!(message(&c), "bye");
    }

    #[tokio::test]
    async fn the_message_follows_the_runtimes_own_and_is_read_once() {
        let dir = dir_with(Some("bye"), None);
        let c = ObservedContainer { message: "killed".into(), ..ended(dir.path(), "File", 137) };
        let empty = ObservedPod::empty("web".into(), pod::PodKey::new("default", "web"));
        let pod = ObservedPod { containers: vec![c], ..empty };
        let messages = Messages::default();
        for _ in 0..2 {
            let mut pods = [pod.clone()];
            messages.fill(&mut pods).await;
            assert_eq!(pods[0].containers[0].message, "killed: bye");
            fs::write(dir.path().join("message"), "changed").unwrap();
        }
    }
}
