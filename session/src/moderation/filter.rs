//! The studio's own filter, asked over gRPC about each text, with a deadline, a bound and a breaker.
//!
//! | what happens | what becomes of the text |
//! | --- | --- |
//! | it answers in time | what it says |
//! | it does not, or says what makes no sense | `chat.filter_on_failure`: it stays as it is, or is not said and may be tried again |
//! | as many are asked about as may be at once | the same |
//! | it has failed a few times in a row | the same, at once; one text a second finds out whether it is back |

use std::time::{Duration, Instant};

use asobi_cluster::breaker::Breakers;
use asobi_proto::social_v1::{
    CheckTextRequest, CheckTextResponse, TextKind, TextVerdict, text_filter_service_client::TextFilterServiceClient,
};
use asobi_service_kit::{Config, config::OnFailure, grpc::with_deadline};
use tokio::sync::Semaphore;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use super::Judged;

const CONNECT: Duration = Duration::from_secs(1);

pub(super) struct Filter {
    client: TextFilterServiceClient<Channel>,
    url: String,
    timeout: Duration,
    on_failure: OnFailure,
    /// Full: counts as a failure.
    in_flight: Semaphore,
    breakers: Breakers,
    /// Of what it may answer.
    most_bytes: usize,
}

impl Filter {
    /// None: the operator has none.
    pub fn new(config: &Config) -> Option<Self> {
        let chat = &config.chat;
        if chat.filter_url.is_empty() {
            return None;
        }
        // A URL that is none becomes one nobody answers: one kind of failure, not two.
        let endpoint = Endpoint::from_shared(chat.filter_url.clone()).unwrap_or_else(|error| {
            tracing::error!(%error, "chat.filter_url cannot be called.");
            Endpoint::from_static("http://invalid.invalid:0")
        });
        let channel = endpoint.connect_timeout(CONNECT).tcp_nodelay(true).connect_lazy();
        Some(Self {
            client: TextFilterServiceClient::new(channel),
            url: chat.filter_url.clone(),
            timeout: chat.filter_timeout(),
            on_failure: chat.filter_on_failure,
            in_flight: Semaphore::new(chat.filter_in_flight),
            breakers: Breakers::default(),
            most_bytes: config.limits.chat_bytes,
        })
    }

    pub async fn check(&self, kind: TextKind, player: Uuid, channel: &str, text: &str) -> Judged {
        let Ok(_permit) = self.in_flight.try_acquire() else { return self.failed("busy") };
        if !self.breakers.admits(&self.url, Instant::now()) {
            return self.failed("broken");
        }
        let request = CheckTextRequest {
            kind: kind.into(),
            player_id: player.to_string(),
            channel_id: channel.to_owned(),
            text: text.to_owned(),
        };
        let mut client = self.client.clone();
        let asked = client.check_text(with_deadline(request, self.timeout));
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(Ok(response)) => {
                self.breakers.answered(&self.url);
                self.judged(response.into_inner())
            }
            Ok(Err(status)) => {
                tracing::debug!(%status, "The filter refuses to judge a text.");
                self.breakers.failed(&self.url, Instant::now());
                self.failed("failed")
            }
            Err(_) => {
                self.breakers.failed(&self.url, Instant::now());
                self.failed("late")
            }
        }
    }

    fn judged(&self, answer: CheckTextResponse) -> Judged {
        let fits = |text: &str| !text.is_empty() && text.len() <= self.most_bytes && !text.contains('\0');
        let judged = match answer.verdict() {
            TextVerdict::Allow => Judged::Clean,
            TextVerdict::Refuse => Judged::Refused,
            TextVerdict::Replace if fits(&answer.replacement) => Judged::Changed(answer.replacement),
            TextVerdict::Replace | TextVerdict::Unspecified => return self.failed("senseless"),
        };
        let outcome = match judged {
            Judged::Clean => "allowed",
            Judged::Changed(_) => "replaced",
            Judged::Refused | Judged::Unavailable => "refused",
        };
        metrics::counter!("asobi_chat_filter_total", "outcome" => outcome).increment(1);
        judged
    }

    fn failed(&self, why: &'static str) -> Judged {
        metrics::counter!("asobi_chat_filter_total", "outcome" => why).increment(1);
        match self.on_failure {
            OnFailure::Allow => Judged::Clean,
            OnFailure::Refuse => Judged::Unavailable,
        }
    }
}
