//! An ordered set that knows positions: insert, remove, rank of a key and the keys at a rank, all in O(log n) expected.
//!
//! A treap in a few vectors: a search tree by key, a heap by random priority, each node with the size of its subtree. 16 bytes a node besides
//! the key. Chosen over a counted B-tree for its size in code; recursion goes as deep as the tree, which is some 2 log2 n.

const NONE: u32 = u32::MAX;
/// Nodes of a chunk. A set that grows never moves what it has, which would take a large one tens of milliseconds.
const CHUNK: usize = 1 << 14;

#[derive(Debug, Clone)]
struct Node<K> {
    key: K,
    priority: u32,
    size: u32,
    left: u32,
    right: u32,
}

/// Up to 2^32 - 2 distinct keys. A key stays at its place in memory, by whose number it can be looked at, until it is removed.
#[derive(Debug, Clone)]
pub struct Ranked<K> {
    chunks: Vec<Vec<Node<K>>>,
    free: Vec<u32>,
    root: u32,
    random: u64,
}

impl<K: Ord + Copy> Ranked<K> {
    /// `seed` decides the tree's shape, nothing else.
    pub fn new(seed: u64) -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), root: NONE, random: seed }
    }

    /// Of distinct keys in their order, in linear time. Keys lie in memory as they rank, each at the place of its position.
    pub fn of_sorted(seed: u64, keys: impl IntoIterator<Item = K>) -> Self {
        let mut ranked = Self::new(seed);
        // The right edge of the tree, from the root downwards.
        let mut edge: Vec<u32> = Vec::new();
        for key in keys {
            let at = ranked.allocate(key);
            let mut below = NONE;
            while let Some(last) = edge.pop_if(|last| ranked.node(*last).priority < ranked.node(at).priority) {
                // Nothing comes to its right any more.
                ranked.measure(last);
                below = last;
            }
            ranked.node_mut(at).left = below;
            if let Some(parent) = edge.last() {
                ranked.node_mut(*parent).right = at;
            }
            edge.push(at);
        }
        ranked.root = edge.first().copied().unwrap_or(NONE);
        while let Some(last) = edge.pop() {
            ranked.measure(last);
        }
        ranked
    }

    pub fn len(&self) -> usize {
        self.size(self.root) as usize
    }

    /// What it takes of memory.
    pub fn bytes(&self) -> usize {
        let nodes: usize = self.chunks.iter().map(Vec::capacity).sum();
        nodes * size_of::<Node<K>>() + self.free.capacity() * size_of::<u32>()
    }

    /// The key at a place.
    pub fn at(&self, place: u32) -> &K {
        &self.node(place).key
    }

    /// The key's place; none: it was there already.
    pub fn insert(&mut self, key: K) -> Option<u32> {
        if self.contains(&key) {
            return None;
        }
        let node = self.allocate(key);
        let (less, more) = self.split(self.root, &key);
        let left = self.merge(less, node);
        self.root = self.merge(left, more);
        Some(node)
    }

    /// False: it was not there.
    pub fn remove(&mut self, key: &K) -> bool {
        let (mut parent, mut at) = (NONE, self.root);
        while at != NONE && self.node(at).key != *key {
            parent = at;
            at = if *key < self.node(at).key { self.node(at).left } else { self.node(at).right };
        }
        if at == NONE {
            return false;
        }
        let joined = self.merge(self.node(at).left, self.node(at).right);
        if parent == NONE {
            self.root = joined;
        } else if self.node(parent).left == at {
            self.node_mut(parent).left = joined;
        } else {
            self.node_mut(parent).right = joined;
        }
        self.free.push(at);
        self.shrink_path(key);
        true
    }

    /// How many keys are less than this one, whether it is there or not.
    pub fn rank(&self, key: &K) -> usize {
        let (mut at, mut less) = (self.root, 0);
        while at != NONE {
            let node = self.node(at);
            if node.key < *key {
                less += self.size(node.left) as usize + 1;
                at = node.right;
            } else {
                at = node.left;
            }
        }
        less
    }

    /// The keys from position `from` on, at most `len`, in order.
    pub fn range(&self, from: usize, len: usize) -> Vec<K> {
        let mut found = Vec::with_capacity(len.min(self.len().saturating_sub(from)));
        // Nodes whose key and right side are still to come.
        let mut open: Vec<u32> = Vec::new();
        let (mut at, mut skip) = (self.root, from);
        while at != NONE {
            let node = self.node(at);
            let left = self.size(node.left) as usize;
            if skip > left {
                skip -= left + 1;
                at = node.right;
            } else {
                open.push(at);
                at = if skip == left { NONE } else { node.left };
            }
        }
        while found.len() < len {
            let Some(at) = open.pop() else { break };
            found.push(self.node(at).key);
            let mut next = self.node(at).right;
            while next != NONE {
                open.push(next);
                next = self.node(next).left;
            }
        }
        found
    }

    fn contains(&self, key: &K) -> bool {
        let mut at = self.root;
        while at != NONE {
            let node = self.node(at);
            at = match key.cmp(&node.key) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => node.left,
                std::cmp::Ordering::Greater => node.right,
            };
        }
        false
    }

    fn node(&self, at: u32) -> &Node<K> {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node<K> {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn size(&self, at: u32) -> u32 {
        if at == NONE { 0 } else { self.node(at).size }
    }

    fn measure(&mut self, at: u32) {
        let node = self.node(at);
        let size = 1 + self.size(node.left) + self.size(node.right);
        self.node_mut(at).size = size;
    }

    /// Every node above where `key` was has one key less below it.
    fn shrink_path(&mut self, key: &K) {
        let mut at = self.root;
        // The removed key is not in the tree any more: its path ends where its subtree was joined, whose sizes are right.
        let mut path = Vec::new();
        while at != NONE {
            path.push(at);
            at = if *key < self.node(at).key { self.node(at).left } else { self.node(at).right };
        }
        while let Some(at) = path.pop() {
            self.measure(at);
        }
    }

    fn allocate(&mut self, key: K) -> u32 {
        let node = Node { key, priority: self.priority(), size: 1, left: NONE, right: NONE };
        if let Some(at) = self.free.pop() {
            *self.node_mut(at) = node;
            return at;
        }
        let full = self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK);
        if full {
            // Only the first one grows by copying: most boards are small.
            self.chunks.push(if self.chunks.is_empty() { Vec::new() } else { Vec::with_capacity(CHUNK) });
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = &mut self.chunks[before / CHUNK];
        let at = u32::try_from(before + chunk.len()).unwrap_or(NONE);
        assert!(at != NONE, "a set of 2^32 keys does not fit into memory before it does not fit into an index");
        chunk.push(node);
        at
    }

    // SplitMix64: priorities nobody outside can steer.
    fn priority(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }

    /// Keys less than `key`, and the others.
    fn split(&mut self, at: u32, key: &K) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        if self.node(at).key < *key {
            let (less, more) = self.split(self.node(at).right, key);
            self.node_mut(at).right = less;
            self.measure(at);
            (at, more)
        } else {
            let (less, more) = self.split(self.node(at).left, key);
            self.node_mut(at).left = more;
            self.measure(at);
            (less, at)
        }
    }

    /// Joins two trees, all of whose keys are in this order.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return if left == NONE { right } else { left };
        }
        if self.node(left).priority >= self.node(right).priority {
            let joined = self.merge(self.node(left).right, right);
            self.node_mut(left).right = joined;
            self.measure(left);
            left
        } else {
            let joined = self.merge(left, self.node(right).left);
            self.node_mut(right).left = joined;
            self.measure(right);
            right
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Failing cases are printed with the seed that replays them.
        #[test]
        fn it_is_a_sorted_vector_that_is_fast(seed: u64, steps in prop::collection::vec((any::<bool>(), 0_u16..200), 0..400)) {
            let mut ranked = Ranked::new(seed);
            let mut model: Vec<u16> = Vec::new();
            for (insert, key) in steps {
                let found = model.binary_search(&key);
                if insert {
                    prop_assert_eq!(ranked.insert(key).is_some(), found.is_err());
                    if let Err(at) = found {
                        model.insert(at, key);
                    }
                } else {
                    prop_assert_eq!(ranked.remove(&key), found.is_ok());
                    if let Ok(at) = found {
                        model.remove(at);
                    }
                }
                prop_assert_eq!(ranked.len(), model.len());
                prop_assert_eq!(ranked.rank(&key), model.partition_point(|k| *k < key));
                let from = usize::from(key) % (model.len() + 2);
                let expected: Vec<u16> = model.iter().skip(from).take(7).copied().collect();
                prop_assert_eq!(ranked.range(from, 7), expected);
            }
            prop_assert_eq!(ranked.range(0, usize::MAX), model.clone());
            // Built at once it is the same set, with the sizes right everywhere.
            let mut built = Ranked::of_sorted(seed, model.iter().copied());
            for (position, key) in model.iter().enumerate() {
                prop_assert_eq!((built.rank(key), *built.at(position as u32)), (position, *key));
            }
            prop_assert_eq!(built.range(0, usize::MAX), model.clone());
            for (position, key) in model.iter().enumerate() {
                prop_assert!(built.remove(key));
                prop_assert_eq!(built.len(), model.len() - position - 1);
            }
        }
    }

    #[test]
    fn a_hundred_thousand_keys_in_the_worst_order_make_a_shallow_tree() {
        fn depth(ranked: &Ranked<u32>, at: u32) -> u32 {
            if at == NONE {
                0
            } else {
                1 + depth(ranked, ranked.node(at).left).max(depth(ranked, ranked.node(at).right))
            }
        }
        let mut ranked = Ranked::new(7);
        (0..100_000).for_each(|key| assert!(ranked.insert(key).is_some()));
        assert!(depth(&ranked, ranked.root) < 64, "log2 of it is 17");
        assert_eq!((ranked.rank(&77_777), ranked.range(99_998, 10)), (77_777, vec![99_998, 99_999]));
        (0..100_000).for_each(|key| assert!(ranked.remove(&key)));
        let space = |ranked: &Ranked<u32>| ranked.chunks.iter().map(Vec::len).sum::<usize>();
        assert!(ranked.insert(1).is_some() && space(&ranked) == 100_000, "space is used again");
    }
}
