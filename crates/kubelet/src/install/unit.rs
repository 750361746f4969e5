//! The unit of the node's systemd that runs the agent.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use zbus::{Connection, OwnedObjectPath, connection::Builder, proxy::CacheProperties};

/// Between two looks at the unit.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that show one and the same process: a program that crashes at its start is "active" for a moment too.
const STEADY: u32 = 10;
/// Looks until the program is given up. systemd itself gives up after 90 seconds where no unit says otherwise. The
/// DaemonSet in deploy/ waits for longer before it goes to the next node.
const MOST: u32 = 120;

/// A command of a unit, its arguments, and what became of it.
type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait State {
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait Service {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
    #[zbus(property)]
    fn exec_start(&self) -> zbus::Result<Vec<Command>>;
}

pub struct Unit<'a> {
    bus: Connection,
    root: &'a Path,
    name: &'a str,
    /// As the node sees it.
    program: &'a Path,
    state: StateProxy<'static>,
    service: ServiceProxy<'static>,
}

impl<'a> Unit<'a> {
    /// Refuses a unit that starts another program: the one that is put in its place would run nowhere.
    pub async fn open(root: &'a Path, name: &'a str, program: &'a Path) -> Result<Self> {
        let socket = root.join("run/dbus/system_bus_socket");
        let address = format!("unix:path={}", socket.display());
        let bus = Builder::address(address.as_str()).build().await;
        let bus = bus.with_context(|| format!("can't reach the node's system bus at {}", socket.display()))?;
        Self::on(bus, root, name, program).await
    }

    async fn on(bus: Connection, root: &'a Path, name: &'a str, program: &'a Path) -> Result<Self> {
        let object = ManagerProxy::new(&bus).await?.get_unit(name).await;
        let object = object.with_context(|| format!("the node's systemd has no unit {name}"))?;
        // systemd tells changes only to those who subscribe, so that what is remembered would stay what it was.
        let state =
            StateProxy::builder(&bus).path(object.clone()).cache_properties(CacheProperties::No).build().await?;
        let service = ServiceProxy::builder(&bus).path(object).cache_properties(CacheProperties::No).build().await?;
        let commands = service.exec_start().await.with_context(|| format!("{name} does not say what it starts"))?;
        let starts: Vec<String> = commands.into_iter().map(|command| command.0).collect();
        ensure_starts(root, name, &starts, program)?;
        Ok(Self { bus, root, name, program, state, service })
    }

