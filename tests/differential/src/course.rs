//! The course of the cases: made, settled, done something to, captured, deleted, gone; a window of them at a time.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::Value;

use crate::{
    Found, Sides,
    compare::{Difference, differences},
    corpus::Case,
    settled::Until,
    side::{Snapshot, staying},
};

/// Pods of each side at a time.
const WINDOW: usize = 24;
/// For a pod to settle; one that does not is compared as it is.
const PATIENCE: Duration = Duration::from_secs(90);
/// For two settled pods to look the same: the kubelets need not be equally far at each moment.
const LOOK: Duration = Duration::from_secs(20);
const LEAVE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Settling,
    Settled,
    Leaving,
    Gone,
}

struct Course<'a> {
    case: &'a Case,
    until: Until,
    stage: Stage,
    since: Instant,
    /// Whether the pod was seen settled, by side.
    reached: [bool; 2],
    /// Every different view since then, by side.
    views: [Vec<Value>; 2],
    uids: [String; 2],
}

/// Takes every case through and tells what differs.
pub fn run(sides: &Sides, cases: &[Case], reports: &Path) -> Result<Found> {
    let mut open: Vec<&Case> = cases.iter().rev().collect();
    let mut active: Vec<Course<'_>> = Vec::new();
    let mut found = Found::new();
    while !(open.is_empty() && active.is_empty()) {
        let new = open.split_off(open.len() - open.len().min(WINDOW - active.len().min(WINDOW)));
        if !new.is_empty() {
            sides.iter().try_for_each(|side| side.create(&new))?;
            active.extend(new.into_iter().rev().map(Course::new).collect::<Result<Vec<_>>>()?);
        }
        sleep(Duration::from_secs(1));
        let now = [sides[0].snapshot()?, sides[1].snapshot()?];
        for course in &mut active {
            course.step(sides, &now)?;
        }
        leave(sides, &mut active)?;
        for course in active.extract_if(.., |course| course.stage == Stage::Gone) {
            found.insert(course.case.name.clone(), course.finish(sides, &now, reports)?);
        }
    }
    Ok(found)
}

/// Deletes the pods that were captured.
fn leave(sides: &Sides, active: &mut [Course<'_>]) -> Result<()> {
    let mut done: Vec<_> = active.iter_mut().filter(|course| course.is_captured()).collect();
    if done.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = done.iter().map(|course| course.case.name.as_str()).collect();
    sides.iter().try_for_each(|side| side.delete(&names))?;
    done.iter_mut().for_each(|course| course.enter(Stage::Leaving));
    Ok(())
}

#[allow(clippy::disallowed_methods)] // a test's own patience, not the agent's time
impl<'a> Course<'a> {
    fn new(case: &'a Case) -> Result<Self> {
        let (until, views) = (Until::read(&case.until)?, [Vec::new(), Vec::new()]);
        let (stage, since) = (Stage::Settling, Instant::now());
        Ok(Self { case, until, stage, since, reached: [false; 2], views, uids: Default::default() })
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.since = Instant::now();
    }

    fn step(&mut self, sides: &Sides, now: &[Snapshot; 2]) -> Result<()> {
        match self.stage {
            Stage::Settling => {
                self.look(sides, now);
                let late = self.since.elapsed() > PATIENCE;
                if late {
                    eprintln!("{} has not settled: {:?}", self.case.name, self.reached);
                    self.reached = [true; 2];
                    self.look(sides, now);
                }
                if self.reached == [true; 2] {
                    self.enter(Stage::Settled);
                    self.then(sides)?;
                }
            }
            Stage::Settled => self.look(sides, now),
            Stage::Leaving => {
                if now.iter().all(|side| !side.pods.contains_key(&self.case.name)) {
                    self.enter(Stage::Gone);
                } else if self.since.elapsed() > LEAVE {
                    eprintln!("{} does not go away", self.case.name);
                    self.enter(Stage::Gone);
                }
            }
            Stage::Gone => {}
        }
        Ok(())
    }

    /// Takes the view of each side that has got where the case wants it.
    fn look(&mut self, sides: &Sides, now: &[Snapshot; 2]) {
        for (i, side) in sides.iter().enumerate() {
            let Some(pod) = now[i].pods.get(&self.case.name) else { continue };
            pod["metadata"]["uid"].as_str().unwrap_or_default().clone_into(&mut self.uids[i]);
            self.reached[i] |= self.until.is_reached(pod, &now[i].events, self.since.elapsed().as_secs());
            if self.reached[i] {
                let view = side.capture(&now[i], &self.case.name);
                if self.views[i].last() != Some(&view) {
                    self.views[i].push(view);
                }
            }
        }
    }

    /// The second half of a case that does something to its pod.
    fn then(&mut self, sides: &Sides) -> Result<()> {
        let Some(then) = self.case.then.as_ref().filter(|_| self.until != Until::Followed) else { return Ok(()) };
        for side in sides {
            side.then(&self.case.name, then)?;
        }
        self.until = Until::Followed;
        self.reached = [false; 2];
        self.views = [Vec::new(), Vec::new()];
        self.enter(Stage::Settling);
        Ok(())
    }

    fn is_captured(&self) -> bool {
        self.stage == Stage::Settled && (self.since.elapsed() > LOOK || self.closest().2.is_empty())
    }

    /// The views of the two sides that differ least, and how.
    fn closest(&self) -> (Value, Value, Vec<Difference>) {
        let [ours, theirs] = &self.views;
        let pairs = ours.iter().flat_map(|a| theirs.iter().map(move |b| (a, b, differences(a, b))));
        let closest = pairs.min_by_key(|(_, _, differences)| differences.len());
        closest.map(|(a, b, differences)| (a.clone(), b.clone(), differences)).unwrap_or_default()
    }

    fn finish(&self, sides: &Sides, now: &[Snapshot; 2], reports: &Path) -> Result<Vec<Difference>> {
        let (upstream, ferrolet, _) = self.closest();
        let mut views = [upstream, ferrolet];
        let stay = &staying(&views[0]) & &staying(&views[1]);
        for (i, side) in sides.iter().enumerate() {
            views[i]["end"] = side.epilogue(&now[i].events, &self.uids[i], &stay);
            let file = reports.join(format!("{}.{}.json", self.case.name, side.name()));
            fs::write(file, serde_json::to_string_pretty(&views[i])?)?;
        }
        Ok(differences(&views[0], &views[1]))
    }
}
