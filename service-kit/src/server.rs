//! Servers: bound first, then served until the drain, with the same defaults everywhere.

mod door;
mod grpc;
mod http;
mod incoming;
mod metrics;
mod proxy;
mod wire;

use std::net::SocketAddr;

use tokio::net::TcpListener;

pub use self::{
    door::Door,
    grpc::{serve_grpc, serve_grpc_until},
    http::{serve_http, serve_http_until, serve_players},
    metrics::serve_metrics,
};

/// An address that cannot be bound: which key it came from, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {source}")]
pub struct BindError {
    pub key: &'static str,
    pub address: String,
    pub source: std::io::Error,
}

/// Binds the address of a configuration key such as "http.listen". Port 0 takes a free one: the answer says which.
///
/// # Errors
/// [`BindError`], which names the key and the address.
pub async fn bind(key: &'static str, address: &str) -> Result<(TcpListener, SocketAddr), BindError> {
    let fail = |source| BindError { key, address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

/// How others reach an address that may be bound to all interfaces: `advertised` where it is not empty, else the bound
/// address, with the loopback address in place of an unspecified one.
pub fn reachable(bound: SocketAddr, advertised: &str) -> String {
    if !advertised.is_empty() {
        return advertised.to_owned();
    }
    let mut address = bound;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_reached_over_loopback() {
        let at = |bound: &str, advertised| reachable(bound.parse().unwrap(), advertised);
        assert_eq!(at("0.0.0.0:81", ""), "127.0.0.1:81");
        assert_eq!(at("[::]:81", ""), "[::1]:81");
        assert_eq!(at("10.0.0.1:81", ""), "10.0.0.1:81");
        assert_eq!(at("0.0.0.0:81", "node-1:81"), "node-1:81");
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_key() {
        let (_listener, address) = bind("http.listen", "127.0.0.1:0").await.unwrap();
        let error = bind("http.listen", &address.to_string()).await.unwrap_err().to_string();
        assert!(error.contains("http.listen") && error.contains(&address.to_string()), "{error}");
    }
}
