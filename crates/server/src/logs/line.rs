//! The formats of log files and what of a line a client gets: CRI's, `<RFC 3339 time> <stream> <tags> <text>`, and
//! Docker's JSON, which cri-dockerd leads to.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

use super::options::{LogOptions, Stream};

/// One line of a log file.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub time: Timestamp,
    /// The time as written.
    written: Cow<'a, str>,
    pub stream: Stream,
    /// With its newline, unless the runtime cut a long line here.
    pub text: Cow<'a, [u8]>,
}

#[derive(Deserialize)]
struct DockerLine<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

impl<'a> Line<'a> {
    /// None when it is of neither format.
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        if raw.starts_with(b"{") { Self::parse_docker(raw) } else { Self::parse_cri(raw) }
    }

    fn parse_docker(raw: &'a [u8]) -> Option<Self> {
        let DockerLine { log, stream, time: written } = serde_json::from_slice(raw).ok()?;
        let text = match log {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Some(Self { time: written.parse().ok()?, written, stream: stream_of(stream.as_bytes())?, text })
    }

    fn parse_cri(raw: &'a [u8]) -> Option<Self> {
        let (written, rest) = split(raw)?;
        let written = std::str::from_utf8(written).ok()?;
        let time = written.parse().ok()?;
        let (stream, rest) = split(rest)?;
        let stream = stream_of(stream)?;
        let (tags, mut text) = split(rest)?;
        let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
        if partial {
            text = text.strip_suffix(b"\n").unwrap_or(text);
        }
        Some(Self { time, written: written.into(), stream, text: text.into() })
    }

    /// The time with nine digits of fraction, as `kubectl logs --timestamps` shows it.
    fn fixed_width_time(&self) -> String {
        let digits_end = self.written.find(['Z', 'z', '+']).or_else(|| self.written.rfind('-'));
        let (moment, zone) = self.written.split_at(digits_end.unwrap_or(self.written.len()));
        let (seconds, fraction) = moment.split_once('.').unwrap_or((moment, ""));
        let zone = if zone == "+00:00" { "Z" } else { zone };
        format!("{seconds}.{fraction:0<9}{zone}")
    }
}

