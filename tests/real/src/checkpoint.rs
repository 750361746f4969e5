//! Asks a node's server for checkpoints of containers.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use bed::{
    Vm,
    process::{in_netns, run},
};
use serde_json::Value;

use crate::world::World;

const ACCOUNT: &str = "checkpointer";

/// `pod` is NAMESPACE/POD/CONTAINER. Status code and answer; whoever asks has no other right than this one.
pub fn ask(w: &World, vm: &Vm, pod: &str) -> Result<(String, Value)> {
    let k = w.kubectl();
    if k.run(&["get", "serviceaccount", ACCOUNT]).is_err() {
        k.run(&["create", "serviceaccount", ACCOUNT])?;
        k.run(&["create", "clusterrole", ACCOUNT, "--verb=create", "--resource=nodes/checkpoint"])?;
        let account = format!("--serviceaccount=default:{ACCOUNT}");
        k.run(&["create", "clusterrolebinding", ACCOUNT, &format!("--clusterrole={ACCOUNT}"), &account])?;
    }
    let token = k.run(&["create", "token", ACCOUNT])?;
    let url = format!("https://{}:10250/checkpoint/{pod}", vm.ip);
    let mut curl: Command = in_netns(Some(&w.cluster.netns), Path::new("curl"));
    curl.args(["-qsk", "-X", "POST", "-w", "\n%{http_code}", &url]);
    let said = run(curl.args(["-H", &format!("Authorization: Bearer {}", token.trim())]))?;
    let (body, code) = said.rsplit_once('\n').context("no status code")?;
    Ok((code.to_owned(), serde_json::from_str(body).unwrap_or_else(|_| Value::from(body))))
}
