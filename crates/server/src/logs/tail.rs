//! Where the last n lines of a file begin.

use std::{fs::File, io, os::unix::fs::FileExt};

const BLOCK: u64 = 16 * 1024;

/// The offset of the n-th line from the end. A last line without newline is not counted.
pub fn start(file: &File, lines: u64) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut seen = 0;
    let mut right = length;
    let mut block = vec![0; BLOCK as usize];
    while right > 0 {
        let left = right.saturating_sub(BLOCK);
        let part = &mut block[..(right - left) as usize];
        file.read_exact_at(part, left)?;
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

    fn start_of(content: &[u8], lines: u64) -> u64 {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        start(&file, lines).unwrap()
    }

    #[test]
    fn the_last_lines_are_found() {
        assert_eq!(start_of(b"a\nb\nc\n", 0), 6);
        assert_eq!(start_of(b"a\nb\nc\n", 1), 4);
        assert_eq!(start_of(b"a\nb\nc\n", 3), 0);
        assert_eq!(start_of(b"a\nb\nc\n", 9), 0);
        assert_eq!(start_of(b"", 1), 0);
    }

    #[test]
    fn a_line_under_way_is_not_counted() {
        assert_eq!(start_of(b"a\nb\nc", 1), 2);
        assert_eq!(start_of(b"a\nb\nc", 0), 4);
    }

    #[test]
    fn lines_longer_than_a_block_are_found() {
        let long = vec![b'x'; 3 * BLOCK as usize];
        let content = [b"first\n", &long[..], b"\n"].concat();
        assert_eq!(start_of(&content, 1), 6);
        assert_eq!(start_of(&content, 2), 0);
    }
}