fn stream_of(name: &[u8]) -> Option<Stream> {
    match name {
        b"stdout" => Some(Stream::Stdout),
        b"stderr" => Some(Stream::Stderr),
        _ => None,
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Turns raw lines into what the client asked for.
pub struct Filter {
    options: LogOptions,
    left: u64,
    /// The next text begins a line of the container's, not the rest of one that was cut.
    at_line_start: bool,
    /// Lines still wanted; None without `tailLines`, or when following.
    lines: Option<u64>,
}

impl Filter {
    pub fn new(options: LogOptions) -> Self {
        let lines = options.tail_lines.filter(|_| !options.follow);
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        Self { options, left, at_line_start: true, lines }
    }

    /// No further line will give anything.
    pub fn is_done(&self) -> bool {
        self.left == 0 || self.lines == Some(0)
    }

    /// Appends what the client gets of that line.
    pub fn push(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        if self.is_done() {
            return;
        }
        let Some(line) = Line::parse(raw) else {
            tracing::debug!(length = raw.len(), "a log line not of the CRI format");
            return;
        };
        self.write(&line, out);
        if let Some(lines) = &mut self.lines {
            *lines -= 1;
        }
        self.at_line_start = line.text.last().is_none_or(|byte| *byte == b'\n');
    }

    fn write(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        let too_old = self.options.since.is_some_and(|since| line.time < since);
        let other_stream = self.options.only.is_some_and(|only| only != line.stream);
        if too_old || other_stream {
            return;
        }
        let mut text = Cow::Borrowed(&*line.text);
        if self.options.timestamps && self.at_line_start {
            let stamp = line.fixed_width_time();
            text = Cow::Owned([stamp.as_bytes(), b" ", &line.text].concat());
        }
        let length = text.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        out.extend_from_slice(&text[..length]);
        self.left -= length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(options: LogOptions, lines: &[&str]) -> String {
        let mut filter = Filter::new(options);
        let mut out = Vec::new();
        lines.iter().for_each(|line| filter.push(line.as_bytes(), &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_time_stream_tags_and_text() {
        let line = Line::parse(b"2016-10-06T00:17:09.669794202Z stderr F:X a  b\n").unwrap();
        assert_eq!((line.stream, &*line.text), (Stream::Stderr, &b"a  b\n"[..]));
        assert_eq!(line.time, "2016-10-06T00:17:09.669794202Z".parse().unwrap());
        for bad in [
            "",
            "x",
            "2016-10-06T00:17:09Z",
            "2016-10-06T00:17:09Z other F x",
            "2016-10-06T00:17:09Z stdout",
            "yesterday stdout F x",
        ] {
            assert_eq!(Line::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn pieces_of_a_cut_line_are_joined_and_stamped_once() {
        let lines = [
            "2016-10-06T00:17:09.1Z stdout P ab\n",
            "2016-10-06T00:17:09.2Z stdout P cd\n",
            "2016-10-06T00:17:09.3Z stdout F ef\n",
            "2016-10-06T00:17:10Z stdout F \n",
        ];
        assert_eq!(filtered(LogOptions::default(), &lines), "abcdef\n\n");
        let stamped = filtered(LogOptions { timestamps: true, ..Default::default() }, &lines);
        assert_eq!(stamped, "2016-10-06T00:17:09.100000000Z abcdef\n2016-10-06T00:17:10.000000000Z \n");
    }

    #[test]
    fn a_zone_is_kept_and_utc_is_z() {
        let options = LogOptions { timestamps: true, ..Default::default() };
        let lines = [
            "2016-10-06T02:17:09.5+02:00 stdout F a\n",
            "2016-10-06T02:17:09-07:30 stdout F b\n",
            "2016-10-06T02:17:09.25+00:00 stdout F c\n",
        ];
        let expected = "2016-10-06T02:17:09.500000000+02:00 a\n2016-10-06T02:17:09.000000000-07:30 b\n\
                        2016-10-06T02:17:09.250000000Z c\n";
        assert_eq!(filtered(options, &lines), expected);
    }

    #[test]
    fn since_streams_and_limits_apply() {
        let lines = [
            "1970-01-01T00:00:01Z stdout F one\n",
            "1970-01-01T00:00:02Z stderr F two\n",
            "1970-01-01T00:00:03Z stdout F three\n",
        ];
        let since = LogOptions { since: Timestamp::from_second(2).ok(), ..Default::default() };
        assert_eq!(filtered(since, &lines), "two\nthree\n");
        let only = LogOptions { only: Some(Stream::Stderr), ..Default::default() };
        assert_eq!(filtered(only, &lines), "two\n");
        let limit = LogOptions { limit_bytes: Some(6), ..Default::default() };
        assert_eq!(filtered(limit, &lines), "one\ntw");
        let tail = LogOptions { tail_lines: Some(1), ..Default::default() };
        assert_eq!(
            filtered(tail, &lines),
            "one\n",
            "the reader begins at the right line; what is written later is not shown"
        );
    }

    #[test]
    fn dockers_lines_are_read_too() {
        let lines = [
            r#"{"log":"a \"b\"\n","stream":"stdout","time":"2016-10-20T18:39:20.57606443Z"}"#,
            r#"{"log":"cut","stream":"stderr","time":"2016-10-20T18:39:21Z","attrs":{}}"#,
            r#"{"log":" off\n","stream":"stderr","time":"2016-10-20T18:39:22Z"}"#,
            r#"{"passwords":[]}"#,
        ];
        let stamped = filtered(LogOptions { timestamps: true, ..Default::default() }, &lines);
        let expected = "2016-10-20T18:39:20.576064430Z a \"b\"\n2016-10-20T18:39:21.000000000Z cut off\n";
        assert_eq!(stamped, expected);
    }

    #[test]
    fn a_broken_line_is_skipped() {
        let lines = ["garbage\n", "1970-01-01T00:00:01Z stdout F one\n"];
        assert_eq!(filtered(LogOptions::default(), &lines), "one\n");
    }

    #[test]
    fn any_line_is_shown_or_passed_over() {
        fuzz::each("log-line", |raw| {
            if let Some(line) = Line::parse(raw) {
                assert!(line.text.len() <= raw.len() + 2);
            }
        });
    }
}
