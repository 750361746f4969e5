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

use k8s_openapi::{api::core::v1::Event, apimachinery::pkg::apis::meta::v1::Time};
use pod::Mono;

use super::text;

const KEPT: usize = 4096;
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
const SPAM_BURST: f64 = 25.0;
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
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

/// Keeps hashes instead of texts: a collision costs a wrong count, a text costs memory for all. What is kept lies in the
/// maps themselves: a small piece of heap each, made while many pods start, would hold a page each long after them.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    hasher: RandomState,
    spam: Recent<Allowance>,
    similar: Recent<Messages>,
    known: Recent<Told>,
}

#[derive(Debug)]
struct Allowance {
    tokens: f64,
    at: Mono,
}

/// The messages under one reason by their hashes, mostly one.
#[derive(Debug, Default)]
struct Messages {
    first: Option<u64>,
    others: Vec<u64>,
    last: Mono,
}

impl Messages {
    /// Whether it is one of them, or can become one: the tenth is not kept, so that each further one finds them full.
    fn take(&mut self, message: u64) -> bool {
        let first = *self.first.get_or_insert(message);
        if first == message || self.others.contains(&message) {
            return true;
        }
        let room = 2 + self.others.len() < SIMILAR;
        if room {
            self.others.push(message);
        }
        room
    }
}

/// An event that the server has: what a repetition takes from it.
#[derive(Debug)]
struct Told {
    /// The name is that of the object and this number.
    stamp: Option<u64>,
    first_timestamp: Option<Time>,
    count: i32,
}

impl Told {
    fn of(event: &Event) -> Self {
        let ending = event.metadata.name.as_deref().and_then(|name| name.rsplit_once('.'));
        let stamp = ending.and_then(|(_, stamp)| u64::from_str_radix(stamp, 16).ok());
        Self { stamp, first_timestamp: event.first_timestamp.clone(), count: event.count.unwrap_or(1) }
    }

    fn name(&self, event: &Event) -> Option<String> {
        self.stamp.map(|stamp| super::name(&event.involved_object, stamp))
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
        told.count = told.count.saturating_add(1);
        event.count = Some(told.count);
        event.metadata.name = told.name(&event);
        event.first_timestamp.clone_from(&told.first_timestamp);
        Correlated::Repeat { event, key }
    }

    /// The server has it under this name.
    pub(super) fn stored(&mut self, key: u64, event: &Event, now: Mono) {
        self.known.insert(key, Told::of(event), now);
    }

    /// The server hasn't got it: the next one alike is new.
    pub(super) fn lost(&mut self, key: u64) {
        self.known.entries.remove(&key);
    }

    fn allowed(&mut self, event: &Event, now: Mono) -> bool {
        let key = self.hasher.hash_one(("spam", about(event), &event.type_));
        let allowance = self.spam.get_or_insert_with(key, now, || Allowance { tokens: SPAM_BURST, at: now });
        let refill = now.since(allowance.at).as_secs_f64() * SPAM_PER_SECOND;
        allowance.tokens = (allowance.tokens + refill).min(SPAM_BURST);
        allowance.at = now;
        let allowed = allowance.tokens >= 1.0;
        if allowed {
            allowance.tokens -= 1.0;
        }
        allowed
    }

    fn combine(&mut self, mut event: Event, now: Mono) -> (Event, u64) {
        let group = self.hasher.hash_one(("similar", about(&event), &event.type_, &event.reason));
        let message = self.hasher.hash_one(&event.message);
        let similar = self.similar.get_or_insert_with(group, now, Messages::default);
        if now.since(similar.last) > SIMILAR_WITHIN {
            *similar = Messages::default();
        }
        similar.last = now;
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
    entries: HashMap<u64, (Mono, V)>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<V> Recent<V> {
    fn get(&mut self, key: u64, now: Mono) -> Option<&mut V> {
        let (used, value) = self.entries.get_mut(&key)?;
        *used = now;
        Some(value)
    }

    fn insert(&mut self, key: u64, value: V, now: Mono) {
        self.make_room();
        self.entries.insert(key, (now, value));
    }

    fn get_or_insert_with(&mut self, key: u64, now: Mono, make: impl FnOnce() -> V) -> &mut V {
        self.make_room();
        let (used, value) = self.entries.entry(key).or_insert_with(|| (now, make()));
        *used = now;
        value
    }

    /// Forgets the older half at once, so that it costs little per event.
    fn make_room(&mut self) {
        if self.entries.len() < KEPT {
            return;
        }
        let mut ages: Vec<Mono> = self.entries.values().map(|(used, _)| *used).collect();
        let middle = ages.len() / 2;
        let median = *ages.select_nth_unstable(middle).1;
        self.entries.retain(|_, (used, _)| *used > median);
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
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..20_000u64 {
            correlator.correlate(event(&format!("pod-{n}"), "r", "m"), Mono::from_secs(n));
        }
        assert!(correlator.known.entries.len() <= KEPT && correlator.spam.entries.len() <= KEPT);
    }
}
