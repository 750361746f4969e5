//! What is asked of a container that runs: exec, streams, log, statistics, security context, resize.

use std::{collections::BTreeMap, fs, time::Duration};

use pod::{ContainerId, SandboxId};
use runtime::resources::{container_resources, sandbox_resources};
use serde_json::json;

use super::{
    calls,
    pods::{OWN, TestPod, until_written},
    report::{Checked, Report, unexpected},
    streams,
};

pub(super) const USER: i64 = 12345;
pub(super) const GROUP: i64 = 23456;
pub(super) const MEMORY_BEFORE: &str = "64Mi";
const MEMORY_AFTER: &str = "96Mi";
const MEMORY_AFTER_BYTES: i64 = 96 << 20;
/// Of CAP_NET_BIND_SERVICE alone, as /proc writes it.
const BOUNDING_SET: &str = "0000000000000400";

pub(super) struct Running<'a> {
    pub pod: &'a TestPod<'a>,
    pub sandbox: &'a SandboxId,
    pub id: &'a ContainerId,
}

impl Running<'_> {
    pub(super) async fn check(&self, report: &mut Report) {
        report.add(calls::EXEC_SYNC, self.exec_sync().await);
        report.add(calls::EXEC_TIMEOUT, self.exec_timeout().await);
        streams::check(self, report).await;
        if report.add(calls::LOG, self.log().await) {
            report.add(calls::REOPEN_LOG, self.reopen_log().await);
        }
        report.add(calls::USER, self.user().await);
        report.add(calls::READ_ONLY, self.read_only().await);
        report.add(calls::CAPABILITIES, self.capabilities().await);
        report.add(calls::STATS, self.stats().await);
        report.add(calls::UPDATE, self.update().await);
        report.add(calls::UPDATE_SANDBOX, self.update_sandbox().await);
        report.add(calls::CHECKPOINT, self.checkpoint().await);
    }

    async fn exec_sync(&self) -> Checked {
        let command = ["sh", "-c", "echo out; echo err >&2; exit 3"].map(str::to_owned);
        let output = self.pod.cri().exec_sync(self.id, &command, Duration::from_secs(10)).await?;
        match (output.stdout.as_slice(), output.stderr.as_slice(), output.exit_code) {
            (b"out\n", b"err\n", 3) => Ok("output, errors and exit code".to_owned()),
            (out, err, code) => unexpected(format!(
                "exit code {code}, output {:?}, errors {:?}",
                String::from_utf8_lossy(out),
                String::from_utf8_lossy(err)
            )),
        }
    }

    async fn exec_timeout(&self) -> Checked {
        let command = ["sh", "-c", "sleep 60"].map(str::to_owned);
        match self.pod.cri().exec_sync(self.id, &command, Duration::from_secs(1)).await {
            Err(error) if error.is_deadline() => Ok("ended after its time".to_owned()),
            Err(error) => Err(error.into()),
            Ok(output) => unexpected(format!("exit code {} instead of a deadline that passed", output.exit_code)),
        }
    }

    /// The log as the agent tells the runtime to name it.
    fn log_file(&self) -> std::path::PathBuf {
        self.pod.log_dir().join("main/0.log")
    }

    async fn log(&self) -> Checked {
        until_written(&self.log_file(), " stdout F first\n").await?;
        Ok("written in CRI's format".to_owned())
    }

    async fn reopen_log(&self) -> Checked {
        let (file, old) = (self.log_file(), self.pod.log_dir().join("main/0.log.rotated"));
        if let Err(error) = fs::rename(&file, &old) {
            return unexpected(format!("cannot rename {}: {error}", file.display()));
        }
        self.pod.cri().reopen_container_log(self.id).await?;
        until_written(&file, " stdout F again\n").await?;
        Ok("goes on in a new file".to_owned())
    }

    async fn user(&self) -> Checked {
        let ids = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let status = self.pod.shell(self.id, "cat /proc/self/status").await?;
        for (field, wanted) in [("Uid:", USER), ("Gid:", GROUP)] {
            let found = ids(field_of(&status, field));
            if found.len() != 4 || found.iter().any(|id| *id != wanted.to_string()) {
                return unexpected(format!("{field} {found:?} instead of {wanted}"));
            }
        }
        Ok(format!("{USER}, {GROUP}"))
    }

    async fn read_only(&self) -> Checked {
        let mounts = self.pod.shell(self.id, "cat /proc/self/mounts").await?;
        let root = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|f| f.get(1) == Some(&"/"));
        match root.and_then(|fields| fields.get(3).map(|o| o.split(',').any(|option| option == "ro"))) {
            Some(true) => Ok("as /proc/mounts says".to_owned()),
            Some(false) => unexpected("the root filesystem is writable"),
            None => unexpected("no root filesystem among the mounts"),
        }
    }

    async fn capabilities(&self) -> Checked {
        let status = self.pod.shell(self.id, "cat /proc/self/status").await?;
        let (bounding, no_new) = (field_of(&status, "CapBnd:"), field_of(&status, "NoNewPrivs:"));
        if (bounding, no_new) == (BOUNDING_SET, "1") {
            return Ok("all but the one asked for dropped".to_owned());
        }
        unexpected(format!("CapBnd {bounding} instead of {BOUNDING_SET}, NoNewPrivs {no_new} instead of 1"))
    }

    async fn stats(&self) -> Checked {
        let all = self.pod.cri().container_layers().await?;
        self.pod.cri().writable_layers(&self.pod.desired.uid).await?;
        Ok(format!("{} containers measured so far", all.len()))
    }

    async fn update(&self) -> Checked {
        let mut container = self.pod.container("main")?.clone();
        let limits = json!({"limits": {"cpu": "200m", "memory": MEMORY_AFTER}});
        container.resources = serde_json::from_value(limits).ok();
        let resources = container_resources(&self.pod.desired, &container, &self.pod.config().resources, 0);
        self.pod.cri().update_container_resources(self.id, resources, BTreeMap::new()).await?;
        let seen = self.pod.observe().await?.container(self.id).and_then(|c| c.resources.clone());
        match seen.map(|resources| resources.memory_limit_bytes) {
            None => Ok("taken; this runtime does not show what a container has".to_owned()),
            Some(MEMORY_AFTER_BYTES) => Ok(format!("memory {MEMORY_BEFORE} -> {MEMORY_AFTER}")),
            Some(other) => unexpected(format!("taken, but the memory limit is {other}")),
        }
    }

    async fn update_sandbox(&self) -> Checked {
        let resources = sandbox_resources(&self.pod.desired, &self.pod.config().resources);
        self.pod.cri().update_pod_sandbox_resources(self.sandbox, None, resources).await?;
        Ok(String::new())
    }

    /// Of a container that is not there: what it answers shows whether it has the call.
    async fn checkpoint(&self) -> Checked {
        let none = ContainerId::new(format!("{OWN}-none"));
        match self.pod.cri().checkpoint_container(&none, "/nonexistent/checkpoint.tar", 10).await {
            Err(error) if error.is_unimplemented() => Err(error.into()),
            Err(_) => Ok("the call is there; not tried".to_owned()),
            Ok(()) => unexpected("a checkpoint of a container that does not exist"),
        }
    }
}

fn field_of<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_proc_status_is_what_follows_its_name() {
        let status = "Name:\tcat\nUid:\t1\t1\t1\t1\nCapBnd:\t0000000000000400\n";
        assert_eq!(field_of(status, "CapBnd:"), BOUNDING_SET);
        assert_eq!(field_of(status, "NoNewPrivs:"), "");
    }
}
