//! A container that tells when it ends: the last thing it does is to look at the clock, to the microsecond. (busybox's
//! `date` knows only seconds, and `/proc/uptime` hundredths of them.)

use anyhow::{Context, Result};
use host::Clock;
use pod::Mono;

pub const COMMAND: &str = "adjtimex";

/// How long after that, by its words, something was seen; in milliseconds.
pub fn until(words: &str, seen: Mono, clock: Clock) -> Result<f64> {
    let said = said(words).with_context(|| format!("no time in {words:?}"))?;
    let now = clock.now();
    let since_seen = now.mono.since(seen).as_micros() as i64;
    Ok((now.wall.as_microsecond() - since_seen - said) as f64 / 1e3)
}

/// Microseconds since the epoch.
fn said(words: &str) -> Option<i64> {
    let number = |name: &str| {
        let mut after = words.split_whitespace().skip_while(|word| *word != name);
        after.nth(1)?.parse::<i64>().ok()
    };
    Some(number("time.tv_sec:")? * 1_000_000 + number("time.tv_usec:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_found_among_other_words_and_in_a_log() {
        let words = "    mode:         0\n    time.tv_sec:  1796011869\n    time.tv_usec: 26515\n    return value: 0\n";
        assert_eq!(said(words), Some(1_796_011_869_026_515));
        let log =
            "2026-11-30T00:00:00Z stdout F     time.tv_sec:  5\n2026-11-30T00:00:00Z stdout F     time.tv_usec: 7\n";
        assert_eq!(said(log), Some(5_000_007));
        assert_eq!(said("sh: adjtimex: not found"), None);
    }
}
