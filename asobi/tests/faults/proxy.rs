//! The proxy itself: that its faults are what they are called, between a client and a server that echoes.

use std::{io::ErrorKind, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::support::{Cluster, PATIENCE, Proxy, proxy::Side, until};

/// How long nothing must come. Whatever does come through a healthy proxy is there after microseconds.
const NOTHING: Duration = Duration::from_millis(300);

/// A server that echoes and tells what it got, a proxy before it, and a client's connection through it.
struct Line {
    proxy: Proxy,
    address: String,
    client: TcpStream,
    server_got: mpsc::Receiver<Vec<u8>>,
}

impl Line {
    async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Proxy::start(listener.local_addr()?.to_string()).await?;
        let (got, server_got) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let got = got.clone();
                tokio::spawn(async move {
                    let mut chunk = [0; 64];
                    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
                        let _ = got.send(chunk[..n].to_vec()).await;
                        let _ = stream.write_all(&chunk[..n]).await;
                    }
                });
            }
        });
        let url = proxy.url("postgres://somebody@example.com/db")?;
        let address = url.trim_start_matches("postgres://somebody@").trim_end_matches("/db").to_owned();
        let client = TcpStream::connect(&address).await?;
        let mut line = Self { proxy, address, client, server_got };
        line.echo(b"hello").await?;
        Ok(line)
    }

    async fn echo(&mut self, word: &[u8]) -> anyhow::Result<()> {
        self.client.write_all(word).await?;
        assert_eq!(self.server_got().await, word);
        assert_eq!(self.read(word.len()).await?, word);
        Ok(())
    }

    async fn server_got(&mut self) -> Vec<u8> {
        timeout(PATIENCE, self.server_got.recv()).await.ok().flatten().expect("the server got something")
    }

    async fn read(&mut self, n: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        timeout(PATIENCE, self.client.read_exact(&mut bytes)).await.expect("an answer")?;
        Ok(bytes)
    }

    async fn hears_nothing(&mut self) -> bool {
        timeout(NOTHING, self.client.peek(&mut [0])).await.is_err()
    }
}

#[tokio::test]
async fn what_was_held_back_arrives_also_when_its_sender_has_gone() -> anyhow::Result<()> {
    let mut line = Line::open().await?;
    line.proxy.black_hole();
    line.client.write_all(b"late").await?;
    assert!(line.hears_nothing().await && line.server_got.try_recv().is_err());
    line.client.set_zero_linger()?;
    line.client = TcpStream::connect(&line.address).await?;
    line.client.write_all(b"new").await?;
    assert!(line.hears_nothing().await);
    line.proxy.heal();
    let mut both = [line.server_got().await, line.server_got().await];
    both.sort();
    assert_eq!(both, [b"late".to_vec(), b"new".to_vec()]);
    assert_eq!(line.read(3).await?, b"new");
    Ok(())
}

#[tokio::test]
async fn one_direction_alone_can_be_black() -> anyhow::Result<()> {
    let mut line = Line::open().await?;
    line.proxy.black_hole_towards(Side::Node);
    line.client.write_all(b"heard").await?;
    assert_eq!(line.server_got().await, b"heard");
    assert!(line.hears_nothing().await);
    line.proxy.heal();
    assert_eq!(line.read(5).await?, b"heard");
    line.proxy.black_hole_towards(Side::Database);
    line.client.write_all(b"lost").await?;
    assert!(line.hears_nothing().await);
    line.proxy.heal_by_reset();
    assert_eq!(line.read(1).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(line.server_got.try_recv().is_err(), "what a reset connection held is lost");
    Ok(())
}

#[tokio::test]
async fn a_cut_ends_in_order_a_reset_does_not_and_both_until_healed() -> anyhow::Result<()> {
    let mut line = Line::open().await?;
    line.proxy.cut();
    assert_eq!(line.read(1).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    line.client = TcpStream::connect(&line.address).await?;
    assert_eq!(line.read(1).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    line.proxy.heal();
    line.client = TcpStream::connect(&line.address).await?;
    line.echo(b"again").await?;
    // Healed in the same moment: what is open was still reset.
    line.proxy.reset();
    line.proxy.heal();
    assert_eq!(line.read(1).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    line.client = TcpStream::connect(&line.address).await?;
    line.echo(b"again").await
}

#[tokio::test]
async fn a_delay_holds_everything_for_its_time() -> anyhow::Result<()> {
    let mut line = Line::open().await?;
    let delay = Duration::from_millis(200);
    line.proxy.delay(delay);
    let started = std::time::Instant::now();
    line.echo(b"slow").await?;
    assert!(started.elapsed() >= 2 * delay);
    line.proxy.heal();
    line.echo(b"fast").await
}

#[tokio::test]
async fn a_node_behind_a_proxy_has_no_other_way_to_the_database() -> anyhow::Result<()> {
    let cluster = Cluster::new().gateways(2).gateways_only().proxied_nodes(&["gateway-1"]).start().await?;
    let sessions = async |node: &str| {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
        )
        .bind(format!("asobi/{node}"))
        .fetch_one(&cluster.database.pool)
        .await
    };
    assert!(sessions("gateway-0").await? > 0 && sessions("gateway-1").await? > 0);
    cluster.proxy("gateway-1").reset();
    until("its sessions end", async || Ok(sessions("gateway-1").await? == 0)).await?;
    assert!(sessions("gateway-0").await? > 0, "the other has its own way");
    assert!(cluster.player(1, "ada").await.is_err());
    cluster.player(0, "bo").await?;
    cluster.proxy("gateway-1").heal();
    until("it is back", async || Ok(cluster.player(1, "ada").await.is_ok())).await?;
    cluster.stop().await
}
