//! The Prometheus text format, written and cut.

use std::fmt::Write as _;

/// Writes one family after the other.
#[derive(Default)]
pub struct Text(String);

/// One point of a family: label values in the family's order, and the value.
pub struct Point<'a, const N: usize> {
    pub labels: [&'a str; N],
    pub value: f64,
    /// Milliseconds since the epoch; None where the time of scraping will do.
    pub at: Option<i64>,
}

impl Text {
    /// Nothing for a family without points.
    pub fn family<'a, const N: usize>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        labels: [&str; N],
        points: impl IntoIterator<Item = Point<'a, N>>,
    ) {
        let mut points = points.into_iter().peekable();
        if points.peek().is_none() {
            return;
        }
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for point in points {
            self.0.push_str(name);
            for (index, (label, value)) in labels.iter().zip(point.labels).enumerate() {
                let before = if index == 0 { '{' } else { ',' };
                let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(value));
            }
            if N > 0 {
                self.0.push('}');
            }
            let _ = write!(self.0, " {}", point.value);
            if let Some(at) = point.at {
                let _ = write!(self.0, " {at}");
            }
            self.0.push('\n');
        }
    }

    pub fn finish(self) -> String {
        self.0
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

/// The families of a text whose names are wanted.
pub fn families(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut keep = false;
    for line in text.split_inclusive('\n') {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            keep = wanted(rest.split(' ').next().unwrap_or_default());
        }
        if keep {
            kept.push_str(line);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_help_type_and_points() {
        let mut text = Text::default();
        let points = [
            Point { labels: ["a\"b", "c"], value: 1.5, at: Some(7) },
            Point { labels: ["x", ""], value: 2.0, at: None },
        ];
        text.family("n", "gauge", "Help.", ["l", "m"], points);
        text.family("empty", "gauge", "Help.", [], []);
        let expected = "# HELP n Help.\n# TYPE n gauge\nn{l=\"a\\\"b\",m=\"c\"} 1.5 7\nn{l=\"x\",m=\"\"} 2\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn families_are_cut_out_whole() {
        let text = "# HELP a A\n# TYPE a counter\na 1\n# HELP b B\n# TYPE b counter\nb{x=\"# HELP a\"} 1\n";
        assert_eq!(families(text, |name| name == "b"), &text[text.find("# HELP b").unwrap()..]);
    }
}
