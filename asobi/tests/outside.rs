//! What games can ask, asked of a real social service.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use asobi_cluster::Directory;
use asobi_match_service::{
    game::{Ask, Outside as _},
    outside::Services,
};
use asobi_service_kit::{ConfigArgs, Shutdown, config::load, grpc::Channels};
use asobi_store::{
    effects::{self, Effect},
    testing::TestDatabase,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(30);

struct Social {
    shutdown: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Social {
    fn start(database: &TestDatabase, node_id: &str) -> anyhow::Result<Self> {
        let set = ["grpc.listen=127.0.0.1:0", "metrics.listen=127.0.0.1:0", &format!("cluster.key={KEY}")];
        let args = ConfigArgs {
            set: set.map(ToOwned::to_owned).into(),
            database_url: Some(database.url.clone()),
            node_id: Some(node_id.into()),
            ..ConfigArgs::default()
        };
        let config = Arc::new(load(&args).map_err(|errors| anyhow::anyhow!("{errors}"))?);
        let shutdown = Shutdown::manual(Duration::from_secs(8));
        let running = tokio::spawn(asobi_social_service::run(config, shutdown.clone()));
        Ok(Self { shutdown, running })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.begin();
        self.running.await??;
        self.shutdown.finished().await;
        Ok(())
    }
}

async fn until<T>(what: &str, look: impl AsyncFn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let looking = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            again.tick().await;
            if let Some(seen) = look().await? {
                return Ok(seen);
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| anyhow::bail!("in vain: {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_of_a_match_are_seen_by_the_next_one_whichever_service_is_left() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let (one, two) = (Social::start(&database, "one")?, Social::start(&database, "two")?);
    let directory = until("both are ready", async || {
        let directory = Directory::load(&database.pool).await?;
        Ok((directory.by_role(asobi_cluster::Role::Social).len() == 2).then_some(directory))
    })
    .await?;
    let services = Services::new(database.pool.clone(), directory, Channels::new(KEY));
    let (ada, bo) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let rank = |player| Ask::Rank { board: "arena".into(), player };
    assert_eq!(services.ask(rank(ada)).await?, "null");

    let score = |ordinal, player: Uuid, score| -> anyhow::Result<Effect> {
        let body = serde_json::from_value(json!({"board": "arena", "player_id": player, "score": score}))?;
        Ok(Effect { ordinal, body: asobi_proto::effect::EffectBody::Score(body) })
    };
    let won = [score(1, ada, 7)?, score(2, bo, 9)?];
    let mut tx = database.pool.begin().await?;
    effects::insert_many(&mut tx, &won.each_ref().map(|effect| (Uuid::from_u128(9), effect))).await?;
    tx.commit().await?;

    let top = async || -> anyhow::Result<Option<Value>> {
        // A first look at a board may take longer than a match waits.
        let Ok(answer) = services.ask(Ask::Top { board: "arena".into(), n: 5 }).await else { return Ok(None) };
        let entries: Value = serde_json::from_str(&answer)?;
        Ok((entries.as_array().map(Vec::len) == Some(2)).then_some(entries))
    };
    let entries = until("both scores are there", &top).await?;
    let bos = &entries[0];
    ensure!(bos["updated_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{bos}");
    assert_eq!(
        [&bos["leaderboard_id"], &bos["player_id"], &bos["score"], &bos["sub_score"], &bos["rank"]],
        [&json!("arena"), &json!(bo), &json!(9), &json!(0), &json!(1)]
    );

    // The directory is as it was: one of the two it names is gone.
    one.stop().await?;
    let again = until("the other one answers", &top).await?;
    assert_eq!(again, entries);
    let answer: Value = serde_json::from_str(&services.ask(rank(ada)).await?)?;
    assert_eq!((&answer["rank"], &answer["score"]), (&json!(2), &json!(7)));
    let around = services.ask(Ask::Around { board: "arena".into(), player: ada, n: 1 }).await?;
    assert_eq!(serde_json::from_str::<Value>(&around)?, entries);
    two.stop().await?;
    database.drop_now().await
}
