//! gRPC over TLS: who shows which certificate, and what becomes of them.

mod support;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use asobi_proto::ops_v1::{
    ListNodesRequest, Node, WitnessRequest, ops_service_client::OpsServiceClient, ops_service_server::OpsServiceServer,
};
use asobi_service_kit::{
    Readiness, Shutdown,
    grpc::{
        Access, Caller, Channels, ClusterChannel, Operators, Refusal, Shown, Tls, TlsFiles, Who, error_code,
        with_deadline,
    },
    server::{bind, serve_grpc},
};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use tonic::{Code, Request, Status, service::Routes};

use support::Ops;

const LONG: Duration = Duration::from_secs(30);
const KEY: &str = "a key of some length";

/// Who calls, as the only node's name.
fn caller(request: &Request<ListNodesRequest>) -> Result<Node, Status> {
    Ok(Node { node_id: Caller::of(request)?.to_string(), ..Node::default() })
}

#[derive(Debug, Default)]
struct Notes(Mutex<Vec<Refusal>>);

#[tonic::async_trait]
impl Operators for Notes {
    async fn bearer(&self, _: &str, _: Option<IpAddr>) -> Shown {
        Shown::Unknown
    }

    async fn read_keys(&self) {}

    fn refused(&self, refusal: Refusal) {
        self.0.lock().unwrap().push(refusal);
    }
}

/// An authority and a folder for what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = dir.join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    /// Signs a certificate for `localhost` with a URI, into `<name>.pem` and `<name>.key`.
    fn sign(&self, name: &str, uri: Option<&str>, adapt: impl FnOnce(&mut CertificateParams)) -> TlsFiles {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        adapt(&mut params);
        let key = KeyPair::generate().unwrap();
        let (cert, private) = (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}.key")));
        std::fs::write(&cert, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        TlsFiles { own: Some((cert, private)), ca: self.dir.join("ca.pem"), name: "localhost".to_owned() }
    }
}

async fn serve(tls: &Arc<Tls>, notes: &Arc<Notes>, shutdown: &Shutdown) -> SocketAddr {
    let (listener, address) = bind("grpc.listen", "127.0.0.1:0").await.unwrap();
    let operators = Arc::clone(notes) as Arc<dyn Operators>;
    let access = Access::new(KEY).and_operators(operators).over(Some(Arc::clone(tls)));
    serve_grpc(listener, Routes::new(OpsServiceServer::new(Ops(caller))), &Readiness::new(), access, shutdown);
    address
}

/// A fresh connection of whoever has these files.
fn as_one(address: SocketAddr, channels: Channels, files: TlsFiles) -> OpsServiceClient<ClusterChannel> {
    OpsServiceClient::new(channels.over(Some(Tls::load(files).unwrap())).get(&address.to_string()))
}

async fn who(mut client: OpsServiceClient<ClusterChannel>) -> Result<String, Status> {
    let answer = client.list_nodes(with_deadline(ListNodesRequest::default(), LONG)).await?;
    Ok(answer.into_inner().nodes[0].node_id.clone())
}

