//! Query parameters with the leniency of the Kubernetes codec.

use std::borrow::Cow;

/// The decoded `name=value` pairs in order.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The first value of that name.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Present and neither `false` nor `0`: `?follow` alone means true.
    pub fn flag(&self, name: &str) -> bool {
        self.first(name).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }

    /// `Err` when it is there and no number.
    pub fn int(&self, name: &str) -> Result<Option<i64>, std::num::ParseIntError> {
        self.first(name).filter(|value| !value.is_empty()).map(str::parse).transpose()
    }
}

/// One segment of a path, percent-decoded; None when that is no UTF-8 or holds a `/` or NUL.
pub fn segment(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains('%') {
        return Some(Cow::Borrowed(raw));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            decoded.push(first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    let decoded = String::from_utf8(decoded).ok()?;
    (!decoded.contains(['/', '\0'])).then_some(Cow::Owned(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_without_value_is_set_and_false_or_zero_is_not() {
        let query = Query::parse(Some("follow&previous=false&timestamps=0&x=True"));
        assert!(query.flag("follow") && query.flag("x"));
        assert!(!query.flag("previous") && !query.flag("timestamps") && !query.flag("absent"));
    }

    #[test]
    fn a_segment_cannot_smuggle_a_slash() {
        assert_eq!(segment("a%2Db").as_deref(), Some("a-b"));
        assert_eq!(segment("..%2Fetc"), None);
        assert_eq!(segment("%zz"), None);
        assert_eq!(segment("%4"), None);
    }

    #[test]
    fn any_query_is_read() {
        fuzz::each("query", |bytes| drop(Query::parse(std::str::from_utf8(bytes).ok())));
    }
}
