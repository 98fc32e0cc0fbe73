//! A CA in this process that fails as it is told to, at each step; time stands still unless all wait.

mod ca;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rcgen::{CertificateParams, KeyPair};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use ca::{Fault, FaultyCa, Quiet, Told};

use super::*;
use crate::cert::Kind;
use crate::clock::UnixTime;
use crate::fetch::{self, Transport};
use crate::metered::Purpose;
use crate::tls::pki::{DAY, FakeClock, Pki, TODAY};
use crate::tls::{Challenges, Client};

/// Each request of an order, in turn.
const STEPS: &[&str] = &[
    "GET /dir",
    "HEAD /nonce",
    "POST /account",
    "POST /order",
    "POST /authz/1",
    "POST /chall/1",
    "POST /order/1",
    "POST /finalize/1",
    "POST /cert/1",
];

const FAULTS: &[Fault] = &[
    Fault::Cut,
    Fault::Endless,
    Fault::Garbage,
    Fault::Half,
    Fault::Hanging,
    Fault::Page(404),
    Fault::Page(429),
    Fault::Page(500),
    Fault::Page(503),
    Fault::Problem(400, "badNonce"),
    Fault::Problem(400, "accountDoesNotExist"),
    Fault::Problem(403, "rejectedIdentifier"),
    Fault::Problem(429, "rateLimited"),
    Fault::Problem(500, "serverInternal"),
    Fault::Stall,
];

