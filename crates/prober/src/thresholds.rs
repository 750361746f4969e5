//! From single attempts to verdicts: a verdict needs as many like attempts in a row as its threshold says.

use pod::{Verdict, api::Probe};

#[derive(Clone, Debug)]
pub(crate) struct Thresholds {
    success: i32,
    failure: i32,
    last: Option<Verdict>,
    run: i32,
}

impl Thresholds {
    pub fn of(probe: &Probe) -> Self {
        let at_least_one = |n: Option<i32>, default| n.filter(|n| *n > 0).unwrap_or(default);
        Self {
            success: at_least_one(probe.success_threshold, 1),
            failure: at_least_one(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// Counts one attempt; the verdict once its threshold is reached.
    pub fn count(&mut self, attempt: Verdict) -> Option<Verdict> {
        if self.last == Some(attempt) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(attempt);
            self.run = 1;
        }
        let needed = match attempt {
            Verdict::Success => self.success,
            Verdict::Failure => self.failure,
        };
        (self.run >= needed).then_some(attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Failure, Success};

    fn thresholds(success: i32, failure: i32) -> Thresholds {
        Thresholds::of(&Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Probe::default()
        })
    }

    #[test]
    fn a_verdict_needs_its_threshold_in_a_row() {
        let mut t = thresholds(2, 3);
        let attempts = [Success, Failure, Failure, Success, Success, Failure, Failure, Failure];
        let verdicts: Vec<_> = attempts.into_iter().map(|a| t.count(a)).collect();
        assert_eq!(verdicts, [None, None, None, None, Some(Success), None, None, Some(Failure)]);
    }

    #[test]
    fn thresholds_that_are_not_given_are_one_success_and_three_failures() {
        let mut t = Thresholds::of(&Probe::default());
        assert_eq!(t.count(Success), Some(Success));
        assert_eq!([t.count(Failure), t.count(Failure), t.count(Failure)], [None, None, Some(Failure)]);
    }
}
