//! The relay, over a real connection.

use std::{sync::Arc, time::Duration};

use asobi_proto::match_v1::{
    CreateMatchRequest, FrameKind, ProbeRequest, RelayDetach, RelayEnter, RelayHello, RelayInput, RelayLeave,
    RelayRequest, RelayResponse, match_host_service_client::MatchHostServiceClient,
    match_host_service_server::MatchHostServiceServer, relay_request::Kind, relay_response::Kind as Answer,
};
use asobi_service_kit::Shutdown;
use bytes::Bytes;
use serde_json::{Value as Json, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint, Server},
};
use uuid::Uuid;

use super::{
    super::{Host, MoveError},
    hosts::{diaries, host},
    player,
};
use crate::relay::HostService;

async fn serve(host: &Arc<Host>) -> (MatchHostServiceClient<Channel>, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let service = HostService {
        host: Arc::clone(host),
        named: Box::new(|node_id| Err(MoveError::NoSuchHost(node_id.to_owned()))),
        shutdown: Shutdown::manual(Duration::ZERO),
        stop: stop.clone(),
        tasks: TaskTracker::new(),
    };
    let serving = Server::builder()
        .add_service(MatchHostServiceServer::new(service))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = endpoint.connect().await.expect("connects");
    (MatchHostServiceClient::new(channel), stop)
}

fn create(id: u128, term: i64) -> CreateMatchRequest {
    CreateMatchRequest {
        teams: Vec::new(),
        match_id: Uuid::from_u128(id).to_string(),
        mode: "diary".into(),
        epoch: 1,
        term,
        host_incarnation: 7,
        players: vec![player(1).to_string(), player(2).to_string()],
        traceparent: String::new(),
        restore: false,
    }
}

struct Stream {
    out: mpsc::Sender<RelayRequest>,
    incoming: Streaming<RelayResponse>,
}

impl Stream {
    async fn open(client: &mut MatchHostServiceClient<Channel>) -> Self {
        let (out, queue) = mpsc::channel(16);
        let incoming = client.relay(ReceiverStream::new(queue)).await.expect("opens").into_inner();
        let stream = Self { out, incoming };
        stream.say(Kind::Hello(RelayHello { node_id: "g0".into(), incarnation: 3 })).await;
        stream
    }

    async fn say(&self, kind: Kind) {
        self.out.send(RelayRequest { kind: Some(kind) }).await.expect("sent");
    }

    async fn enter(&self, session: u64, match_id: u128, n: u128) {
        self.say(Kind::Enter(RelayEnter {
            session,
            request: session,
            match_id: Uuid::from_u128(match_id).to_string(),
            player_id: player(n).to_string(),
            join: false,
            ctx_json: Bytes::new(),
        }))
        .await;
    }

    /// The next answer that is of interest.
    async fn next<T>(&mut self, pick: impl Fn(Answer) -> Option<T>) -> T {
        let picking = async {
            loop {
                let message = self.incoming.message().await.expect("the stream holds").expect("the stream goes on");
                if let Some(picked) = message.kind.and_then(&pick) {
                    return picked;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), picking).await.expect("in time")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_match_is_played_over_a_stream() {
    let (host, rows) = host(diaries(), 5);
    let (mut client, stop) = serve(&host).await;
    client.create_match(create(1, 5)).await.expect("made");
    assert_eq!(client.create_match(create(2, 4)).await.expect_err("old").code(), Code::FailedPrecondition);
    let probe = ProbeRequest { match_id: Uuid::from_u128(1).to_string(), host_incarnation: 7 };
    let alive = client.probe(probe).await.expect("answers").into_inner();
    assert!(alive.running && alive.epoch == 1);

    let mut stream = Stream::open(&mut client).await;
    stream.enter(8, 99, 1).await;
    let refusal = stream.next(|a| if let Answer::Entered(e) = a { Some(e.refusal) } else { None }).await;
    assert_eq!(refusal, "match_not_found");
    for n in [1_u64, 2] {
        stream.enter(n, 1, u128::from(n)).await;
        let view = stream.next(|a| if let Answer::Entered(e) = a { Some(e.view) } else { None }).await;
        let view: Json = serde_json::from_slice(&view).expect("JSON");
        assert_eq!(view["player_count"], 2);
    }
    let state = |a| match a {
        Answer::Deliver(d) if d.kind() == FrameKind::State => Some(d),
        _ => None,
    };
    // Each player has a state of their own in this mode.
    assert_eq!(stream.next(state).await.sessions.len(), 1);
    stream.say(Kind::Detach(RelayDetach { session: 2, follows: false })).await;
    let input = Bytes::from_static(b"finish");
    stream.say(Kind::Input(RelayInput { session: 1, number: 1, payload: input, traceparent: None })).await;
    let finished = stream
        .next(|a| match a {
            Answer::Deliver(d) if d.frame.starts_with(b"{\"type\":\"match.finished\"") => Some(d),
            _ => None,
        })
        .await;
    assert_eq!((finished.sessions.as_slice(), finished.kind()), (&[1][..], FrameKind::Event));
    let result: Json = serde_json::from_slice(&finished.frame).expect("JSON");
    assert_eq!(result["payload"]["result"], json!({"winner": 1}));
    let dropped = stream.next(|a| if let Answer::Dropped(d) = a { Some(d.sessions) } else { None }).await;
    assert_eq!(dropped, [1]);
    assert!(rows.written.lock().iter().any(|w| w.starts_with("finish true")));
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        while let Ok(Some(_)) = stream.incoming.message().await {}
    });
    ended.await.expect("the stream ends with the host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_detaches_its_players() {
    let (host, _) = host(diaries(), 5);
    let (mut client, _stop) = serve(&host).await;
    client.create_match(create(1, 5)).await.expect("made");
    let mut stream = Stream::open(&mut client).await;
    stream.enter(1, 1, 1).await;
    stream.next(|a| matches!(a, Answer::Entered(_)).then_some(())).await;
    drop(stream);
    let mut other = Stream::open(&mut client).await;
    other.enter(2, 1, 2).await;
    let lost = |a| match a {
        Answer::Deliver(d) if d.frame.windows(6).any(|w| w == b"lost 1") => Some(()),
        _ => None,
    };
    other.next(lost).await;
    other.say(Kind::Leave(RelayLeave { session: 2, request: 77 })).await;
    let left = other.next(|a| if let Answer::Left(l) = a { Some(l.request) } else { None }).await;
    assert_eq!(left, 77);
}
