//! The recursor in force, if the configuration asks for one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tracing::{error, info, warn};

use super::services::Upstreams;
use crate::config;
use crate::dns::{BoxFuture, Forward, ForwardError, Forwarded, Hints, Recursor};
use crate::metered::Meter;
use crate::node::ports::Clock;

/// The root is asked for its servers again after a failure, first and at most.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Root servers do not change more often than that, whatever the root says.
const PRIME_EACH: Duration = Duration::from_secs(3600);

/// Asks authoritative servers if the configuration says so, else the upstreams: never the one in
/// place of the other.
#[derive(Debug)]
pub(super) struct Recursion {
    recursor: ArcSwapOption<Recursor>,
    upstreams: Arc<Upstreams>,
    clock: Arc<dyn Clock>,
    meter: Arc<Meter>,
}

impl Recursion {
    pub(super) fn new(
        settings: Option<&config::Recursion>,
        upstreams: &Arc<Upstreams>,
        clock: &Arc<dyn Clock>,
        meter: &Arc<Meter>,
    ) -> Arc<Self> {
        let this = Self {
            recursor: ArcSwapOption::empty(),
            upstreams: Arc::clone(upstreams),
            clock: Arc::clone(clock),
            meter: Arc::clone(meter),
        };
        this.replace(settings);
        Arc::new(this)
    }

    /// Goes over to other settings; `None` asks the upstreams.
    pub(super) fn replace(&self, settings: Option<&config::Recursion>) {
        self.recursor.store(settings.map(|settings| {
            warn!(
                "dns.mode is \"recurse\": questions go to authoritative servers, in plaintext where they do not speak TLS"
            );
            let (clock, meter) = (Arc::clone(&self.clock), Arc::clone(&self.meter));
            let recursor = Arc::new(Recursor::new(hints(settings), clock, meter));
            tokio::spawn(prime(Arc::downgrade(&recursor)));
            recursor
        }));
    }

    /// Forgets answers, servers and connections of the recursor, if there is one.
    pub(super) fn renew(&self) {
        if let Some(recursor) = &*self.recursor.load() {
            recursor.renew();
        }
    }

    /// Questions asked of authoritative servers, by name of the counter.
    pub(super) fn counts(&self) -> Vec<(String, u64)> {
        let recursor = self.recursor.load();
        let asked = recursor.iter().flat_map(|recursor| {
            let asked = recursor.asked();
            [("recursion_encrypted", &asked.encrypted), ("recursion_plaintext", &asked.plaintext)]
        });
        asked.map(|(name, count)| (name.to_owned(), count.load(Ordering::Relaxed))).collect()
    }

    /// In which way questions leave in plaintext, for people.
    pub(super) fn plaintext(&self) -> Option<String> {
        let recursor = self.recursor.load();
        let asked = recursor.as_ref()?.asked();
        let asked = asked.plaintext.load(Ordering::Relaxed);
        Some(format!(
            "questions to authoritative servers that speak no TLS, {asked} so far (dns.mode = \"recurse\")"
        ))
    }
}

impl Forward for Recursion {
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        match self.recursor.load_full() {
            Some(recursor) => Box::pin(async move { recursor.forward(query).await }),
            None => self.upstreams.forward(query),
        }
    }
}

/// Where the root is. Without a usable file the built-in addresses serve.
fn hints(settings: &config::Recursion) -> Hints {
    settings.hints.as_deref().map_or_else(Hints::built_in, |file| {
        Hints::from_file(file).unwrap_or_else(|error| {
            error!(%error, "the built-in addresses of the root serve instead");
            Hints::built_in()
        })
    })
}

/// Asks the root for its servers as long as there is a recursor.
async fn prime(recursor: std::sync::Weak<Recursor>) {
    let mut retry = RETRY;
    while let Some(recursor) = recursor.upgrade() {
        let pause = match recursor.prime().await {
            Ok(lifetime) => {
                info!(servers = recursor.roots().len(), "the root has named its servers");
                retry = RETRY;
                lifetime.max(PRIME_EACH)
            }
            Err(error) => {
                warn!(%error, again_in = retry.as_secs(), "the root does not name its servers; those known before are asked");
                let pause = retry;
                retry = (retry * 2).min(RETRY_MAX);
                pause
            }
        };
        drop(recursor);
        tokio::time::sleep(pause).await;
    }
}
