//! Tests on the real stack. One cluster per group, tests of a group one after the other; any may be named.
//!
//! `real [--list] [GROUP[/TEST]...]` with FERROLET_KUBELET naming the binary under test. A plain program rather
//! than `cargo test`: a cluster is shared by many tests and must be ended by whoever started it.

mod bootstrap;
mod checkpoint;
mod churn;
mod disruption;
mod idle;
mod install;
mod join;
mod kubeadm;
mod node_sockets;
mod pods;
mod prometheus;
mod refusals;
mod requests;
mod runtime_check;
mod series;
mod shutdown;
mod static_pods;
mod suite;
mod swap;
mod top;
mod values;
mod vm;
mod workloads;
mod world;

use std::process::ExitCode;

use anyhow::Result;
use world::{Group, Tally};

fn groups() -> Vec<Group> {
    vec![
        pods::group(),
        workloads::group(),
        refusals::group(),
        requests::group(),
        static_pods::group(),
        disruption::group(),
        swap::group(),
        churn::group(),
        pods::old_runtime_group(),
        join::group(),
        runtime_check::group(),
        runtime_check::old_runtime_group(),
        idle::group(),
        suite::group(),
    ]
}

/// Run only when named, for the time they take; the VMs above all where there is no KVM.
fn groups_on_demand() -> Vec<Group> {
    vec![suite::conformance_group(), vm::group(), vm::old_runtime_group(), kubeadm::group(), shutdown::group()]
}

fn all_groups() -> impl Iterator<Item = Group> {
    groups().into_iter().chain(groups_on_demand())
}

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--list") {
        for group in all_groups() {
            group.tests.iter().for_each(|(name, _)| println!("{}/{name}", group.name));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let [word, address, pki] = &args[..]
        && word == "serve-k3s"
    {
        join::serve_k3s(address, pki)?;
        return Ok(ExitCode::SUCCESS);
    }
    bed::doctor::check()?;
    let mut tally = Tally::default();
    for group in if args.is_empty() { groups() } else { all_groups().collect() } {
        world::run(&group, &args, &mut tally)?;
    }
    println!("{} passed, {} failed", tally.passed, tally.failed.len());
    for name in &tally.failed {
        println!("FAILED {name}");
    }
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
