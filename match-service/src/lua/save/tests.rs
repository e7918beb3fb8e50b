//! What is saved comes back, and whatever else comes is refused.

use std::collections::BTreeMap;

use mlua::{Lua, Table, Value};
use proptest::prelude::*;
use uuid::Uuid;

use super::{MAX_SAVED, Writer, read, read::Saved};

struct Bench {
    lua: Lua,
    marker: Table,
}

impl Bench {
    fn new() -> Self {
        let lua = Lua::new();
        let marker = lua.create_table().expect("a table");
        lua.globals().set("marker", &marker).expect("set");
        Self { lua, marker }
    }

    fn eval(&self, source: &str) -> Table {
        self.lua.load(source).eval().expect("the test's Lua runs")
    }

    fn save(&self, state: &Table) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        Writer::default().write(state, &self.marker, 7, &BTreeMap::new(), &mut out).map(|()| out)
    }

    fn read(&self, saved: &[u8]) -> Result<Saved, String> {
        read(&self.lua, &self.marker, saved).map_err(|error| error.to_string())
    }

    /// Saves a state and checks, in another VM, what has become of it.
    fn comes_back(source: &str, check: &str) {
        let saved = Self::new();
        let bytes = saved.save(&saved.eval(source)).expect("can be saved");
        let other = Self::new();
        let state = other.read(&bytes).expect("can be read").state;
        other.lua.globals().set("s", state).expect("set");
        let held: bool = other.lua.load(check).eval().expect("the check runs");
        assert!(held, "{source}: not {check}");
    }

    fn refuses(source: &str) -> String {
        let bench = Self::new();
        bench.save(&bench.eval(source)).expect_err("cannot be saved")
    }
}

#[test]
fn every_kind_of_value_comes_back() {
    for (source, check) in [
        ("{ a = true, b = false }", "s.a == true and s.b == false"),
        (
            "{ 1, -1, 0, 2^53, -2^53, 2^60, 1e300, 0.1 }",
            "table.concat(s, ' ') == table.concat({ 1, -1, 0, 2^53, -2^53, 2^60, 1e300, 0.1 }, ' ')",
        ),
        ("{ 1/0, -1/0, 0/0, -0.0 }", "s[1] == 1/0 and s[2] == -1/0 and s[3] ~= s[3] and 1/s[4] == -1/0"),
        (
            "{ a = '', b = 'é\\0\\255', c = string.rep('x', 1000) }",
            "s.a == '' and s.b == 'é\\0\\255' and s.c == string.rep('x', 1000)",
        ),
        ("{ v = vector.create(1, 2.5, -3) }", "s.v == vector.create(1, 2.5, -3)"),
        (
            "{ b = buffer.fromstring('abc'), e = buffer.create(0) }",
            "buffer.tostring(s.b) == 'abc' and buffer.len(s.e) == 0",
        ),
        (
            "{ [1] = 'a', [2] = 'b', [4] = 'd', [1.5] = 'x', [-1] = 'n', [true] = 't', [''] = 'e' }",
            "s[1] .. s[2] .. s[4] .. s[1.5] .. s[-1] .. s[true] .. s[''] == 'abdxnte' and #s >= 2 and s[3] == nil",
        ),
        (
            "{ a = setmetatable({}, marker), b = {} }",
            "getmetatable(s.a) == marker and getmetatable(s.b) == nil and next(s.a) == nil",
        ),
        ("{ a = table.freeze({ 1 }), b = { 1 } }", "table.isfrozen(s.a) and not table.isfrozen(s.b) and s.a[1] == 1"),
        ("{}", "next(s) == nil"),
    ] {
        Bench::comes_back(source, check);
    }
}

#[test]
fn what_is_shared_stays_shared_and_circles_stay_circles() {
    Bench::comes_back("local p = { x = 1 } return { a = p, list = { p } }", "rawequal(s.a, s.list[1])");
    Bench::comes_back("local p = { x = 1 } return { a = p, b = { x = 1 } }", "not rawequal(s.a, s.b)");
    Bench::comes_back("local b = buffer.create(1) return { a = b, b = b }", "rawequal(s.a, s.b)");
    Bench::comes_back("local t = {} t.me = t t[1] = { t } return t", "s.me == s and s[1][1] == s");
}

