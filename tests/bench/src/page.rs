//! docs/BENCHMARKS.md: what stands between its two marks is made of the last run, the rest is for people to write.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{figures::Figures, plot, proc};

const BEGIN: &str = "<!-- figures: written by `make bench` -->";
const END: &str = "<!-- end of figures -->";

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

pub fn write(figures: &Figures, agents: &[&str], command: &str) -> Result<()> {
    let path = docs().join("BENCHMARKS.md");
    let page = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let made = format!(
        "Machine: {}. Command: `bench {}`.\n\n{}\nA cell is the middle of all rounds (least-most); `ratio` is {} by {}, round by round.\n",
        proc::machine(),
        if command.is_empty() { "full" } else { command },
        figures.table(agents),
        agents.first().copied().unwrap_or_default(),
        agents.get(1).copied().unwrap_or_default(),
    );
    fs::write(&path, replaced(&page, &made)?)?;
    fs::create_dir_all(docs().join("bench"))?;
    for (name, svg) in plot::all(figures, agents) {
        fs::write(docs().join("bench").join(name), svg)?;
    }
    Ok(())
}

fn replaced(page: &str, made: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).context("docs/BENCHMARKS.md has lost its first mark")?;
    let (_, after) = rest.split_once(END).context("docs/BENCHMARKS.md has lost its second mark")?;
    Ok(format!("{before}{BEGIN}\n{made}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = format!("top\n{BEGIN}\nold\n{END}\nbottom\n");
        assert_eq!(replaced(&page, "new\n").unwrap(), format!("top\n{BEGIN}\nnew\n{END}\nbottom\n"));
        assert!(replaced("no marks", "new").is_err());
    }
}
