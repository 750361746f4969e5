//! Where the last n lines of a file begin.

use std::{fs::File, io, sync::Arc};

use crate::chunk;

const BLOCK: usize = chunk::MOST;

/// The offset of the n-th line from the end of a file of that length. A last line without newline is not counted.
pub async fn start(file: &Arc<File>, length: u64, lines: u64) -> io::Result<u64> {
    let (mut seen, mut right) = (0, length);
    while right > 0 {
        let left = right.saturating_sub(BLOCK as u64);
        // Shorter where the file was truncated meanwhile.
        let part = chunk::read(file, left, (right - left) as usize).await?;
        for (index, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // The newline before the first wanted line.
            if seen == lines {
                return Ok(left + index as u64 + 1);
            }
            seen += 1;
        }
        right = left;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn start_of(content: &[u8], lines: u64) -> u64 {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        start(&file.into(), content.len() as u64, lines).await.unwrap()
    }

    #[tokio::test]
    async fn the_last_lines_are_found() {
        assert_eq!(start_of(b"a\nb\nc\n", 0).await, 6);
        assert_eq!(start_of(b"a\nb\nc\n", 1).await, 4);
        assert_eq!(start_of(b"a\nb\nc\n", 3).await, 0);
        assert_eq!(start_of(b"a\nb\nc\n", 9).await, 0);
        assert_eq!(start_of(b"", 1).await, 0);
    }

    #[tokio::test]
    async fn a_line_under_way_is_not_counted() {
        assert_eq!(start_of(b"a\nb\nc", 1).await, 2);
        assert_eq!(start_of(b"a\nb\nc", 0).await, 4);
    }

    #[tokio::test]
    async fn lines_longer_than_a_block_are_found() {
        let long = vec![b'x'; 3 * BLOCK];
        let content = [b"first\n", &long[..], b"\n"].concat();
        assert_eq!(start_of(&content, 1).await, 6);
        assert_eq!(start_of(&content, 2).await, 0);
    }

    #[test]
    fn a_search_through_a_large_file_ends_with_who_asked() {
        let one_thread = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build();
        one_thread.unwrap().block_on(async {
            let file = tempfile::tempfile().unwrap();
            file.set_len(1 << 36).unwrap();
            let search = tokio::spawn(async move { start(&file.into(), 1 << 36, 1).await });
            tokio::task::yield_now().await;
            search.abort();
            assert!(search.await.is_err());
            let other = tokio::task::spawn_blocking(|| {});
            tokio::time::timeout(std::time::Duration::from_secs(5), other).await.unwrap().unwrap();
        });
    }
}
