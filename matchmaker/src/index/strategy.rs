//! How players of one mode are put together: the trait, and who implements it for which mode. Pure: no clock, no I/O; time comes in as an
//! argument.
//!
//! A studio with rules of its own implements [`Strategy`] and starts the matchmaker with it:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn studio<Ladder: asobi_matchmaker::Strategy + Default + 'static>(
//! #     config: Arc<asobi_service_kit::Config>, shutdown: asobi_service_kit::Shutdown) -> anyhow::Result<()> {
//! let strategies = asobi_matchmaker::Strategies::default().with("ranked", || Box::new(Ladder::default()));
//! asobi_matchmaker::run_with(config, shutdown, strategies).await
//! # }
//! ```
//!
//! Every matchmaker of the cluster must be that build, since any of them may lead. What a strategy forms is claimed, placed and told as
//! everybody's groups are, so it cannot lose a ticket or seat a player twice; it can only be unfair or slow.

use std::{collections::HashMap, sync::Arc};

use asobi_proto::mode::{self, ModeSettings};

use super::{
    fill::Fill,
    filtered::Filtered,
    skill::SkillBased,
    ticket::{Group, Rules, Waiting, Wanted},
};

/// The waiting tickets of one mode in one region, and which of them make a match.
///
/// Contracts: a ticket is in at most one group and leaves the strategy with it; a group's teams are `rules.shape.teams` of equal size, all of
/// a ticket in one team; nothing is formed that the rules do not allow at `now_us`. Inserting, removing and a fruitless
/// [`Self::next_group`] cost O(log n), since they happen under the leader's lock.
pub trait Strategy: Send {
    fn insert(&mut self, ticket: Arc<Waiting>);

    /// Of a ticket that was inserted and not taken.
    fn remove(&mut self, ticket: &Waiting);

    /// Takes out the next match; none: nobody can be matched at this time.
    fn next_group(&mut self, rules: &Rules, now_us: i64) -> Option<Group>;

    /// When time alone may make the next group, if nobody comes or goes.
    fn due_us(&self, rules: &Rules) -> Option<i64>;

    /// Takes out those who join a running match, at most `wanted.places` players.
    fn take_for(&mut self, wanted: &Wanted, rules: &Rules, now_us: i64) -> Vec<Arc<Waiting>>;
}

type Maker = Arc<dyn Fn() -> Box<dyn Strategy> + Send + Sync>;

/// Which strategy serves which mode: a studio's own by the mode's name, else the one its settings name.
#[derive(Clone, Default)]
pub struct Strategies {
    own: HashMap<String, Maker>,
}

impl Strategies {
    /// Serves a mode with a strategy of one's own, whatever its settings name.
    #[must_use]
    pub fn with(
        mut self,
        mode: impl Into<String>,
        make: impl Fn() -> Box<dyn Strategy> + Send + Sync + 'static,
    ) -> Self {
        self.own.insert(mode.into(), Arc::new(make));
        self
    }

    pub(super) fn make(&self, mode: &str, settings: &ModeSettings) -> Box<dyn Strategy> {
        if let Some(make) = self.own.get(mode) {
            return make();
        }
        match settings.strategy {
            mode::Strategy::Fill => Box::new(Fill::default()),
            mode::Strategy::SkillBased => Box::new(SkillBased::default()),
            mode::Strategy::Query => Box::new(Filtered::default()),
        }
    }
}
