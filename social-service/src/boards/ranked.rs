//! An ordered set that knows positions: insert, remove, rank of a key and the keys at a rank, all in O(log n) expected.
//!
//! A treap in one vector: a search tree by key, a heap by random priority, each node with the size of its subtree. 24 bytes a node besides
//! the key. Chosen over a counted B-tree for its size in code; recursion goes as deep as the tree, which is some 2 log2 n.

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone)]
struct Node<K> {
    key: K,
    priority: u32,
    size: u32,
    left: u32,
    right: u32,
}

/// Up to 2^32 - 2 distinct keys.
#[derive(Debug, Clone)]
pub struct Ranked<K> {
    nodes: Vec<Node<K>>,
    free: Vec<u32>,
    root: u32,
    random: u64,
}

impl<K: Ord + Copy> Ranked<K> {
    /// `seed` decides the tree's shape, nothing else.
    pub fn new(seed: u64) -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NONE, random: seed }
    }

    pub fn len(&self) -> usize {
        self.size(self.root) as usize
    }

    /// False: it was there already.
    pub fn insert(&mut self, key: K) -> bool {
        if self.contains(&key) {
            return false;
        }
        let node = self.allocate(key);
        let (less, more) = self.split(self.root, &key);
        let left = self.merge(less, node);
        self.root = self.merge(left, more);
        true
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
            self.nodes[parent as usize].left = joined;
        } else {
            self.nodes[parent as usize].right = joined;
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
        &self.nodes[at as usize]
    }

    fn size(&self, at: u32) -> u32 {
        if at == NONE { 0 } else { self.node(at).size }
    }

    fn measure(&mut self, at: u32) {
        let node = self.node(at);
        let size = 1 + self.size(node.left) + self.size(node.right);
        self.nodes[at as usize].size = size;
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
            self.nodes[at as usize] = node;
            return at;
        }
        let at = u32::try_from(self.nodes.len()).unwrap_or(NONE);
        assert!(at != NONE, "a set of 2^32 keys does not fit into memory before it does not fit into an index");
        self.nodes.push(node);
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
            self.nodes[at as usize].right = less;
            self.measure(at);
            (at, more)
        } else {
            let (less, more) = self.split(self.node(at).left, key);
            self.nodes[at as usize].left = more;
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
            self.nodes[left as usize].right = joined;
            self.measure(left);
            left
        } else {
            let joined = self.merge(left, self.node(right).left);
            self.nodes[right as usize].left = joined;
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
                    prop_assert_eq!(ranked.insert(key), found.is_err());
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
            prop_assert_eq!(ranked.range(0, usize::MAX), model);
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
        (0..100_000).for_each(|key| assert!(ranked.insert(key)));
        assert!(depth(&ranked, ranked.root) < 64, "log2 of it is 17");
        assert_eq!((ranked.rank(&77_777), ranked.range(99_998, 10)), (77_777, vec![99_998, 99_999]));
        (0..100_000).for_each(|key| assert!(ranked.remove(&key)));
        assert!(ranked.insert(1) && ranked.nodes.len() == 100_000, "space is used again");
    }
}
