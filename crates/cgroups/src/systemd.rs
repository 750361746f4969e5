//! The systemd driver: slices are transient units, made, changed and stopped over D-Bus.

use std::time::Duration;

use futures::StreamExt;
use tokio::{
    sync::{Mutex, OnceCell},
    time::timeout,
};
use zbus::{Connection, OwnedObjectPath, Variant};

use crate::{CgroupName, Error, Limits, Result, Version};

const JOB_DEADLINE: Duration = Duration::from_secs(30);
/// Where systemd listens itself, for a machine without a message bus.
const PRIVATE_SOCKET: &str = "unix:path=/run/systemd/private";
/// Older versions lack CPUQuotaPeriodUSec and AllowedCPUs; the files are written in any case.
const HAS_QUOTA_PERIOD: u32 = 242;
const HAS_ALLOWED_CPUS: u32 = 244;

type Property<'a> = (&'a str, Variant<'a>);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[Property<'_>],
        aux: &[(&str, &[Property<'_>])],
    ) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn set_unit_properties(&self, name: &str, runtime: bool, properties: &[Property<'_>]) -> zbus::Result<()>;
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// A lazy connection, made anew after it broke.
#[derive(Debug, Default)]
pub struct Systemd {
    connection: Mutex<Option<Connection>>,
    version: OnceCell<u32>,
}

impl Systemd {
    #[cfg(test)]
    pub fn over(connection: Connection) -> Self {
        Self { connection: Mutex::new(Some(connection)), version: OnceCell::new() }
    }

    /// Makes sure that the slice runs; one that does already is left as it is.
    pub async fn start_slice(&self, name: &CgroupName, version: Version) -> Result<()> {
        let unit = name.unit();
        let parent = name.parent().unwrap_or_default().unit();
        let properties = slice_properties(&unit, &parent, version);
        self.job(&unit, &Job::Start(properties)).await
    }

    /// Stops the slice with all below it; one that is gone already is fine.
    pub async fn stop_slice(&self, name: &CgroupName) -> Result<()> {
        let unit = name.unit();
        let stopped = self.job(&unit, &Job::Stop).await;
        // A failed unit stays loaded until it is reset; the call fails for all others.
        if let Ok(manager) = self.manager().await {
            let _ = manager.reset_failed_unit(&unit).await;
        }
        stopped
    }

    pub async fn set_limits(&self, name: &CgroupName, limits: &Limits, version: Version) -> Result<()> {
        let unit = name.unit();
        let properties = limit_properties(limits, version, self.version().await);
        if properties.is_empty() {
            return Ok(());
        }
        let failed = |source| Error::Systemd { operation: "set the properties of", unit: unit.clone(), source };
        let manager = self.manager().await.map_err(failed)?;
        match manager.set_unit_properties(&unit, true, &properties).await {
            Err(e) if is_disconnect(&e) => {
                self.forget().await;
                let manager = self.manager().await.map_err(failed)?;
                manager.set_unit_properties(&unit, true, &properties).await.map_err(failed)
            }
            result => result.map_err(failed),
        }
    }

    /// Runs one job to its end, once more if the connection turns out to be dead.
    async fn job(&self, unit: &str, job: &Job<'_>) -> Result<()> {
        let operation = job.operation();
        let outcome = match timeout(JOB_DEADLINE, self.job_once(unit, job)).await {
            Ok(Err(e)) if is_disconnect(&e) => {
                self.forget().await;
                timeout(JOB_DEADLINE, self.job_once(unit, job)).await
            }
            outcome => outcome,
        };
        let unit = unit.to_owned();
        match outcome {
            Ok(Ok(result)) if result == "done" => Ok(()),
            Ok(Ok(result)) => Err(Error::SystemdJob { operation, unit, result }),
            Ok(Err(e)) if is_named(&e, "UnitExists") || is_named(&e, "NoSuchUnit") => Ok(()),
            Ok(Err(source)) => Err(Error::Systemd { operation, unit, source }),
            Err(_) => Err(Error::SystemdTimeout { operation, unit }),
        }
    }

    async fn job_once(&self, unit: &str, job: &Job<'_>) -> zbus::Result<String> {
        let manager = self.manager().await?;
        // Listening before asking: a short job may end before its own reply is read.
        let mut removed = manager.receive_job_removed().await?;
        let job = match job {
            Job::Start(properties) => manager.start_transient_unit(unit, "replace", properties, &[]).await?,
            Job::Stop => manager.stop_unit(unit, "replace").await?,
        };
        while let Some(signal) = removed.next().await {
            let args = signal.args()?;
            if args.job() == &job {
                return Ok(args.result().clone());
            }
        }
        Err(zbus::Error::Failure("the connection ended".to_owned()))
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'static>> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref() {
            return ManagerProxy::new(connection).await;
        }
        let connection = match Connection::system().await {
            Ok(connection) => connection,
            // Both refused: the bus is what an operator expects to work.
            Err(bus) => zbus::connection::Builder::address(PRIVATE_SOCKET).p2p().build().await.map_err(|_| bus)?,
        };
        let manager = ManagerProxy::new(&connection).await?;
        // Without a subscriber systemd sends no JobRemoved.
        manager.subscribe().await?;
        *slot = Some(connection);
        Ok(manager)
    }

    async fn forget(&self) {
        *self.connection.lock().await = None;
    }

    /// 0 when it cannot be found out, so that only the oldest properties are used.
    async fn version(&self) -> u32 {
        *self.version.get_or_try_init(|| self.ask_version()).await.unwrap_or(&0)
    }

    async fn ask_version(&self) -> zbus::Result<u32> {
        let text = self.manager().await?.version().await?;
        Ok(parse_version(&text))
    }
}

/// What systemd is asked to do with a unit.
enum Job<'a> {
    Start(Vec<Property<'a>>),
    Stop,
}

impl Job<'_> {
    fn operation(&self) -> &'static str {
        match self {
            Job::Start(_) => "start",
            Job::Stop => "stop",
        }
    }
}

fn is_disconnect(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::InputOutput(_))
}

