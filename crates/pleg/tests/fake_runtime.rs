//! Pictures of pods against a runtime in this process, on a paused clock.

use std::{sync::Arc, time::Duration};

use api_types::runtime::v1::{self as v1, ContainerEventType};
use cri::{Code, Cri, Made};
use futures::future::join_all;
use host::Clock;
use pleg::{Pleg, PlegConfig};
use pod::{ContainerState, DesiredPod, ObservedPod};
use testing::{FakeCri, Flavor, pod};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

type Picture = watch::Receiver<Arc<ObservedPod>>;

async fn pleg_of(fake: &FakeCri) -> Pleg {
    let cri = Cri::connect(&fake.endpoint(), "", Duration::from_secs(120)).unwrap();
    let pleg = Pleg::spawn(cri, Clock::start(), PlegConfig::default());
    pleg.synced().await;
    // Until the event stream stands.
    sleep(Duration::from_secs(2)).await;
    pleg
}
fn web() -> DesiredPod {
    pod("web").container("app", "nginx").desired()
}
fn subscribe(pleg: &Pleg, pod: &DesiredPod) -> Picture {
    pleg.subscribe(&pod.uid, &pod.key)
}
fn state(picture: &Picture) -> Option<ContainerState> {
    picture.borrow().newest("app").map(|c| c.state)
}
/// How long until the app is seen to have ended.
async fn until_exited(picture: &mut Picture) -> Duration {
    let started = Instant::now();
    let exited = picture.wait_for(|p| p.newest("app").is_some_and(|c| c.state == ContainerState::Exited));
    timeout(Duration::from_secs(300), exited).await.expect("seen in time").expect("the pleg lives");
    started.elapsed()
}
fn lists(fake: &FakeCri) -> usize {
    fake.calls("list_containers")
}

#[tokio::test(start_paused = true)]
async fn an_exit_is_seen_at_its_event() {
    let fake = FakeCri::start();
    let seeded = fake.seed(&web());
    let pleg = pleg_of(&fake).await;
    let mut picture = subscribe(&pleg, &web());
    assert_eq!(state(&picture), Some(ContainerState::Running));
    let before = picture.borrow().version;
    fake.exit(&seeded.containers["app"], 1);
    assert!(until_exited(&mut picture).await < Duration::from_millis(20));
    assert!(picture.borrow().version > before);
}

#[tokio::test(start_paused = true)]
async fn containerds_own_events_serve_where_cri_has_none() {
    let fake = FakeCri::start_as(Flavor::Containerd1_6);
    let seeded = fake.seed(&web());
    let pleg = pleg_of(&fake).await;
    let mut picture = subscribe(&pleg, &web());
    fake.exit(&seeded.containers["app"], 1);
    assert!(until_exited(&mut picture).await < Duration::from_millis(20));
}

