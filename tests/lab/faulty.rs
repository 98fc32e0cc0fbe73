//! An operator of encrypted DNS that fails in whichever way it is told to.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::pki::USUAL;
use super::{DAY, Lab, witness};

/// What an operator is asked over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Over {
    Dot,
    Doh,
    Doq,
}

/// What is wrong with an operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    Nothing,
    /// Takes questions, and says nothing.
    Silent,
    /// Answers after two seconds.
    Slow,
    /// Resets each connection after the handshake.
    Resets,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is for another name.
    WrongName,
    /// Answers with another id.
    WrongId,
    /// Answers another question.
    WrongQuestion,
    /// Sets TC, though nothing limits the length.
    Truncated,
    /// Answers with octets that mean nothing.
    Garbage,
    /// The same, and more of them than a message can have.
    Oversize,
    Servfail,
    Refused,
    /// Denies that any name exists.
    Nxdomain,
    /// Closes the connection after each answer.
    Closes,
    /// Accepts connections, and does not shake hands.
    HalfOpen,
    /// Stops in the middle of an answer.
    Stalls,
}

impl Fault {
    pub(crate) const ALL: [Self; 16] = [
        Self::Silent,
        Self::Slow,
        Self::Resets,
        Self::Expired,
        Self::WrongName,
        Self::WrongId,
        Self::WrongQuestion,
        Self::Truncated,
        Self::Garbage,
        Self::Oversize,
        Self::Servfail,
        Self::Refused,
        Self::Nxdomain,
        Self::Closes,
        Self::HalfOpen,
        Self::Stalls,
    ];

    /// Shows when a connection is made: those made before end.
    fn of_connections(self) -> bool {
        matches!(self, Self::Resets | Self::Expired | Self::WrongName | Self::HalfOpen)
    }
}

/// Answers every name below `lab.example.com` with an address of its own, until told otherwise.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) transport: Over,
    /// What it answers.
    pub(crate) answer: Ipv4Addr,
    fault: watch::Sender<Fault>,
    contacts: Arc<AtomicUsize>,
}

const ZONE: &str = "lab.example.com.";
/// Of its answers, in seconds: they are outdated soon.
const TTL: u32 = 1;

impl Faulty {
    /// `away`: how long an answer takes.
    pub(crate) fn start(
        lab: &Lab,
        host: u8,
        transport: Over,
        away: Duration,
        runtime: &Handle,
    ) -> Self {
        let name = format!("dns{host}.example.net");
        let present = |name: &str, valid| {
            let (certificate, key) = lab.authority.issue(name, valid);
            let mut config = witness::configuration(&certificate, &key);
            config.alpn_protocols = vec![match transport {
                Over::Dot => b"dot".to_vec(),
                Over::Doh => b"h2".to_vec(),
                Over::Doq => b"doq".to_vec(),
            }];
            Arc::new(config)
        };
        let (address, answer) = (lab.place(host, 8853), Ipv4Addr::new(192, 0, 2, host));
        let (fault, current) = watch::channel(Fault::Nothing);
        let contacts = Arc::<AtomicUsize>::default();
        let server = Server {
            usual: present(&name, USUAL),
            expired: present(&name, (-90 * DAY, -DAY)),
            misnamed: present("dns.example.org", USUAL),
            transport,
            answer,
            away,
            fault: current,
            contacts: Arc::clone(&contacts),
        };
        let server = Arc::new(server);
        if transport == Over::Doq {
            let _entered = runtime.enter();
            let usual = quic(&server.usual);
            let endpoint = quinn::Endpoint::server(usual, address).unwrap();
            runtime.spawn(server.accept_doq(endpoint));
        } else {
            let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
            runtime.spawn(server.accept(listener));
        }
        Self { name, address, transport, answer, fault, contacts }
    }

    /// From here on this is wrong with it.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Connections and questions so far.
    pub(crate) fn contacts(&self) -> usize {
        self.contacts.load(Ordering::Relaxed)
    }
}