fn is_named(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(full, ..) if full.as_str().ends_with(name))
}

/// `255.4-1.fc39`, `v255`, `"255"`.
fn parse_version(text: &str) -> u32 {
    let digits: String = text.trim_start_matches(['"', 'v']).chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

fn slice_properties<'a>(unit: &'a str, parent: &'a str, version: Version) -> Vec<Property<'a>> {
    let io_accounting = match version {
        Version::V1 => "BlockIOAccounting",
        Version::V2 => "IOAccounting",
    };
    vec![
        ("Description", Variant::from(format!("pods of the kubelet, {unit}"))),
        // A slice's parent follows from its name; Wants= starts it along.
        ("Wants", Variant::from(vec![parent])),
        ("MemoryAccounting", Variant::from(true)),
        ("CPUAccounting", Variant::from(true)),
        (io_accounting, Variant::from(true)),
        ("TasksAccounting", Variant::from(true)),
        ("DefaultDependencies", Variant::from(false)),
    ]
}

fn limit_properties<'a>(limits: &Limits, version: Version, systemd: u32) -> Vec<Property<'a>> {
    let mut properties: Vec<Property<'a>> = Vec::new();
    let unlimited = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    if let Some(memory) = limits.memory.filter(|m| *m != 0) {
        let name = if version == Version::V1 { "MemoryLimit" } else { "MemoryMax" };
        properties.push((name, Variant::from(unlimited(memory))));
    }
    if let Some(shares) = limits.cpu_shares {
        properties.push(match version {
            Version::V1 => ("CPUShares", Variant::from(shares)),
            Version::V2 => ("CPUWeight", Variant::from(crate::limits::shares_to_weight(shares))),
        });
    }
    if let Some(period) = limits.cpu_period.filter(|_| systemd >= HAS_QUOTA_PERIOD) {
        properties.push(("CPUQuotaPeriodUSec", Variant::from(period)));
    }
    if let Some(quota) = limits.systemd_quota() {
        properties.push(("CPUQuotaPerSecUSec", Variant::from(quota)));
    }
    if let Some(pids) = limits.pids {
        properties.push(("TasksMax", Variant::from(unlimited(pids).max(1))));
    }
    if let Some(cpus) = limits.cpus.as_deref().filter(|_| systemd >= HAS_ALLOWED_CPUS) {
        properties.push(("AllowedCPUs", Variant::from(cpu_bits(cpus))));
    }
    for (file, value) in &limits.unified {
        let name = match *file {
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            _ => continue,
        };
        properties.push((name, Variant::from(value.parse().unwrap_or(u64::MAX))));
    }
    properties
}

/// `0-2,8` as a bit map, lowest CPU first.
fn cpu_bits(list: &str) -> Vec<u8> {
    let mut bits = Vec::new();
    for range in list.trim().split(',').filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else { continue };
        for cpu in first..=last.min(first + 8192) {
            if bits.len() <= cpu / 8 {
                bits.resize(cpu / 8 + 1, 0);
            }
            bits[cpu / 8] |= 1 << (cpu % 8);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            cpu_shares: Some(1024),
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            memory: Some(4096),
            pids: Some(-1),
            cpus: Some("0-1".into()),
            ..Limits::default()
        }
    }

    #[test]
    fn v2_slices_get_the_modern_properties() {
        let expected = [
            ("MemoryMax", Variant::from(4096_u64)),
            ("CPUWeight", Variant::from(39_u64)),
            ("CPUQuotaPeriodUSec", Variant::from(100_000_u64)),
            ("CPUQuotaPerSecUSec", Variant::from(u64::MAX)),
            ("TasksMax", Variant::from(u64::MAX)),
            ("AllowedCPUs", Variant::from(vec![3_u8])),
        ];
        assert_eq!(limit_properties(&limits(), Version::V2, 252), expected);
    }

    #[test]
    fn an_old_systemd_is_not_asked_for_what_it_lacks() {
        let properties = limit_properties(&limits(), Version::V1, 239);
        let have: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
        assert_eq!(have, ["MemoryLimit", "CPUShares", "CPUQuotaPerSecUSec", "TasksMax"]);
    }

    #[test]
    fn cpu_lists_become_bits() {
        assert_eq!(cpu_bits("0-2,8"), [0b111, 1]);
        assert_eq!(cpu_bits(""), Vec::<u8>::new());
    }

    #[test]
    fn versions_are_read_whatever_the_distribution_adds() {
        assert_eq!(["255.4-1.fc39", "v245", "\"252\"", "odd"].map(parse_version), [255, 245, 252, 0]);
    }
}
