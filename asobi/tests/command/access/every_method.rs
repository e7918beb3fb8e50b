//! Every method that operators may call, at real processes: who is let in, and that what is refused says why in a way that programs read.

use std::collections::BTreeMap;

use anyhow::Context as _;
use asobi_proto::scope::{Need, Scope, need};
use asobi_service_kit::grpc::{BearerToken, Channels, ClusterChannel, error_code};
use prost_reflect::DescriptorPool;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{super::support::Cluster, answer};

/// A call with an empty message; what it answers is not looked at.
async fn call(channel: ClusterChannel, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(());
    request.set_timeout(super::super::support::PATIENCE);
    let path = path.parse().map_err(|_| Status::internal("no path"))?;
    client.unary(request, path, ProstCodec::<(), ()>::default()).await.map(|_| ())
}

/// The unary methods with a scope. Those that stop something come last.
fn methods() -> anyhow::Result<Vec<(String, Scope)>> {
    let pool = DescriptorPool::decode(asobi_proto::FILE_DESCRIPTOR_SET)?;
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let unary = methods.filter(|method| !method.is_client_streaming() && !method.is_server_streaming());
    let paths = unary.map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()));
    let mut scoped: Vec<_> = paths
        .filter_map(|path| match need(&path) {
            Some(Need::Scope(scope)) => Some((path, scope)),
            _ => None,
        })
        .collect();
    scoped.sort_by_key(|(path, _)| path.contains("Drain"));
    Ok(scoped)
}

fn with(secret: &str) -> Channels {
    let token = BearerToken::default();
    token.set(secret);
    Channels::bearer(token)
}

#[tokio::test]
async fn every_refusal_says_why() -> anyhow::Result<()> {
    let cluster = Cluster::new().gateways(1).match_hosts(1).matchmakers(1).test_games().start().await?;
    cluster.leading_matchmaker().await?;
    let create = async |name: &str, scopes: &str| -> anyhow::Result<Channels> {
        let database = ["--database-url", cluster.database.url.as_str()];
        let made = answer([&["token", "create", name, "--scope", scopes], &database[..]].concat()).await?;
        Ok(with(made["token"].as_str().context("a secret")?))
    };
    let all = create("all", "read,operate,moderate,erase").await?;
    let mut lacking = BTreeMap::new();
    for scope in Scope::ALL {
        let others = Scope::ALL.into_iter().filter(|other| *other != scope).map(Scope::as_str);
        let name = format!("no-{scope}");
        lacking.insert(scope, create(&name, &others.collect::<Vec<_>>().join(",")).await?);
    }
    let roles = ["gateways", "match_hosts", "matchmakers", "social_services"];
    let processes: Vec<_> = roles.into_iter().flat_map(|role| cluster.processes(role)).filter_map(|p| p.grpc).collect();
    let (mut problems, mut refused) = (Vec::new(), 0);
    let methods = methods()?;
    for (path, scope) in &methods {
        let mut answered = false;
        for address in &processes {
            let nobody = call(Channels::bare().get(address), path).await;
            let other = call(lacking[scope].get(address), path).await;
            for (answer, code) in [(nobody, Code::Unauthenticated), (other, Code::PermissionDenied)] {
                match answer {
                    Err(status) if status.code() == code && error_code(&status).is_some() => {}
                    answer => problems.push(format!("{path} at {address}, which should be {code:?}: {answer:?}")),
                }
            }
            match call(all.get(address), path).await {
                Err(status) if status.code() == Code::Unimplemented => continue,
                Err(status) if error_code(&status).is_none() => {
                    problems.push(format!("{path} refuses without a code: {:?} {}", status.code(), status.message()));
                }
                Err(_) => refused += 1,
                Ok(()) => {}
            }
            answered = true;
            break;
        }
        if !answered {
            problems.push(format!("{path} is answered by nobody"));
        }
    }
    assert!(refused > 5, "most have to be told whom or what: {refused} of {}", methods.len());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    cluster.stop().await
}