#[tokio::test(start_paused = true)]
async fn without_events_all_pods_are_looked_at_every_second() {
    let fake = FakeCri::start_as(Flavor::Eventless);
    let seeded = fake.seed(&web());
    let pleg = pleg_of(&fake).await;
    let mut picture = subscribe(&pleg, &web());
    fake.exit(&seeded.containers["app"], 1);
    let took = until_exited(&mut picture).await;
    assert!(took <= Duration::from_millis(1100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_costs_two_calls_a_minute() {
    let fake = FakeCri::start();
    for n in 0..100 {
        fake.seed(&pod(&format!("web-{n}")).container("app", "nginx").desired());
    }
    let pleg = pleg_of(&fake).await;
    assert_eq!(pleg.snapshot().len(), 100);
    fake.forget_calls();
    sleep(Duration::from_secs(600)).await;
    assert!((9..=11).contains(&lists(&fake)), "{:?}", fake.call_log());
    assert_eq!(fake.call_log().len(), 2 * lists(&fake));
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_events_shares_its_looks() {
    let fake = FakeCri::start();
    let seeded = fake.seed(&web());
    let _pleg = pleg_of(&fake).await;
    fake.forget_calls();
    for _ in 0..200 {
        fake.spurious_event(seeded.containers["app"].as_str(), ContainerEventType::ContainerStartedEvent);
    }
    sleep(Duration::from_secs(1)).await;
    assert!(lists(&fake) < 20, "{} looks", lists(&fake));
}

#[tokio::test(start_paused = true)]
async fn what_its_doer_has_looked_at_is_not_looked_at_again() {
    let fake = FakeCri::start();
    let seeded = fake.seed(&web());
    let pleg = pleg_of(&fake).await;
    fake.forget_calls();
    fake.spurious_event(seeded.containers["app"].as_str(), ContainerEventType::ContainerStartedEvent);
    sleep(Duration::from_millis(100)).await;
    pleg.relist(&web().uid).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(lists(&fake), 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nobody_looked_at_is_seen_soon() {
    let fake = FakeCri::start();
    let seeded = fake.seed(&web());
    let app = seeded.containers["app"].clone();
    let pleg = pleg_of(&fake).await;
    fake.edit_container(&app, |c| c.state = v1::ContainerState::ContainerCreated as i32);
    pleg.relist(&web().uid).await.unwrap();
    let mut picture = subscribe(&pleg, &web());
    fake.edit_container(&app, |c| c.state = v1::ContainerState::ContainerRunning as i32);
    fake.spurious_event(app.as_str(), ContainerEventType::ContainerStartedEvent);
    let running = picture.wait_for(|p| p.newest("app").is_some_and(|c| c.state == ContainerState::Running));
    timeout(Duration::from_millis(1100), running).await.expect("seen in time").unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_before_the_list_shows_it_is_followed_up() {
    let fake = FakeCri::start();
    let seeded = fake.seed(&web());
    let app = seeded.containers["app"].clone();
    let pleg = pleg_of(&fake).await;
    let mut picture = subscribe(&pleg, &web());
    fake.spurious_event(app.as_str(), ContainerEventType::ContainerStoppedEvent);
    sleep(Duration::from_millis(50)).await;
    fake.edit_container(&app, |c| c.state = v1::ContainerState::ContainerExited as i32);
    assert!(until_exited(&mut picture).await < Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn a_lost_event_is_made_up_for_by_the_safety_sweep() {
    let fake = FakeCri::start();
    let seeded = fake.seed(&web());
    let pleg = pleg_of(&fake).await;
    let mut picture = subscribe(&pleg, &web());
    fake.mute_events(true);
    fake.exit(&seeded.containers["app"], 1);
    assert!(until_exited(&mut picture).await <= Duration::from_secs(61));
}

#[tokio::test(start_paused = true)]
async fn what_happened_while_the_stream_was_broken_is_found() {
    let fake = FakeCri::start();
    let seeded = fake.seed(&web());
    let pleg = pleg_of(&fake).await;
    let mut picture = subscribe(&pleg, &web());
    fake.down();
    fake.exit(&seeded.containers["app"], 1);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(state(&picture), Some(ContainerState::Running));
    fake.up();
    assert!(until_exited(&mut picture).await <= Duration::from_secs(2));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(fake.open_streams(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_relist_shows_ones_own_action() {
    let fake = FakeCri::start();
    let seeded = fake.seed(&web());
    let pleg = pleg_of(&fake).await;
    let picture = subscribe(&pleg, &web());
    fake.mute_events(true);
    fake.exit(&seeded.containers["app"], 0);
    let pod = pleg.relist(&web().uid).await.unwrap();
    assert_eq!(pod.newest("app").unwrap().state, ContainerState::Exited);
    assert_eq!(picture.borrow().version, pod.version);
}

#[tokio::test(start_paused = true)]
async fn relists_asked_for_at_once_share_a_look() {
    let fake = FakeCri::start();
    fake.seed(&web());
    let pleg = pleg_of(&fake).await;
    fake.forget_calls();
    let uid = web().uid;
    let relists = (0..20).map(|_| pleg.relist(&uid));
    for pod in join_all(relists).await {
        assert_eq!(pod.unwrap().containers.len(), 1);
    }
    assert!(lists(&fake) <= 2, "{} looks", lists(&fake));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_hangs_does_not_hide_the_others() {
    let fake = FakeCri::start();
    fake.seed(&web());
    let pleg = pleg_of(&fake).await;
    let other = pod("other").container("app", "nginx").desired();
    fake.mute_events(true);
    let seeded = fake.seed(&other);
    fake.fail_next("container_status", Code::Unknown, "shim is gone");
    assert!(pleg.relist(&other.uid).await.is_err());
    let picture = subscribe(&pleg, &web());
    assert_eq!(state(&picture), Some(ContainerState::Running));
    sleep(Duration::from_secs(61)).await;
    assert_eq!(pleg.snapshot().len(), 2);
    drop(seeded);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_is_an_orphan() {
    let fake = FakeCri::start();
    fake.seed(&web());
    let pleg = pleg_of(&fake).await;
    let orphans = pleg.orphans();
    assert_eq!(orphans.borrow().len(), 1);
    let _picture = subscribe(&pleg, &web());
    assert!(orphans.borrow().is_empty());
    pleg.forget(&web().uid);
    assert_eq!(orphans.borrow().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_made_by_somebody_else_is_found_by_its_event() {
    let fake = FakeCri::start();
    let pleg = pleg_of(&fake).await;
    let mut orphans = pleg.orphans();
    fake.seed(&web());
    let found = orphans.wait_for(|o| !o.is_empty());
    timeout(Duration::from_millis(1100), found).await.expect("found in time").unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_runtime_is_forgiven_for_half_a_minute() {
    let fake = FakeCri::start();
    let pleg = pleg_of(&fake).await;
    assert_eq!(pleg.health(), Ok(()));
    fake.down();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(pleg.health(), Ok(()));
    sleep(Duration::from_secs(20)).await;
    let why = pleg.health().unwrap_err();
    assert!(why.starts_with("container runtime has been unreachable"), "{why}");
    fake.up();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(pleg.health(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_is_noticed() {
    let fake = FakeCri::start();
    let pleg = pleg_of(&fake).await;
    fake.delay("list_containers", Duration::from_secs(100_000));
    sleep(Duration::from_secs(300)).await;
    let why = pleg.health().unwrap_err();
    assert!(why.starts_with("pleg was last seen active"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn the_message_that_a_container_left_comes_with_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("message");
    std::fs::write(&file, "bye").unwrap();
    let fake = FakeCri::start();
    let seeded = fake.seed(&web());
    let app = &seeded.containers["app"];
    fake.edit_container(app, |c| {
        c.mounts.push(v1::Mount {
            container_path: "/dev/termination-log".into(),
            host_path: file.to_string_lossy().into_owned(),
            ..Default::default()
        });
    });
    let pleg = pleg_of(&fake).await;
    let mut picture = subscribe(&pleg, &web());
    fake.exit(app, 0);
    until_exited(&mut picture).await;
    assert_eq!(picture.borrow().newest("app").unwrap().message, "bye");
}

#[tokio::test(start_paused = true)]
async fn all_work_ends_with_the_handle() {
    let fake = FakeCri::start();
    let pleg = pleg_of(&fake).await;
    assert_eq!(fake.open_streams(), 1);
    drop(pleg);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.open_streams(), 0);
    fake.forget_calls();
    sleep(Duration::from_secs(300)).await;
    assert_eq!(fake.call_log(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_was_just_made_is_shown_by_one_call() {
    let fake = FakeCri::start();
    let seeded = fake.seed(&web());
    let (app, sandbox) = (seeded.containers["app"].clone(), seeded.sandbox.clone());
    fake.edit_container(&app, |c| c.state = v1::ContainerState::ContainerCreated as i32);
    let pleg = pleg_of(&fake).await;
    let picture = subscribe(&pleg, &web());
    assert_eq!(state(&picture), Some(ContainerState::Created));
    fake.edit_container(&app, |c| c.state = v1::ContainerState::ContainerRunning as i32);
    fake.forget_calls();
    let made = Made::Container { id: app.clone(), sandbox };
    let pod = pleg.relist_made(&web().uid, &made).await.unwrap();
    assert_eq!((state(&picture), picture.borrow().version), (Some(ContainerState::Running), pod.version));
    assert_eq!((lists(&fake), fake.calls("container_status")), (0, 1));
    // One that has ended already left more to read than its status.
    fake.exit(&app, 3);
    let pod = pleg.relist_made(&web().uid, &made).await.unwrap();
    assert_eq!(pod.newest("app").unwrap().exit_code, 3);
    assert!(lists(&fake) > 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_stranger_removes_is_missed_though_its_sibling_is_looked_at_alone() {
    let fake = FakeCri::start();
    let seeded = fake.seed(&pod("web").container("app", "nginx").container("side", "nginx").desired());
    let (app, sandbox) = (seeded.containers["app"].clone(), seeded.sandbox.clone());
    let pleg = pleg_of(&fake).await;
    let mut picture = subscribe(&pleg, &web());
    let side = seeded.containers["side"].clone();
    let stranger = Cri::connect(&fake.endpoint(), "", Duration::from_secs(1)).unwrap();
    fake.exit(&side, 0);
    picture.wait_for(|p| p.newest("side").is_some_and(|c| c.state == ContainerState::Exited)).await.unwrap();
    stranger.remove_container(&side).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    pleg.relist_made(&web().uid, &Made::Container { id: app, sandbox }).await.unwrap();
    let gone = picture.wait_for(|p| p.newest("side").is_none());
    timeout(Duration::from_secs(2), gone).await.expect("seen in time").unwrap();
}
