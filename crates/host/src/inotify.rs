//! Waiting for a directory to change.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::inotify::{self, CreateFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

use crate::error::{During, HostError};

/// Tells that something happened in a directory, not what: its reader lists the directory again.
#[derive(Debug)]
pub struct DirWatch {
    events: AsyncFd<OwnedFd>,
}

impl DirWatch {
    /// Needs a running tokio runtime.
    pub fn new(dir: &Path) -> Result<Self, HostError> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).during("watch", dir)?;
        let of_interest = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ATTRIB;
        inotify::add_watch(&fd, dir, of_interest).during("watch", dir)?;
        // Its successor is unsafe for the sake of types that do not own their descriptor; an OwnedFd does.
        #[allow(deprecated)]
        let events = AsyncFd::new(fd).during("watch", dir)?;
        Ok(Self { events })
    }

    /// Resolves when at least one event came since the last call; all that are pending count as one. Cancel safe.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.events.readable().await?;
            if drain(ready.get_inner())? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

/// Reads all pending events; false when there was none.
fn drain(fd: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(fd, &mut buffer);
    let mut any = false;
    loop {
        match reader.next() {
            Ok(_) => any = true,
            Err(Errno::WOULDBLOCK) => return Ok(any),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_file_wakes_the_watcher_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = DirWatch::new(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), b"1").unwrap();
        std::fs::write(dir.path().join("b"), b"2").unwrap();
        watch.changed().await.unwrap();
        assert!(!drain(watch.events.get_ref()).unwrap());
    }
}
