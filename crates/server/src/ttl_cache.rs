//! A bounded map whose entries expire.

use std::{collections::HashMap, hash::Hash, sync::Mutex, time::Duration};

use pod::Mono;

pub struct TtlCache<K, V> {
    most: usize,
    entries: Mutex<HashMap<K, (Mono, V)>>,
}

impl<K: Hash + Eq + Clone, V: Clone> TtlCache<K, V> {
    pub fn new(most: usize) -> Self {
        Self { most, entries: Mutex::new(HashMap::new()) }
    }

    pub fn get(&self, key: &K, now: Mono) -> Option<V> {
        let entries = self.entries.lock().expect("no panic while held");
        entries.get(key).filter(|(until, _)| now < *until).map(|(_, value)| value.clone())
    }

    /// Nothing is kept for a zero `ttl`. A full cache drops what has expired, else what would expire first.
    pub fn put(&self, key: K, value: V, now: Mono, ttl: Duration) {
        if ttl.is_zero() {
            return;
        }
        let mut entries = self.entries.lock().expect("no panic while held");
        if entries.len() >= self.most && !entries.contains_key(&key) {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() >= self.most {
            let first = entries.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| key.clone());
            first.map(|key| entries.remove(&key));
        }
        entries.insert(key, (now + ttl, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_gone_at_its_time() {
        let cache = TtlCache::new(2);
        cache.put("a", 1, Mono::from_secs(0), Duration::from_secs(10));
        assert_eq!(cache.get(&"a", Mono::from_secs(9)), Some(1));
        assert_eq!(cache.get(&"a", Mono::from_secs(10)), None);
    }

    #[test]
    fn a_full_cache_never_grows() {
        let cache = TtlCache::new(2);
        for n in 0..100 {
            cache.put(n, n, Mono::from_secs(n), Duration::from_secs(1000));
        }
        assert_eq!(cache.entries.lock().unwrap().len(), 2);
        assert_eq!(cache.get(&99, Mono::from_secs(99)), Some(99));
    }
}
