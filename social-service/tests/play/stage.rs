//! A service on a fresh database, and its APIs as other processes call them.

use std::{sync::Arc, time::Duration};

use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        AddFriendRequest, AnswerFriendRequest, FriendStatus, Friendship, LeaderboardEntry, ListFriendsRequest,
        ListTopRequest, RemoveFriendRequest, SubmitScoreRequest, friend_service_client::FriendServiceClient,
        group_admin_service_client::GroupAdminServiceClient, group_service_client::GroupServiceClient,
        leaderboard_admin_service_client::LeaderboardAdminServiceClient,
        leaderboard_service_client::LeaderboardServiceClient,
        notification_admin_service_client::NotificationAdminServiceClient,
        notification_service_client::NotificationServiceClient,
    },
};
use asobi_service_kit::{
    ConfigArgs, Shutdown,
    config::load,
    grpc::{Channels, ClusterChannel, error_code},
};
use asobi_store::testing::TestDatabase;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tonic::Status;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Service {
    shutdown: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
    channel: ClusterChannel,
}

impl Service {
    pub async fn start(database: &TestDatabase, node_id: &str) -> anyhow::Result<Self> {
        Self::start_with(database, node_id, &[]).await
    }

    /// With settings, each `key=value`.
    pub async fn start_with(database: &TestDatabase, node_id: &str, set: &[&str]) -> anyhow::Result<Self> {
        Self::start_at(&database.url, &database.pool, node_id, set).await
    }

    /// On a database that is no test's own.
    pub async fn start_at(url: &str, pool: &PgPool, node_id: &str, set: &[&str]) -> anyhow::Result<Self> {
        let usual =
            ["grpc.listen=127.0.0.1:0", "metrics.listen=127.0.0.1:0", "cluster.key=0123456789abcdef0123456789abcdef"];
        let args = ConfigArgs {
            set: usual.iter().chain(set).map(|set| (*set).to_owned()).collect(),
            database_url: Some(url.to_owned()),
            node_id: Some(node_id.into()),
            ..ConfigArgs::default()
        };
        let config = Arc::new(load(&args).map_err(|errors| anyhow::anyhow!("{errors}"))?);
        let shutdown = Shutdown::manual(Duration::from_secs(8));
        let running = tokio::spawn(asobi_social_service::run(config, shutdown.clone()));
        let address: String = until("the service is ready", async || {
            let ready = sqlx::query_scalar("SELECT grpc_addr FROM nodes WHERE node_id = $1 AND state = 'ready'");
            Ok(ready.bind(node_id).fetch_optional(pool).await?)
        })
        .await?;
        let channel = Channels::new("0123456789abcdef0123456789abcdef").get(&address);
        Ok(Self { shutdown, running, channel })
    }

    pub fn channel(&self) -> ClusterChannel {
        self.channel.clone()
    }

    pub fn friends(&self) -> FriendServiceClient<ClusterChannel> {
        FriendServiceClient::new(self.channel.clone())
    }

    pub fn groups(&self) -> GroupServiceClient<ClusterChannel> {
        GroupServiceClient::new(self.channel.clone())
    }

    pub fn notifications(&self) -> NotificationServiceClient<ClusterChannel> {
        NotificationServiceClient::new(self.channel.clone())
    }

    pub fn group_admin(&self) -> GroupAdminServiceClient<ClusterChannel> {
        GroupAdminServiceClient::new(self.channel.clone())
    }

    pub fn notification_admin(&self) -> NotificationAdminServiceClient<ClusterChannel> {
        NotificationAdminServiceClient::new(self.channel.clone())
    }

    pub fn board_admin(&self) -> LeaderboardAdminServiceClient<ClusterChannel> {
        LeaderboardAdminServiceClient::new(self.channel.clone())
    }

    pub fn boards(&self) -> LeaderboardServiceClient<ClusterChannel> {
        LeaderboardServiceClient::new(self.channel.clone())
    }

    pub async fn add(&self, player: Uuid, friend: Uuid) -> Result<Friendship, Status> {
        let request = AddFriendRequest { player_id: player.to_string(), friend_id: friend.to_string() };
        Ok(self.friends().add_friend(request).await?.into_inner().friendship.unwrap_or_default())
    }

    pub async fn answer(&self, player: Uuid, friend: Uuid, status: FriendStatus) -> Result<Friendship, Status> {
        let request =
            AnswerFriendRequest { player_id: player.to_string(), friend_id: friend.to_string(), status: status.into() };
        Ok(self.friends().answer_friend(request).await?.into_inner().friendship.unwrap_or_default())
    }

    pub async fn remove(&self, player: Uuid, friend: Uuid) -> Result<(), Status> {
        let request = RemoveFriendRequest { player_id: player.to_string(), friend_id: friend.to_string() };
        self.friends().remove_friend(request).await.map(drop)
    }

    pub async fn list(&self, player: Uuid) -> Result<Vec<Friendship>, Status> {
        let request = ListFriendsRequest { player_id: player.to_string(), ..ListFriendsRequest::default() };
        Ok(self.friends().list_friends(request).await?.into_inner().friends)
    }

    pub async fn submit(
        &self,
        board: &str,
        player: Uuid,
        score: f64,
        sub_score: f64,
    ) -> Result<LeaderboardEntry, Status> {
        let request = SubmitScoreRequest {
            leaderboard_id: board.into(),
            player_id: player.to_string(),
            score,
            sub_score,
            ..Default::default()
        };
        Ok(self.boards().submit_score(request).await?.into_inner().entry.unwrap_or_default())
    }

    pub async fn top(&self, board: &str, limit: i32) -> Result<Vec<(String, f64, i64)>, Status> {
        let request = ListTopRequest { leaderboard_id: board.into(), limit, period: None };
        let entries = self.boards().list_top(request).await?.into_inner().entries;
        Ok(entries.into_iter().map(|e| (e.player_id, e.score, e.rank)).collect())
    }

    pub async fn drain(self) -> anyhow::Result<()> {
        self.shutdown.begin();
        self.running.await??;
        self.shutdown.finished().await;
        anyhow::ensure!(!self.shutdown.failed() && !self.shutdown.cut().is_cancelled(), "it did not end well");
        Ok(())
    }
}

/// Asks until there is an answer.
pub async fn until<T>(what: &str, look: impl AsyncFn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
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

pub async fn player(database: &TestDatabase) -> anyhow::Result<Uuid> {
    let id = Uuid::now_v7();
    let insert = sqlx::query("INSERT INTO players (id, username) VALUES ($1, $1::text)");
    insert.bind(id).execute(&database.pool).await?;
    Ok(id)
}

pub fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Option<ErrorCode> {
    error_code(&result.expect_err("refused"))
}
