//! Sends what people elsewhere are to be told.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::lookup::Names;
use super::services::Services;
use super::steward::{Message, Steward};
use crate::admin::notify::{self, Form};
use crate::config::{Notify, NotifyKind};
use crate::dns::Forward;
use crate::fetch::{Deadlines, Http, Transport};
use crate::health::{Notice, Notices, Severity};
use crate::metered::Purpose;
use crate::node::Input;
use crate::node::ports::Clock;
use crate::tls::Roots;

/// The condition that somebody cannot be told of the others.
pub(super) const UNTOLD: &str = "notifications-unsent";

/// What came of telling somebody.
#[derive(Debug)]
pub(super) struct Sent {
    /// Whom.
    id: u64,
    outcome: Result<(), String>,
}

/// Everybody who is told.
#[derive(Debug, Default)]
pub(super) struct Recipients {
    configured: Vec<Notify>,
    each: Vec<Recipient>,
    /// Counts those there ever were.
    ids: u64,
}

#[derive(Debug)]
struct Recipient {
    id: u64,
    notify: Notify,
    /// What it is called in the log: a URL may hold a secret.
    name: String,
    http: Http,
    /// `None` for one who is only told that we live.
    notices: Option<Notices>,
    next_ping: Option<Instant>,
    /// Why the last try failed.
    failure: Option<String>,
    told_of_failure: bool,
}

impl Recipients {
    /// Goes over to those who are configured; who was before keeps what waits for them.
    fn replace(&mut self, configured: &[Notify], services: &Services, now: Instant) {
        let mut before = std::mem::take(&mut self.each);
        configured.clone_into(&mut self.configured);
        for notify in configured {
            let known = before.iter().position(|recipient| recipient.notify == *notify);
            let recipient = known.map(|place| before.swap_remove(place));
            self.ids += 1;
            let id = self.ids;
            self.each.push(recipient.unwrap_or_else(|| Recipient::new(id, notify, services, now)));
        }
    }
}

impl Recipient {
    fn new(id: u64, notify: &Notify, services: &Services, now: Instant) -> Self {
        let origin = Arc::clone(&services.validation) as Arc<dyn Forward>;
        let transport = Transport {
            client: services.client.clone(),
            network: Arc::new(Names::new(origin)),
            deadlines: Deadlines::default(),
            purpose: Purpose::Notices,
        };
        let least = match notify.kind {
            NotifyKind::Gotify(least) | NotifyKind::Ntfy(least) | NotifyKind::Webhook(least) => {
                Some(least)
            }
            NotifyKind::Ping(_) => None,
        };
        Self {
            id,
            notify: notify.clone(),
            name: name(notify),
            http: Http::new(transport, Roots::or_builtin(notify.ca.as_deref())),
            notices: least.map(Notices::new),
            next_ping: least.is_none().then_some(now),
            failure: None,
            told_of_failure: false,
        }
    }
}

impl Steward {
    /// Each second: what is to be told, and to whom.
    pub(super) fn look_at_notices(&mut self, now: Instant) {
        if self.recipients.configured != self.config.notify {
            self.recipients.replace(&self.config.notify, &self.services, now);
        }
        let conditions = self.node.health().conditions();
        // That somebody cannot be told is told to nobody: it would only add to what waits.
        let conditions: Vec<_> =
            conditions.into_iter().filter(|condition| condition.name != UNTOLD).collect();
        for place in 0..self.recipients.each.len() {
            let recipient = &mut self.recipients.each[place];
            if let Some(notices) = &mut recipient.notices {
                notices.handle_conditions(&conditions, now);
                if let Some(notice) = notices.poll_notice(now).cloned() {
                    self.send_notice(place, &notice);
                }
            } else if recipient.next_ping.is_some_and(|at| now >= at) {
                // Until it has ended there is no other.
                recipient.next_ping = None;
                self.send_ping(place);
            }
        }
        self.report_untold();
    }

    /// The way out may be open again.
    pub(super) fn retry_notices(&mut self) {
        for recipient in &mut self.recipients.each {
            if let Some(notices) = &mut recipient.notices {
                notices.handle_path_change();
            }
        }
    }