/// The class that `fault` has at `step`.
fn class(step: &str, fault: Fault) -> Kind {
    let limited = Kind::RateLimited { retry_after: Some(Duration::from_secs(120)) };
    // The answer to HEAD has no body, whatever it is.
    let bare = step.starts_with("HEAD");
    match fault {
        Fault::Endless if bare => Kind::Unreachable,
        Fault::Cut | Fault::Half | Fault::Hanging | Fault::Stall => Kind::Unreachable,
        Fault::Endless | Fault::Garbage | Fault::Page(404) => Kind::Garbage,
        Fault::Page(429) | Fault::Problem(429, _) => limited,
        Fault::Page(_) | Fault::Problem(500, _) => Kind::Server,
        Fault::Problem(..) if bare => Kind::Garbage,
        Fault::Problem(_, "badNonce") => Kind::BadNonce,
        Fault::Problem(_, "accountDoesNotExist") => Kind::AccountUnknown,
        Fault::Problem(..) => Kind::Refused,
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_at_whatever_step_has_its_class_and_its_end() {
    let pki = Pki::new();
    let mut most = 0;
    for &step in STEPS {
        for &fault in FAULTS {
            let lab = Lab::new(&pki, Some((step, fault)));
            let begin = now();
            let outcome = lab.order(&lab.job()).await;

            let took = now() - begin;
            let deadlines = Deadlines::default();
            assert!(took <= deadlines.order + deadlines.publish, "{step} {fault:?}: {took:?}");
            let failure = outcome.result.expect_err("it fails");
            assert_eq!(failure.kind, class(step, fault), "{step} {fault:?}: {failure}");
            assert!(!failure.detail.is_empty() && !failure.detail.contains('\n'), "{failure}");
            let requests = lab.ca.requests().len();
            assert!(requests <= 24, "{step} {fault:?}: {requests} requests");
            most = most.max(requests);
            let placed = STEPS.iter().position(|of| *of == step) > Some(3);
            assert_eq!(outcome.accepted, placed, "{step} {fault:?}");

            // What can be gone on with is, and nothing stays published.
            let pending = lab.journal.pending().unwrap_or(lab.pending.clone());
            if pending.url.is_none() {
                lab.leaves_nothing_published();
                continue;
            }
            lab.ca.tell(|told| told.fault = None);
            let account = lab.journal.account().unwrap();
            let job = Job { pending: &pending, account: &account, ..lab.job() };
            let outcome = lab.order(&job).await;
            assert!(!outcome.accepted, "{step} {fault:?}: another order was made");
            outcome.result.unwrap();
            lab.leaves_nothing_published();
        }
    }
    assert!(most >= 12, "{most}");
}

#[tokio::test(start_paused = true)]
async fn an_honest_ca_issues_with_a_dozen_requests_over_one_connection() {
    let lab = Lab::new(&Pki::new(), None);

    let outcome = lab.order(&lab.job()).await;

    let chain = outcome.result.unwrap();
    assert_eq!(chain.held.names, ["home.test"]);
    assert_eq!(lab.ca.requests().len(), 11, "{:?}", lab.ca.requests());
    assert_eq!(lab.ca.told(|told| told.connections), 1);
    lab.leaves_nothing_published();

    // Where none is kept it takes as many.
    let lab = Lab::new(&Pki::new(), None);
    lab.ca.tell(|told| told.closes = true);
    lab.order(&lab.job()).await.result.unwrap();
    assert_eq!(lab.ca.told(|told| told.connections), 11);
}

#[tokio::test(start_paused = true)]
async fn an_order_has_an_end_whatever_its_steps_may_take() {
    let mut lab = Lab::new(&Pki::new(), None);
    lab.ca.tell(|told| told.stuck = Some("processing"));
    let deadlines = Deadlines { order: Duration::from_secs(45), ..Deadlines::default() };
    lab.issuer = Issuer::new(lab.issuer.transport().clone(), deadlines);
    let begin = now();

    let failure = lab.order(&lab.job()).await.result.unwrap_err();

    assert_eq!(failure.kind, Kind::Server);
    assert_eq!(failure.detail, "the order did not end within 45 s");
    assert_eq!((now() - begin).as_secs(), 45);
    assert!(lab.journal.pending().is_some_and(|pending| pending.url.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_network_that_swallows_connections_and_names_costs_its_deadline() {
    let pki = Pki::new();
    for (quiet, limit) in [(Quiet::Name, 10), (Quiet::Connection, 20), (Quiet::Handshake, 20)] {
        let lab = Lab::new(&pki, None);
        lab.ca.tell(|told| told.quiet = Some(quiet));
        let begin = now();

        let failure = lab.order(&lab.job()).await.result.unwrap_err();

        assert_eq!(failure.kind, Kind::Unreachable, "{failure}");
        // Two addresses, each with ten seconds.
        assert_eq!((now() - begin).as_secs(), limit, "{quiet:?}: {failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_never_decides_is_polled_seldom_and_the_order_gone_on_with() {
    for (stuck, class) in [("pending", Kind::Validation), ("processing", Kind::Server)] {
        let lab = Lab::new(&Pki::new(), None);
        lab.ca.tell(|told| told.stuck = Some(stuck));

        let outcome = lab.order(&lab.job()).await;

        assert_eq!(outcome.result.unwrap_err().kind, class);
        let requests = lab.ca.requests();
        let polls = requests.iter().filter(|request| *request == "POST /order/1").count();
        assert!((10..24).contains(&polls), "{stuck}: {polls} polls");
        let pending = lab.journal.pending().unwrap();
        assert_eq!(pending.url.is_some(), stuck == "processing");

        // It has decided in the meantime.
        if pending.url.is_none() {
            lab.leaves_nothing_published();
            continue;
        }
        lab.ca.tell(|told| told.stuck = None);
        let account = lab.journal.account().unwrap();
        let job = Job { pending: &pending, account: &account, ..lab.job() };
        let outcome = lab.order(&job).await;
        assert!(!outcome.accepted);
        outcome.result.unwrap();
        let requests = lab.ca.requests();
        let orders = requests.iter().filter(|request| *request == "POST /order").count();
        assert_eq!(orders, 1, "the order was made again");
        lab.leaves_nothing_published();
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_that_becomes_invalid_is_told_in_the_ca_s_words_made_fit_for_a_log() {
    let lab = Lab::new(&Pki::new(), None);
    lab.ca.tell(|told| told.stuck = Some("invalid"));

    let failure = lab.order(&lab.job()).await.result.unwrap_err();

    assert_eq!(failure.kind, Kind::Validation);
    assert_eq!(failure.detail, "home.test: no TXT\\u{1b}[2J\\nre\\u{202e}cord");
    assert_eq!(lab.journal.pending().unwrap().url, None);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_what_was_ordered_is_refused() {
    let pki = Pki::new();
    let lab = Lab::new(&pki, None);
    let other = KeyPem::generate().unwrap();
    lab.ca.tell(|told| told.pem = certificate(&other, "home.test"));
    let failure = lab.order(&lab.job()).await.result.unwrap_err();
    assert_eq!(failure.kind, Kind::Garbage);
    assert!(failure.detail.contains("of no use"), "{failure}");

    let lab = Lab::new(&pki, None);
    lab.ca.tell(|told| told.pem = certificate(&lab.pending.key, "other.test"));
    let failure = lab.order(&lab.job()).await.result.unwrap_err();
    assert_eq!(failure.detail, "the certificate it issued lacks home.test");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_hangs_or_fails_is_cleaned_up_after() {
    for (trouble, class) in [("hangs", Kind::Validation), ("fails", Kind::Validation)] {
        let lab = Lab::new(&Pki::new(), None);
        lab.publisher.0.lock().unwrap().trouble = trouble;
        let begin = now();

        let failure = lab.order(&lab.job()).await.result.unwrap_err();

        assert_eq!(failure.kind, class);
        assert!(failure.detail.starts_with("_acme-challenge.home.test. could not be published"));
        assert!(now() - begin <= Duration::from_secs(120));
        lab.leaves_nothing_published();
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_taken_back_are_the_next_order_s_matter() {
    let lab = Lab::new(&Pki::new(), None);
    lab.publisher.0.lock().unwrap().keeps = true;

    lab.order(&lab.job()).await.result.unwrap();

    let pending = lab.journal.pending().unwrap();
    assert_eq!(pending.published.len(), 1);
    lab.publisher.0.lock().unwrap().keeps = false;
    lab.ca.tell(Told::reset);
    let pending = Pending { url: None, ..pending };
    lab.order(&Job { pending: &pending, ..lab.job() }).await.result.unwrap();
    lab.leaves_nothing_published();
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_the_ca_is_shown_while_it_looks_and_withdrawn_however_the_order_ends() {
    let pki = Pki::new();
    let (lab, challenges) = Lab::of_tls_alpn(&pki, None);
    lab.order(&lab.job()).await.result.unwrap();
    assert_eq!(lab.ca.told(|told| told.found.clone()), ["home.test"]);
    assert_eq!(challenges.names(), Vec::<String>::new());

    for &step in STEPS {
        for fault in [Fault::Cut, Fault::Page(503), Fault::Problem(403, "rejectedIdentifier")] {
            let (lab, challenges) = Lab::of_tls_alpn(&pki, Some((step, fault)));
            let outcome = lab.order(&lab.job()).await;

            assert_eq!(outcome.result.unwrap_err().kind, class(step, fault), "{step} {fault:?}");
            assert_eq!(challenges.names(), Vec::<String>::new(), "{step} {fault:?}");
            // It has no part in what is kept, and is shown again to a CA that looks again.
            let pending = lab.journal.pending().unwrap_or(lab.pending.clone());
            if pending.url.is_none() {
                continue;
            }
            assert_eq!(pending.published, []);
            lab.ca.tell(|told| told.fault = None);
            let account = lab.journal.account().unwrap();
            let job = Job { pending: &pending, account: &account, ..lab.job() };
            lab.order(&job).await.result.unwrap();
            let found = lab.ca.told(|told| told.found.clone());
            assert!(found.iter().all(|name| name == "home.test") && !found.is_empty(), "{found:?}");
            assert_eq!(challenges.names(), Vec::<String>::new(), "{step} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_the_ca_goes_with_an_order_that_is_dropped_and_comes_back_with_it() {
    let (lab, challenges) = Lab::of_tls_alpn(&Pki::new(), None);
    lab.ca.tell(|told| told.stuck = Some("pending"));

    let job = lab.job();
    let mut order = Box::pin(lab.order(&job));
    let minute = Duration::from_secs(60);
    assert!(tokio::time::timeout(minute, &mut order).await.is_err(), "the CA never decides");
    assert_eq!(challenges.names(), ["home.test"]);

    drop(order);
    assert_eq!(challenges.names(), Vec::<String>::new());
    // The CA is looking, and need not be told again.
    let (pending, account) = (lab.journal.pending().unwrap(), lab.journal.account().unwrap());
    let job = Job { pending: &pending, account: &account, ..lab.job() };
    let mut order = Box::pin(lab.order(&job));
    assert!(tokio::time::timeout(minute, &mut order).await.is_err(), "the CA never decides");
    assert_eq!(challenges.names(), ["home.test"]);
    let told = lab.ca.requests().iter().filter(|request| *request == "POST /chall/1").count();
    assert_eq!(told, 1);
}

#[tokio::test(start_paused = true)]
async fn what_no_certificate_can_show_is_refused_in_clear_words() {
    let pki = Pki::new();
    let (lab, challenges) = Lab::of_tls_alpn(&pki, None);
    let names = ["home.test".to_owned(), "*.home.test".to_owned()];

    let pending = Pending::fresh("test", &names).unwrap();
    let outcome = lab.order(&Job { pending: &pending, ..lab.job() }).await;

    let failure = outcome.result.unwrap_err();
    assert_eq!(failure.kind, Kind::Refused);
    let words = "*.home.test cannot be shown to be ours by TLS-ALPN-01; a wildcard needs DNS-01";
    assert_eq!(failure.detail, words);
    assert_eq!(lab.ca.requests(), Vec::<String>::new());

    // A CA that takes something else.
    lab.ca.tell(|told| told.challenge = "dns-01");
    let failure = lab.order(&lab.job()).await.result.unwrap_err();
    assert_eq!(failure.kind, Kind::Refused);
    let words = "it takes no certificate that is shown by TLS as proof for home.test";
    assert_eq!(failure.detail, words);
    assert_eq!(challenges.names(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_dns_01_has_left_behind_waits_for_an_order_that_can_take_it_back() {
    let (lab, _) = Lab::of_tls_alpn(&Pki::new(), None);
    let left = TxtRecord::new("home.test", "left");
    lab.publisher.0.lock().unwrap().records.push(left.clone());
    let pending = Pending { published: vec![left], ..lab.pending.clone() };

    lab.order(&Job { pending: &pending, ..lab.job() }).await.result.unwrap();

    assert_eq!(lab.journal.pending().unwrap().published, pending.published);
}

#[tokio::test(start_paused = true)]
async fn profiles_and_what_is_replaced_are_asked_for_where_the_ca_has_them() {
    let pki = Pki::new();
    let lab = Lab::new(&pki, None);
    let chain = lab.order(&lab.job()).await.result.unwrap();
    let leaf = &chain.certificates[0];

    let unknown = lab.order(&Job { profile: Some("long"), ..lab.job() }).await;
    let failure = unknown.result.unwrap_err();
    assert_eq!(failure.kind, Kind::InvalidProfile);
    assert_eq!(failure.detail, "it offers no `long`, but: short");
    assert!(!unknown.accepted);

    let job = Job { profile: Some("short"), replaces: Some(leaf), ..lab.job() };
    lab.ca.tell(Told::reset);
    lab.order(&job).await.result.unwrap();
    let wanted = lab.ca.told(|told| told.wanted.clone());
    assert_eq!(wanted["profile"], "short");
    assert!(wanted["replaces"].as_str().unwrap().contains('.'));

    for refusal in ["alreadyReplaced", "malformed"] {
        let lab = Lab::new(&pki, Some(("POST /order", Fault::Problem(409, refusal))));
        let failure = lab.order(&Job { replaces: Some(leaf), ..lab.job() }).await.result;
        assert_eq!(failure.unwrap_err().kind, Kind::AlreadyReplaced);
    }
}

#[tokio::test(start_paused = true)]
async fn the_renewal_window_comes_with_the_time_to_ask_again_by_the_ca_s_own_clock() {
    let pki = Pki::new();
    let lab = Lab::new(&pki, None);
    let leaf = lab.order(&lab.job()).await.result.unwrap().certificates.remove(0);

    let (window, again) = lab.issuer.window(&lab.at, &leaf).await.unwrap().unwrap();

    assert_eq!(window.start, UnixTime::from_secs(1_773_500_000));
    assert_eq!(window.end, UnixTime::from_secs(1_773_600_000));
    assert_eq!(window.explanation.as_deref(), Some("https://ca.test/why"));
    // Our clock is a year off that date.
    assert_eq!(again, Some(Duration::from_secs(21_600)));

    for &fault in FAULTS {
        let step = "GET /ari";
        let lab = Lab::new(&pki, Some((step, fault)));
        let found = lab.issuer.window(&lab.at, &leaf).await;
        let kind = found.unwrap_err().kind;
        // It names no problem that an order would have.
        let mut expected = class(step, fault);
        if matches!(expected, Kind::AccountUnknown | Kind::BadNonce | Kind::Refused) {
            expected = Kind::Garbage;
        }
        assert_eq!(kind, expected, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dns_server_that_says_nothing_is_given_up() {
    // It accepts connections, and nobody reads them.
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let key = ("acme", TsigHash::Sha256, &b"key"[..]);
    let publisher = DnsUpdate::new(address, "home.test", key, FakeClock::at(TODAY)).unwrap();

    let refused = publisher.present(&TxtRecord::new("home.test", "value")).await.unwrap_err();

    assert!(matches!(refused, PublishError::Unreachable(_)), "{refused}");
    assert!(refused.to_string().contains(&address.to_string()), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_the_ca_or_not_at_this_time_gets_no_request() {
    let pki = Pki::new();
    let mut lab = Lab::new(&pki, None);
    lab.at.roots = Pki::new().roots();
    let failure = lab.order(&lab.job()).await.result.unwrap_err();
    assert_eq!(failure.kind, Kind::Unreachable);
    assert!(failure.detail.contains("ca.test was refused"), "{failure}");

    let mut lab = Lab::new(&pki, None);
    let client = Client::new(FakeClock::at(UnixTime::EPOCH)).unwrap();
    let transport = Transport { client, ..lab.issuer.transport().clone() };
    lab.issuer = Issuer::new(transport, Deadlines::default());
    let failure = lab.order(&lab.job()).await.result.unwrap_err();
    assert_eq!(failure.kind, Kind::Unreachable);
    assert!(failure.detail.contains("1970-01-01"), "{failure}");

    lab.at.directory = "http://ca.test/dir".to_owned();
    let failure = lab.order(&lab.job()).await.result.unwrap_err();
    assert_eq!(failure.detail, "http://ca.test/dir is no HTTPS URL");
    assert!(lab.ca.requests().is_empty());
}

/// An issuer, and the CA it goes to.
struct Lab {
    ca: FaultyCa,
    at: Ca,
    issuer: Issuer,
    journal: Notes,
    publisher: Zone,
    solver: Solver,
    account: Account,
    pending: Pending,
}

impl Lab {
    fn new(pki: &Pki, fault: Option<(&'static str, Fault)>) -> Self {
        let pending = Pending::fresh("test", &["home.test".to_owned()]).unwrap();
        let mut told = Told::default();
        (told.fault, told.pem) = (fault, certificate(&pending.key, "home.test"));
        told.challenge = "dns-01";
        let leaf = pki.leaf("ca.test", TODAY - DAY, TODAY + DAY);
        let acceptor = TlsAcceptor::from(leaf.server(&[b"http/1.1"]));
        let ca = FaultyCa { told: Arc::new(Mutex::new(told)), acceptor };
        let transport = Transport {
            client: Client::new(FakeClock::at(TODAY)).unwrap(),
            network: Arc::new(ca.clone()),
            deadlines: fetch::Deadlines::default(),
            purpose: Purpose::Certificates,
        };
        let at = Ca {
            name: "test".to_owned(),
            directory: "https://ca.test/dir".to_owned(),
            roots: pki.roots(),
            binding: None,
        };
        let publisher = Zone::default();
        let solver = Solver::Dns01 {
            publisher: Arc::new(publisher.clone()),
            propagation: Arc::new(publisher.clone()),
        };
        let (journal, account) = (Notes::default(), Account::fresh(&at).unwrap());
        Self {
            ca,
            at,
            issuer: Issuer::new(transport, Deadlines::default()),
            journal,
            publisher,
            solver,
            account,
            pending,
        }
    }

    /// One that shows certificates, and where.
    fn of_tls_alpn(pki: &Pki, fault: Option<(&'static str, Fault)>) -> (Self, Arc<Challenges>) {
        let challenges = Challenges::new(FakeClock::at(TODAY));
        let mut lab = Self::new(pki, fault);
        lab.solver = Solver::TlsAlpn01 { challenges: Arc::clone(&challenges) };
        lab.ca.tell(|told| {
            told.challenge = "tls-alpn-01";
            told.looks_at = Some(Arc::clone(&challenges));
        });
        (lab, challenges)
    }

    fn job(&self) -> Job<'_> {
        Job {
            ca: &self.at,
            account: &self.account,
            register: false,
            profile: None,
            replaces: None,
            pending: &self.pending,
            solver: &self.solver,
        }
    }

    /// As any task of the daemon's may make it.
    fn order<'a>(&'a self, job: &'a Job<'a>) -> impl Future<Output = Outcome> + Send + 'a {
        self.issuer.carry_out(job, &self.journal)
    }

    fn leaves_nothing_published(&self) {
        let zone = self.publisher.0.lock().unwrap();
        assert!(zone.records.is_empty(), "{:?}", zone.records);
        let pending = self.journal.pending();
        assert!(pending.is_none_or(|pending| pending.published.is_empty()));
    }
}

/// A zone, and who changes it.
#[derive(Clone, Debug, Default)]
struct Zone(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    records: Vec<TxtRecord>,
    trouble: &'static str,
    /// Nothing can be taken back.
    keeps: bool,
}

impl Publisher for Zone {
    fn present<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            let trouble = {
                let mut zone = self.0.lock().unwrap();
                zone.records.push(record.clone());
                zone.trouble
            };
            match trouble {
                "hangs" => std::future::pending().await,
                "fails" => Err(PublishError::Refused("no".to_owned())),
                _ => Ok(()),
            }
        })
    }

    fn withdraw<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            let mut zone = self.0.lock().unwrap();
            if zone.keeps {
                return Err(PublishError::Unreachable("gone".to_owned()));
            }
            zone.records.retain(|other| other != record);
            Ok(())
        })
    }
}

impl Propagation for Zone {
    fn sees<'a>(&'a self, record: &'a TxtRecord) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(self.0.lock().unwrap().records.contains(record)))
    }
}

#[derive(Default)]
struct Notes(Mutex<(Option<Account>, Option<Pending>)>);

impl Notes {
    fn account(&self) -> Option<Account> {
        self.0.lock().unwrap().0.clone()
    }

    fn pending(&self) -> Option<Pending> {
        self.0.lock().unwrap().1.clone()
    }
}

impl Journal for Notes {
    fn account(&self, account: &Account) {
        self.0.lock().unwrap().0 = Some(account.clone());
    }

    fn pending(&self, pending: &Pending) {
        self.0.lock().unwrap().1 = Some(pending.clone());
    }
}

/// Not signed by anybody, which nobody here looks at.
fn certificate(key: &KeyPem, name: &str) -> String {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    params.self_signed(&KeyPair::from_pem(&key.0).unwrap()).unwrap().pem()
}

#[expect(clippy::disallowed_methods, reason = "test code")]
fn now() -> Instant {
    Instant::now()
}
