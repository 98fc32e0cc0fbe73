//! Listening sockets that the service manager opened, and keeps while this program restarts
//! (`sd_listen_fds(3)`).

use std::net::{TcpListener, UdpSocket};

use listenfd::ListenFd;

/// What the service manager passed on.
#[derive(Debug, Default)]
pub struct Passed {
    /// UDP sockets.
    pub udp: Vec<UdpSocket>,
    /// TCP listeners.
    pub tcp: Vec<TcpListener>,
    /// How many descriptors are neither; they are left alone.
    pub unfit: usize,
}

/// Takes what was passed on, and removes it from the environment; a second call finds nothing. To
/// be called before there are threads.
#[must_use]
pub fn take() -> Passed {
    let mut descriptors = ListenFd::from_env();
    let mut passed = Passed::default();
    for index in 0..descriptors.len() {
        if let Ok(Some(socket)) = descriptors.take_udp_socket(index) {
            passed.udp.push(socket);
        } else if let Ok(Some(listener)) = descriptors.take_tcp_listener(index) {
            passed.tcp.push(listener);
        } else {
            passed.unfit += 1;
        }
    }
    passed
}
