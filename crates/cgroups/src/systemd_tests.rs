//! The systemd driver against a systemd that only keeps a list of units.

use std::sync::{Arc, Mutex};

use zbus::{
    Connection, DBusError, Guid, ObjectPath, OwnedVariant, Variant, connection::Builder, interface,
    object_server::SignalEmitter,
};

use crate::{CgroupName, Error, Limits, Version, systemd::Systemd};

#[derive(Debug, DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
}

type Properties = Vec<(String, OwnedVariant)>;

/// What was asked of it.
#[derive(Clone, Default)]
struct Fake {
    calls: Arc<Mutex<Vec<String>>>,
    /// How its jobs end.
    result: &'static str,
}

impl Fake {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }
    async fn job(&self, signals: SignalEmitter<'_>, unit: &str) -> Result<zbus::OwnedObjectPath, Refusal> {
        let path = |text: &'static str| ObjectPath::try_from(text).unwrap();
        // Another unit's job ends first; the own one ends before the reply is even sent.
        for (id, job, of) in [(1, path("/other"), "other.slice"), (2, path("/own"), unit)] {
            Self::job_removed(&signals, id, job, of, self.result).await?;
        }
        Ok(path("/own").into())
    }
}

fn names(properties: &Properties) -> String {
    properties.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",")
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Fake {
    async fn start_transient_unit(
        &self,
        #[zbus(signal_emitter)] signals: SignalEmitter<'_>,
        name: &str,
        mode: &str,
        properties: Properties,
        aux: Vec<(String, Properties)>,
    ) -> Result<zbus::OwnedObjectPath, Refusal> {
        if name == "exists.slice" {
            return Err(Refusal::UnitExists("it is there".into()));
        }
        let wants =
            properties.iter().find(|(name, _)| name == "Wants").map(|(_, value)| (**value).try_clone().unwrap());
        self.note(format!(
            "start {name} {mode} {} {}",
            aux.len(),
            wants == Some(Variant::from(vec!["kubepods.slice"]))
        ));
        self.job(signals, name).await
    }
    async fn stop_unit(
        &self,
        #[zbus(signal_emitter)] signals: SignalEmitter<'_>,
        name: &str,
        mode: &str,
    ) -> Result<zbus::OwnedObjectPath, Refusal> {
        self.note(format!("stop {name} {mode}"));
        self.job(signals, name).await
    }
    fn reset_failed_unit(&self, name: &str) {
        self.note(format!("reset {name}"));
    }
    fn set_unit_properties(&self, name: &str, runtime: bool, properties: Properties) {
        self.note(format!("set {name} {runtime} {}", names(&properties)));
    }
    fn subscribe(&self) {}
    #[zbus(property)]
    fn version(&self) -> String {
        "252.39-1~deb12u1".to_owned()
    }
    #[zbus(signal)]
    async fn job_removed(
        signals: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

/// The driver, what it asked, and the other end, which must live as long.
async fn driver(result: &'static str) -> (Systemd, Fake, Connection) {
    let fake = Fake { result, ..Fake::default() };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let server = Builder::unix_stream(theirs)
        .server(Guid::generate())
        .p2p()
        .serve_at("/org/freedesktop/systemd1", fake.clone())
        .build();
    let client = Builder::unix_stream(ours).p2p().build();
    let (server, client) = tokio::join!(server, client);
    (Systemd::over(client.unwrap()), fake, server.unwrap())
}

fn pod() -> CgroupName {
    CgroupName::from_path("/kubepods/pod1-2").unwrap()
}

#[tokio::test]
async fn a_slice_is_started_limited_and_stopped() {
    let (systemd, fake, _server) = driver("done").await;
    systemd.start_slice(&pod(), Version::V2).await.unwrap();
    let limits = Limits { cpu_shares: Some(1024), memory: Some(4096), cpus: Some("0".into()), ..Limits::default() };
    systemd.set_limits(&pod(), &limits, Version::V2).await.unwrap();
    systemd.set_limits(&pod(), &Limits::default(), Version::V2).await.unwrap();
    systemd.stop_slice(&pod()).await.unwrap();
    let expected = [
        "start kubepods-pod1_2.slice replace 0 true",
        "set kubepods-pod1_2.slice true MemoryMax,CPUWeight,AllowedCPUs",
        "stop kubepods-pod1_2.slice replace",
        "reset kubepods-pod1_2.slice",
    ];
    assert_eq!(*fake.calls.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_slice_that_exists_is_left_as_it_is() {
    let (systemd, fake, _server) = driver("done").await;
    systemd.start_slice(&CgroupName::from_path("/exists").unwrap(), Version::V2).await.unwrap();
    assert!(fake.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_failed_job_is_an_error_with_its_result() {
    let (systemd, _fake, _server) = driver("failed").await;
    let error = systemd.start_slice(&pod(), Version::V2).await.unwrap_err();
    assert!(matches!(&error, Error::SystemdJob { result, .. } if result == "failed"), "{error}");
}
