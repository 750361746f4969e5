//! A socket where clients of the upstream kubelet look for it.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use host::root_dir::{DIR_MODE, make_dir};
use tokio::net::UnixListener;

#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {path}: {why}")]
pub struct SocketError {
    path: PathBuf,
    why: String,
}

/// What an earlier agent left there goes. The socket gets its name only once it is listened at: who finds it gets an
/// answer.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let fault =
        |what: &str, e: &dyn std::fmt::Display| SocketError { path: path.to_owned(), why: format!("{what}: {e}") };
    let Some(dir) = path.parent() else { return Err(fault("it is no file in a directory", &path.display())) };
    remove(path).map_err(|e| fault("what is there cannot be removed", &e))?;
    make_dir(dir, DIR_MODE).map_err(|e| fault("its directory", &e))?;
    let unnamed = path.with_extension("new");
    remove(&unnamed).map_err(|e| fault("what is there cannot be removed", &e))?;
    let listener = UnixListener::bind(&unnamed).map_err(|e| fault("bind", &e))?;
    fs::rename(&unnamed, path).map_err(|e| fault("the socket cannot get its name", &e))?;
    Ok(listener)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    use super::*;

    #[tokio::test]
    async fn a_socket_takes_the_place_of_what_an_earlier_agent_left() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pod-resources/kubelet.sock");
        drop(bind(&path).unwrap());
        let _listener = bind(&path).unwrap();
        assert!(fs::metadata(&path).unwrap().file_type().is_socket());
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        tokio::net::UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("pods-api"), "a file").unwrap();
        let path = root.path().join("pods-api/pods-api.sock");
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.contains("pods-api/pods-api.sock"), "{error}");
        let long = root.path().join("x".repeat(120)).join("kubelet.sock");
        let error = bind(&long).unwrap_err().to_string();
        assert!(error.contains("bind"), "{error}");
    }
}
