//! Which event is new, which repeats an earlier one, and which is one too many. Pure: time is an argument.
//!
//! The rules and numbers are client-go's, since they show in `kubectl get events`:
//! an object gets 25 events of one type and then one per five minutes; the tenth message under one reason within
//! ten minutes turns them into "(combined from similar events)"; an event said before raises the count of the first.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};

use k8s_openapi::api::core::v1::Event;
use pod::{Mono, time::Timestamp};

use super::text;

/// Of each kind; the most that a map of 4096 places takes. client-go keeps 4096, for which ours would have twice the places.
const KEPT: usize = 3584;
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
const SPAM_BURST: f32 = 25.0;
const SPAM_PER_SECOND: f32 = 1.0 / 300.0;
const COMBINED: &str = "(combined from similar events): ";

/// What to do with an event.
#[derive(Debug, PartialEq)]
pub(super) enum Correlated {
    Dropped,
    Create {
        event: Event,
        key: u64,
    },
    /// The name and first time are those of the known event, the rest is new.
    Repeat {
        event: Event,
        key: u64,
    },
}

/// Keeps hashes instead of texts: a collision costs a wrong count, a text costs memory for all. What is kept is small
/// and lies in the maps themselves: a piece of heap each, made while many pods start, would hold a page each long after
/// them.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    hasher: RandomState,
    /// How many events an object may still have told, when it had the last one.
    spam: Recent<f32>,
    similar: Recent<Messages>,
    known: Recent<Told>,
}

/// The messages under one reason by their hashes, mostly one.
#[derive(Debug)]
struct Messages {
    first: u64,
    #[expect(clippy::box_collection, reason = "mostly none, and a list takes three words")]
    others: Option<Box<Vec<u64>>>,
}

impl Messages {
    fn of(message: u64) -> Self {
        Self { first: message, others: None }
    }

    /// Whether it is one of them, or can become one: the tenth is not kept, so that each further one finds them full.
    fn take(&mut self, message: u64) -> bool {
        let others = self.others.as_deref().map(Vec::as_slice).unwrap_or_default();
        if self.first == message || others.contains(&message) {
            return true;
        }
        let room = 2 + others.len() < SIMILAR;
        if room {
            self.others.get_or_insert_default().push(message);
        }
        room
    }
}

/// An event that the server has or is about to get: what a repetition takes from it.
#[derive(Debug)]
struct Told {
    /// Its name is that of the object and this number, the time at which it was first told; 0 where it has another name.
    stamp: u64,
    count: i32,
}

impl Told {
    fn of(event: &Event) -> Self {
        let ending = event.metadata.name.as_deref().and_then(|name| name.rsplit_once('.'));
        let stamp = ending.and_then(|(_, stamp)| u64::from_str_radix(stamp, 16).ok()).unwrap_or_default();
        Self { stamp, count: event.count.unwrap_or(1) }
    }

    /// The event takes the place of the one that was told.
    fn repeated_by(&mut self, event: &mut Event) {
        self.count = self.count.saturating_add(1);
        event.count = Some(self.count);
        event.metadata.name = (self.stamp != 0).then(|| super::name(&event.involved_object, self.stamp));
        event.first_timestamp = Timestamp::from_nanosecond(self.stamp.into()).ok().map(super::whole_seconds);
    }
}

impl Correlator {
    pub(super) fn correlate(&mut self, event: Event, now: Mono) -> Correlated {
        if !self.allowed(&event, now) {
            return Correlated::Dropped;
        }
        let (mut event, key) = self.combine(event, now);
        let Some(told) = self.known.get(key, now) else {
            self.known.insert(key, Told::of(&event), now);
            return Correlated::Create { event, key };
        };
        told.repeated_by(&mut event);
        Correlated::Repeat { event, key }
    }

    /// The server hasn't got it: the next one alike is new.
    pub(super) fn lost(&mut self, key: u64) {
        self.known.entries.remove(&key);
    }

    fn allowed(&mut self, event: &Event, now: Mono) -> bool {
        let key = self.hasher.hash_one(("spam", about(event), &event.type_));
        let (since, left) = self.spam.get_or_insert_with(key, now, || SPAM_BURST);
        *left = (*left + since.as_secs_f32() * SPAM_PER_SECOND).min(SPAM_BURST);
        let allowed = *left >= 1.0;
        if allowed {
            *left -= 1.0;
        }
        allowed
    }

    fn combine(&mut self, mut event: Event, now: Mono) -> (Event, u64) {
        let group = self.hasher.hash_one(("similar", about(&event), &event.type_, &event.reason));
        let message = self.hasher.hash_one(&event.message);
        let (since, similar) = self.similar.get_or_insert_with(group, now, || Messages::of(message));
        if since > SIMILAR_WITHIN {
            *similar = Messages::of(message);
        }
        if similar.take(message) {
            let path = &event.involved_object.field_path;
            let key = self.hasher.hash_one(("event", about(&event), path, &event.type_, &event.reason, &event.message));
            return (event, key);
        }
        event.message = Some(format!("{COMBINED}{}", text(&event.message)));
        (event, group)
    }
}

fn about(event: &Event) -> impl Hash + '_ {
    let object = &event.involved_object;
    (&object.kind, &object.namespace, &object.name, &object.uid, &object.api_version)
}

/// A map that forgets what was used least recently.
#[derive(Debug)]
struct Recent<V> {
    entries: HashMap<u64, (Used, V)>,
}

