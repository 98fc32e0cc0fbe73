//! The validator in force, if there is one, between the answer path and where answers come from.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tracing::error;

use crate::clock::{TimeTrust, UnixTime};
use crate::config::{self, Config};
use crate::dns::{Anchors, BoxFuture, Forward, ForwardError, Forwarded, Validator, root_inception};
use crate::node::ports::Clock;

/// Has answers validated if the configuration says so.
#[derive(Debug)]
pub(super) struct Validation {
    validator: ArcSwapOption<Validator>,
    origin: Arc<dyn Forward>,
    clock: Arc<dyn Clock>,
}

impl Validation {
    pub(super) fn new(
        config: &Config,
        origin: Arc<dyn Forward>,
        clock: &Arc<dyn Clock>,
        trust: TimeTrust,
    ) -> Arc<Self> {
        let this = Self { validator: ArcSwapOption::empty(), origin, clock: Arc::clone(clock) };
        this.replace(&config.dns.validation, trust);
        Arc::new(this)
    }

    /// Goes over to other settings.
    pub(super) fn replace(&self, settings: &config::Validation, trust: TimeTrust) {
        self.validator.store(settings.validate.then(|| {
            let origin = Arc::clone(&self.origin);
            let anchors = anchors(settings);
            let clock = Arc::clone(&self.clock);
            let validator = Validator::new(origin, clock, anchors, &settings.negative);
            validator.rise(trust);
            Arc::new(validator)
        }));
    }

    /// A time that is past for certain, by the root zone, whether answers are validated or not.
    pub(super) async fn root_inception(
        &self,
        settings: &config::Validation,
        near: UnixTime,
    ) -> Result<UnixTime, ForwardError> {
        let (origin, clock) = (Arc::clone(&self.origin), Arc::clone(&self.clock));
        root_inception(origin, clock, anchors(settings), near).await
    }

    /// Begins a trust generation.
    pub(super) fn rise(&self, trust: TimeTrust) {
        if let Some(validator) = &*self.validator.load() {
            validator.rise(trust);
        }
    }
}

impl Forward for Validation {
    fn forward(&self, query: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, ForwardError>> {
        match self.validator.load_full() {
            Some(validator) => Box::pin(async move { validator.forward(query).await }),
            None => self.origin.forward(query),
        }
    }
}

/// The anchors configured. Without a usable file those of the root are the strict choice.
fn anchors(settings: &config::Validation) -> Anchors {
    settings.anchors.as_deref().map_or_else(Anchors::root, |file| {
        Anchors::from_file(file).unwrap_or_else(|error| {
            error!(%error, "the built-in trust anchors of the root serve instead");
            Anchors::root()
        })
    })
}
