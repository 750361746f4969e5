//! Which span a piece of work belongs to: inside the program by the task, between programs by the header `traceparent`
//! of the W3C.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
};

pub const TRACEPARENT: &str = "traceparent";

/// Names a span all over the world.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub trace: u128,
    pub span: u64,
    pub sampled: bool,
}

tokio::task_local! {
    static CURRENT: Option<Context>;
}

/// The span that this task works for.
pub fn current() -> Option<Context> {
    CURRENT.try_with(|context| *context).ok().flatten()
}

/// Runs for that span.
pub(crate) async fn within<F: Future>(context: Option<Context>, work: F) -> F::Output {
    CURRENT.scope(context, work).await
}

/// Takes the current span along into a task that is about to be spawned.
pub fn carry<F: Future>(work: F) -> impl Future<Output = F::Output> {
    within(current(), work)
}

impl Context {
    /// The first span of a trace. A trace is sampled by its id, so that every program decides alike.
    pub(crate) fn first(per_million: u32) -> Self {
        let trace = (u128::from(random()) << 64) | u128::from(random());
        Self { trace, span: random(), sampled: is_sampled(trace, per_million) }
    }

    pub(crate) fn child(self) -> Self {
        Self { span: random(), ..self }
    }

    /// Version 00: trace, parent and flags in hexadecimal. A later version may have more behind them.
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |part: &str, length| {
            part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let whole = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
        if !whole || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let context = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (context.trace != 0 && context.span != 0).then_some(context)
    }

    pub fn traceparent(&self) -> String {
        self.to_string()
    }

    pub(crate) fn flags(&self) -> u32 {
        u32::from(self.sampled)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The rule of OpenTelemetry's TraceIDRatioBased: the trace's lower half, without its last bit, below the ratio.
fn is_sampled(trace: u128, per_million: u32) -> bool {
    let bound = u128::from(per_million) * (1 << 63) / 1_000_000;
    u128::from(trace as u64 >> 1) < bound
}

/// Never zero, which stands for none. Nobody has to be unable to guess it.
fn random() -> u64 {
    RandomState::new().hash_one(()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context = Context::from_traceparent(HEADER).unwrap();
        assert!(context.sampled && context.span == 0x00f0_67aa_0ba9_02b7);
        assert_eq!(context.traceparent(), HEADER);
        assert!(Context::from_traceparent(&HEADER.replace("00-4b", "01-4b").replace("-01", "-01-more")).is_some());
        assert!(!Context::from_traceparent(&HEADER.replace("-01", "-00")).unwrap().sampled);
    }

    #[test]
    fn nonsense_is_no_traceparent() {
        for text in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Context::from_traceparent(text), None, "{text}");
        }
    }

    #[test]
    fn a_share_of_the_traces_is_sampled() {
        assert!(!is_sampled(0, 0) && !Context::first(0).sampled);
        assert!(is_sampled(u128::MAX, 1_000_000) && Context::first(1_000_000).sampled);
        let sampled = (0..4000).filter(|_| Context::first(250_000).sampled).count();
        assert!((800..1200).contains(&sampled), "{sampled}");
    }

    #[test]
    fn any_header_is_a_context_or_none() {
        fuzz::each_of("traceparent", &[HEADER.as_bytes().to_vec()], |bytes| {
            let text = String::from_utf8_lossy(bytes);
            assert!(Context::from_traceparent(&text).is_none_or(|context| context.trace != 0));
        });
    }
}
