//! What was measured: samples by measure and agent, one or more a round, and the table made of them.

use std::{collections::BTreeMap, fmt::Write as _};

/// The agent that raw CRI calls stand for.
pub const FLOOR: &str = "floor";

#[derive(Clone, Copy, Debug, Default)]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

impl Quantiles {
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let rank = (sorted.len() as f64 * q).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
        };
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99) }
    }
}

/// What the first agent should reach.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    None,
    AtMost(f64),
    /// At most so much with up to so many pods.
    UpTo(&'static [(usize, f64)]),
    /// At most so much more than the floor.
    AboveFloor(f64),
    /// At most so many times the floor.
    TimesFloor(f64),
    /// At most so many times another measure of the same agent.
    Times(f64, &'static str),
    /// At most so many times another measure of the second agent.
    TimesSecond(f64, &'static str),
}

#[derive(Clone, Copy, Debug)]
pub struct Measure {
    pub key: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub goal: Goal,
}

const fn measure(key: &'static str, title: &'static str, unit: &'static str, goal: Goal) -> Measure {
    Measure { key, title, unit, goal }
}

/// In the order of the table. A `#` in a key and a title stands for the number of pods.
pub const MEASURES: &[Measure] = &[
    measure("up", "start of the agent to node Ready", "ms", Goal::None),
    measure("rss-0", "RSS, idle", "MiB", Goal::AtMost(10.0)),
    measure("anon-0", "anonymous memory, idle", "MiB", Goal::AtMost(3.0)),
    measure("cpu-0", "CPU, idle", "millicores", Goal::AtMost(0.15)),
    measure("wakeups-0", "wake-ups, idle", "/min", Goal::None),
    measure("cri-0", "CRI calls, idle", "/min", Goal::None),
    measure("api-0", "API calls, idle", "/min", Goal::None),
    measure("runtime-0", "CPU of containerd, idle", "millicores", Goal::None),
    measure("apiserver-0", "CPU of the API server, idle", "millicores", Goal::None),
    measure("rss-#", "RSS, # pods", "MiB", Goal::UpTo(&[(110, 20.0), (500, 45.0)])),
    measure("anon-#", "anonymous memory, # pods", "MiB", Goal::None),
    measure("cpu-#", "CPU, # idle pods", "millicores", Goal::UpTo(&[(110, 0.8)])),
    measure("cpu-each-#", "CPU that each of # idle pods adds", "microcores", Goal::None),
    measure("wakeups-#", "wake-ups, # idle pods", "/min", Goal::None),
    measure("cri-#", "CRI calls, # idle pods", "/min", Goal::None),
    measure("api-#", "API calls, # idle pods", "/min", Goal::None),
    measure("runtime-#", "CPU of containerd and shims, # idle pods", "millicores", Goal::None),
    measure("apiserver-#", "CPU of the API server, # idle pods", "millicores", Goal::None),
    measure("node-#", "CPU of the node, # idle pods, containerd as by default", "millicores", Goal::None),
    measure(
        "node-lean-#",
        "CPU of the node, # idle pods, containerd as recommended",
        "millicores",
        Goal::TimesSecond(0.1, "node-#"),
    ),
    measure("rss-after-#", "RSS 90 s after # pods are gone", "MiB", Goal::Times(1.2, "rss-0")),
    measure("anon-after-#", "anonymous memory 90 s after # pods are gone", "MiB", Goal::None),
    measure("ready-p50", "create to Ready, one pod, p50", "ms", Goal::AboveFloor(15.0)),
    measure("ready-p90", "create to Ready, one pod, p90", "ms", Goal::None),
    measure("ready-p99", "create to Ready, one pod, p99", "ms", Goal::AboveFloor(40.0)),
    measure("words-p50", "API server alone: pod, token, status, seen, p50", "ms", Goal::None),
    measure("words-p99", "API server alone: pod, token, status, seen, p99", "ms", Goal::None),
    measure("ready-cpu", "CPU of the agent a pod, create to gone, beyond idle", "ms", Goal::None),
    measure("gone-p50", "delete to gone (SIGTERM ignored, killed after 2 s), p50", "ms", Goal::AboveFloor(100.0)),
    measure("ended-p50", "container's end to status, p50", "ms", Goal::None),
    measure("ended-p99", "container's end to status, p99", "ms", Goal::AtMost(50.0)),
    measure("probed-p50", "readiness change to status (probed each second), p50", "ms", Goal::None),
    measure("probed-p90", "readiness change to status (probed each second), p90", "ms", Goal::None),
    measure("burst-#", "# pods at once, all Ready", "s", Goal::TimesFloor(1.15)),
    measure("burst-cpu-#", "CPU of the agent a pod in that burst of #", "ms", Goal::AtMost(6.0)),
    measure("burst-runtime-#", "CPU of containerd in that burst of #", "s", Goal::None),
    measure("burst-apiserver-#", "CPU of API server and etcd in that burst of #", "s", Goal::None),
    measure("burst-cri-#", "CRI calls a pod in that burst of #", "", Goal::None),
    measure("burst-api-#", "API calls a pod in that burst of #", "", Goal::None),
    measure("gone-#", "# pods deleted at once, all gone", "s", Goal::None),
    measure("restart-sync-#", "restart with # pods: start to a waiting pod Ready", "ms", Goal::AtMost(1000.0)),
    measure("restart-cpu-#", "restart with # pods: CPU in the first 10 s", "s", Goal::None),
    measure("restart-flips-#", "restart with # pods: Ready flips", "", Goal::AtMost(0.0)),
    measure("restart-restarts-#", "restart with # pods: container restarts", "", Goal::AtMost(0.0)),
    measure("churn-rss-#", "# pods churned through: growth of RSS", "MiB", Goal::None),
    measure("churn-anon-#", "# pods churned through: growth of anonymous memory", "MiB", Goal::AtMost(1.0)),
];

/// What the first agent may at most cost by the second's cost, on any machine, however busy. Far from what is measured,
/// so that only a real loss shows.
const MARGINS: &[(&str, f64)] = &[
    ("rss-0", 0.5),
    ("anon-0", 0.5),
    ("cpu-0", 0.5),
    ("rss-#", 0.6),
    ("cpu-#", 0.5),
    ("ready-p50", 0.95),
    ("ready-cpu", 0.8),
    ("ended-p50", 0.8),
    ("burst-#", 1.1),
    ("burst-cpu-#", 0.7),
];

/// What the first agent may never do.
const NEVER: [&str; 2] = ["restart-flips-#", "restart-restarts-#"];

type Samples = BTreeMap<String, Vec<f64>>;

#[derive(Debug, Default)]
pub struct Figures {
    /// By key, then by agent.
    samples: BTreeMap<String, Samples>,
    /// Numbers of pods that stand for `#`.
    pods: Vec<usize>,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    /// That of its measure.
    pub key: &'static str,
    pub title: String,
    pub unit: &'static str,
    /// One for each agent asked for, in order; None where it was not measured.
    pub cells: Vec<Option<Spread>>,
    pub ratio: Option<Spread>,
    pub goal: String,
}

#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub middle: f64,
    pub least: f64,
    pub most: f64,
}

/// Of at least one sample; of two the mean.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

impl Spread {
    fn of(samples: &[f64]) -> Option<Self> {
        let fold = |f: fn(f64, f64) -> f64| samples.iter().copied().reduce(f);
        let (least, most) = (fold(f64::min)?, fold(f64::max)?);
        Some(Self { least, most, middle: median(samples) })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { middle, least, most } = *self;
        match least == most {
            true => write!(f, "{}", short(middle)),
            false => write!(f, "{} ({}-{})", short(middle), short(least), short(most)),
        }
    }
}

fn title(key: &str, pods: usize) -> String {
    let of = MEASURES.iter().find(|measure| measure.key == key);
    of.map_or(key, |measure| measure.title).replace('#', &pods.to_string())
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.095 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl Figures {
    /// `key` of MEASURES; `pods` stands for its `#`.
    pub fn add(&mut self, key: &str, pods: usize, agent: &str, value: f64) {
        if key.contains('#') && !self.pods.contains(&pods) {
            self.pods.push(pods);
            self.pods.sort_unstable();
        }
        let key = key.replace('#', &pods.to_string());
        eprintln!("  {agent} {key}: {}", short(value));
        self.samples.entry(key).or_default().entry(agent.to_owned()).or_default().push(value);
    }

    fn of(&self, key: &str, agent: &str) -> Option<&[f64]> {
        self.samples.get(key)?.get(agent).map(Vec::as_slice)
    }

    pub fn middle(&self, key: &str, agent: &str) -> Option<f64> {
        Spread::of(self.of(key, agent)?).map(|s| s.middle)
    }

    /// One row a measure that has samples; the ratio is that of the first two agents, round by round.
    pub fn rows(&self, agents: &[&str]) -> Vec<Row> {
        let mut rows = Vec::new();
        for measure in MEASURES {
            for pods in self.counts(measure.key) {
                let key = measure.key.replace('#', &pods.to_string());
                if self.samples.contains_key(&key) {
                    rows.push(self.row(measure, &key, *pods, agents));
                }
            }
        }
        rows
    }

    fn row(&self, measure: &Measure, key: &str, pods: usize, agents: &[&str]) -> Row {
        let cells = agents.iter().map(|agent| self.of(key, agent).and_then(Spread::of)).collect();
        let pair = agents.first().and_then(|a| self.of(key, a)).zip(agents.get(1).and_then(|a| self.of(key, a)));
        let ratio = pair.and_then(|(ours, theirs)| {
            let ratios: Vec<f64> = ours.iter().zip(theirs).filter(|(_, t)| **t > 0.0).map(|(o, t)| o / t).collect();
            Spread::of(&ratios)
        });
        let title = title(measure.key, pods);
        let goal = self.verdict(measure, key, pods, agents);
        Row { key: measure.key, title, unit: measure.unit, cells, ratio, goal }
    }

    fn verdict(&self, measure: &Measure, key: &str, pods: usize, agents: &[&str]) -> String {
        let ours = agents.first().copied().unwrap_or_default();
        let (text, limit) = match measure.goal {
            Goal::None => return String::new(),
            Goal::AtMost(most) => (format!("at most {most}"), Some(most)),
            Goal::UpTo(limits) => match limits.iter().find(|(most_pods, _)| pods <= *most_pods) {
                Some((_, most)) => (format!("at most {most}"), Some(*most)),
                None => return String::new(),
            },
            Goal::AboveFloor(more) => (format!("floor + {more}"), self.middle(key, FLOOR).map(|f| f + more)),
            Goal::TimesFloor(times) => (format!("{times} floor"), self.middle(key, FLOOR).map(|f| f * times)),
            Goal::TimesSecond(times, of) => {
                let second = agents.get(1).copied().unwrap_or_default();
                let limit = self.middle(&of.replace('#', &pods.to_string()), second).map(|s| s * times);
                (format!("{times} × {second}, {}", title(of, pods)), limit)
            }
            Goal::Times(times, of) => {
                (format!("{times} × {}", title(of, pods)), self.middle(of, ours).map(|f| f * times))
            }
        };
        match (self.middle(key, ours), limit) {
            (Some(is), Some(limit)) if is <= limit => format!("{text}: met"),
            (Some(_), Some(_)) => format!("{text}: missed"),
            _ => text,
        }
    }

    /// The measures by which the first agent is not as far ahead of the second as it should be.
    pub fn lost_leads(&self, agents: &[&str]) -> Vec<String> {
        let ratio = |key: &str| Some(self.middle(key, agents.first()?)? / self.middle(key, agents.get(1)?)?);
        let behind = MARGINS.iter().flat_map(|(key, most)| self.each(key).map(|key| (key, *most)));
        let behind = behind.filter_map(|(key, most)| {
            let ratio = ratio(&key).filter(|ratio| *ratio > most)?;
            Some(format!("{key}: {ratio:.2} of {}, at most {most}", agents[1]))
        });
        let happened = NEVER.iter().flat_map(|key| self.each(key)).filter_map(|key| {
            let times = Spread::of(self.of(&key, agents.first()?)?)?.most;
            (times > 0.0).then(|| format!("{key}: {times}, which may never be"))
        });
        behind.chain(happened).collect()
    }

    /// The numbers of pods that a key stands for.
    fn counts(&self, key: &str) -> &[usize] {
        if key.contains('#') { &self.pods } else { &[0] }
    }

    /// A key of MEASURES, for each number of pods.
    fn each(&self, key: &'static str) -> impl Iterator<Item = String> {
        self.counts(key).iter().map(|pods| key.replace('#', &pods.to_string()))
    }

    /// As Markdown, which reads well on a terminal too.
    pub fn table(&self, agents: &[&str]) -> String {
        let mut out = format!("| measure | unit | {} | ratio | goal |\n", agents.join(" | "));
        let _ = writeln!(out, "|{}", " --- |".repeat(agents.len() + 4));
        for row in self.rows(agents) {
            let cells: Vec<String> = row.cells.iter().map(|c| c.map_or("-".into(), |s| s.to_string())).collect();
            let ratio = row.ratio.map_or("-".into(), |s| s.to_string());
            let _ = writeln!(out, "| {} | {} | {} | {ratio} | {} |", row.title, row.unit, cells.join(" | "), row.goal);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for (ours, theirs) in [(10.0, 40.0), (20.0, 40.0), (12.0, 40.0)] {
            figures.add("burst-#", 100, "ferrolet", ours);
            figures.add("burst-#", 100, "upstream", theirs);
        }
        figures.add("burst-#", 100, FLOOR, 11.0);
        figures
    }

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        let rows = figures().rows(&["ferrolet", "upstream", FLOOR]);
        let ratio = rows[0].ratio.unwrap();
        assert_eq!((ratio.middle, ratio.least, ratio.most), (0.3, 0.25, 0.5));
    }

    #[test]
    fn the_middle_of_two_rounds_is_neither() {
        let mut figures = Figures::default();
        for rss in [9.0, 11.0] {
            figures.add("rss-0", 0, "ferrolet", rss);
        }
        assert_eq!(figures.middle("rss-0", "ferrolet"), Some(10.0));
        assert_eq!(figures.middle("rss-0", "upstream"), None);
    }

    #[test]
    fn a_goal_is_judged_by_the_middle_of_all_rounds() {
        let table = figures().table(&["ferrolet", "upstream", FLOOR]);
        assert!(table.contains("| 100 pods at once, all Ready | s | 12.0 (10.0-20.0) | 40.0 | 11.0 |"), "{table}");
        assert!(table.contains("1.15 floor: met"), "{table}");
    }

    #[test]
    fn a_lead_is_lost_only_beyond_its_margin() {
        let mut figures = figures();
        assert_eq!(figures.lost_leads(&["ferrolet", "upstream"]), [""; 0]);
        for _ in 0..9 {
            figures.add("burst-#", 100, "ferrolet", 60.0);
        }
        assert_eq!(figures.lost_leads(&["ferrolet", "upstream"]), ["burst-100: 1.50 of upstream, at most 1.1"]);
    }

    #[test]
    fn a_single_flip_in_any_round_is_a_loss() {
        let mut figures = Figures::default();
        for flips in [0.0, 1.0, 0.0] {
            figures.add("restart-flips-#", 20, "ferrolet", flips);
            figures.add("restart-flips-#", 20, "upstream", 0.0);
        }
        assert_eq!(figures.lost_leads(&["ferrolet", "upstream"]), ["restart-flips-20: 1, which may never be"]);
    }

    #[test]
    fn quantiles_are_by_rank() {
        let of = |n: u32| Quantiles::of(&(1..=n).map(f64::from).collect::<Vec<_>>());
        let (ten, hundred) = (of(10), of(100));
        assert_eq!((ten.p50, ten.p90, ten.p99), (5.0, 9.0, 10.0));
        assert_eq!((hundred.p50, hundred.p90, hundred.p99), (50.0, 90.0, 99.0));
        assert!(of(0).p50.is_nan());
    }

    #[test]
    fn a_goal_may_be_a_part_of_another_measure_of_the_second() {
        let mut figures = Figures::default();
        figures.add("node-lean-#", 110, "ferrolet", 30.0);
        figures.add("node-#", 110, "upstream", 350.0);
        let goal = &figures.rows(&["ferrolet", "upstream"])[1].goal;
        assert_eq!(goal, "0.1 × upstream, CPU of the node, 110 idle pods, containerd as by default: met");
    }

    #[test]
    fn a_goal_can_hang_on_the_number_of_pods() {
        let mut figures = Figures::default();
        for (pods, rss) in [(10, 19.0), (110, 21.0), (250, 21.0), (600, 60.0)] {
            figures.add("rss-#", pods, "ferrolet", rss);
        }
        let goals: Vec<String> = figures.rows(&["ferrolet"]).into_iter().map(|row| row.goal).collect();
        assert_eq!(goals, ["at most 20: met", "at most 20: missed", "at most 45: met", ""]);
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let mut figures = Figures::default();
        figures.add("rss-0", 0, "ferrolet", 9.0);
        assert!(figures.table(&["ferrolet", "upstream"]).contains("| 9.00 | - | - | at most 10: met |"));
    }
}
