//! How a process is asked whether it is alive by what can only start programs: a container's health check, in an image
//! without a shell or a client for HTTP.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _},
    time::{Duration, Instant},
};

use crate::Config;

/// Longer than a live process needs by far, shorter than any supervisor's own patience.
const PATIENCE: Duration = Duration::from_secs(2);

/// No status line is as long.
const MOST_BYTES: usize = 128;

/// Asks `/live` of the process that runs with this configuration on this machine.
///
/// # Errors
/// A sentence: nobody answers there within two seconds, or not with 200.
pub fn live(config: &Config) -> Result<(), String> {
    let listen = &config.metrics.listen;
    if listen.ends_with(":0") {
        return Err(format!("metrics.listen is {listen}: nobody knows the port; set one"));
    }
    let asked = reach(listen).and_then(|address| status(address).map(|line| (address, line)));
    match asked {
        Ok((_, line)) if line.split(' ').nth(1) == Some("200") => Ok(()),
        Ok((address, line)) => Err(format!("http://{address}/live answers {line:?}")),
        Err(error) => Err(format!("http://{listen}/live does not answer: {error}")),
    }
}

/// Where a process that listens at `listen` is reached from its own machine.
fn reach(listen: &str) -> io::Result<SocketAddr> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut address = listen.to_socket_addrs()?.next().ok_or_else(none)?;
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(address)
}

/// The status line of `GET /live`. Whatever listens there: it gets [`PATIENCE`] for all of it, and [`MOST_BYTES`].
fn status(address: SocketAddr) -> io::Result<String> {
    let until = Instant::now() + PATIENCE;
    let left = || match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(format!("GET /live HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; MOST_BYTES];
    while !answer.contains(&b'\r') && answer.len() < MOST_BYTES {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut piece)? {
            0 => break,
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(&line[..line.len().min(MOST_BYTES)]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_everywhere_is_reached_on_this_machine() {
        assert_eq!(reach("0.0.0.0:9100").unwrap().to_string(), "127.0.0.1:9100");
        assert_eq!(reach("[::]:9100").unwrap().to_string(), "[::1]:9100");
        assert_eq!(reach("10.0.0.7:9100").unwrap().to_string(), "10.0.0.7:9100");
    }

    #[test]
    fn a_port_that_nobody_knows_is_not_asked() {
        let config = Config::with_sets([("metrics.listen", "127.0.0.1:0")]).unwrap();
        assert!(live(&config).unwrap_err().contains("set one"));
    }
}