#[tokio::test]
async fn a_certificate_of_the_authority_says_who_calls() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ours");
    let node = ours.sign("node", Some("asobi://node"), |_| {});
    let (tls, notes, shutdown) = (Tls::load(node.clone()).unwrap(), Arc::default(), Shutdown::manual(LONG));
    let address = serve(&tls, &notes, &shutdown).await;

    assert_eq!(who(as_one(address, Channels::bare(), node.clone())).await.unwrap(), "node");
    let reader = ours.sign("ada", Some("asobi://operator/ada?scopes=read"), |_| {});
    let mut reader = as_one(address, Channels::bare(), reader);
    assert_eq!(who(reader.clone()).await.unwrap(), "cert:ada");
    let refused = reader.witness(with_deadline(WitnessRequest {}, LONG)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    // Without a certificate there are still the key and the need of one.
    let nobody = TlsFiles { own: None, ..node.clone() };
    assert_eq!(who(as_one(address, Channels::new(KEY), nobody.clone())).await.unwrap(), "node");
    let refused = who(as_one(address, Channels::bare(), nobody)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");

    // In plain text nobody is heard, and a server of another name is not believed.
    let plain = OpsServiceClient::new(Channels::new(KEY).get(&address.to_string()));
    let unheard = who(plain).await.unwrap_err();
    assert!(!matches!(unheard.code(), Code::Unauthenticated | Code::PermissionDenied), "{unheard}");
    let misled = TlsFiles { name: "elsewhere".to_owned(), ..node };
    assert_eq!(who(as_one(address, Channels::bare(), misled)).await.unwrap_err().code(), Code::Unavailable);
    shutdown.begin();
}

#[tokio::test]
async fn a_stranger_is_answered_and_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    let node = ours.sign("node", Some("asobi://node"), |_| {});
    let (tls, notes, shutdown) = (Tls::load(node.clone()).unwrap(), Arc::<Notes>::default(), Shutdown::manual(LONG));
    let address = serve(&tls, &notes, &shutdown).await;

    let past = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let server_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let strangers = [
        (theirs.sign("eve", Some("asobi://node"), |_| {}), "not of this cluster's authority"),
        (ours.sign("bo", None, |_| {}), "names no role"),
        (ours.sign("cy", Some("asobi://operator/cy?scopes=all"), |_| {}), "a scope other than"),
        (ours.sign("old", Some("asobi://node"), past), "has expired"),
        (ours.sign("web", Some("asobi://node"), server_only), "not made for clients"),
    ];
    for (files, says) in strangers {
        // They know whom they talk to; the key that they show, too, does not help.
        let files = TlsFiles { ca: node.ca.clone(), ..files };
        let refused = who(as_one(address, Channels::new(KEY), files)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains(says) && error_code(&refused).is_some(), "{refused}");
        let noted = notes.0.lock().unwrap().pop().expect("it was written down");
        assert!(noted.why.contains(says) && noted.action == "OpsService/ListNodes", "{noted:?}");
        assert!(matches!(&noted.who, Who::Certificate(subject) if subject.starts_with("CN=")), "{noted:?}");
        assert!(noted.from.is_some_and(|from| from.is_loopback()), "{noted:?}");
    }
    shutdown.begin();
}

#[tokio::test]
async fn changed_files_are_read_and_what_they_no_longer_cover_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (Authority::new(dir.path(), "before"), Authority::new(dir.path(), "after"));
    let node = before.sign("node", Some("asobi://node"), |_| {});
    let (tls, notes, shutdown) = (Tls::load(node.clone()).unwrap(), Arc::default(), Shutdown::manual(LONG));
    let address = serve(&tls, &notes, &shutdown).await;
    let old = as_one(address, Channels::bare(), node.clone());
    assert_eq!(who(old.clone()).await.unwrap(), "node");
    assert!(!tls.look().unwrap(), "nothing has changed");

    // A certificate without its key is an error, and the old pair stays.
    let next = after.sign("node", Some("asobi://node"), |_| {});
    let (Some((cert, key)), Some((next_cert, next_key))) = (&node.own, &next.own) else { panic!("both have one") };
    std::fs::copy(next_cert, cert).unwrap();
    std::fs::write(&node.ca, "longer than nothing, and no certificate").unwrap();
    assert!(tls.look().is_err());
    assert_eq!(who(old.clone()).await.unwrap(), "node");

    std::fs::copy(next_key, key).unwrap();
    std::fs::copy(&next.ca, &node.ca).unwrap();
    assert!(tls.look().unwrap());
    assert_eq!(who(as_one(address, Channels::bare(), next)).await.unwrap(), "node");
    let refused = who(old).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "its connection is open, its authority is gone: {refused}");
    shutdown.begin();
}

#[tokio::test]
async fn who_only_connects_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let node = Authority::new(dir.path(), "ours").sign("node", Some("asobi://node"), |_| {});
    let (tls, notes, shutdown) = (Tls::load(node.clone()).unwrap(), Arc::default(), Shutdown::manual(LONG));
    let address = serve(&tls, &notes, &shutdown).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(who(as_one(address, Channels::bare(), node)).await.unwrap(), "node");
    // Each of them is cut off when its time is over.
    for mut stream in silent {
        let mut end = [0; 1];
        let read = tokio::time::timeout(LONG, tokio::io::AsyncReadExt::read(&mut stream, &mut end)).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    }
    shutdown.begin();
}
