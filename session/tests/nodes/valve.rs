//! The way to the database, which a test can close: what is sent then waits, on connections old and new, until it opens.

use std::net::SocketAddr;

use asobi_store::testing::TestDatabase;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

pub struct Valve {
    open: watch::Sender<bool>,
    address: SocketAddr,
}

impl Valve {
    /// To the server that the URL names.
    pub async fn to(url: &str) -> anyhow::Result<Self> {
        let server = url.split('@').next_back().and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, open) = (listener.local_addr()?, watch::Sender::new(true));
        let state = open.subscribe();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&server).await else { continue };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(flow(near_read, far_write, state.clone()));
                tokio::spawn(flow(far_read, near_write, state.clone()));
            }
        });
        Ok(Self { open, address })
    }

    /// The database's URL by this way.
    pub fn url(&self, db: &TestDatabase) -> String {
        let (user, rest) = db.url.split_once('@').expect("the URL has a user");
        let name = rest.split_once('/').expect("the URL has a database").1;
        format!("{user}@{}/{name}", self.address)
    }

    pub fn close(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

async fn flow(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
