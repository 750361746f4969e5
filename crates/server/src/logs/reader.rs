//! Task: reads one container's log file and, when following, what is written later, across rotation.
//!
//! Reads: the log directory and its files. Writes: chunks for the client. Wakes on: changes in the directory
//! (inotify), the end of the container. A rotation renames `N.log` and makes a new one; the old file is read to its end
//! before the new one, and the switch waits until the new one has content, for only then the runtime has left the old.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::PathBuf,
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, future::OptionFuture};
use inotify::{EventStream, Inotify, WatchMask};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use tokio::sync::mpsc;

use super::{line::Filter, options::LogOptions, tail};
use crate::{chunk, error::ServerError};

/// A line longer than that is passed over: no runtime writes such a one (they cut at 16 KiB).
const LONGEST_LINE: usize = 1 << 20;
/// Changes on a file system that tells none (NFS) are still seen.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Where nothing can be told: the kernel gives a user so many inotify instances (128 by default).
const LOOK_OFTEN: Duration = Duration::from_secs(1);

/// Where a log is.
pub struct Source {
    pub root: PathBuf,
    /// Below `root`.
    pub directory: PathBuf,
    pub file: String,
    pub running: Running,
}

/// Resolves when the container has ended.
pub struct Running(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Running {
    pub fn new(ended: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Box::pin(ended))
    }
}

/// An open log, at the first line to show.
pub struct Log {
    place: Place,
    running: Running,
    filter: Filter,
    follow: bool,
    current: OpenFile,
}

#[derive(Clone)]
struct Place {
    root: PathBuf,
    path: PathBuf,
}

struct OpenFile {
    file: std::sync::Arc<File>,
    inode: u64,
    offset: u64,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Place {
    fn error(&self, source: io::Error) -> ServerError {
        ServerError::ReadLog { path: self.root.join(&self.path).display().to_string(), source }
    }

    /// Only the log itself may be a link: cri-dockerd makes it one to Docker's own. Who can write to the log directory
    /// may so lead us elsewhere, but of what we find there only lines of a log are shown.
    fn open(&self) -> io::Result<OpenFile> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let root = rustix::fs::openat(CWD, &self.root, flags | OFlags::DIRECTORY, Mode::empty())?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        let directory: OwnedFd =
            rustix::fs::openat2(&root, directory, flags | OFlags::DIRECTORY, Mode::empty(), resolve)?;
        let file = File::from(rustix::fs::openat(&directory, name, flags, Mode::empty())?);
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(OpenFile { inode: facts.ino(), file: file.into(), offset: 0, rest: Vec::new() })
    }
}

impl Source {
    /// Opens the file and finds the first line to show.
    pub async fn open(self, options: LogOptions) -> Result<Log, ServerError> {
        let place = Place { path: self.directory.join(&self.file), root: self.root };
        let opening = place.clone();
        let opened = async {
            let opened = tokio::task::spawn_blocking(move || {
                let current = opening.open()?;
                let length = current.file.metadata()?.len();
                io::Result::Ok((current, length))
            });
            let (mut current, length) = opened.await.map_err(io::Error::other)??;
            if let Some(lines) = options.tail_lines {
                current.offset = tail::start(&current.file, length, lines).await?;
            }
            Ok(current)
        };
        let current = opened.await.map_err(|source| place.error(source))?;
        Ok(Log { place, running: self.running, follow: options.follow, filter: Filter::new(options), current })
    }
}

impl Log {
    /// Returns at the end of the log, or of the container when following, or when nobody listens.
    pub async fn copy(mut self, chunks: &mpsc::Sender<Bytes>) -> Result<(), ServerError> {
        let place = self.place.clone();
        self.run(chunks).await.map_err(|source| place.error(source))
    }

