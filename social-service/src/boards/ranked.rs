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

    /// Makes a tree of keys that lie in their order, each at the place of its position, in linear time.
    fn link(&mut self) {
        // The right edge of the tree, from the root downwards.
        let mut edge: Vec<u32> = Vec::new();
        for at in 0..self.places() {
            let mut below = NONE;
            while let Some(last) = edge.pop_if(|last| self.node(*last).priority < self.node(at).priority) {
                // Nothing comes to its right any more.
                self.measure(last);
                below = last;
            }
            self.node_mut(at).left = below;
            if let Some(parent) = edge.last() {
                self.node_mut(*parent).right = at;
            }
            edge.push(at);
        }
        self.root = edge.first().copied().unwrap_or(NONE);
        while let Some(last) = edge.pop() {
            self.measure(last);
        }
    }

    /// How many places there are, free ones included.
    fn places(&self) -> u32 {
        let before = self.chunks.len().saturating_sub(1) * CHUNK;
        u32::try_from(before + self.chunks.last().map_or(0, Vec::len)).unwrap_or(NONE)
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

/// Keys on their way into a set, in any order, where they will stay: what a large set is read into takes no more memory than the set.
#[derive(Debug)]
pub struct Gathering<K>(Ranked<K>);

impl<K: Ord + Copy> Gathering<K> {
    /// `seed` decides the tree's shape, nothing else.
    pub fn new(seed: u64) -> Self {
        Self(Ranked::new(seed))
    }

    pub fn push(&mut self, key: K) {
        self.0.allocate(key);
    }

    /// Keeps the keys, as they have become, for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut K) -> bool) {
        let (gathered, mut kept) = (self.0.places(), 0);
        for at in 0..gathered {
            let mut key = self.0.node(at).key;
            if keep(&mut key) {
                self.0.node_mut(kept).key = key;
                kept += 1;
            }
        }
        let (chunks, rest) = (kept as usize / CHUNK, kept as usize % CHUNK);
        self.0.chunks.truncate(chunks + 1);
        if let Some(last) = self.0.chunks.get_mut(chunks) {
            last.truncate(rest);
        }
        // One that is full or not there is followed by a new one.
        self.0.chunks.pop_if(|last| last.is_empty());
    }

    /// The set, once all of its keys are there; all of them distinct. Keys lie in memory as they rank, each at the place of its position.
    pub fn finish(mut self) -> Ranked<K> {
        // Short sorts in place leave sorted runs, which a stable sort of the places only has to merge.
        self.0.chunks.iter_mut().for_each(|chunk| chunk.sort_unstable_by_key(|a| a.key));
        let mut order: Vec<u32> = (0..self.0.places()).collect();
        order.sort_by_key(|a| self.0.node(*a).key);
        self.put_in(order);
        self.0.link();
        self.0
    }

    /// Puts at each place the key that lies at the place that `order` says, going round one cycle after the other.
    fn put_in(&mut self, mut order: Vec<u32>) {
        for start in 0..self.0.places() {
            let (first, mut at) = (self.0.node(start).key, start);
            loop {
                let from = std::mem::replace(&mut order[at as usize], at);
                if from == start {
                    self.0.node_mut(at).key = first;
                    break;
                }
                self.0.node_mut(at).key = self.0.node(from).key;
                at = from;
            }
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
            let mut gathered = Gathering::new(seed);
            model.iter().rev().for_each(|key| gathered.push(*key));
            let mut built = gathered.finish();
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
    fn what_is_gathered_over_many_chunks_is_the_set_and_no_more_than_it() {
        for n in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 77] {
            let n = u32::try_from(n).unwrap();
            let mut gathered = Gathering::new(3);
            // Each key below 2n once, the odd ones taken out again, all turned round.
            let prime = 1_000_003;
            (0..2 * n).for_each(|i| gathered.push((u64::from(i) * prime % u64::from(2 * n)) as u32));
            gathered.retain(|key| {
                let keep = key.is_multiple_of(2);
                *key = u32::MAX - *key;
                keep
            });
            let mut ranked = gathered.finish();
            let wanted: Vec<u32> = (0..n).rev().map(|i| u32::MAX - 2 * i).collect();
            assert_eq!(ranked.range(0, usize::MAX), wanted);
            assert_eq!(ranked.len(), n as usize);
            assert!(ranked.bytes() <= (n as usize).next_multiple_of(CHUNK) * size_of::<Node<u32>>(), "{n}");
            for (position, key) in wanted.iter().enumerate().step_by(501) {
                assert_eq!((ranked.rank(key), *ranked.at(position as u32)), (position, *key));
            }
            assert!(ranked.insert(7).is_some() && ranked.rank(&7) == 0);
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