#[test]
fn what_cannot_be_saved_is_named_with_its_place() {
    for (source, says) in [
        ("{ players = { {}, {}, { f = print } } }", "state.players[3].f is a function, which cannot be saved"),
        (
            "{ ['a b'] = { [true] = coroutine.create(print) } }",
            "state[\"a b\"][true] is a thread, which cannot be saved",
        ),
        ("{ x = { [print] = 1 } }", "state.x[function] has a function for its key, which cannot be saved"),
        ("{ x = { [{}] = 1 } }", "state.x[table] has a table for its key, which cannot be saved"),
        ("{ x = setmetatable({}, {}) }", "state.x has a metatable: a state is made of plain tables"),
        ("setmetatable({}, {})", "has a metatable: a state is made of plain tables"),
    ] {
        assert_eq!(Bench::refuses(source), says);
    }
    let deep = Bench::refuses("local t = {} local top = t for _ = 1, 200 do t.a = {} t = t.a end return top");
    assert_eq!(deep, "state.a.a.a.a.a.a.a.a… nests deeper than 100 tables");
    for large in [
        "{ string.rep('x', 2000000) }",
        "{ a = buffer.create(2000000) }",
        "local t = {} for n = 1, 500000 do t[n] = 1e300 end return t",
        "local t = {} for n = 1, 300000 do t['k' .. n] = {} end return t",
    ] {
        assert!(Bench::refuses(large).ends_with("the saved state would be larger than 1048576 bytes"), "{large}");
    }
}

#[test]
fn the_rest_of_a_match_is_saved_too_and_equal_states_equally() {
    let bench = Bench::new();
    let bots = BTreeMap::from([(Uuid::from_u128(9), "bot_Ada_a3f91c".to_owned())]);
    let (mut one, mut two) = (vec![1, 2, 3], Vec::new());
    let mut writer = Writer::default();
    let state = bench.eval("{ players = { ada = { x = 1 }, bob = { x = 2 } } }");
    writer.write(&state, &bench.marker, u64::MAX, &bots, &mut one).expect("can be saved");
    writer.write(&state, &bench.marker, u64::MAX, &bots, &mut two).expect("can be saved");
    assert_eq!(one[..3], [1, 2, 3], "it is appended");
    assert_eq!(one[3..], two);
    let saved = bench.read(&two).expect("can be read");
    assert_eq!((saved.random, saved.bots), (u64::MAX, bots));
}

#[test]
fn names_that_come_again_and_again_cost_little() {
    let bench = Bench::new();
    let state = bench.eval("local t = {} for n = 1, 100 do t[n] = { position_of_the_player = n } end return t");
    assert!(bench.save(&state).expect("can be saved").len() < 1000);
}

#[test]
fn what_breaks_off_or_goes_on_is_refused() {
    let bench = Bench::new();
    let state =
        bench.eval("{ 1, 0.5, 'long enough', a = { b = vector.create(1, 2, 3), c = buffer.create(3), d = true } }");
    let saved = bench.save(&state).expect("can be saved");
    for end in 0..saved.len() {
        assert!(bench.read(&saved[..end]).is_err(), "the first {end} bytes");
    }
    let longer = [&saved[..], &[0]].concat();
    assert_eq!(bench.read(&longer).err().as_deref(), Some("runtime error: what was saved goes on after its end"));
    let mut newer = saved;
    newer[0] = 9;
    let error = bench.read(&newer).err().expect("refused");
    assert!(error.contains("has the format 9, and this release reads 1"), "{error}");
    assert!(bench.read(&vec![1; MAX_SAVED + 1]).is_err());
}

#[test]
fn a_snapshot_cannot_make_a_vm_larger_than_it_may_be() {
    let bench = Bench::new();
    bench.lua.set_memory_limit(4 << 20).expect("limited");
    // As many empty tables as a snapshot can name.
    let mut bomb = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0];
    while bomb.len() < MAX_SAVED - 4 {
        bomb.extend([9, 0, 0]);
    }
    bomb.push(0);
    let error = bench.read(&bomb).err().expect("refused");
    assert!(error.contains("not enough memory"), "{error}");
}

