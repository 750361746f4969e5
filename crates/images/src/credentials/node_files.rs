//! The node's own docker logins, good for every pod.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::docker_config::{self, DockerConfig};

const LEGACY: &str = ".dockercfg";

/// The first file that can be read and understood counts, any `config.json` before any `.dockercfg`. They are read at
/// each look-up: an operator may change them at any time.
pub fn read(files: &[PathBuf]) -> DockerConfig {
    let (legacy, json): (Vec<&PathBuf>, Vec<&PathBuf>) = files.iter().partition(|f| f.ends_with(LEGACY));
    let first = |files: &[&PathBuf], parse: Parse| files.iter().find_map(|file| load(file, parse));
    first(&json, docker_config::parse_json).or_else(|| first(&legacy, docker_config::parse_legacy)).unwrap_or_default()
}

type Parse = fn(&[u8]) -> Result<DockerConfig, docker_config::DockerConfigError>;

fn load(path: &Path, parse: Parse) -> Option<DockerConfig> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            tracing::debug!(path = %path.display(), error = %e, "can't read registry logins");
            return None;
        }
    };
    match parse(&content) {
        Ok(config) => Some(config),
        Err(e) => {
            tracing::debug!(path = %path.display(), error = %e, "can't use registry logins");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_usable_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a/.dockercfg", "a/config.json", "b/config.json"].map(|f| dir.path().join(f));
        let names = || read(&files).into_keys().collect::<Vec<_>>();
        assert_eq!(names(), Vec::<String>::new());
        for d in ["a", "b"] {
            fs::create_dir(dir.path().join(d)).unwrap();
        }
        fs::write(&files[0], r#"{"legacy.io": {}}"#).unwrap();
        assert_eq!(names(), ["legacy.io"]);
        fs::write(&files[2], r#"{"auths": {"b.io": {}}}"#).unwrap();
        assert_eq!(names(), ["b.io"]);
        fs::write(&files[1], "broken").unwrap();
        assert_eq!(names(), ["b.io"]);
        fs::write(&files[1], r#"{"auths": {"a.io": {}}}"#).unwrap();
        assert_eq!(names(), ["a.io"]);
    }
}
