//! Upstream's own suite, e2e.test, against a cluster; its JUnit report as plain data.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{Cluster, process};

/// Test name (as ginkgo names it, without the leading `[It] `) to outcome.
pub type Outcomes = BTreeMap<String, Outcome>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed(String),
}

#[derive(Clone, Debug)]
pub struct Suite {
    pub name: String,
    pub focus: String,
    pub skip: String,
    pub processes: u32,
    /// How often a test that failed is tried again at once.
    pub retries: u32,
}

/// Runs the suite; an error means that it could not run, not that a test failed.
pub fn run(cluster: &Cluster, suite: &Suite) -> Result<Outcomes> {
    let cache = cluster.cache();
    let out = cache.reports();
    fs::create_dir_all(&out)?;
    let report = format!("{}.xml", suite.name);
    let _ = fs::remove_file(out.join(&report));
    let log = fs::File::create(out.join(format!("{}.log", suite.name)))?;
    let kubeconfig = cluster.kubectl().kubeconfig;
    let mut command = process::in_netns(Some(&cluster.netns), &cache.bin("ginkgo"));
    command
        .args([format!("-procs={}", suite.processes), "-timeout=3h".into(), "-no-color".into()])
        .arg(format!("-flake-attempts={}", suite.retries + 1))
        .args(["-focus", &suite.focus, "-skip", &suite.skip, "-output-dir"])
        .arg(&out)
        .args(["-junit-report", &report])
        .arg(cache.bin("e2e.test"))
        .arg("--")
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .args(["--provider=skeleton", "--minStartupPods=0", "--allowed-not-ready-nodes=0", "--delete-namespace=true"])
        .args(["--num-nodes=1", "--system-pods-startup-timeout=5s"])
        .arg(format!("--kubectl-path={}", cache.bin("kubectl").display()))
        .env("KUBECONFIG", &kubeconfig)
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", cache.bin("").display()))
        .stdout(log.try_clone()?)
        .stderr(log);
    command.status().context("ginkgo")?;
    read_report(&out.join(report))
}

/// Names of a list like docs/e2e-expected.txt: one a line, `#` begins a comment.
pub fn read_list(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect())
}

/// A regular expression that matches exactly the tests named.
pub fn focus_of(names: &[String]) -> String {
    let escaped = names.iter().map(|n| {
        n.chars().fold(String::new(), |mut out, c| {
            if !c.is_alphanumeric() && c != ' ' {
                out.push('\\');
            }
            out.push(c);
            out
        })
    });
    escaped.collect::<Vec<_>>().join("|")
}

fn read_report(path: &PathBuf) -> Result<Outcomes> {
    let text = fs::read_to_string(path).with_context(|| format!("the suite wrote no report {}", path.display()))?;
    let mut outcomes = Outcomes::new();
    for case in text.split("<testcase ").skip(1) {
        let Some(name) = attribute(case, "name") else { continue };
        let Some(name) = name.strip_prefix("[It] ") else { continue };
        match attribute(case, "status").as_deref() {
            Some("passed") => outcomes.insert(name.to_owned(), Outcome::Passed),
            Some("skipped" | "pending") | None => None,
            Some(_) => {
                let message = case.split("<failure ").nth(1).and_then(|f| attribute(f, "message")).unwrap_or_default();
                outcomes.insert(name.to_owned(), Outcome::Failed(message.lines().next().unwrap_or_default().to_owned()))
            }
        };
    }
    if outcomes.is_empty() {
        bail!("{} names no test that ran", path.display());
    }
    Ok(outcomes)
}

fn attribute(element: &str, name: &str) -> Option<String> {
    let tag = &element[..element.find('>')?];
    let begin = tag.find(&format!("{name}=\""))? + name.len() + 2;
    let end = tag[begin..].find('"')? + begin;
    let plain = tag[begin..end].replace("&#34;", "\"").replace("&#39;", "'").replace("&quot;", "\"");
    let plain = plain.replace("&lt;", "<").replace("&gt;", ">").replace("&#xA;", "\n").replace("&#x9;", "\t");
    Some(plain.replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_each_test_that_ran_with_its_outcome() {
        let xml = r#"<testsuite><testcase name="[It] a &lt;b&gt;" status="passed"></testcase>
            <testcase name="[It] c" status="failed"><failure message="boom&#xA;more" type="x"></failure></testcase>
            <testcase name="[It] d" status="skipped"></testcase></testsuite>"#;
        let dir = std::env::temp_dir().join(format!("bed-e2e-{}", std::process::id()));
        fs::write(&dir, xml).unwrap();
        let outcomes = read_report(&dir).unwrap();
        fs::remove_file(&dir).unwrap();
        assert_eq!(outcomes.len(), 2);
        assert_eq!(outcomes["a <b>"], Outcome::Passed);
        assert_eq!(outcomes["c"], Outcome::Failed("boom".into()));
    }

    #[test]
    fn a_focus_matches_names_literally() {
        assert_eq!(focus_of(&["[x] a*b".into()]), r"\[x\] a\*b");
    }
}