    /// Returns once the unit runs the program that is in place, and has for a while. Says what was done.
    pub async fn run_program(&self) -> Result<String> {
        let restarted = self.restart().await?;
        let mut steady = Steady::default();
        let mut state = String::new();
        for _ in 0..MOST {
            state = self.state.active_state().await?;
            if steady.look(self.running().await?.filter(|_| state == "active")) {
                return Ok(format!(
                    "{} {}",
                    self.name,
                    if restarted { "was restarted and runs it" } else { "runs it" }
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        let waited = LOOK * MOST;
        bail!(
            "{} is {state} and does not keep running it, {waited:?} after its restart; its journal says why",
            self.name
        )
    }

    /// False where it runs the program already. Does not wait.
    pub async fn restart(&self) -> Result<bool> {
        if self.running().await?.is_some() {
            return Ok(false);
        }
        let restarted = ManagerProxy::new(&self.bus).await?.restart_unit(self.name, "replace").await;
        restarted.with_context(|| format!("systemd did not restart {}", self.name))?;
        Ok(true)
    }

    /// The process, if its program is the one in place: a file that was replaced since is another one.
    async fn running(&self) -> Result<Option<u32>> {
        let pid = self.service.main_pid().await?;
        let running = file(&self.root.join(format!("proc/{pid}/exe")));
        Ok((pid != 0 && running.is_some() && running == file(&below(self.root, self.program))).then_some(pid))
    }
}

/// `starts`: the programs of the unit's commands.
fn ensure_starts(root: &Path, unit: &str, starts: &[String], program: &Path) -> Result<()> {
    // /bin may be a link to /usr/bin.
    let same = |found: &str| {
        let here = file(&below(root, program));
        Path::new(found) == program || (here.is_some() && here == file(&below(root, Path::new(found))))
    };
    ensure!(
        starts.iter().any(|found| same(found)),
        "{unit} starts {}, not {}: if that is the node's kubelet, name it by --path",
        if starts.is_empty() { "nothing".to_owned() } else { starts.join(", ") },
        program.display()
    );
    Ok(())
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn file(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Whether a program has run for long enough, by what the looks at it showed.
#[derive(Default)]
struct Steady {
    pid: Option<u32>,
    again: u32,
}

impl Steady {
    fn look(&mut self, pid: Option<u32>) -> bool {
        self.again = if pid.is_some() && pid == self.pid { self.again + 1 } else { 0 };
        self.pid = pid;
        self.again >= STEADY
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{fs::symlink, net::UnixStream},
        sync::{Arc, Mutex},
    };

    use zbus::{Guid, ObjectPath, interface};

    use super::*;

    const KUBELET: &str = "/usr/bin/kubelet";
    const OBJECT: &str = "/org/freedesktop/systemd1/unit/kubelet_2eservice";

    /// A systemd with one unit, which runs the program of before until it is restarted.
    #[derive(Clone)]
    struct Fake {
        pid: Arc<Mutex<u32>>,
        /// After a restart.
        state: &'static str,
    }

    struct FakeManager(Fake);
    struct FakeService(Fake);

    #[interface(name = "org.freedesktop.systemd1.Manager")]
    impl FakeManager {
        fn get_unit(&self, _name: &str) -> OwnedObjectPath {
            ObjectPath::try_from(OBJECT).unwrap().into()
        }
        fn restart_unit(&self, _name: &str, _mode: &str) -> OwnedObjectPath {
            *self.0.pid.lock().unwrap() += 1;
            ObjectPath::try_from("/job").unwrap().into()
        }
    }

    #[interface(name = "org.freedesktop.systemd1.Unit")]
    impl Fake {
        #[zbus(property)]
        fn active_state(&self) -> String {
            self.state.to_owned()
        }
    }

    #[interface(name = "org.freedesktop.systemd1.Service")]
    impl FakeService {
        #[zbus(property, name = "MainPID")]
        fn main_pid(&self) -> u32 {
            *self.0.pid.lock().unwrap()
        }
        #[zbus(property)]
        fn exec_start(&self) -> Vec<Command> {
            vec![(KUBELET.to_owned(), vec![KUBELET.to_owned(), "--v=2".to_owned()], false, 1, 1, 0, 0, 7, 0, 0)]
        }
    }

    /// Both ends, for a fake whose process 1 runs another program than 2, which is the one in place.
    async fn bus(fake: &Fake) -> (Connection, Connection) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = Builder::unix_stream(theirs)
            .server(Guid::generate())
            .p2p()
            .serve_at("/org/freedesktop/systemd1", FakeManager(fake.clone()))
            .serve_at(OBJECT, fake.clone())
            .serve_at(OBJECT, FakeService(fake.clone()))
            .build();
        let (server, client) = tokio::join!(server, Builder::unix_stream(ours).p2p().build());
        (server.unwrap(), client.unwrap())
    }

    fn node() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for dir in ["usr/bin", "proc/1", "proc/2"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        fs::write(root.path().join("usr/bin/kubelet"), "new").unwrap();
        fs::write(root.path().join("proc/1/exe"), "before").unwrap();
        symlink("../../usr/bin/kubelet", root.path().join("proc/2/exe")).unwrap();
        root
    }

    async fn installed(state: &'static str) -> Result<String> {
        let (root, fake) = (node(), Fake { pid: Arc::new(Mutex::new(1)), state });
        let (_systemd, bus) = bus(&fake).await;
        let unit = Unit::on(bus, root.path(), "kubelet.service", Path::new(KUBELET)).await?;
        unit.run_program().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_is_done_when_the_unit_has_kept_running_the_program() {
        assert_eq!(installed("active").await.unwrap(), "kubelet.service was restarted and runs it");
        let failed = installed("activating").await.unwrap_err().to_string();
        assert!(failed.contains("is activating and does not keep running it"), "{failed}");
    }

    #[tokio::test]
    async fn a_unit_of_another_program_is_refused_before_anything_is_done() {
        let (root, fake) = (node(), Fake { pid: Arc::new(Mutex::new(1)), state: "active" });
        let (_systemd, bus) = bus(&fake).await;
        let refused = Unit::on(bus, root.path(), "kubelet.service", Path::new("/opt/kubelet")).await.err().unwrap();
        assert!(refused.to_string().contains("starts /usr/bin/kubelet, not /opt/kubelet"), "{refused}");
        assert_eq!(*fake.pid.lock().unwrap(), 1);
    }

    #[test]
    fn a_rollout_does_not_go_on_before_an_installation_has_proved_itself() {
        let set = include_str!("../../../../deploy/daemonset.yaml");
        let set: serde_json::Value = serde_yaml_ng::from_str(set).unwrap();
        let waits = Duration::from_secs(set["spec"]["minReadySeconds"].as_u64().unwrap());
        let copying = Duration::from_secs(20);
        assert!(waits > LOOK * MOST + copying, "{waits:?}");
    }

    #[test]
    fn a_program_that_crashes_again_and_again_is_never_steady() {
        let mut steady = Steady::default();
        for pid in 1..50 {
            assert!((0..STEADY).all(|_| !steady.look(Some(pid))), "{pid}");
            assert!(!steady.look(None));
        }
        assert!((0..STEADY).all(|_| !steady.look(Some(7))));
        assert!(steady.look(Some(7)));
    }

    #[test]
    fn a_unit_that_starts_another_program_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/kubelet"), "").unwrap();
        symlink("usr/bin", root.path().join("bin")).unwrap();
        let starts = |starts: &[&str]| {
            let starts: Vec<String> = starts.iter().map(|s| (*s).to_owned()).collect();
            ensure_starts(root.path(), "kubelet.service", &starts, Path::new("/usr/bin/kubelet"))
        };
        assert!(starts(&["/usr/bin/kubelet"]).is_ok() && starts(&["/bin/kubelet"]).is_ok());
        let refused = starts(&["/opt/bin/kubelet"]).unwrap_err().to_string();
        assert!(refused.contains("starts /opt/bin/kubelet, not /usr/bin/kubelet"), "{refused}");
        assert!(starts(&[]).unwrap_err().to_string().contains("starts nothing"));
    }
}
