//! The daemon's side of the control socket.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::admin::{Control, MAX_CLIENTS, MAX_REQUEST, Peer, Policy, Reason, Request, Response};

/// How long to wait before accepting again when the system cannot.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers clients until it is dropped.
pub async fn serve(listener: UnixListener, control: Arc<dyn Control>, policy: Policy) -> ! {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept clients");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            turn_away(stream);
            continue;
        };
        let (control, policy) = (Arc::clone(&control), policy.clone());
        tokio::spawn(async move {
            if let Err(error) = exchange(stream, &*control, policy).await {
                tracing::debug!(%error, "a client of the control socket was lost");
            }
            drop(slot);
        });
    }
}

/// Tells a client that there are too many, without waiting for it.
fn turn_away(stream: UnixStream) {
    let message = format!("{MAX_CLIENTS} clients are being served; try again in a moment");
    let told = stream.into_std().and_then(|mut stream| {
        // The first line fits into the socket's empty buffer.
        stream.write_all(&line(&Response::refused(Reason::Busy, message))?)
    });
    if let Err(error) = told {
        tracing::debug!(%error, "a client of the control socket could not be turned away");
    }
}

async fn exchange(stream: UnixStream, control: &dyn Control, policy: Policy) -> io::Result<()> {
    let credentials = stream.peer_cred()?;
    let peer = Peer { uid: credentials.uid(), gid: credentials.gid() };
    let deadline = policy.deadline;
    let mut stream = BufReader::new(stream);
    let answered = timeout(deadline, answer(&mut stream, peer, control, policy)).await;
    let response = answered.unwrap_or_else(|_| {
        let message = format!("it took more than {} s", deadline.as_secs());
        Ok(Response::refused(Reason::TimedOut, message))
    })?;
    timeout(deadline, stream.write_all(&line(&response)?)).await?
}

async fn answer(
    stream: &mut BufReader<UnixStream>,
    peer: Peer,
    control: &dyn Control,
    policy: Policy,
) -> io::Result<Response> {
    let mut request = Vec::new();
    let limit = u64::try_from(MAX_REQUEST + 1).unwrap_or(u64::MAX);
    stream.take(limit).read_until(b'\n', &mut request).await?;
    if request.len() > MAX_REQUEST {
        let message = format!("the request is longer than {MAX_REQUEST} octets");
        return Ok(Response::refused(Reason::Malformed, message));
    }
    let request: Request = match serde_json::from_slice(&request) {
        Ok(request) => request,
        Err(error) => {
            let message = format!("this is no request: {error}");
            return Ok(Response::refused(Reason::Malformed, message));
        }
    };
    let privileged = spawn_blocking(move || policy.may_change(peer)).await.unwrap_or(false);
    if request.needs_privilege() && !privileged {
        let message = format!(
            "user {} may not do this; root, the daemon's user and members of control.group may",
            peer.uid
        );
        return Ok(Response::refused(Reason::Denied, message));
    }
    Ok(control.handle(request, privileged).await)
}

