//! The header of the PROXY protocol, versions 1 and 2, with which a balancer begins a connection to say whom it stands for.
//! Exactly its bytes are read, so that whatever follows, such as a TLS handshake, is left to others.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use ppp::{HeaderResult, v1, v2};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

/// The longest of version 1, by its description.
const V1_BYTES: usize = 107;
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const V2_START: usize = 16;
/// What may follow the start of version 2: 216 bytes of addresses, and some of what else balancers tell, which nobody here reads.
const V2_REST: usize = 2_048;

/// Reads the header. `None`: the connection is the balancer's own, such as a check of health, or it does not say whose.
///
/// # Errors
/// There is no header, or none that can be understood.
pub(super) async fn read(tcp: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    // Shorter than the shortest of either version.
    let mut head = vec![0; V2_SIGNATURE.len()];
    tcp.read_exact(&mut head).await?;
    if head == V2_SIGNATURE {
        more(tcp, &mut head, V2_START - V2_SIGNATURE.len()).await?;
        let rest = usize::from(u16::from_be_bytes([head[V2_START - 2], head[V2_START - 1]]));
        if rest > V2_REST {
            return Err(wrong("it is too long"));
        }
        more(tcp, &mut head, rest).await?;
    } else if head.starts_with(b"PROXY ") {
        line(tcp, &mut head).await?;
    } else {
        return Err(wrong("there is none"));
    }
    understand(&head)
}

async fn more(tcp: &mut TcpStream, head: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
    let from = head.len();
    head.resize(from + bytes, 0);
    tcp.read_exact(&mut head[from..]).await.map(drop)
}

/// Reads up to the end of the line. What was looked at and is of the line is taken, so that the next look waits for more.
async fn line(tcp: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<()> {
    let mut seen = [0; V1_BYTES];
    while !head.ends_with(b"\n") {
        let room = V1_BYTES - head.len();
        if room == 0 {
            return Err(wrong("it is too long"));
        }
        let looked = tcp.peek(&mut seen[..room]).await?;
        if looked == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let of_line = seen[..looked].iter().position(|&byte| byte == b'\n').map_or(looked, |at| at + 1);
        more(tcp, head, of_line).await?;
    }
    Ok(())
}

fn understand(head: &[u8]) -> io::Result<Option<SocketAddr>> {
    match HeaderResult::parse(head) {
        HeaderResult::V1(Ok(header)) if header.header.len() == head.len() => Ok(match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(of) => Some(at(of.source_address.into(), of.source_port)),
            v1::Addresses::Tcp6(of) => Some(at(of.source_address.into(), of.source_port)),
        }),
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(None),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            v2::Addresses::IPv4(of) => Some(at(of.source_address.into(), of.source_port)),
            v2::Addresses::IPv6(of) => Some(at(of.source_address.into(), of.source_port)),
            v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
        }),
        HeaderResult::V1(_) => Err(wrong("it is none of version 1")),
        HeaderResult::V2(Err(error)) => Err(wrong(&error.to_string())),
    }
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the PROXY header: {why}"))
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    const LOCAL_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0";

    /// What is read of bytes that come in pieces, and what is left for whoever reads next.
    async fn sent(pieces: &[&[u8]]) -> (io::Result<Option<String>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let reading = async {
            let read = read(&mut server).await.map(|client| client.map(|client| client.to_string()));
            let mut left = Vec::new();
            let _ = server.read_to_end(&mut left).await;
            (read, left)
        };
        let writing = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        tokio::join!(reading, writing).0
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn both_versions_say_whom_they_stand_for_and_leave_the_rest() {
        let v4 = [1, 2, 3, 4, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        let with_more = [&v4[..], &[0x04, 0, 3, 0, 0, 0]].concat();
        let mut v6 = [0; 36];
        (v6[15], v6[32], v6[33]) = (1, 0, 9);
        let cases: [(Vec<u8>, Option<&str>); 9] = [
            (b"PROXY TCP4 1.2.3.4 10.0.0.1 4660 80\r\n".to_vec(), Some("1.2.3.4:4660")),
            (b"PROXY TCP6 2001:db8::1 ::1 9 80\r\n".to_vec(), Some("[2001:db8::1]:9")),
            (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 9 80\r\n".to_vec(), Some("1.2.3.4:9")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN 6.6.6.6 7.7.7.7 1 2\r\n".to_vec(), None),
            (v2(1, 0x11, &v4), Some("1.2.3.4:4660")),
            (v2(1, 0x11, &with_more), Some("1.2.3.4:4660")),
            (v2(1, 0x21, &v6), Some("[::1]:9")),
            (LOCAL_V2.to_vec(), None),
        ];
        for (header, client) in cases {
            let whole = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            let bytes: Vec<&[u8]> = whole.chunks(1).collect();
            for pieces in [vec![&whole[..]], bytes] {
                let (read, left) = sent(&pieces).await;
                assert_eq!(read.unwrap().as_deref(), client, "{:?}", String::from_utf8_lossy(&header));
                assert_eq!(left, b"GET / HTTP/1.1\r\n");
            }
        }
        // A check of health may say addresses; they are nobody's.
        assert_eq!(sent(&[&v2(0, 0x11, &v4)]).await.0.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 500]].concat();
        let wrong: [Vec<u8>; 12] = [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03rest".to_vec(),
            b"proxy TCP4 1.2.3.4 10.0.0.1 1 80\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 10.0.0.1 1 80\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 10.0.0.1 1 99999\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4\r 10.0.0.1 1 80\r\n".to_vec(),
            b"PROXY TCP4 ::1 10.0.0.1 1 80\r\n".to_vec(),
            b"PROXY X\r\nGET / HTTP/1.1\r\n".to_vec(),
            b"PROXY".to_vec(),
            endless,
            v2(1, 0x11, &[1, 2, 3]),
            v2(1, 0x11, &[0; V2_REST + 1]),
        ];
        for wrong in wrong {
            let (read, _) = sent(&[&wrong]).await;
            assert!(read.is_err(), "{:?}: {read:?}", String::from_utf8_lossy(&wrong));
        }
        for command in [2, 0xf] {
            assert!(sent(&[&v2(command, 0x11, &[0; 12])]).await.0.is_err());
        }
    }
}
