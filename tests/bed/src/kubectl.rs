//! kubectl against a cluster, as a person would use it.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{process, wait};

#[derive(Clone, Debug)]
pub struct Kubectl {
    pub program: PathBuf,
    pub netns: String,
    pub kubeconfig: PathBuf,
}

impl Kubectl {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = process::in_netns(Some(&self.netns), &self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Result<String> {
        process::run(&mut self.command(args))
    }

    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.run(&all)?)?)
    }

    /// `kubectl VERB -f -` with the manifest (YAML or JSON, one or more documents).
    pub fn feed(&self, verb: &str, manifest: &str) -> Result<String> {
        let mut command = self.command(&[verb, "-f", "-"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("kubectl")?;
        child.stdin.take().context("no stdin")?.write_all(manifest.as_bytes())?;
        let out = child.wait_with_output()?;
        if !out.status.success() {
            bail!("kubectl {verb}: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.feed("apply", manifest)
    }

    pub fn pod(&self, name: &str) -> Result<Value> {
        self.json(&["get", "pod", name])
    }

    /// Waits until the pod's JSON satisfies `is`.
    pub fn until_pod(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let outcome = wait::until(&format!("pod {name}: {what}"), wait::LONG, || {
            last = self.pod(name)?;
            Ok(is(&last))
        });
        outcome.with_context(|| format!("status: {}", last["status"]))?;
        Ok(last)
    }

    pub fn until_ready(&self, name: &str) -> Result<Value> {
        self.until_pod(name, "Ready", is_ready)
    }

    pub fn until_gone(&self, kind: &str, name: &str) -> Result<()> {
        wait::until(&format!("{kind} {name} to be gone"), wait::LONG, || {
            Ok(self.run(&["get", kind, name, "--ignore-not-found", "-o", "name"])?.trim().is_empty())
        })
    }

    pub fn until_node_ready(&self, node: &str) -> Result<()> {
        wait::until(&format!("node {node} to be Ready"), wait::LONG, || {
            Ok(is_ready(&self.json(&["get", "node", node])?))
        })
    }

    /// Messages of a pod's events of one reason.
    pub fn events(&self, pod: &str, reason: &str) -> Result<Vec<String>> {
        let selector = format!("involvedObject.name={pod},reason={reason}");
        let list = self.json(&["get", "events", "--field-selector", &selector])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        Ok(items.iter().map(|e| e["message"].as_str().unwrap_or_default().to_owned()).collect())
    }

    pub fn until_event(&self, pod: &str, reason: &str) -> Result<Vec<String>> {
        let mut messages = Vec::new();
        wait::until(&format!("event {reason} of pod {pod}"), Duration::from_secs(120), || {
            messages = self.events(pod, reason)?;
            Ok(!messages.is_empty())
        })?;
        Ok(messages)
    }
}

/// Condition Ready=True, of a pod or a node.
pub fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == Some("True")
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == kind)?["status"].as_str()
}
