//! Time sources that say what they are told to.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use firstlight::clock::{Nanos, UnixTime};

use super::{Lab, truth};

/// From the start of NTP's era to that of Unix (RFC 5905 figure 4).
const NTP_TO_UNIX: i64 = 2_208_988_800;

/// What a source answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    /// DENY (RFC 5905 section 7.4).
    Deny,
    /// The time at which it hung.
    Frozen(UnixTime),
    /// A time this far from the truth.
    Off(Nanos),
    /// Nothing.
    Silent,
}

/// A stratum 1 server (RFC 5905 section 14).
#[derive(Debug)]
pub(crate) struct TimeSource {
    pub(crate) address: SocketAddr,
    says: Arc<Mutex<Says>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TimeSource {
    pub(crate) fn start(lab: &Lab, host: u8, says: Says) -> Self {
        let socket = UdpSocket::bind(lab.place(host, 1123)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let address = socket.local_addr().unwrap();
        let (says, stop) = (Arc::new(Mutex::new(says)), Arc::new(AtomicBool::new(false)));
        let (told, ended) = (Arc::clone(&says), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut request = [0; 128];
            while !ended.load(Ordering::Relaxed) {
                let Ok((48.., client)) = socket.recv_from(&mut request) else { continue };
                let time = match *told.lock().unwrap() {
                    Says::Frozen(time) => time,
                    Says::Off(off) => truth().offset(off),
                    Says::Deny | Says::Silent => truth(),
                };
                let mut reply = reply(&request, time);
                match *told.lock().unwrap() {
                    Says::Silent => continue,
                    Says::Deny => {
                        reply[1] = 0;
                        reply[12..16].copy_from_slice(b"DENY");
                    }
                    Says::Frozen(_) | Says::Off(_) => {}
                }
                drop(socket.send_to(&reply, client));
            }
        });
        Self { address, says, stop, thread: Some(thread) }
    }

    pub(crate) fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

impl Drop for TimeSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn reply(request: &[u8], time: UnixTime) -> [u8; 48] {
    let mut reply = [0; 48];
    // No warning, version 4, server; stratum 1; a poll of 64 s; good to a microsecond.
    reply[..4].copy_from_slice(&[0b00_100_100, 1, 6, 0xec]);
    // A root dispersion of about a millisecond.
    reply[11] = 66;
    reply[12..16].copy_from_slice(b"GPS\0");
    reply[16..24].copy_from_slice(&timestamp(time.offset(-1_000_000_000)));
    reply[24..32].copy_from_slice(&request[40..48]);
    reply[32..40].copy_from_slice(&timestamp(time));
    reply[40..].copy_from_slice(&timestamp(time));
    reply
}

/// The 32.32 format (RFC 5905 section 6), whatever the era.
fn timestamp(time: UnixTime) -> [u8; 8] {
    let seconds = (time.secs() + NTP_TO_UNIX).rem_euclid(1 << 32);
    let fraction = (time.nanos().rem_euclid(1_000_000_000) << 32) / 1_000_000_000;
    let whole = Nanos::from(seconds) << 32 | fraction;
    u64::try_from(whole).unwrap().to_be_bytes()
}