    /// What came of telling somebody.
    pub(super) fn hear_of_notice(&mut self, sent: Sent) {
        let now = self.boot.clock.mono();
        let Sent { id, outcome } = sent;
        let found = self.recipients.each.iter_mut().find(|recipient| recipient.id == id);
        let Some(recipient) = found else { return };
        if let NotifyKind::Ping(every) = recipient.notify.kind {
            recipient.next_ping = Some(now + every);
        }
        match outcome {
            Ok(()) => {
                recipient.failure = None;
                if std::mem::take(&mut recipient.told_of_failure) {
                    info!(recipient = recipient.name, "messages are taken again");
                }
                if let Some(notices) = &mut recipient.notices {
                    notices.handle_sent();
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut recipient.told_of_failure, true) {
                    let recipient = &recipient.name;
                    warn!(recipient, error, "a message was not taken; it is kept and tried again");
                }
                recipient.failure = Some(error);
                if let Some(notices) = &mut recipient.notices {
                    notices.handle_failure(now);
                }
            }
        }
    }

    fn send_notice(&self, place: usize, notice: &Notice) {
        let Some(recipient) = self.recipients.each.get(place) else { return };
        let form = match recipient.notify.kind {
            NotifyKind::Gotify(_) => Form::Gotify,
            NotifyKind::Ntfy(_) => Form::Ntfy,
            NotifyKind::Webhook(_) => Form::Webhook,
            NotifyKind::Ping(_) => return,
        };
        let message = notify::Message {
            host: self.config.tls.name.to_string(),
            condition: notice.name,
            severity: notice.severity,
            holds: notice.lasted.is_none(),
            text: notice.text.clone(),
            since: self.boot.clock.utc_at(notice.since).to_string(),
            lasted: notice.lasted.map(|lasted| lasted.as_secs()),
        };
        send(recipient, &self.sender, move |http, notify| async move {
            notify::tell(&http, form, &notify.url, notify.token.as_deref(), &message).await
        });
    }

    fn send_ping(&self, place: usize) {
        let Some(recipient) = self.recipients.each.get(place) else { return };
        send(recipient, &self.sender, |http, notify| async move {
            notify::ping(&http, &notify.url, notify.token.as_deref()).await
        });
    }

    fn report_untold(&mut self) {
        let failing = self.recipients.each.iter().filter_map(|recipient| {
            let failure = recipient.failure.as_ref()?;
            let waiting = recipient.notices.as_ref().map_or(0, Notices::waiting);
            let lost = recipient.notices.as_ref().map_or(0, Notices::lost);
            let lost = if lost > 0 { format!(", {lost} are lost") } else { String::new() };
            Some(format!("{}: {failure} ({waiting} messages wait{lost})", recipient.name))
        });
        let text = failing.collect::<Vec<_>>().join("; ");
        let held = (!text.is_empty()).then(|| {
            let text = format!("somebody cannot be told of conditions, and is tried again: {text}");
            (Severity::Warning, text)
        });
        self.feed(Input::Condition { name: UNTOLD, held });
    }
}

fn send<F>(
    recipient: &Recipient,
    sender: &mpsc::Sender<Message>,
    work: impl FnOnce(Http, Notify) -> F + Send + 'static,
) where
    F: Future<Output = Result<(), String>> + Send,
{
    let (id, sender) = (recipient.id, sender.clone());
    let (http, notify) = (recipient.http.clone(), recipient.notify.clone());
    tokio::spawn(async move {
        let outcome = AssertUnwindSafe(work(http, notify)).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| Err("a part of it panicked".to_owned()));
        let _ = sender.send(Message::Sent(Sent { id, outcome })).await;
    });
}

fn name(notify: &Notify) -> String {
    let kind = match notify.kind {
        NotifyKind::Gotify(_) => "gotify",
        NotifyKind::Ntfy(_) => "ntfy",
        NotifyKind::Ping(_) => "ping",
        NotifyKind::Webhook(_) => "webhook",
    };
    let host = notify.url.strip_prefix("https://").unwrap_or_default();
    format!("{kind} at {}", host.split('/').next().unwrap_or_default())
}