fn line(response: &Response) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::{Value, json};

    use super::*;
    use crate::admin::client::{CallError, call};
    use crate::admin::{BoxFuture, Health, bind};

    const QUICK: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_request_reaches_the_daemon_and_its_answer_the_client() {
        let daemon = Daemon::start(Policy::decided_by(|_| true)).await;

        let health = daemon.call(Request::Health { kind: Health::Dns }).await;
        let flush = daemon.call(Request::Flush { name: None, subtree: false }).await;

        assert_eq!(health.unwrap(), json!({"asked": {"health": {"kind": "dns"}}, "may": true}));
        assert_eq!(
            flush.unwrap(),
            json!({"asked": {"flush": {"name": null, "subtree": false}}, "may": true})
        );
    }

    #[tokio::test]
    async fn without_privilege_one_may_look_and_not_touch() {
        let daemon = Daemon::start(Policy::decided_by(|_| false)).await;

        assert_eq!(
            daemon.call(Request::Status).await.unwrap(),
            json!({"asked": "status", "may": false})
        );
        for request in [
            Request::Reload,
            Request::Rehearse,
            Request::Renew,
            Request::SetFloor { seconds: 0 },
            Request::Flush { name: None, subtree: false },
            Request::Cache { name: Some("example.net".to_owned()) },
        ] {
            assert_eq!(refusal(daemon.call(request).await), Reason::Denied);
        }
    }

    #[tokio::test]
    async fn the_kernel_says_who_asks() {
        let us = nix::unistd::getuid().as_raw();
        let daemon = Daemon::start(Policy::decided_by(move |peer| peer.uid == us)).await;

        daemon.call(Request::Reload).await.unwrap();
    }

    #[tokio::test]
    async fn garbage_and_overlong_requests_are_refused_in_words() {
        let daemon = Daemon::start(Policy::decided_by(|_| true)).await;
        let long = [b"\"".as_slice(), &vec![b'a'; MAX_REQUEST], b"\"\n"].concat();

        for request in [&b"status\n"[..], b"\xff\0\n", b"\"fly\"\n", b"\n", b"{\"reload\":1}\n"] {
            let answer = daemon.say(request).await;
            assert!(answer.starts_with("{\"refused\":{\"reason\":\"malformed\""), "{answer}");
        }
        let answer = daemon.say(&long).await;
        assert!(answer.contains("longer than 65536 octets"), "{answer}");
    }

    #[tokio::test]
    async fn a_slow_client_is_told_and_let_go() {
        let policy = Policy::decided_by(|_| true).within(QUICK);
        let daemon = Daemon::start(policy).await;

        let answer = daemon.say(b"\"sta").await;

        assert!(answer.contains("timed_out"), "{answer}");
    }

    #[tokio::test]
    async fn a_slow_handler_is_given_up() {
        let policy = Policy::decided_by(|_| true).within(QUICK);
        let daemon = Daemon::start(policy).await;

        assert_eq!(refusal(daemon.call(Request::Upstreams).await), Reason::TimedOut);
    }

    #[tokio::test]
    async fn the_seventeenth_client_is_told_to_come_back() {
        let daemon = Daemon::start(Policy::decided_by(|_| true)).await;
        let mut clients = Vec::new();
        for _ in 0..MAX_CLIENTS {
            clients.push(UnixStream::connect(&daemon.socket).await.unwrap());
        }

        assert_eq!(refusal(daemon.call(Request::Status).await), Reason::Busy);

        // Each of the others is served all the same, which frees its place.
        for client in &mut clients {
            client.write_all(b"\"status\"\n").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("{\"ok\":"), "{answer}");
        }
        let freed = async { while daemon.call(Request::Status).await.is_err() {} };
        timeout(Duration::from_secs(2), freed).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_daemon_is_named_with_what_to_do() {
        let daemon = Daemon::start(Policy::decided_by(|_| true)).await;
        let error = call(Path::new("/nowhere/control.sock"), &Request::Status).unwrap_err();
        assert!(matches!(error, CallError::Absent(_)), "{error}");
        assert!(error.to_string().contains("/nowhere/control.sock: is firstlight running?"));

        let socket = daemon.socket.clone();
        daemon.task.abort();
        while !daemon.task.is_finished() {
            tokio::task::yield_now().await;
        }
        let error = call(&socket, &Request::Status).unwrap_err();
        assert!(matches!(error, CallError::Absent(_)), "{error}");
    }

    fn refusal(answer: Result<Value, CallError>) -> Reason {
        match answer {
            Err(CallError::Refused(refusal)) => refusal.reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Answers with what it was asked; never, when asked for upstreams.
    #[derive(Debug)]
    struct Echo;

    impl Control for Echo {
        fn handle(&self, request: Request, privileged: bool) -> BoxFuture<'_, Response> {
            if request == Request::Upstreams {
                return Box::pin(pending());
            }
            Box::pin(ready(Response::Ok(json!({"asked": request, "may": privileged}))))
        }
    }

    /// A server on a socket of its own, removed at the end.
    struct Daemon {
        socket: PathBuf,
        task: tokio::task::JoinHandle<()>,
    }

    impl Daemon {
        async fn start(policy: Policy) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("firstlight-control-{}-{number}.sock", std::process::id());
            let socket = std::env::temp_dir().join(name);
            let listener = bind(&socket).await.unwrap();
            let task = tokio::spawn(async { serve(listener, Arc::new(Echo), policy).await });
            Self { socket, task }
        }

        async fn call(&self, request: Request) -> Result<Value, CallError> {
            let socket = self.socket.clone();
            spawn_blocking(move || call(&socket, &request)).await.unwrap()
        }

        /// What comes back for some octets.
        async fn say(&self, octets: &[u8]) -> String {
            let mut stream = UnixStream::connect(&self.socket).await.unwrap();
            stream.write_all(octets).await.unwrap();
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).await.unwrap();
            answer
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            self.task.abort();
            drop(std::fs::remove_file(&self.socket));
        }
    }
}
