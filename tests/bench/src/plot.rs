//! Bar charts as SVG: small, readable on light and dark pages, no dependency.

use std::fmt::Write as _;

use crate::figures::Figures;

const WIDTH: f64 = 720.0;
const LABELS: f64 = 250.0;
const BAR: f64 = 16.0;
const COLOURS: [&str; 4] = ["#d9622b", "#4a7fb5", "#8a8a8a", "#5b9a5b"];

/// One picture.
struct Plot {
    file: &'static str,
    title: &'static str,
    /// Of measures that share a unit.
    keys: &'static [&'static str],
}

const PLOTS: [Plot; 4] = [
    Plot {
        file: "memory.svg",
        title: "Memory of the agent (MiB)",
        keys: &["rss-0", "anon-0", "rss-#", "anon-#", "rss-after-#", "anon-after-#"],
    },
    Plot {
        file: "cpu.svg",
        title: "CPU with idle pods (millicores)",
        keys: &["cpu-0", "cpu-#", "node-#", "node-lean-#"],
    },
    Plot {
        file: "latency.svg",
        title: "Latency (ms)",
        keys: &["ready-p50", "ready-p99", "ended-p50", "ended-p99", "probed-p50", "gone-p50", "restart-sync-#"],
    },
    Plot { file: "burst.svg", title: "Many pods at once (s)", keys: &["burst-#", "gone-#"] },
];

pub fn all(figures: &Figures, agents: &[&str]) -> Vec<(&'static str, String)> {
    PLOTS.iter().map(|picture| (picture.file, plot(figures, agents, picture))).collect()
}

fn plot(figures: &Figures, agents: &[&str], picture: &Plot) -> String {
    let rows: Vec<_> = figures.rows(agents).into_iter().filter(|row| picture.keys.contains(&row.key)).collect();
    let values = rows.iter().flat_map(|r| r.cells.iter().flatten()).map(|s| s.middle);
    let most = values.fold(f64::MIN_POSITIVE, f64::max);
    let mut body = String::new();
    let mut y = 34.0 + BAR * agents.len() as f64;
    for (i, agent) in agents.iter().enumerate() {
        let at = 30.0 + BAR * i as f64;
        let _ = writeln!(body, r#"<rect x="10" y="{at}" width="10" height="10" fill="{}"/>"#, COLOURS[i % 4]);
        let _ = writeln!(body, r#"<text x="26" y="{}">{agent}</text>"#, at + 9.0);
    }
    for row in &rows {
        let _ = writeln!(body, r#"<text x="10" y="{}">{}</text>"#, y + 12.0, row.title);
        for (i, cell) in row.cells.iter().enumerate() {
            let Some(spread) = cell else { continue };
            let width = (spread.middle / most * (WIDTH - LABELS - 150.0)).max(1.0);
            let colour = COLOURS[i % 4];
            let _ = writeln!(
                body,
                r#"<rect x="{LABELS}" y="{}" width="{width:.1}" height="{}" fill="{colour}"/>"#,
                y + 14.0,
                BAR - 4.0
            );
            let _ = writeln!(body, r#"<text x="{:.1}" y="{}">{spread}</text>"#, LABELS + width + 6.0, y + 24.0);
            y += BAR;
        }
        y += BAR + 6.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{:.0}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#777\">\n<text x=\"10\" y=\"18\" font-size=\"15\">{}</text>\n{body}</svg>\n",
        y + 10.0,
        picture.title
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::MEASURES;

    #[test]
    fn each_measure_of_a_picture_gets_a_bar_per_agent() {
        let mut figures = Figures::default();
        figures.add("rss-0", 0, "ours", 10.0);
        figures.add("rss-0", 0, "theirs", 80.0);
        figures.add("cpu-0", 0, "ours", 0.1);
        let svg = plot(&figures, &["ours", "theirs"], &PLOTS[0]);
        assert_eq!(svg.matches("height=\"12\"").count(), 2, "{svg}");
        assert!(!svg.contains("CPU, idle"), "{svg}");
    }

    #[test]
    fn the_measures_of_a_picture_share_a_unit() {
        for picture in &PLOTS {
            let unit = |key: &&str| MEASURES.iter().find(|measure| measure.key == *key).map(|measure| measure.unit);
            let units: Vec<_> = picture.keys.iter().map(unit).collect();
            assert!(units[0].is_some() && units.iter().all(|unit| *unit == units[0]), "{}: {units:?}", picture.file);
        }
    }
}
