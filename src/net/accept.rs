//! Accepts connections, whatever fails: no error ends the loop, and none makes it spin.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use nix::libc;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::bind;

/// Pause after an error that lasts, such as having no file descriptor left.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// Connections lost in a row before that counts as an error that lasts.
const LOST_IN_A_ROW: u32 = 64;

/// What becomes of the connections that a listener accepts.
pub trait Welcome: Send + Sync + 'static {
    /// One has come. Must not block; `closing` changes when the listener is gone.
    fn welcome(&self, stream: TcpStream, address: SocketAddr, closing: &watch::Receiver<()>);

    /// One was not accepted. If that `lasts`, none is for a moment.
    fn not_accepted(&self, error: &io::Error, lasts: bool);
}

/// A listener at work. Dropped, it frees its address at once, unless it is held by somebody else,
/// too; what it accepted goes on.
#[derive(Debug)]
pub struct Accepting {
    /// The listener, if it is nobody else's.
    own: Option<std::net::TcpListener>,
    /// Dropping it tells the acceptor and every connection.
    open: Option<watch::Sender<()>>,
}

impl Accepting {
    /// Accepts connections on `address`, in a task on `runtime`. Returns the address in use, too.
    ///
    /// # Errors
    ///
    /// Why the address cannot be had.
    pub fn start(
        address: SocketAddr,
        runtime: &Handle,
        welcome: impl Welcome,
    ) -> io::Result<(SocketAddr, Self)> {
        let (listener, own) = if let Some(listener) = bind::held_tcp(address)? {
            (listener, None)
        } else {
            let listener = bind::tcp(address)?;
            let own = listener.try_clone()?;
            (listener, Some(own))
        };
        let local = listener.local_addr()?;
        let (open, closing) = watch::channel(());
        let _context = runtime.enter();
        runtime.spawn(accept(TcpListener::from_std(listener)?, welcome, closing));
        Ok((local, Self { own, open: Some(open) }))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.open = None;
        // The acceptor closes its descriptor when it next runs; the address must be free before.
        if let Some(own) = &self.own {
            let _ = socket2::SockRef::from(own).shutdown(Shutdown::Both);
        }
    }
}

async fn accept(listener: TcpListener, welcome: impl Welcome, mut closing: watch::Receiver<()>) {
    let mut lost = 0;
    loop {
        let accepted = tokio::select! {
            // A listener that was shut down fails to accept.
            biased;
            _ = closing.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                lost = 0;
                welcome.welcome(stream, address, &closing);
            }
            Err(error) if is_of_connection(&error) && lost < LOST_IN_A_ROW => {
                lost += 1;
                welcome.not_accepted(&error, false);
            }
            Err(error) => {
                welcome.not_accepted(&error, true);
                // It would come again at once.
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Whether the client, or the network before it, gave up between knocking and being let in:
/// accept(2) lists these as errors of the new connection, not of the listener.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EINTR
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPERM
                | libc::EPROTO
        )
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as Client;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn dropped_it_frees_its_address_and_tells_its_connections() {
        let (sender, mut came) = mpsc::unbounded_channel();
        let loopback = "127.0.0.1:0".parse().unwrap();
        let (address, accepting) =
            Accepting::start(loopback, &Handle::current(), Tell(sender)).unwrap();
        let client = Client::connect(address).unwrap();
        let (stream, from, mut closing) = came.recv().await.unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        assert!(!closing.has_changed().unwrap());

        drop(accepting);

        assert!(bind::tcp(address).is_ok());
        assert!(closing.changed().await.is_err());
        assert_eq!(stream.peer_addr().unwrap(), from, "it goes on");
    }

    struct Tell(mpsc::UnboundedSender<(TcpStream, SocketAddr, watch::Receiver<()>)>);

    impl Welcome for Tell {
        fn welcome(&self, stream: TcpStream, address: SocketAddr, closing: &watch::Receiver<()>) {
            self.0.send((stream, address, closing.clone())).unwrap();
        }

        fn not_accepted(&self, error: &io::Error, _: bool) {
            panic!("{error}");
        }
    }
}
