//! The way to a server that is not next door, and on which nothing may come through.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::{Lab, now};

/// Passes connections on to a server, late.
#[derive(Debug)]
pub(crate) struct Distance {
    pub(crate) address: SocketAddr,
    silent: watch::Sender<bool>,
}

impl Distance {
    /// `away`: how long an answer takes longer.
    pub(crate) fn start(
        lab: &Lab,
        host: u8,
        server: SocketAddr,
        away: Duration,
        runtime: &Handle,
    ) -> Self {
        let address = lab.place(host, 8853);
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let (silent, state) = watch::channel(false);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, away / 2, state.clone()));
            }
        });
        Self { address, silent }
    }

    /// Whether what is sent stays on the way until this ends.
    pub(crate) fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

async fn pass(
    client: TcpStream,
    server: SocketAddr,
    late: Duration,
    silent: watch::Receiver<bool>,
) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    tokio::try_join!(
        carry(from_client, to_server, late, silent.clone()),
        carry(from_server, to_client, late, silent),
    )?;
    Ok(())
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    late: Duration,
    mut silent: watch::Receiver<bool>,
) -> io::Result<()> {
    let (sender, mut underway) = mpsc::channel(1000);
    let leave = async move {
        loop {
            let mut octets = vec![0; 4096];
            let length = from.read(&mut octets).await?;
            octets.truncate(length);
            let due = Instant::from_std(now() + late);
            if length == 0 || sender.send((due, octets)).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let arrive = async move {
        while let Some((due, octets)) = underway.recv().await {
            sleep_until(due).await;
            drop(silent.wait_for(|silent| !silent).await);
            to.write_all(&octets).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(leave, arrive)?;
    Ok(())
}
