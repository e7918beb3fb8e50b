//! Servers: bound first, then served until the drain, with the same defaults everywhere.

mod door;
mod grpc;
mod http;
mod incoming;
mod metrics;
mod proxy;
mod wire;

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

pub use self::{
    door::Door,
    grpc::{serve_grpc, serve_grpc_until},
    http::{serve_http, serve_http_until, serve_players},
    metrics::serve_metrics,
};

/// Connections that may wait to be accepted; the system's own bound (net.core.somaxconn) is the same or less.
const BACKLOG: u32 = 4_096;

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
    let listener = listen(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

/// As `TcpListener::bind`, which leaves room for 128 connections that wait to be accepted. When everybody comes back at once that is full within
/// milliseconds, and who is dropped there tries again after one second, then two, then four.
async fn listen(address: &str) -> std::io::Result<TcpListener> {
    let mut last = std::io::Error::new(std::io::ErrorKind::InvalidInput, "the name has no address");
    for address in tokio::net::lookup_host(address).await? {
        let listening = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // A restart does not wait for what the system remembers of the last process's connections.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        match listening() {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
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
