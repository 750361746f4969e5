//! The end of a container's log in CRI's format: `TIME STREAM TAG CONTENT` per line.

/// So much of a file's end holds either `MAX_LINES` lines or `MAX_BYTES` of content.
pub(crate) const WINDOW: u64 = 64 * 1024;
const MAX_LINES: usize = 80;
const MAX_BYTES: usize = 2048;

/// The content of the last lines. `whole` tells that the window begins where the file does.
pub(crate) fn tail(window: &[u8], whole: bool) -> Vec<u8> {
    let lines: Vec<&[u8]> = window.split_inclusive(|b| *b == b'\n').skip(usize::from(!whole)).collect();
    let mut content = Vec::new();
    for line in &lines[lines.len().saturating_sub(MAX_LINES)..] {
        content.extend_from_slice(parse(line).unwrap_or_default());
    }
    content.split_off(content.len().saturating_sub(MAX_BYTES))
}

/// A line's content, with its newline unless it is but a part of what the container wrote.
fn parse(line: &[u8]) -> Option<&[u8]> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (_time, stream, tags, content) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if stream != b"stdout" && stream != b"stderr" {
        return None;
    }
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    if partial { Some(content.strip_suffix(b"\n").unwrap_or(content)) } else { Some(content) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(log: &str) -> String {
        String::from_utf8(tail(log.as_bytes(), true)).unwrap()
    }

    #[test]
    fn both_streams_are_shown_without_their_headers() {
        let log = "2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:00.2Z stderr F two words\n";
        assert_eq!(text(log), "one\ntwo words\n");
    }

    #[test]
    fn parts_of_a_line_are_joined() {
        assert_eq!(text("t stdout P ab\nt stdout F cd\n"), "abcd\n");
    }

    #[test]
    fn garbage_is_left_out() {
        assert_eq!(text("nonsense\nt stdin F x\nt stdout F y\n"), "y\n");
    }

    #[test]
    fn only_the_last_80_lines_count() {
        let log: String = (0..100).map(|n| format!("t stdout F {n}\n")).collect();
        let shown = text(&log);
        assert_eq!(shown.lines().count(), 80);
        assert!(shown.starts_with("20\n"));
    }

    #[test]
    fn only_the_last_2048_bytes_count() {
        let log = format!("t stdout F {}\nt stdout F end\n", "x".repeat(5000));
        let shown = text(&log);
        assert_eq!(shown.len(), 2048);
        assert!(shown.ends_with("\nend\n"));
    }

    #[test]
    fn a_line_cut_by_the_window_is_left_out() {
        assert_eq!(tail(b"out F half\nt stdout F full\n", false), b"full\n");
    }

    #[test]
    fn any_log_has_an_end() {
        fuzz::each("log-tail", |bytes| {
            for whole in [true, false] {
                assert!(tail(bytes, whole).len() <= bytes.len());
            }
        });
    }
}
