//! Calls to the social service, and what their failures are to clients.

use std::{future::Future, sync::Arc, time::Duration};

use asobi_cluster::{
    Directory,
    social::{SocialError, SocialNodes},
};
use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        friend_service_client::FriendServiceClient, group_service_client::GroupServiceClient,
        leaderboard_service_client::LeaderboardServiceClient, moderation_service_client::ModerationServiceClient,
        notification_service_client::NotificationServiceClient,
    },
};
use asobi_service_kit::grpc::{Channels, ClusterChannel, error_code};
use tonic::{Request, Response, Status};

pub(crate) use asobi_cluster::social::Repeat;

use crate::{
    error::{ApiError, Result},
    render::grpc_error,
};

pub(crate) struct Social(SocialNodes);

/// The calls of one service: to some node, the same for one key as long as the nodes stay the same.
macro_rules! service {
    ($name:ident, $client:ident) => {
        pub async fn $name<M, T, F>(
            &self,
            key: &str,
            repeat: Repeat,
            message: M,
            call: impl Fn($client<ClusterChannel>, Request<M>) -> F,
        ) -> Result<T>
        where
            M: Clone,
            F: Future<Output = Result<Response<T>, Status>>,
        {
            let answered =
                self.0.call(key, repeat, message, |channel, request| call($client::new(channel), request)).await;
            answered.map_err(|error| failure(&error))
        }
    };
}

impl Social {
    pub fn new(directory: Arc<Directory>, channels: Channels, timeout: Duration) -> Self {
        Self(SocialNodes::new(directory, channels, timeout))
    }

    /// Whether any node is believed to be there.
    pub fn is_there(&self) -> bool {
        self.0.are_there()
    }

    service!(friends, FriendServiceClient);
    service!(groups, GroupServiceClient);
    service!(notifications, NotificationServiceClient);
    service!(boards, LeaderboardServiceClient);
    service!(moderation, ModerationServiceClient);
}

fn failure(error: &SocialError) -> ApiError {
    match error {
        SocialError::Nobody => {
            metrics::counter!("asobi_rest_social_refused_total").increment(1);
            ApiError::not_ready("No social service is there; please try again.")
        }
        SocialError::Refused(status) if error_code(status) == Some(ErrorCode::NOT_READY) => {
            ApiError::not_ready("The social service has no database; please try again.")
        }
        // Also where a connection broke under the call, which has no code of its own.
        SocialError::Away(status) => {
            tracing::warn!(%status, "The social service did not answer.");
            ApiError::not_ready("The social service does not answer; please try again.")
        }
        SocialError::Refused(status) => grpc_error(status),
    }
}
