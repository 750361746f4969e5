//! The whole of it on a paused clock, with a logind that does as it is told.

use std::sync::Mutex;

use futures::{Stream, stream};
use pod::Source;
use serde_json::json;
use tokio::time::Instant;

use super::*;

pub fn pod(name: &str, priority: Option<i32>, grace: Option<i64>) -> DesiredPod {
    let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"priority": priority, "terminationGracePeriodSeconds": grace, "containers": [{"name": "c"}]}});
    DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

#[derive(Default)]
struct Machine {
    delay: Duration,
    /// Takes no other delay.
    stubborn: bool,
    locks: usize,
    signals: Option<mpsc::UnboundedSender<bool>>,
    over: HashSet<PodUid>,
    untold: HashSet<PodUid>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Machine>>);

struct Lock(Fake);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().locks -= 1;
    }
}

impl Login for Fake {
    type Lock = Lock;
    type Signals = std::pin::Pin<Box<dyn Stream<Item = bool> + Send>>;

    async fn signals(&self) -> Result<Self::Signals> {
        let (tx, rx) = mpsc::unbounded_channel();
        self.0.lock().unwrap().signals = Some(tx);
        Ok(Box::pin(stream::unfold(rx, async |mut rx| rx.recv().await.map(|signal| (signal, rx)))))
    }
    async fn delay(&self) -> Result<Duration> {
        Ok(self.0.lock().unwrap().delay)
    }
    async fn set_delay(&self, delay: Duration) -> Result<()> {
        let mut machine = self.0.lock().unwrap();
        if !machine.stubborn {
            machine.delay = delay;
        }
        Ok(())
    }
    async fn inhibit(&self) -> Result<Lock> {
        self.0.lock().unwrap().locks += 1;
        Ok(Lock(self.clone()))
    }
}

struct World {
    machine: Fake,
    ends: mpsc::Receiver<End>,
    changes: watch::Sender<()>,
    tellings: watch::Sender<()>,
    shutting_down: watch::Receiver<bool>,
    begun: Instant,
}

impl World {
    /// Ordinary pods have 20 s, critical ones 10 s.
    fn start(pods: Vec<DesiredPod>) -> Self {
        let machine = Fake::default();
        let (ends, ended) = mpsc::channel(16);
        let (changes, changed) = watch::channel(());
        let (shutting_down, shuts) = watch::channel(false);
        let (tellings, told) = watch::channel(());
        let (seen, heard) = (machine.clone(), machine.clone());
        let parts = Parts {
            clock: Clock::start(),
            events: Events::log_only(),
            active: Arc::new(move || pods.clone()),
            is_over: Arc::new(move |uid| seen.0.lock().unwrap().over.contains(uid)),
            changes: changed,
            is_told: Arc::new(move |uid| !heard.0.lock().unwrap().untold.contains(uid)),
            tellings: told,
            ends,
            shutting_down,
            record: None,
        };
        let periods = periods(Duration::from_secs(30), Duration::from_secs(10), &[]);
        let login = machine.clone();
        tokio::spawn(NodeShutdown { periods, parts }.run(move || std::future::ready(Ok(login.clone()))));
        Self { machine, ends: ended, changes, tellings, shutting_down: shuts, begun: Instant::now() }
    }

    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn signal(&self, begins: bool) {
        Self::settle().await;
        self.machine.0.lock().unwrap().signals.as_ref().unwrap().send(begins).unwrap();
        Self::settle().await;
    }

    fn locks(&self) -> usize {
        self.machine.0.lock().unwrap().locks
    }

    fn over(&self, name: &str) {
        self.machine.0.lock().unwrap().over.insert(name.into());
        self.changes.send_replace(());
    }

