//! How many instructions a player's rank costs, and a score, on a board of many. `scripts/bench-instructions`

#![expect(clippy::disallowed_methods, reason = "the harness's main ends its process itself")]

use std::hint::black_box;

use asobi_social_service::measured::Ladder;
use gungraun::prelude::*;

const ENTRIES: i64 = 50_000;
/// Who is asked about: many, so that the depth of single places in the tree does not decide.
const ASKED: i64 = 500;

fn players() -> impl Iterator<Item = i64> {
    (1..=ASKED).map(|n| n * (ENTRIES / ASKED))
}

#[library_benchmark]
#[bench::five_hundred(Ladder::of(ENTRIES))]
fn rank(ladder: Ladder) -> Ladder {
    let found = players().filter(|nth| ladder.rank(black_box(*nth)).is_some()).count();
    assert_eq!(black_box(found) as i64, ASKED);
    ladder
}

#[library_benchmark]
#[bench::five_hundred(Ladder::of(ENTRIES))]
fn submit(mut ladder: Ladder) -> Ladder {
    players().for_each(|nth| ladder.submit(black_box(nth)));
    black_box(ladder)
}

library_benchmark_group!(name = board, benchmarks = [rank, submit]);
main!(library_benchmark_groups = board);
