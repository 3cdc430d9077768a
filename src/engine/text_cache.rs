//! Prompt embeddings that are kept from batch to batch. The towers are frozen: an embedding holds as long as the bundle.

use std::rc::Rc;

use lru::LruCache;

/// What an entry costs beside its embedding and its token ids: the map's node, the list's links, the tensor's head.
const OVERHEAD_BYTES: u64 = 256;

/// Embeddings by token ids, the least recently used leave first. One per device: they lie on it.
pub(super) struct TextCache<V> {
    entries: LruCache<Box<[u32]>, Rc<V>>,
    embedding_bytes: u64,
    bytes: u64,
    max_bytes: u64,
}

impl<V> TextCache<V> {
    /// Holds at most `max_bytes` of embeddings that have `embedding_bytes` each; none at all for 0.
    pub fn new(max_bytes: u64, embedding_bytes: u64) -> Self {
        Self { entries: LruCache::unbounded(), embedding_bytes, bytes: 0, max_bytes }
    }

    /// The embedding of `ids`, which is now the most recently used.
    pub fn get(&mut self, ids: &[u32]) -> Option<Rc<V>> {
        self.entries.get(ids).cloned()
    }

    /// Keeps `embedding` of `ids`, and forgets others for it.
    pub fn insert(&mut self, ids: &[u32], embedding: Rc<V>) {
        let bytes = self.bytes_of(ids);
        if bytes > self.max_bytes {
            return;
        }
        if self.entries.put(ids.into(), embedding).is_none() {
            self.bytes += bytes;
        }
        while self.bytes > self.max_bytes
            && let Some((ids, _)) = self.entries.pop_lru()
        {
            self.bytes -= self.bytes_of(&ids);
        }
    }

    /// Prompts whose embeddings are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What they cost.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn bytes_of(&self, ids: &[u32]) -> u64 {
        self.embedding_bytes + size_of_val(ids) as u64 + OVERHEAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_recently_used_leaves_first() {
        let mut cache = TextCache::new(3 * (OVERHEAD_BYTES + 100 + 4), 100);
        (1..=3).for_each(|id| cache.insert(&[id], Rc::new(id)));
        assert_eq!(cache.get(&[1]).as_deref(), Some(&1));
        cache.insert(&[4], Rc::new(4));
        assert_eq!([1, 2, 3, 4].map(|id| cache.get(&[id]).is_some()), [true, false, true, true]);
    }

    #[test]
    fn no_room_keeps_nothing() {
        let mut cache = TextCache::new(0, 100);
        cache.insert(&[1], Rc::new(1));
        assert!(cache.get(&[1]).is_none());
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_entries_and_within_the_limit(
            limit in 0u64..5000,
            prompts in proptest::collection::vec(proptest::collection::vec(0u32..3, 1..6), 1..100),
        ) {
            let mut cache = TextCache::new(limit, 100);
            for ids in prompts {
                cache.insert(&ids, Rc::new(ids.clone()));
                let held: u64 = cache.entries.iter().map(|(ids, _)| cache.bytes_of(ids)).sum();
                prop_assert_eq!(cache.bytes, held);
                prop_assert!(cache.bytes <= limit);
                prop_assert!(cache.entries.iter().all(|(ids, value)| ids[..] == value[..]));
            }
        }
    }
}
