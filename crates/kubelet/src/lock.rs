//! `--lock-file`: one agent at a time, and one that makes room when another knocks.

use std::{fs::File, mem::MaybeUninit, path::Path};

use rustix::{
    fs::{
        FlockOperation, Mode, OFlags,
        inotify::{self, CreateFlags, Reader, WatchFlags},
    },
    io::Errno,
};
use tokio::io::{Interest, unix::AsyncFd};

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("unable to open the lock file {path:?}")]
    Open { path: String, source: Errno },
    #[error("unable to acquire the file lock on {path:?}")]
    Lock { path: String, source: Errno },
    #[error("unable to watch the lock file {path:?}")]
    Watch { path: String, source: std::io::Error },
}

/// Waits for the lock; it is held as long as the file lives.
pub fn acquire(path: &Path) -> Result<File, LockError> {
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|source| LockError::Open { path: shown(path), source })?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|source| LockError::Lock { path: shown(path), source })?;
    Ok(File::from(file))
}

/// Resolves when another process opens or removes the lock file. The watch begins at the first poll.
pub async fn contended(path: &Path) -> Result<(), LockError> {
    let fault = |source| LockError::Watch { path: shown(path), source };
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(|e| fault(e.into()))?;
    inotify::add_watch(&fd, path, WatchFlags::OPEN | WatchFlags::DELETE_SELF).map_err(|e| fault(e.into()))?;
    // Its successor is unsafe for the sake of types that do not own their descriptor; an OwnedFd does.
    #[allow(deprecated)]
    let events = AsyncFd::with_interest(fd, Interest::READABLE).map_err(fault)?;
    loop {
        let mut ready = events.readable().await.map_err(fault)?;
        let mut buffer = [MaybeUninit::uninit(); 512];
        match Reader::new(ready.get_inner(), &mut buffer).next() {
            Ok(_) => return Ok(()),
            Err(Errno::WOULDBLOCK) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(e) => return Err(fault(e.into())),
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_holder_notices_that_another_opens_the_file() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("lock");
        let _held = acquire(&path).unwrap();
        let mut contention = Box::pin(contended(&path));
        tokio::select! {
            biased;
            _ = &mut contention => panic!("nobody has opened it"),
            () = tokio::task::yield_now() => {}
        }
        File::open(&path).unwrap();
        contention.await.unwrap();
    }
}
