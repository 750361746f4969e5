//! Says what the machine lacks before anything is started.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Shared with the Makefile, which has to ask before anything of Rust can be built.
const SCRIPT: &str = include_str!("../doctor.sh");

/// Everything missing in one message.
pub fn check() -> Result<()> {
    let out = Command::new("sh").args(["-c", SCRIPT]).stdin(Stdio::null()).output().context("cannot run sh")?;
    if !out.status.success() {
        bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