struct Server {
    usual: Arc<ServerConfig>,
    expired: Arc<ServerConfig>,
    misnamed: Arc<ServerConfig>,
    transport: Over,
    answer: Ipv4Addr,
    away: Duration,
    fault: watch::Receiver<Fault>,
    contacts: Arc<AtomicUsize>,
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            self.contacts.fetch_add(1, Ordering::Relaxed);
            let mut fault = self.fault.clone();
            let this = Arc::clone(&self);
            tokio::spawn(async move {
                let born = *fault.borrow_and_update();
                tokio::select! {
                    _ = this.serve(client, born) => {}
                    _ = fault.wait_for(|fault| *fault != born && fault.of_connections()) => {}
                }
            });
        }
    }

    fn configuration(&self, fault: Fault) -> &Arc<ServerConfig> {
        if fault == Fault::Expired {
            &self.expired
        } else if fault == Fault::WrongName {
            &self.misnamed
        } else {
            &self.usual
        }
    }

    async fn serve(self: Arc<Self>, client: TcpStream, fault: Fault) -> io::Result<()> {
        if fault == Fault::HalfOpen {
            std::future::pending::<()>().await;
        }
        client.set_nodelay(true)?;
        let config = Arc::clone(self.configuration(fault));
        let stream = TlsAcceptor::from(config).accept(client).await?;
        if fault == Fault::Resets {
            return SockRef::from(stream.get_ref().0).set_linger(Some(Duration::ZERO));
        }
        match self.transport {
            Over::Dot => self.serve_dot(stream).await,
            Over::Doh => self.serve_doh(stream).await,
            Over::Doq => unreachable!("it is not asked over TCP"),
        }
    }

    async fn accept_doq(self: Arc<Self>, endpoint: quinn::Endpoint) {
        while let Some(client) = endpoint.accept().await {
            self.contacts.fetch_add(1, Ordering::Relaxed);
            let mut fault = self.fault.clone();
            let this = Arc::clone(&self);
            tokio::spawn(async move {
                let born = *fault.borrow_and_update();
                if born == Fault::HalfOpen {
                    return client.ignore();
                }
                let accepted = client.accept_with(Arc::new(quic(this.configuration(born))));
                let Ok(connection) = accepted.unwrap().await else { return };
                if born == Fault::Resets {
                    return connection.close(quinn::VarInt::from_u32(1), b"");
                }
                tokio::select! {
                    _ = this.serve_doq(&connection) => {}
                    _ = fault.wait_for(|fault| *fault != born && fault.of_connections()) => {}
                }
                connection.close(quinn::VarInt::from_u32(0), b"");
            });
        }
    }

    async fn serve_doq(
        self: &Arc<Self>,
        connection: &quinn::Connection,
    ) -> Result<(), quinn::ConnectionError> {
        loop {
            let (send, receive) = connection.accept_bi().await?;
            let (this, connection) = (Arc::clone(self), connection.clone());
            tokio::spawn(async move { this.answer_doq(&connection, send, receive).await });
        }
    }

    async fn answer_doq(
        &self,
        connection: &quinn::Connection,
        mut send: quinn::SendStream,
        mut receive: quinn::RecvStream,
    ) -> Option<()> {
        let query = receive.read_to_end(4096).await.ok()?;
        let (fault, message) = self.say(query.get(2..)?).await;
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        let whole = [&length.to_be_bytes(), &message[..]].concat();
        if fault == Fault::Stalls {
            send.write_all(&whole[..whole.len() / 2]).await.ok()?;
            std::future::pending::<()>().await;
        }
        send.write_all(&whole).await.ok()?;
        send.finish().ok()?;
        if fault == Fault::Closes {
            // When the client has it all.
            let _ = send.stopped().await;
            connection.close(quinn::VarInt::from_u32(0), b"");
        }
        Some(())
    }

    async fn serve_dot(self: Arc<Self>, stream: TlsStream<TcpStream>) -> io::Result<()> {
        let (mut reader, writer) = tokio::io::split(stream);
        let writer = Arc::new(Mutex::new(writer));
        // They end with the connection.
        let mut answers = JoinSet::new();
        loop {
            let mut query = vec![0; reader.read_u16().await?.into()];
            reader.read_exact(&mut query).await?;
            answers.spawn(Arc::clone(&self).answer_dot(query, Arc::clone(&writer)));
            while answers.try_join_next().is_some() {}
        }
    }

    async fn answer_dot(
        self: Arc<Self>,
        query: Vec<u8>,
        writer: Arc<Mutex<WriteHalf<TlsStream<TcpStream>>>>,
    ) -> io::Result<()> {
        let (fault, message) = self.say(&query).await;
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        let frame =
            [&length.to_be_bytes(), message.get(..length.into()).unwrap_or_default()].concat();
        let mut writer = writer.lock().await;
        if fault == Fault::Stalls {
            writer.write_all(&frame[..frame.len() / 2]).await?;
            writer.flush().await?;
            // Nothing else is written either.
            std::future::pending::<()>().await;
        }
        writer.write_all(&frame).await?;
        writer.flush().await?;
        if fault == Fault::Closes {
            writer.shutdown().await?;
        }
        Ok(())
    }

    async fn serve_doh(self: Arc<Self>, stream: TlsStream<TcpStream>) -> io::Result<()> {
        let (answered, mut closing) = watch::channel(false);
        let answered = Arc::new(answered);
        let service =
            service_fn(move |request| Arc::clone(&self).answer_doh(request, Arc::clone(&answered)));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = &mut connection => return ended.map_err(io::Error::other),
            _ = closing.wait_for(|closing| *closing) => connection.as_mut().graceful_shutdown(),
        }
        connection.await.map_err(io::Error::other)
    }

    async fn answer_doh(
        self: Arc<Self>,
        request: Request<Incoming>,
        answered: Arc<watch::Sender<bool>>,
    ) -> Result<Response<Part>, hyper::Error> {
        let query = request.into_body().collect().await?.to_bytes();
        let (fault, message) = self.say(&query).await;
        let stalls = fault == Fault::Stalls;
        let length = if stalls { message.len() / 2 } else { message.len() };
        let part = Bytes::copy_from_slice(&message[..length]);
        answered.send_replace(fault == Fault::Closes);
        let mut response = Response::new(Part { part: Some(part), stalls });
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, "application/dns-message".parse().unwrap());
        Ok(response)
    }

    /// What it says to a question, and what was wrong with it then.
    async fn say(&self, query: &[u8]) -> (Fault, Vec<u8>) {
        self.contacts.fetch_add(1, Ordering::Relaxed);
        sleep(self.away).await;
        let fault = *self.fault.borrow();
        if matches!(fault, Fault::Silent | Fault::HalfOpen) {
            std::future::pending::<()>().await;
        }
        if fault == Fault::Slow {
            sleep(Duration::from_secs(2)).await;
        }
        let mut message = Message::from_vec(query).unwrap();
        message.metadata.message_type = MessageType::Response;
        message.metadata.recursion_available = true;
        // Its padding was for the question.
        message.edns = None;
        if fault == Fault::WrongQuestion {
            let other = Name::from_ascii("other.example.org.").unwrap();
            message.queries[0].set_name(other);
        }
        let denials = [
            (Fault::Servfail, ResponseCode::ServFail),
            (Fault::Refused, ResponseCode::Refused),
            (Fault::Nxdomain, ResponseCode::NXDomain),
        ];
        if let Some((_, denial)) = denials.into_iter().find(|(cause, _)| *cause == fault) {
            message.metadata.response_code = denial;
        } else if Name::from_ascii(ZONE).unwrap().zone_of(message.queries[0].name()) {
            let name = message.queries[0].name().clone();
            message.add_answer(Record::from_rdata(name, TTL, RData::A(A(self.answer))));
        }
        if fault == Fault::WrongId {
            message.metadata.id ^= 0x5555;
        }
        message.metadata.truncation = fault == Fault::Truncated;
        let mut octets = message.to_vec().unwrap();
        if !matches!(fault, Fault::Garbage | Fault::Oversize) {
            return (fault, octets);
        }
        let junk = if fault == Fault::Garbage { 100 } else { 100_000 };
        octets.truncate(2);
        let noise: [u8; 64] = rand::random();
        octets.extend(noise.iter().cycle().take(junk));
        (fault, octets)
    }
}

fn quic(tls: &Arc<ServerConfig>) -> quinn::ServerConfig {
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(Arc::clone(tls)).unwrap();
    quinn::ServerConfig::with_crypto(Arc::new(crypto))
}

/// As much of a body as is sent.
struct Part {
    part: Option<Bytes>,
    stalls: bool,
}

impl Body for Part {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.part.take() {
            Some(part) => Poll::Ready(Some(Ok(Frame::data(part)))),
            None if self.stalls => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}