    /// Who is ended next, with what grace, and how many seconds after the start.
    async fn next(&mut self) -> (String, u64, u64) {
        let end = self.ends.recv().await.unwrap();
        let TerminationCause::Failed { reason, message, disruption: true } = &end.cause else { panic!("{end:?}") };
        assert_eq!((reason.as_str(), message.as_str()), (REASON, MESSAGE));
        (end.uid.to_string(), end.grace.as_secs(), self.begun.elapsed().as_secs())
    }
}

fn ended(name: &str, grace: u64, at: u64) -> (String, u64, u64) {
    (name.to_owned(), grace, at)
}

const CRITICAL: Option<i32> = Some(2_000_000_000);

#[tokio::test(start_paused = true)]
async fn critical_pods_end_when_the_others_have_and_then_the_lock_goes() {
    let mut w = World::start(vec![pod("critical", CRITICAL, Some(5)), pod("web", None, Some(30))]);
    World::settle().await;
    assert_eq!((w.locks(), w.machine.0.lock().unwrap().delay), (1, Duration::from_secs(30)));
    w.signal(true).await;
    assert!(*w.shutting_down.borrow());
    assert_eq!(w.next().await, ended("web", 20, 0));
    tokio::time::sleep(Duration::from_secs(3)).await;
    w.over("web");
    assert_eq!(w.next().await, ended("critical", 5, 3));
    assert_eq!(w.locks(), 1);
    w.over("critical");
    World::settle().await;
    assert_eq!(w.locks(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_lock_stays_until_the_api_server_knows_how_pods_ended_but_not_for_long() {
    for knows in [true, false] {
        let mut w = World::start(vec![pod("critical", CRITICAL, Some(5))]);
        w.machine.0.lock().unwrap().untold.insert("critical".into());
        w.signal(true).await;
        assert_eq!(w.next().await, ended("critical", 5, 0));
        w.over("critical");
        World::settle().await;
        assert_eq!(w.locks(), 1);
        match knows {
            true => w.machine.0.lock().unwrap().untold.clear(),
            false => tokio::time::sleep(TELLING).await,
        }
        w.tellings.send_replace(());
        World::settle().await;
        assert_eq!(w.locks(), 0, "{knows}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_hangs_holds_up_only_its_own_group() {
    let mut w = World::start(vec![pod("hangs", None, None), pod("critical", CRITICAL, None)]);
    w.signal(true).await;
    assert_eq!(w.next().await, ended("hangs", 20, 0));
    assert_eq!(w.next().await, ended("critical", 10, 20));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(w.locks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_is_called_off_spares_the_next_group() {
    let mut w = World::start(vec![pod("web", None, None), pod("critical", CRITICAL, None)]);
    w.signal(true).await;
    assert_eq!(w.next().await, ended("web", 20, 0));
    w.signal(false).await;
    assert!(!*w.shutting_down.borrow());
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!((w.locks(), w.ends.try_recv().is_err()), (1, true));
}

#[tokio::test(start_paused = true)]
async fn after_a_cancelled_shutdown_the_next_one_is_held_up_again() {
    let w = World::start(Vec::new());
    w.signal(true).await;
    assert_eq!(w.locks(), 0);
    w.signal(false).await;
    assert_eq!((w.locks(), *w.shutting_down.borrow()), (1, false));
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_made_anew() {
    let w = World::start(Vec::new());
    World::settle().await;
    w.machine.0.lock().unwrap().signals = None;
    World::settle().await;
    assert_eq!(w.locks(), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(w.locks(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_logind_that_grants_no_time_is_asked_again() {
    let w = World::start(Vec::new());
    w.machine.0.lock().unwrap().stubborn = true;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(w.locks(), 0);
    w.machine.0.lock().unwrap().stubborn = false;
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(w.locks(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_longer_delay_of_the_operator_is_left_alone() {
    let w = World::start(Vec::new());
    w.machine.0.lock().unwrap().delay = Duration::from_secs(300);
    World::settle().await;
    assert_eq!((w.locks(), w.machine.0.lock().unwrap().delay), (1, Duration::from_secs(300)));
}
