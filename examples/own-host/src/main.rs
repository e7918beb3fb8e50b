//! A match host that plays `dice`, a game in Rust, besides the scripts of its games folder: run it in the place of `asobi match-service`.

mod dice;

use std::{process::ExitCode, sync::Arc};

use asobi_match_service::{game::Registry, run_with};

fn main() -> ExitCode {
    asobi_service_kit::service::binary("match", |config, shutdown| {
        let mut games = Registry::default();
        games.register("dice", Arc::new(dice::Dice::default()));
        run_with(config, shutdown, games)
    })
}
