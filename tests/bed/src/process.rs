//! Programs that outlive the call that starts them: each is recorded by pid and start time, so that only what
//! was started here is ever ended.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// Runs to the end; its output is the error's text when it fails.
pub fn run(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("cannot run {}", name_of(command)))?;
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!("{} {}: {}{}", name_of(command), out.status, stderr.trim(), stdout.trim());
    }
    Ok(stdout)
}

fn name_of(command: &Command) -> String {
    let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    format!("{} {}", command.get_program().to_string_lossy(), args.join(" "))
}

/// A program on its own, in the network namespace `netns` if one is named.
pub fn in_netns(netns: Option<&str>, program: &Path) -> Command {
    match netns {
        None => Command::new(program),
        Some(ns) => {
            // Not `ip netns exec`: that mounts a fresh /sys, which hides the cgroups.
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/var/run/netns/{ns}")).arg("--").arg(program);
            command
        }
    }
}

/// The programs of one run folder.
#[derive(Clone, Debug)]
pub struct Daemons {
    run: PathBuf,
}

impl Daemons {
    pub fn new(run: &Path) -> Result<Self> {
        fs::create_dir_all(run.join("pids"))?;
        fs::create_dir_all(run.join("logs"))?;
        Ok(Self { run: run.to_owned() })
    }

    /// Starts a program in a session of its own, its output in `logs/NAME.log` (appended).
    pub fn start(&self, name: &str, mut command: Command) -> Result<u32> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log(name))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {}", name_of(&command)))?;
        let pid = child.id();
        fs::write(self.run.join("pids").join(name), format!("{pid} {}", start_time(pid).unwrap_or_default()))?;
        // Reaped in the background, so that a dead daemon is not mistaken for a living one.
        std::thread::spawn(move || {
            let mut child = child;
            child.wait()
        });
        Ok(pid)
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.run.join("logs").join(format!("{name}.log"))
    }

    /// The pid of a program that still runs.
    pub fn pid(&self, name: &str) -> Option<u32> {
        let text = fs::read_to_string(self.run.join("pids").join(name)).ok()?;
        let (pid, started) = text.split_once(' ')?;
        let pid = pid.parse().ok()?;
        (start_time(pid)?.to_string() == started).then_some(pid)
    }

    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.run.join("pids")).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    /// SIGTERM, then SIGKILL after 10 s.
    pub fn stop(&self, name: &str) {
        for signal in ["-TERM", "-KILL"] {
            let Some(pid) = self.pid(name) else { break };
            self.signal_pid(pid, signal);
            for _ in 0..100 {
                if self.pid(name).is_none() {
                    break;
                }
                sleep(Duration::from_millis(100));
            }
        }
        let _ = fs::remove_file(self.run.join("pids").join(name));
    }

    /// SIGKILL at once.
    pub fn kill(&self, name: &str) {
        let Some(pid) = self.pid(name) else { return };
        self.signal_pid(pid, "-KILL");
        while self.pid(name).is_some() {
            sleep(Duration::from_millis(5));
        }
        let _ = fs::remove_file(self.run.join("pids").join(name));
    }

    pub fn signal(&self, name: &str, signal: &str) {
        if let Some(pid) = self.pid(name) {
            self.signal_pid(pid, signal);
        }
    }

    fn signal_pid(&self, pid: u32, signal: &str) {
        let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
    }
}

/// Field 22 of /proc/PID/stat; with the pid it names a process for good. None for a zombie too, once its last
/// thread has gone: until then its sockets are open.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" && fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1 {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
