//! How servers are reached.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Deadlines;
use crate::metered::Purpose;
use crate::tls::Client;

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Names and connections.
pub trait Network: fmt::Debug + Send + Sync {
    /// The addresses of `name`, the best first. Local names, filters and the system's resolver have
    /// no part in it.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;

    /// A connection to `address`.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream: Box<dyn Stream> = Box::new(stream);
            Ok(stream)
        })
    }
}

/// What every connection is made with.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Our TLS, with the clock that judges dates.
    pub client: Client,
    /// Names and connections.
    pub network: Arc<dyn Network>,
    /// How long each step may take.
    pub deadlines: Deadlines,
    /// What its octets are counted for.
    pub purpose: Purpose,
}
