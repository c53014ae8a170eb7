//! A map that mostly has one entry.

/// Entries in the order of their keys, in one list: a look-up is a binary search. A hash map has room for three entries
/// from the first one on, and a tree for eleven; most links with a consumer have one. Thousands take longer to
/// insert than there, which is for what changes seldom.
#[derive(Debug)]
pub(crate) struct SmallMap<K, V>(Vec<(K, V)>);

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> SmallMap<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let place = self.place(key).ok()?;
        Some(&self.0[place].1)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.place(key).ok()?;
        Some(&mut self.0[place].1)
    }

    /// Gives what was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(&key) {
            Ok(place) => Some(std::mem::replace(&mut self.0[place].1, value)),
            Err(place) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(place, (key, value));
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.place(key).ok()?;
        let (_, value) = self.0.remove(place);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        Some(value)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.0.retain(|(_, value)| keep(value));
    }

    fn place(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_the_value_it_was_given_last_until_it_is_removed() {
        let mut map = SmallMap::default();
        for key in [3, 1, 4, 1, 5, 9, 2, 6] {
            map.insert(key, 0);
            assert_eq!(map.insert(key, key), Some(0));
        }
        assert_eq!((map.get(&4), map.get(&7)), (Some(&4), None));
        if let Some(value) = map.get_mut(&9) {
            *value = 90;
        }
        assert_eq!((map.remove(&9), map.remove(&9)), (Some(90), None));
        map.retain(|value| value % 2 == 0);
        let left: Vec<_> = (0..10).filter(|key| map.get(key).is_some()).collect();
        assert_eq!(left, [2, 4, 6]);
    }
}
