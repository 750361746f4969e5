//! Durations as Go writes and reads them: `2m0s`, `1h30m`, `100ms`, `-1s`; 64-bit nanoseconds, signed.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Signed, since some fields give a meaning to a negative value (`volumeStatsAggPeriod`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration {
    nanos: i64,
}

/// The text is not a duration; the reason is worded as Go's `time.ParseDuration` words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("time: invalid duration {0:?}")]
    Malformed(String),
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
}

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl GoDuration {
    pub const fn from_nanos(nanos: i64) -> Self {
        Self { nanos }
    }

    pub const fn from_millis(millis: i64) -> Self {
        Self { nanos: millis * 1_000_000 }
    }

    pub const fn from_secs(secs: i64) -> Self {
        Self { nanos: secs * 1_000_000_000 }
    }

    pub const fn nanos(self) -> i64 {
        self.nanos
    }

    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub const fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// A negative duration waits for nothing, so it is zero here.
    pub const fn std(self) -> Duration {
        Duration::from_nanos(if self.nanos < 0 { 0 } else { self.nanos as u64 })
    }

    pub fn as_secs_f64(self) -> f64 {
        self.nanos as f64 / 1e9
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let malformed = || DurationError::Malformed(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(malformed());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (nanos, after) = next_term(rest, text)?;
            total = total.checked_add(nanos).ok_or_else(malformed)?;
            rest = after;
        }
        let signed = if negative { -total } else { total };
        i64::try_from(signed).map(Self::from_nanos).map_err(|_| malformed())
    }
}

/// One `number unit` term of the text.
fn next_term<'a>(rest: &'a str, text: &str) -> Result<(i128, &'a str), DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let whole_len = digits(rest);
    let (whole, mut after) = rest.split_at(whole_len);
    let mut fraction = "";
    if let Some(tail) = after.strip_prefix('.') {
        let len = digits(tail);
        (fraction, after) = tail.split_at(len);
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(malformed());
    }
    let unit_len = after.bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
    let (unit, after) = after.split_at(unit_len);
    if unit.is_empty() {
        return Err(DurationError::MissingUnit(text.to_owned()));
    }
    let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
    };
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| malformed())? };
    let mut nanos = whole.checked_mul(i128::from(*scale)).ok_or_else(malformed)?;
    let mut unit_part = i128::from(*scale);
    for digit in fraction.bytes().take(18) {
        // Beyond a nanosecond nothing is left, as in Go.
        nanos += i128::from(digit - b'0') * unit_part / 10;
        if unit_part % 10 != 0 {
            break;
        }
        unit_part /= 10;
    }
    Ok((nanos, after))
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.nanos.unsigned_abs();
        if nanos == 0 {
            return f.write_str("0s");
        }
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        match nanos {
            n if n < 1_000 => write!(f, "{n}ns"),
            n if n < 1_000_000 => write!(f, "{}µs", decimal(n, 1_000)),
            n if n < 1_000_000_000 => write!(f, "{}ms", decimal(n, 1_000_000)),
            n => {
                let (minutes, seconds) = (n / 60_000_000_000, n % 60_000_000_000);
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", decimal(seconds, 1_000_000_000))
            }
        }
    }
}

/// `value / scale` with no trailing zeros.
fn decimal(value: u64, scale: u64) -> String {
    let width = scale.ilog10() as usize;
    let text = format!("{}.{:0width$}", value / scale, value % scale);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        text.parse::<GoDuration>().map_or_else(|e| e.to_string(), |d| d.to_string())
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (text, go) in [
            ("0", "0s"),
            ("5s", "5s"),
            ("300s", "5m0s"),
            ("4h", "4h0m0s"),
            ("1h0.5s", "1h0m0.5s"),
            ("100ms", "100ms"),
            ("1500ms", "1.5s"),
            ("1.5us", "1.5µs"),
            ("7ns", "7ns"),
            ("-1m", "-1m0s"),
            ("+2h45m", "2h45m0s"),
            (".5m", "30s"),
            ("1h90m", "2h30m0s"),
        ] {
            assert_eq!(parsed(text), go, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_in_gos_words() {
        assert_eq!(parsed("5"), r#"time: missing unit in duration "5""#);
        assert_eq!(parsed("5x"), r#"time: unknown unit "x" in duration "5x""#);
        assert_eq!(parsed(""), r#"time: invalid duration """#);
        assert_eq!(parsed("."), r#"time: invalid duration ".""#);
        assert_eq!(parsed("9999999h"), r#"time: invalid duration "9999999h""#);
    }
}