/// A state without a VM.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Boolean(bool),
    Number(u64),
    Text(Vec<u8>),
    Table(BTreeMap<Key, Tree>),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Boolean(bool),
    Whole(i32),
    Half(i32),
    Text(Vec<u8>),
}

fn trees() -> impl Strategy<Value = BTreeMap<Key, Tree>> {
    let key = || {
        prop_oneof![
            any::<bool>().prop_map(Key::Boolean),
            (1_i32..6).prop_map(Key::Whole),
            any::<i32>().prop_map(Key::Whole),
            any::<i32>().prop_map(Key::Half),
            proptest::collection::vec(any::<u8>(), 0..6).prop_map(Key::Text),
        ]
    };
    let leaf = prop_oneof![
        any::<bool>().prop_map(Tree::Boolean),
        (-100_i32..100).prop_map(|n| Tree::Number(f64::from(n).to_bits())),
        any::<f64>().prop_map(|n| Tree::Number(n.to_bits())),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Tree::Text),
    ];
    let tree = leaf.prop_recursive(4, 40, 6, move |inner| {
        proptest::collection::btree_map(key(), inner, 0..6).prop_map(Tree::Table)
    });
    proptest::collection::btree_map(key(), tree, 0..8)
}

fn table_of(lua: &Lua, tree: &BTreeMap<Key, Tree>) -> Table {
    let table = lua.create_table().expect("a table");
    for (key, value) in tree {
        let key = match key {
            Key::Boolean(b) => Value::Boolean(*b),
            Key::Whole(n) => Value::Number(f64::from(*n)),
            Key::Half(n) => Value::Number(f64::from(*n) + 0.5),
            Key::Text(bytes) => Value::String(lua.create_string(bytes).expect("a string")),
        };
        let value = match value {
            Tree::Boolean(b) => Value::Boolean(*b),
            Tree::Number(bits) => Value::Number(f64::from_bits(*bits)),
            Tree::Text(bytes) => Value::String(lua.create_string(bytes).expect("a string")),
            Tree::Table(tree) => Value::Table(table_of(lua, tree)),
        };
        table.raw_set(key, value).expect("set");
    }
    table
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the keys were made of i32")]
fn tree_of(table: &Table) -> BTreeMap<Key, Tree> {
    let pairs = table.pairs::<Value, Value>().map(|pair| {
        let (key, value) = pair.expect("a pair");
        let key = match key {
            Value::Boolean(b) => Key::Boolean(b),
            Value::Integer(n) => Key::Whole(n as i32),
            Value::Number(n) => Key::Half((n - 0.5) as i32),
            Value::String(text) => Key::Text(text.as_bytes().to_vec()),
            other => panic!("{other:?} for a key"),
        };
        let value = match value {
            Value::Boolean(b) => Tree::Boolean(b),
            Value::Integer(n) => Tree::Number((n as f64).to_bits()),
            Value::Number(n) => Tree::Number(n.to_bits()),
            Value::String(text) => Tree::Text(text.as_bytes().to_vec()),
            Value::Table(table) => Tree::Table(tree_of(&table)),
            other => panic!("{other:?} for a value"),
        };
        (key, value)
    });
    pairs.collect()
}

proptest! {
    #[test]
    fn any_state_comes_back_as_it_was(tree in trees()) {
        let (here, there) = (Bench::new(), Bench::new());
        let saved = here.save(&table_of(&here.lua, &tree)).expect("can be saved");
        let state = there.read(&saved).expect("can be read").state;
        prop_assert_eq!(tree_of(&state), tree);
    }

    #[test]
    fn any_bytes_are_a_state_or_an_error(bytes in proptest::collection::vec(prop_oneof![0_u8..12, any::<u8>()], 0..200)) {
        let bench = Bench::new();
        bench.lua.set_memory_limit(4 << 20).expect("limited");
        let _ = bench.read(&bytes);
        // With a beginning that is right they come further.
        let _ = bench.read(&[&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0][..], &bytes].concat());
    }

    #[test]
    fn a_state_with_other_bytes_in_it_is_a_state_or_an_error(tree in trees(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let bench = Bench::new();
        let mut saved = bench.save(&table_of(&bench.lua, &tree)).expect("can be saved");
        let at = at.index(saved.len());
        saved[at] = byte;
        let _ = bench.read(&saved);
    }
}
