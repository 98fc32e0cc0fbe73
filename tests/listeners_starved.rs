//! The listeners without file descriptors. In a process of its own: the limit holds for all of it.
#![expect(clippy::unwrap_used, reason = "test code")]

mod script;

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use firstlight::dns::listen::Limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use script::open;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn without_file_descriptors_nothing_spins_udp_answers_and_connections_come_back() {
    let limits = Limits { idle_pressed: Duration::from_millis(400), ..Limits::default() };
    let (listeners, _script, _) = open("127.0.0.1", limits);
    let tcp = listeners.tcp()[0];
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    udp.connect(listeners.places().dns[0]).await.unwrap();
    let errors = || listeners.counters().accept_errors.load(Ordering::Relaxed);

    // Room for one connection with both its ends, and for the client's end of another.
    let _files = leave_descriptors(3);
    let _first = TcpStream::connect(tcp).await.unwrap();
    while listeners.connections() < 1 {
        sleep(Duration::from_millis(5)).await;
    }
    let mut second = TcpStream::connect(tcp).await.unwrap();

    while errors() < 1 {
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_millis(200)).await;
    assert!(errors() <= 4, "{} failures to accept in 200 ms", errors());
    udp.send(QUERY).await.unwrap();
    assert!(timeout(Duration::from_secs(10), udp.recv(&mut [0; 512])).await.is_ok());

    // The first one idles, and is closed sooner than otherwise.
    second.write_all(&[&[0, QUERY_LEN], QUERY].concat()).await.unwrap();
    let answered = timeout(Duration::from_secs(10), second.read(&mut [0; 512])).await;
    assert!(answered.unwrap().unwrap() > 0);
}

/// A question for the A record of `quick.`.
const QUERY: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x05quick\0\0\x01\0\x01";
const QUERY_LEN: u8 = 23;

/// Leaves this process room for `count` more file descriptors, for as long as the files live.
fn leave_descriptors(count: u64) -> Vec<fs::File> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let numbers = descriptors.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let highest: u64 = numbers.max().unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, highest + 1 + count, most).unwrap();
    // Fill the gaps below, and what is above, except for the number asked for.
    let mut files = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        files.push(file);
    }
    files.truncate(files.len() - usize::try_from(count).unwrap());
    files
}
