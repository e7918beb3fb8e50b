//! How many instructions a state costs on its way from the VM to JSON. `scripts/bench-instructions`

#![expect(clippy::disallowed_methods, reason = "the harness's main ends its process itself")]

use std::hint::black_box;

use asobi_match_service::lua::measured::State;
use gungraun::prelude::*;

/// A view of four players and what flies between them: some 600 bytes of JSON.
const VIEW: &str = r#"
    (function()
        local players, shots = {}, {}
        for n = 1, 4 do
            players["0192f0c1-7d5e-7c3a-9b1e-00000000000" .. n] = {
                x = 12.5 * n, y = 88.25 / n, hp = 100 - n, dir = "north", ready = n % 2 == 0, score = n * 10, inputs = 1000 + n,
            }
        end
        for n = 1, 6 do
            shots[n] = {id = n, x = n * 3.25, y = n * 7}
        end
        return {tick = 1042, phase = "running", players = players, shots = shots}
    end)()
"#;

fn view() -> State {
    let mut state = State::of(VIEW).expect("the script runs");
    let written = state.encode().expect("it has JSON");
    assert!((500..800).contains(&written), "{written} bytes");
    state
}

#[library_benchmark]
#[bench::four_players(view())]
fn encode(mut state: State) -> State {
    assert!(black_box(state.encode()).is_ok());
    state
}

library_benchmark_group!(name = states, benchmarks = encode);
main!(library_benchmark_groups = states);
