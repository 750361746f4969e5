//! PodLogOptions from query parameters.

use http::StatusCode;
use jiff::Timestamp;

use crate::query::Query;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    /// Lines older than this are left out.
    pub since: Option<Timestamp>,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub only: Option<Stream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
}

impl LogOptions {
    /// `split_streams` is the gate PodLogsQuerySplitStreams.
    pub fn parse(query: &Query, split_streams: bool, now: Timestamp) -> Result<Self, Refusal> {
        // `tail` is the older name of `tailLines`, `all` being none.
        let tail = match query.first("tail").filter(|tail| !tail.is_empty()) {
            Some("all") => None,
            Some(tail) => Some(tail.parse::<i64>().map_err(|_| undecodable())?),
            None => query.int("tailLines").map_err(|_| undecodable())?,
        };
        let limit = query.int("limitBytes").map_err(|_| undecodable())?;
        let since_seconds = query.int("sinceSeconds").map_err(|_| undecodable())?;
        let since_time = query.first("sinceTime").filter(|time| !time.is_empty() && *time != "null");
        let since_time: Option<Timestamp> = since_time.map(str::parse).transpose().map_err(|_| undecodable())?;
        let stream = query.first("stream").filter(|stream| !stream.is_empty());

        let both = since_seconds.is_some() && since_time.is_some();
        let stream_known = matches!(stream, None | Some("All" | "Stdout" | "Stderr"));
        let tail_of_one = tail.is_some() && matches!(stream, Some("Stdout" | "Stderr"));
        let negative =
            tail.is_some_and(|n| n < 0) || limit.is_some_and(|n| n < 1) || since_seconds.is_some_and(|n| n < 1);
        if both || negative || !stream_known || tail_of_one {
            return Err(Refusal {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                message: r#"{"message": "Invalid request."}"#.into(),
            });
        }
        let since_seconds = since_seconds
            .map(|seconds| now.checked_sub(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::UNIX_EPOCH));
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            since: since_seconds.or(since_time),
            tail_lines: tail.map(i64::unsigned_abs),
            limit_bytes: limit.map(i64::unsigned_abs),
            only: only(stream, split_streams)?,
        })
    }
}

fn only(stream: Option<&str>, split_streams: bool) -> Result<Option<Stream>, Refusal> {
    match stream {
        None | Some("All") => Ok(None),
        Some(stream) if !split_streams => {
            let message = format!(
                "unable to return the given log stream: {stream:?}. \
                 Please enable PodLogsQuerySplitStreams feature gate in kubelet"
            );
            Err(Refusal { status: StatusCode::BAD_REQUEST, message })
        }
        Some("Stdout") => Ok(Some(Stream::Stdout)),
        Some(_) => Ok(Some(Stream::Stderr)),
    }
}

fn undecodable() -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, message: r#"{"message": "Unable to decode query."}"#.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<LogOptions, u16> {
        let now = Timestamp::from_second(1000).unwrap();
        LogOptions::parse(&Query::parse(Some(query)), false, now).map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn all_parameters_are_read() {
        let options = parse("follow=true&previous=1&timestamps&sinceSeconds=10&tailLines=5&limitBytes=7").unwrap();
        let expected = LogOptions {
            follow: true,
            previous: true,
            timestamps: true,
            since: Some(Timestamp::from_second(990).unwrap()),
            tail_lines: Some(5),
            limit_bytes: Some(7),
            only: None,
        };
        assert_eq!(options, expected);
        assert_eq!(parse("sinceTime=1970-01-01T00:00:09Z").unwrap().since, Timestamp::from_second(9).ok());
    }

    #[test]
    fn tail_is_an_older_name() {
        assert_eq!(parse("tail=3").unwrap().tail_lines, Some(3));
        assert_eq!(parse("tail=all&tailLines=9").unwrap().tail_lines, None);
    }

    #[test]
    fn what_cannot_be_read_is_400_and_what_cannot_be_meant_is_422() {
        for query in ["tailLines=x", "sinceTime=yesterday", "limitBytes=1.5"] {
            assert_eq!(parse(query), Err(400), "{query}");
        }
        for query in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "stream=Both",
            "stream=Stdout&tailLines=1",
            "sinceSeconds=1&sinceTime=1970-01-01T00:00:09Z",
        ] {
            assert_eq!(parse(query), Err(422), "{query}");
        }
        assert_eq!(parse("stream=Stdout"), Err(400), "the gate is off");
        assert_eq!(parse("stream=All").unwrap().only, None);
    }

    #[test]
    fn any_query_gives_options_or_a_refusal() {
        fuzz::each("query", |bytes| {
            let query = Query::parse(std::str::from_utf8(bytes).ok());
            let _ = LogOptions::parse(&query, true, Timestamp::UNIX_EPOCH);
        });
    }
}