/// When something was used, in tenths of a second: half the size of what `Mono` keeps, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Used(u32);

impl Used {
    fn at(now: Mono) -> Self {
        Self(u32::try_from(now.0.as_millis() / 100).unwrap_or(u32::MAX))
    }

    fn until(self, later: Self) -> Duration {
        Duration::from_millis(100) * later.0.saturating_sub(self.0)
    }
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<V> Recent<V> {
    fn get(&mut self, key: u64, now: Mono) -> Option<&mut V> {
        let (used, value) = self.entries.get_mut(&key)?;
        *used = Used::at(now);
        Some(value)
    }

    /// For what is not in it yet.
    fn insert(&mut self, key: u64, value: V, now: Mono) {
        self.make_room();
        self.entries.insert(key, (Used::at(now), value));
    }

    /// The value, and how long before `now` it was used last.
    fn get_or_insert_with(&mut self, key: u64, now: Mono, make: impl FnOnce() -> V) -> (Duration, &mut V) {
        if !self.entries.contains_key(&key) {
            self.make_room();
        }
        let now = Used::at(now);
        let (used, value) = self.entries.entry(key).or_insert_with(|| (now, make()));
        (std::mem::replace(used, now).until(now), value)
    }

    /// Forgets the older half at once, so that it costs little per event.
    fn make_room(&mut self) {
        if self.entries.len() < KEPT {
            return;
        }
        let mut ages: Vec<Used> = self.entries.values().map(|(used, _)| *used).collect();
        let middle = ages.len() / 2;
        let median = *ages.select_nth_unstable(middle).1;
        // Into a map of the same size: one from which many were removed grows though there is room.
        let mut kept = HashMap::with_capacity(KEPT);
        kept.extend(std::mem::take(&mut self.entries).into_iter().filter(|(_, (used, _))| *used > median));
        self.entries = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;

    fn event(name: &str, reason: &str, message: &str) -> Event {
        Event {
            involved_object: ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() },
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            count: Some(1),
            ..Event::default()
        }
    }

    #[test]
    fn an_event_said_again_raises_the_count_of_the_first() {
        let mut correlator = Correlator::default();
        let now = Mono::from_secs(1);
        let mut first = event("a", "BackOff", "x");
        first.metadata.name = Some("a.1f".to_owned());
        assert!(matches!(correlator.correlate(first, now), Correlated::Create { .. }));
        let Correlated::Repeat { event: again, .. } = correlator.correlate(event("a", "BackOff", "x"), now) else {
            panic!("not a repeat")
        };
        assert_eq!((again.count, again.metadata.name.as_deref()), (Some(2), Some("a.1f")));
        assert!(matches!(correlator.correlate(event("b", "BackOff", "x"), now), Correlated::Create { .. }));
    }

    #[test]
    fn the_tenth_similar_message_becomes_a_combined_event_and_later_ones_count_it_up() {
        let mut correlator = Correlator::default();
        let now = Mono::from_secs(1);
        for n in 0..9 {
            let made = correlator.correlate(event("a", "Unhealthy", &format!("m{n}")), now);
            assert!(matches!(made, Correlated::Create { .. }));
        }
        let Correlated::Create { event: combined, .. } = correlator.correlate(event("a", "Unhealthy", "m9"), now)
        else {
            panic!("not created")
        };
        assert_eq!(combined.message.as_deref(), Some("(combined from similar events): m9"));
        let Correlated::Repeat { event: next, .. } = correlator.correlate(event("a", "Unhealthy", "m10"), now) else {
            panic!("not a repeat")
        };
        assert_eq!((next.count, next.message.as_deref()), (Some(2), Some("(combined from similar events): m10")));
    }

    #[test]
    fn an_object_gets_a_burst_and_then_one_event_per_five_minutes() {
        let mut correlator = Correlator::default();
        let dropped = |c: &mut Correlator, at| c.correlate(event("a", "r", "m"), at) == Correlated::Dropped;
        let start = Mono::from_secs(1);
        assert!((0..25).all(|_| !dropped(&mut correlator, start)));
        assert!(dropped(&mut correlator, start));
        assert!(dropped(&mut correlator, start + Duration::from_secs(290)));
        assert!(!dropped(&mut correlator, start + Duration::from_secs(301)));
    }

    #[test]
    fn what_is_known_needs_no_room() {
        let mut recent = Recent::default();
        for n in 0..KEPT as u64 {
            recent.get_or_insert_with(n, Mono::from_secs(n), || n);
        }
        let (_, oldest) = recent.get_or_insert_with(0, Mono::from_secs(9999), || 7);
        assert_eq!(*oldest, 0);
        assert_eq!(recent.entries.len(), KEPT);
        recent.get_or_insert_with(KEPT as u64, Mono::from_secs(9999), || 7);
        assert!(recent.entries.len() <= KEPT / 2 + 2);
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..20_000u64 {
            correlator.correlate(event(&format!("pod-{n}"), "r", "m"), Mono::from_secs(n));
        }
        assert!(correlator.known.entries.len() <= KEPT && correlator.spam.entries.len() <= KEPT);
        // All entries of the three maps, and a byte of each place besides.
        let sizes = [
            size_of_val(&(0u64, Used(0), 0f32)),
            size_of::<(u64, (Used, Messages))>(),
            size_of::<(u64, (Used, Told))>(),
        ];
        assert!(sizes.iter().sum::<usize>() <= 80, "{sizes:?}");
        assert!(correlator.known.entries.capacity() <= KEPT);
    }
}
