//! The file behind a `fileKeyRef`: lines of `NAME='value'`, a value may span lines, `#` begins a comment.

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    #[error("can't be read: {0}")]
    Unreadable(String),
    #[error("line {0}: missing '='")]
    NoAssignment(usize),
    #[error("line {0}: empty variable name")]
    NoName(usize),
    #[error("line {0}: whitespace before '='")]
    SpaceBeforeAssignment(usize),
    #[error("line {0}: value not in single quotes")]
    NotQuoted(usize),
    #[error("line {0}: the quote is not closed")]
    NotClosed(usize),
    #[error("line {0}: text after the closing quote")]
    TextAfterQuote(usize),
}

/// The first value of `key`; None where the file has none. What comes after it is not read.
pub fn value(content: &str, key: &str) -> Result<Option<String>, EnvFileError> {
    let mut lines = content.lines().enumerate().map(|(i, line)| (i + 1, line));
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start_matches(BLANK);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, rest) = line.split_once('=').ok_or(EnvFileError::NoAssignment(number))?;
        check_name(name, number)?;
        if rest.starts_with(BLANK) {
            // As in a shell: assigns nothing.
            if name == key {
                return Ok(Some(String::new()));
            }
            continue;
        }
        let rest = rest.strip_prefix('\'').ok_or(EnvFileError::NotQuoted(number))?;
        let value = quoted(rest, number, &mut lines)?;
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

const BLANK: [char; 2] = [' ', '\t'];

fn check_name(name: &str, number: usize) -> Result<(), EnvFileError> {
    match name.trim_end_matches(BLANK) {
        "" => Err(EnvFileError::NoName(number)),
        trimmed if trimmed != name => Err(EnvFileError::SpaceBeforeAssignment(number)),
        _ => Ok(()),
    }
}

fn quoted<'a>(
    first: &str,
    number: usize,
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Result<String, EnvFileError> {
    let mut value = String::new();
    let (mut at, mut rest) = (number, first.to_owned());
    loop {
        if let Some((end, after)) = rest.split_once('\'') {
            value.push_str(end);
            let after = after.trim_start_matches(BLANK);
            let ends = after.is_empty() || after.starts_with('#');
            return if ends { Ok(value) } else { Err(EnvFileError::TextAfterQuote(at)) };
        }
        value.push_str(&rest);
        value.push('\n');
        let (next, line) = lines.next().ok_or(EnvFileError::NotClosed(number))?;
        (at, rest) = (next, line.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literal_and_may_span_lines() {
        let file = "# head\n\n  A='x # y' # note\nB=''\nC='one\ntwo'\nD= 'lost'\nE='a=b'\n";
        let get = |key: &str| value(file, key).unwrap();
        assert_eq!(get("A").as_deref(), Some("x # y"));
        assert_eq!(get("B").as_deref(), Some(""));
        assert_eq!(get("C").as_deref(), Some("one\ntwo"));
        assert_eq!(get("D").as_deref(), Some(""));
        assert_eq!(get("E").as_deref(), Some("a=b"));
        assert_eq!(get("F"), None);
    }

    #[test]
    fn anything_else_is_refused_with_its_line() {
        for (file, error) in [
            ("A\n", EnvFileError::NoAssignment(1)),
            ("='x'\n", EnvFileError::NoName(1)),
            ("\nA ='x'\n", EnvFileError::SpaceBeforeAssignment(2)),
            ("A=x\n", EnvFileError::NotQuoted(1)),
            ("A='x\ny\n", EnvFileError::NotClosed(1)),
            ("A='x\ny' z\n", EnvFileError::TextAfterQuote(2)),
        ] {
            assert_eq!(value(file, "B"), Err(error), "{file:?}");
        }
    }

    #[test]
    fn any_file_has_a_value_or_an_error() {
        fuzz::each("env-file", |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            for key in ["A", "B", "C", "D"] {
                let _ = value(text, key);
            }
        });
    }
}