    async fn run(&mut self, chunks: &mpsc::Sender<Bytes>) -> io::Result<()> {
        if !self.follow {
            self.drain(chunks).await?;
            return self.finish(chunks).await;
        }
        // Watched before the first read, so that nothing is missed between the two.
        let mut changes = self.changes();
        let pause = if changes.is_some() { LOOK_AGAIN } else { LOOK_OFTEN };
        loop {
            self.drain(chunks).await?;
            if self.switched(chunks).await? {
                continue;
            }
            if self.filter.is_done() || chunks.is_closed() {
                return Ok(());
            }
            let ended = tokio::select! {
                () = &mut self.running.0 => true,
                Some(_) = OptionFuture::from(changes.as_mut().map(|changes| changes.next())) => false,
                () = tokio::time::sleep(pause) => false,
            };
            if ended {
                self.drain(chunks).await?;
                while self.switched(chunks).await? {
                    self.drain(chunks).await?;
                }
                return self.finish(chunks).await;
            }
        }
    }

    /// None: there are none to be had, and it is said why.
    fn changes(&self) -> Option<EventStream<Vec<u8>>> {
        let watched = self.watch();
        watched.inspect_err(|error| tracing::warn!(log = %self.place.path.display(), %error, "a log that is followed is looked at each second, since inotify refuses it (fs.inotify.max_user_instances?)")).ok()
    }

    fn watch(&self) -> io::Result<EventStream<Vec<u8>>> {
        let inotify = Inotify::init()?;
        let path = self.place.root.join(&self.place.path);
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::DELETE_SELF;
        // The file itself may be elsewhere. Of a directory that is told twice there is one watch.
        for path in [path.canonicalize().ok(), Some(path)].into_iter().flatten() {
            inotify.watches().add(path.parent().unwrap_or(&self.place.root), mask)?;
        }
        inotify.into_event_stream(vec![0; 4096])
    }

    /// Sends all there is in the current file.
    async fn drain(&mut self, chunks: &mpsc::Sender<Bytes>) -> io::Result<()> {
        while !self.filter.is_done() {
            let chunk = chunk::read(&self.current.file, self.current.offset, chunk::MOST).await?;
            if chunk.is_empty() {
                return Ok(());
            }
            self.current.offset += chunk.len() as u64;
            if !self.take(&chunk, chunks).await {
                return Ok(());
            }
        }
        Ok(())
    }

    /// False when nobody listens any more.
    async fn take(&mut self, chunk: &[u8], chunks: &mpsc::Sender<Bytes>) -> bool {
        let mut out = Vec::with_capacity(chunk.len());
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.current.rest.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.current.rest.len() > LONGEST_LINE {
                self.filter.push(&self.current.rest, &mut out);
                self.current.rest.clear();
            }
        }
        out.is_empty() || chunks.send(out.into()).await.is_ok()
    }

    /// Sends a last line that has no newline.
    async fn finish(&mut self, chunks: &mpsc::Sender<Bytes>) -> io::Result<()> {
        let rest = std::mem::take(&mut self.current.rest);
        if !rest.is_empty() {
            let mut out = Vec::new();
            self.filter.push(&rest, &mut out);
            let _ = chunks.send(out.into()).await;
        }
        Ok(())
    }

    /// Goes over to a new file of that name once it has content; true if so.
    async fn switched(&mut self, chunks: &mpsc::Sender<Bytes>) -> io::Result<bool> {
        let place = self.place.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let next = place.open()?;
            let length = next.file.metadata()?.len();
            io::Result::Ok((next, length))
        });
        let (next, length) = match opened.await.map_err(io::Error::other)? {
            Ok(opened) => opened,
            // Renamed away, the new one not there yet; or the pod's logs are being removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if next.inode == self.current.inode {
            self.rewind_if_truncated(length);
            return Ok(false);
        }
        if length == 0 {
            return Ok(false);
        }
        // What was written to the old file while we looked at the new one.
        self.drain(chunks).await?;
        self.finish(chunks).await?;
        self.current = next;
        Ok(true)
    }

    /// copytruncate: the same file begins anew.
    fn rewind_if_truncated(&mut self, length: u64) {
        if length < self.current.offset {
            self.current.offset = 0;
            self.current.rest.clear();
        }
    }
}

#[cfg(test)]
mod tests;
