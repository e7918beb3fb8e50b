//! Registry and leadership over a real PostgreSQL.

use std::{str::FromStr, sync::Arc, time::Duration};

use asobi_bus::{Bus, BusOptions};
use asobi_cluster::{
    Directory, Error, Membership, NodeSpec, NodeState, Role, death, directory,
    leader::{Election, Leadership},
    lock_keys, ops,
};
use asobi_proto::bus::Topic;
use asobi_store::testing::TestDatabase;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const PATIENCE: Duration = Duration::from_secs(20);

struct Play {
    db: TestDatabase,
    bus: Bus,
    direct: PgConnectOptions,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Play {
    async fn begin() -> anyhow::Result<Self> {
        let db = TestDatabase::create().await?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let direct = PgConnectOptions::from_str(&db.url)?;
        let options = BusOptions {
            pool: db.pool.clone(),
            direct: direct.clone(),
            origin: "test".into(),
            topics: vec![Topic::Nodes, Topic::Leader],
        };
        let bus = Bus::start(options, &stop, &tasks);
        Ok(Self { db, bus, direct, stop, tasks })
    }

    async fn register(&self, node_id: &str, lease: Duration) -> anyhow::Result<Arc<Membership>> {
        self.register_as(Role::Matchmaker, node_id, lease).await
    }

    async fn register_as(&self, role: Role, node_id: &str, lease: Duration) -> anyhow::Result<Arc<Membership>> {
        let spec = NodeSpec {
            node_id: node_id.into(),
            role,
            region: String::new(),
            http_url: None,
            ws_url: None,
            grpc_addr: "127.0.0.1:1".into(),
            metrics_addr: "127.0.0.1:2".into(),
            capacity: 0,
            lease,
        };
        Ok(Membership::register(&self.db.pool, self.bus.publisher().clone(), spec).await?)
    }

    /// A candidate; ends when its token is cancelled.
    fn candidate(
        &self,
        member: &Membership,
        application_name: &str,
    ) -> (watch::Receiver<Option<Leadership>>, CancellationToken) {
        let stop = self.stop.child_token();
        let (sender, receiver) = watch::channel(None);
        let election = Election {
            name: "matchmaker",
            lock_key: lock_keys::MATCHMAKER_LEADER,
            identity: member.identity().clone(),
            direct: self.direct.clone().application_name(application_name),
            publisher: self.bus.publisher().clone(),
            wake: self.bus.subscribe(&[Topic::Leader], 4),
        };
        self.tasks.spawn(election.run(sender, stop.clone()));
        (receiver, stop)
    }

    /// A node whose heart beats until the token is cancelled.
    async fn beating(&self, node_id: &str, lease: Duration) -> anyhow::Result<(Arc<Membership>, CancellationToken)> {
        let node = self.register_as(Role::Match, node_id, lease).await?;
        let stop = self.stop.child_token();
        // Known by its name among the server's sessions.
        let direct = self.direct.clone().application_name(node_id);
        self.tasks.spawn(Arc::clone(&node).beat(direct, stop.clone()));
        Ok((node, stop))
    }

    /// Cuts a node's connection; it makes another one with its next heartbeat.
    async fn cut(&self, node_id: &str) -> anyhow::Result<()> {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()";
        sqlx::query(cut).bind(node_id).execute(&self.db.pool).await?;
        Ok(())
    }

    /// Whether the lock of a host is there, and that of who asks.
    async fn locked(&self, asking: &Membership, node_id: &str) -> anyhow::Result<(bool, bool)> {
        let seen = death::vitals(&self.db.pool, asking.identity()).await?;
        Ok((seen.hosts.iter().any(|host| host.node_id == node_id && host.locked), seen.own_lock))
    }

    async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.tasks.close();
        timeout(PATIENCE, self.tasks.wait()).await?;
        self.db.drop_now().await
    }
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let looking = async {
        while !look().await? {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| anyhow::bail!("in vain: {what}"))
}

async fn leads(watch: &mut watch::Receiver<Option<Leadership>>) -> anyhow::Result<Leadership> {
    let held = timeout(PATIENCE, watch.wait_for(Option::is_some)).await??;
    Ok(held.clone().expect("waited for one"))
}

#[tokio::test]
async fn a_resigned_leader_is_followed_by_the_standby_under_a_higher_term() -> anyhow::Result<()> {
    let play = Play::begin().await?;
    let (a, b) = (play.register("mm-a", PATIENCE).await?, play.register("mm-b", PATIENCE).await?);
    let (mut first, resign) = play.candidate(&a, "a");
    let old = leads(&mut first).await?;
    let (mut second, _) = play.candidate(&b, "b");
    assert!(second.borrow_and_update().is_none(), "one leads");
    resign.cancel();
    let new = leads(&mut second).await?;
    assert!(new.term > old.term && new.is_valid() && !old.is_valid());
    play.end().await
}

#[tokio::test]
async fn a_leader_that_lost_its_lock_cannot_write() -> anyhow::Result<()> {
    let play = Play::begin().await?;
    let (a, b) = (play.register("mm-a", PATIENCE).await?, play.register("mm-b", PATIENCE).await?);
    let (mut first, stand_down) = play.candidate(&a, "doomed");
    let old = leads(&mut first).await?;
    let mut connection = PgConnection::connect(&play.db.url).await?;
    let mut transaction = connection.begin().await?;
    old.fence(&mut transaction).await?;

    // The server takes the lock away while the old leader has a transaction open.
    let (mut second, _) = play.candidate(&b, "heir");
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'doomed' AND datname = current_database()")
        .execute(&play.db.pool)
        .await?;
    stand_down.cancel();
    // The heir's term waits for that transaction: what it writes is seen by the heir.
    sqlx::query("UPDATE nodes SET load = 42 WHERE node_id = 'mm-a'").execute(&mut *transaction).await?;
    transaction.commit().await?;
    let new = leads(&mut second).await?;
    let mut late = connection.begin().await?;
    assert!(matches!(old.fence(&mut late).await, Err(Error::Fenced { .. })));
    late.rollback().await?;
    new.fence(&mut connection).await?;
    assert!(new.term > old.term);
    play.end().await
}

#[tokio::test]
async fn a_new_incarnation_replaces_the_old_one_which_notices() -> anyhow::Result<()> {
    let play = Play::begin().await?;
    let lease = Duration::from_millis(600);
    let old = play.register("gw", lease).await?;
    let beating = tokio::spawn(Arc::clone(&old).beat(play.direct.clone(), play.stop.clone()));
    let new = play.register("gw", lease).await?;
    assert!(new.identity().incarnation > old.identity().incarnation);
    let ended = timeout(PATIENCE, beating).await??;
    assert!(matches!(ended, Err(Error::Replaced { .. })));
    play.end().await
}

#[tokio::test]
async fn the_directory_follows_states_and_leases() -> anyhow::Result<()> {
    let play = Play::begin().await?;
    let directory = Directory::load(&play.db.pool).await?;
    let wake = play.bus.subscribe(&[Topic::Nodes], 4);
    play.tasks.spawn(Arc::clone(&directory).follow(play.db.pool.clone(), wake, play.stop.clone()));
    let node = play.register("mm", Duration::from_secs(2)).await?;
    let stop = play.stop.child_token();
    play.tasks.spawn(Arc::clone(&node).beat(play.direct.clone(), stop.clone()));
    node.set_state(NodeState::Ready);
    let mut changes = directory.changes();
    let ready = || directory.by_role(Role::Matchmaker).len() == 1;
    timeout(PATIENCE, changes.wait_for(|_| ready())).await??;
    assert!(node.holds_lease());
    // The heart stops: its lease runs out by the database's clock.
    stop.cancel();
    timeout(PATIENCE, changes.wait_for(|_| !ready())).await??;
    assert!(directory::read(&play.db.pool).await?.iter().any(|n| n.node_id == "mm" && !n.alive));
    play.end().await
}

#[tokio::test]
async fn a_limit_of_the_cluster_is_shared_among_the_gateways_that_are_there() -> anyhow::Result<()> {
    let play = Play::begin().await?;
    let directory = Directory::load(&play.db.pool).await?;
    let wake = play.bus.subscribe(&[Topic::Nodes], 4);
    play.tasks.spawn(Arc::clone(&directory).follow(play.db.pool.clone(), wake, play.stop.clone()));
    let mut changes = directory.changes();
    assert_eq!(directory.gateways(), 1, "nobody shares with nobody");
    let mut gateways = Vec::new();
    for (role, name, count) in [
        (Role::Gateway, "gw-0", 1),
        (Role::Match, "match-0", 1),
        (Role::Gateway, "gw-1", 2),
        (Role::Gateway, "gw-2", 3),
    ] {
        let node = play.register_as(role, name, Duration::from_secs(2)).await?;
        let stop = play.stop.child_token();
        play.tasks.spawn(Arc::clone(&node).beat(play.direct.clone(), stop.clone()));
        node.set_state(NodeState::Ready);
        let known = || directory.get(name).is_some_and(|row| row.is_ready()) && directory.gateways() == count;
        timeout(PATIENCE, changes.wait_for(|_| known())).await??;
        gateways.push((node, stop));
    }
    // One says goodbye, the next drains, the last one dies.
    gateways[2].0.leave().await;
    timeout(PATIENCE, changes.wait_for(|_| directory.gateways() == 2)).await??;
    gateways[0].0.set_state(NodeState::Draining);
    timeout(PATIENCE, changes.wait_for(|_| directory.gateways() == 1)).await??;
    gateways[3].1.cancel();
    timeout(PATIENCE, changes.wait_for(|_| directory.get("gw-2").is_some_and(|row| !row.alive))).await??;
    assert_eq!(directory.gateways(), 1, "whoever asks counts themself");
    play.end().await
}

#[tokio::test]
async fn no_heartbeat_brings_back_who_has_left() -> anyhow::Result<()> {
    let play = Play::begin().await?;
    for round in 0..20 {
        let node = play.register("gw", Duration::from_secs(2)).await?;
        let beating = tokio::spawn(Arc::clone(&node).beat(play.direct.clone(), play.stop.child_token()));
        node.set_state(NodeState::Ready);
        while !directory::read(&play.db.pool).await?.iter().any(|n| n.is_ready()) {
            tokio::task::yield_now().await;
        }
        // The announcement is on its way when the farewell overtakes it.
        node.set_state(NodeState::Draining);
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        node.leave().await;
        timeout(PATIENCE, beating).await???;
        let rows = directory::read(&play.db.pool).await?;
        assert!(rows.iter().all(|n| n.state == "stopped" && !n.alive), "round {round}: {rows:?}");
    }
    play.end().await
}

#[tokio::test]
async fn a_lock_says_who_lives_and_a_refusal_that_nobody_listens() -> anyhow::Result<()> {
    let play = Play::begin().await?;
    let (asking, _) = play.beating("asking", PATIENCE).await?;
    let (_, stop) = play.beating("host", PATIENCE).await?;
    until("both have their locks", async || Ok(play.locked(&asking, "host").await? == (true, true))).await?;
    // It dies: its connection is closed with it, and the lease goes on for long.
    stop.cancel();
    until("its lock is gone", async || Ok(play.locked(&asking, "host").await? == (false, true))).await?;
    let seen = death::vitals(&play.db.pool, asking.identity()).await?;
    assert!(seen.hosts.iter().all(|host| host.leased && !host.draining));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    assert!(!death::is_refused(&address).await, "somebody listens, whether they answer or not");
    drop(listener);
    assert!(death::is_refused(&address).await);
    assert!(!death::is_refused("no address at all").await);
    play.end().await
}

#[tokio::test]
async fn a_node_that_was_declared_dead_and_lives_stops() -> anyhow::Result<()> {
    let play = Play::begin().await?;
    let lease = Duration::from_secs(3);
    let (asking, _) = play.beating("asking", lease).await?;
    let node = play.register_as(Role::Match, "host", lease).await?;
    let beating = tokio::spawn(Arc::clone(&node).beat(play.direct.clone().application_name("host"), play.stop.clone()));
    until("it has its lock", async || Ok(play.locked(&asking, "host").await?.0)).await?;
    let me = node.identity();
    let mut connection = PgConnection::connect(&play.db.url).await?;
    assert!(!death::declare(&mut connection, &me.node_id, me.incarnation).await?, "its lock is there");
    until("it is declared dead between two heartbeats", async || {
        play.cut("host").await?;
        Ok(death::declare(&mut connection, &me.node_id, me.incarnation).await?)
    })
    .await?;
    assert!(!death::declare(&mut connection, &me.node_id, me.incarnation).await?, "once");
    let ended = timeout(PATIENCE, beating).await??;
    assert!(matches!(ended, Err(Error::DeclaredDead { .. })), "{ended:?}");
    let rows = directory::read(&play.db.pool).await?;
    assert!(rows.iter().any(|n| n.node_id == "host" && n.state == "stopped" && !n.alive));
    play.end().await
}

#[tokio::test]
async fn who_lost_its_own_lock_judges_nobody_by_theirs() -> anyhow::Result<()> {
    let play = Play::begin().await?;
    let (asking, stop) = play.beating("asking", Duration::from_millis(900)).await?;
    assert!(!asking.may_judge_locks(), "it has only just come");
    until("it may judge", async || Ok(asking.may_judge_locks())).await?;
    assert!(asking.may_judge() && ops::witness(&asking).database);
    play.cut("asking").await?;
    until("it notices", async || Ok(!asking.may_judge_locks())).await?;
    until("it may judge again", async || Ok(asking.may_judge_locks())).await?;
    stop.cancel();
    until("it is no witness any more", async || Ok(!ops::witness(&asking).database)).await?;
    assert!(ops::witness(&asking).silent_ms >= 900);
    play.end().await
}
