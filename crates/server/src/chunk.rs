//! A file's bytes, a chunk at a time: a blocking thread is taken for the reading alone, never for a slow client.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use tokio::sync::mpsc;

/// A few of them are held for each client that is slow.
pub const MOST: usize = 32 * 1024;

pub type Sender = mpsc::Sender<io::Result<bytes::Bytes>>;

/// At most `most` bytes from there on; empty at the end of the file.
pub async fn read(file: &Arc<File>, offset: u64, most: usize) -> io::Result<Vec<u8>> {
    let file = file.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut chunk = vec![0; most];
        let count = file.read_at(&mut chunk, offset)?;
        chunk.truncate(count);
        Ok(chunk)
    });
    read.await.map_err(io::Error::other).flatten()
}

/// The first `length` bytes, or until nobody listens. An error is the last that is sent.
pub async fn send(file: File, length: u64, out: &Sender) {
    let (file, mut offset) = (Arc::new(file), 0);
    while offset < length {
        let chunk = read(&file, offset, MOST.min((length - offset) as usize)).await;
        let count = chunk.as_ref().map_or(0, Vec::len);
        offset += count as u64;
        let at_end = matches!(&chunk, Ok(chunk) if chunk.is_empty());
        if at_end || out.send(chunk.map(Into::into)).await.is_err() || count == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file_of(length: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'x'; length]).unwrap();
        file
    }

    #[tokio::test]
    async fn what_was_there_at_the_start_is_sent_and_no_more() {
        for (length, asked, sent) in [(3 * MOST + 7, 2 * MOST + 3, 2 * MOST + 3), (10, 20, 10), (0, 0, 0)] {
            let (out, mut chunks) = mpsc::channel(1);
            let sending = tokio::spawn(async move { send(file_of(length), asked as u64, &out).await });
            let mut bytes = 0;
            while let Some(chunk) = chunks.recv().await {
                bytes += chunk.unwrap().len();
            }
            sending.await.unwrap();
            assert_eq!(bytes, sent);
        }
    }

    #[test]
    fn a_client_that_reads_nothing_takes_no_thread() {
        let one_thread = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build();
        one_thread.unwrap().block_on(async {
            let (out, mut chunks) = mpsc::channel(1);
            let sending = tokio::spawn(async move { send(file_of(10 * MOST), 10 * MOST as u64, &out).await });
            while chunks.is_empty() {
                tokio::task::yield_now().await;
            }
            tokio::task::spawn_blocking(|| {}).await.unwrap();
            assert!(chunks.recv().await.is_some() && !sending.is_finished());
            drop(chunks);
            sending.await.unwrap();
        });
    }
}
