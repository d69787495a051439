//! The trust keeper: one thread that has the key opened, loads certificate, bundle and revocation
//! lists, and puts a new snapshot in force whenever a file has changed. It alone waits for disks
//! here; devices it waits for only as long as there is no key. The last good snapshot stays in force
//! until a better one has been checked.
//!
//! Files are compared by content, once a second: that sees what Kubernetes does with symbolic
//! links in a ConfigMap, works on every file system, and cannot run out of watches.

mod keys;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;
use std::{io, panic, thread};

use metrics::counter;
use rustls::time_provider::DefaultTimeProvider;
use sealwire_identity::{
    CertificateFacts, Epoch, EpochConfig, EpochError, Issued, PeerError, Revocation,
};
use sealwire_keys::PrivateKey;
use sealwire_link::{CloseReason, LiveLink, Registry};
use time::OffsetDateTime;

use self::keys::Keys;
use crate::config::{self, Config, Settings};
use crate::logging::LogLevel;
use crate::pod::PodFacts;
use crate::revocation::RevocationLists;
use crate::source::Source;
use crate::state::{Condition, InForce, Need, Online, State};

/// How often files are compared, and the key is looked after.
const INTERVAL: Duration = Duration::from_secs(1);

/// A running keeper; it ends when dropped.
#[derive(Debug)]
pub struct Keeper {
    _stop: Sender<()>,
}

/// What a keeper starts from.
#[derive(Debug)]
pub struct KeeperConfig {
    /// The configuration's file.
    pub path: PathBuf,
    /// What the pod knows of itself, and the file does not.
    pub pod: PodFacts,
    /// The file's text that these settings were made from, so that no change after it is missed.
    pub text: String,
    /// The configuration as it was at the start.
    pub settings: Arc<Settings>,
    /// Where to say what is in force.
    pub state: Arc<State>,
    /// The live links, which have to answer to what is in force as well.
    pub registry: Arc<Registry>,
    /// Where to change the log level.
    pub log_level: LogLevel,
    /// Where to fetch revocation lists.
    pub runtime: tokio::runtime::Handle,
}

impl Keeper {
    /// Starts the keeper's thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(config: KeeperConfig) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let work = Work::new(config);
        thread::Builder::new()
            .name("sealwire-keeper".to_owned())
            .spawn(move || work.run(&stopped))?;
        Ok(Self { _stop: stop })
    }
}

struct Work {
    path: PathBuf,
    pod: PodFacts,
    /// The configuration's file as it was last looked at.
    text: String,
    /// What is wrong with it.
    refused: Option<String>,
    started_with: Arc<Settings>,
    settings: Arc<Settings>,
    state: Arc<State>,
    registry: Arc<Registry>,
    log_level: LogLevel,
    source: Source,
    keys: Keys,
    lists: RevocationLists,
    loaded: Option<Loaded>,
    /// Of the epoch in force.
    number: u64,
}

/// What the epoch in force was made from.
struct Loaded {
    issued: Issued,
    revocation: Option<Arc<Revocation>>,
    settings: Arc<Settings>,
}

impl Work {
    fn new(config: KeeperConfig) -> Self {
        Self {
            text: config.text,
            refused: None,
            started_with: config.settings.clone(),
            settings: config.settings,
            path: config.path,
            pod: config.pod,
            state: config.state,
            registry: config.registry,
            log_level: config.log_level,
            source: Source::default(),
            keys: Keys::default(),
            lists: RevocationLists::new(config.runtime),
            loaded: None,
            number: 0,
        }
    }

    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            guarded(&self.state.clone(), || {
                self.look_at_config();
                self.look_at_key();
                self.load_certificate();
                self.state.say_readiness();
            });
            if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn look_at_config(&mut self) {
        let text = match config::read(&self.path) {
            Ok(text) => text,
            Err(error) => {
                let problem = last_good_stays(&error.to_string());
                return self.state.note("config", Some(problem));
            }
        };
        if text != self.text {
            self.refused = self.reload(&text);
            self.text = text;
        }
        self.state.note("config", self.refused.clone());
    }

    /// Takes a configuration over, and says what is wrong with it.
    fn reload(&mut self, text: &str) -> Option<String> {
        let settings = Config::parse(text)
            .and_then(|config| config.for_pod(&self.pod))
            .and_then(Config::settings);
        let outcome = if settings.is_ok() { "ok" } else { "refused" };
        counter!("sealwire_reloads_total", "what" => "config", "outcome" => outcome).increment(1);
        match settings {
            Ok(settings) => {
                self.settings = Arc::new(settings);
                self.say_what_needs_a_restart();
                let level = self.log_level.set(&self.settings.config.log.level);
                level.err().map(|problem| format!("log.level: {problem}"))
            }
            Err(error) => Some(last_good_stays(&error.to_string())),
        }
    }

    fn say_what_needs_a_restart(&self) {
        let (was, is) = (&self.started_with.config, &self.settings.config);
        let fixed = [
            ("key", was.key != is.key),
            ("vault", was.vault != is.vault),
            (
                "identity.vaultPki",
                was.identity.vault_pki != is.identity.vault_pki,
            ),
            ("ports", was.ports != is.ports),
            ("limits", was.limits != is.limits),
            ("confinement", was.confinement != is.confinement),
            ("evidence", was.evidence != is.evidence),
            ("log.format", was.log.format != is.log.format),
        ];
        let changed: Vec<_> = fixed
            .iter()
            .filter(|(_, differs)| *differs)
            .map(|(name, _)| *name)
            .collect();
        self.state.note(
            "restart",
            (!changed.is_empty()).then(|| {
                format!(
                    "changed, but in force only after a restart: {}",
                    changed.join(", ")
                )
            }),
        );
        let rules_differ = self.started_with.capture != self.settings.capture;
        self.state.note(
            "capture",
            rules_differ.then(|| {
                "the kernel's rules were made from another configuration and go on dropping what it did not declare: \
                 run `sealwire-proxy capture` again, or replace the pod"
                    .to_owned()
            }),
        );
    }

    /// Says how it stands with the key, and sees to it that there is one.
    fn look_at_key(&mut self) {
        // The certificate in force may still be that of the key before.
        let certified = self
            .loaded
            .as_ref()
            .map(|loaded| loaded.issued.credentials.key().clone());
        if let Some(in_use) = certified.as_ref().or(self.keys.in_use()) {
            self.state.key_health(in_use.health());
        }
        if self.state.asked_to_renew() {
            self.source.renew();
        }
        self.state.online(Online {
            vault: self.source.vault_figures(),
            renewal: self.source.renewal(),
        });
        let wanted = Source::certified_key(&self.settings);
        let open = || self.source.opener(&self.settings);
        self.keys
            .look(&self.state, certified.as_ref(), wanted, open);
        let kept: Vec<_> = [self.keys.in_use(), self.keys.next()]
            .into_iter()
            .flatten()
            .collect();
        self.source.keep(&kept);
    }

    fn load_certificate(&mut self) {
        if self.follow() {
            return;
        }
        let Some(key) = self.keys.in_use().cloned() else {
            return;
        };
        let made = self.obtain(&key);
        self.state.note("crl", self.lists.to_mend());
        match made {
            Ok(Obtained { new, problem }) => {
                match new {
                    Some((loaded, epoch)) => self.put_in_force(loaded, epoch),
                    None => self.warn_of_the_end(),
                }
                self.state.note("certificate", problem);
            }
            Err(Refused::Revoked(problem)) => self.stop(problem),
            Err(Refused::Other(problem)) if self.loaded.is_none() => {
                self.state.set(Need::Certificate, Condition::Unmet(problem))
            }
            Err(Refused::Other(problem)) => self
                .state
                .note("certificate", Some(last_good_stays(&problem))),
        }
    }

    /// Puts the key that is to follow in force, as soon as there is a certificate for it that can be.
    /// Until then all goes on with the key in use, whose certificate is renewed as ever.
    fn follow(&mut self) -> bool {
        let Some(next) = self.keys.next().cloned() else {
            return false;
        };
        match self.certify(&next) {
            Ok(Some((loaded, epoch))) => {
                self.keys.rotate(&self.state);
                self.put_in_force(loaded, epoch);
                self.state.note("certificate", None);
                true
            }
            // Another key's certificate is never what is in force.
            Ok(None) => false,
            Err(problem) => {
                let problem =
                    format!("the key's successor waits, and the key in use goes on: {problem}");
                self.state.note("rotation", Some(problem));
                false
            }
        }
    }

    /// An epoch of a key that was not in force before.
    fn certify(&mut self, key: &Arc<dyn PrivateKey>) -> Result<Option<(Loaded, Epoch)>, String> {
        let issued = self.source.obtain(&self.settings, key)?;
        let lists = self.lists.look(&self.settings, &issued.bundle)?;
        self.make(issued, lists).map_err(|error| error.to_string())
    }

    /// Certificate, bundle and revocation lists as they are now, with an epoch made of them. Where
    /// a certificate or bundle cannot be used, the last good ones stand in: somebody who was
    /// revoked, or whom no rule lets in any more, does not stay for that.
    fn obtain(&mut self, key: &Arc<dyn PrivateKey>) -> Result<Obtained, Refused> {
        let fresh = self.source.obtain(&self.settings, key);
        let before = self.loaded.as_ref().map(|loaded| loaded.issued.clone());
        let bundle = match (&fresh, &before) {
            (Ok(issued), _) | (Err(_), Some(issued)) => issued.bundle.clone(),
            (Err(problem), None) => return Err(Refused::Other(problem.clone())),
        };
        let lists = self.lists.look(&self.settings, &bundle);
        let lists = lists.map_err(Refused::Other)?;
        let made = fresh
            .map_err(Refused::Other)
            .and_then(|issued| Ok(self.make(issued, lists.clone())?));
        match (made, before) {
            (Err(Refused::Other(problem)), Some(before)) => Ok(Obtained {
                new: self.make(before, lists)?,
                problem: Some(last_good_stays(&problem)),
            }),
            (made, _) => Ok(Obtained {
                new: made?,
                problem: None,
            }),
        }
    }

    /// An epoch, unless it would be the one in force.
    fn make(
        &self,
        issued: Issued,
        revocation: Option<Arc<Revocation>>,
    ) -> Result<Option<(Loaded, Epoch)>, EpochError> {
        let now = Loaded {
            issued,
            revocation,
            settings: self.settings.clone(),
        };
        if self.loaded.as_ref().is_some_and(|before| before.is(&now)) {
            return Ok(None);
        }
        let epoch = Epoch::new(EpochConfig {
            number: self.number + 1,
            credentials: now.issued.credentials.clone(),
            bundle: now.issued.bundle.clone(),
            trust_domains: self.settings.trust_domains.clone(),
            profile: self.settings.profile,
            revocation: now.revocation.clone(),
            resumption: self.settings.resumption,
            time: Arc::new(DefaultTimeProvider),
        })?;
        Ok(Some((now, epoch)))
    }

    /// The own certificate was revoked: the last good state is none any more. Whoever revoked it
    /// may have revoked others as well, so no link can be trusted to stay.
    fn stop(&self, problem: String) {
        self.state.is_revoked(problem);
        self.registry.close(CloseReason::Revocation, |_, _| true);
    }

    fn put_in_force(&mut self, loaded: Loaded, epoch: Epoch) {
        self.number = epoch.number();
        let facts = epoch.credentials().facts();
        tracing::info!(
            epoch = self.number,
            identity = %facts.spiffe_id,
            serial = facts.serial,
            not_after = %facts.not_after,
            "trust epoch in force"
        );
        let life = facts.not_after - facts.not_before;
        let key = epoch.credentials().key();
        key.certified(Duration::try_from(life).unwrap_or_default());
        self.loaded = Some(loaded);
        let epoch = Arc::new(epoch);
        self.state.publish(InForce {
            settings: self.settings.clone(),
            epoch: epoch.clone(),
        });
        self.state.set(Need::Certificate, Condition::Met);
        counter!("sealwire_reloads_total", "what" => "trust", "outcome" => "ok").increment(1);
        self.judge_live_links(&epoch);
    }

    /// Only after the snapshot has been published: a link that enters the registry from now on
    /// sees it, one that was there before is judged here.
    fn judge_live_links(&self, epoch: &Arc<Epoch>) {
        let policy =
            |link: &LiveLink, peer: &CertificateFacts| !self.settings.lets_go_on(link, peer);
        let told = self.registry.judge_by(epoch) + self.registry.close(CloseReason::Epoch, policy);
        if told > 0 {
            tracing::warn!(
                epoch = epoch.number(),
                links = told,
                "links that would not be made any more are closed"
            );
        }
    }

    /// From two thirds of its life on, a certificate that nobody has replaced is worth a word.
    fn warn_of_the_end(&self) {
        let Some(loaded) = &self.loaded else { return };
        let facts = loaded.issued.credentials.facts();
        let now = OffsetDateTime::now_utc();
        let late = facts.not_before + (facts.not_after - facts.not_before) * 2 / 3;
        self.state.note(
            "renewal",
            (now > late).then(|| {
                format!(
                    "the certificate ends at {} and has not been renewed",
                    facts.not_after
                )
            }),
        );
    }
}

impl Loaded {
    fn is(&self, now: &Self) -> bool {
        let lists =
            [&self.revocation, &now.revocation].map(|lists| lists.as_ref().map(Arc::as_ptr));
        self.issued.credentials.chain() == now.issued.credentials.chain()
            && Arc::ptr_eq(self.issued.credentials.key(), now.issued.credentials.key())
            && self.issued.bundle_pem == now.issued.bundle_pem
            && lists[0] == lists[1]
            && Arc::ptr_eq(&self.settings, &now.settings)
    }
}

/// What came of a look.
struct Obtained {
    /// None when it is what is in force.
    new: Option<(Loaded, Epoch)>,
    /// Why the last good certificate or bundle stands in.
    problem: Option<String>,
}

/// Why nothing new is put in force.
enum Refused {
    /// The own certificate was revoked.
    Revoked(String),
    /// Anything else; what is in force stays good.
    Other(String),
}

impl From<EpochError> for Refused {
    fn from(error: EpochError) -> Self {
        match error {
            EpochError::Own(PeerError::Revoked { .. }) => Self::Revoked(error.to_string()),
            other => Self::Other(other.to_string()),
        }
    }
}

/// A look that panics is a fault of ours. It is said, and the next look is taken all the same: each
/// begins from what is in force, which is replaced as a whole. Without a keeper nobody would see
/// that a certificate was revoked.
fn guarded(state: &State, look: impl FnOnce()) {
    let fault = panic::catch_unwind(AssertUnwindSafe(look))
        .err()
        .map(|fault| {
            let said = fault.downcast_ref::<&str>().copied();
            let said = said.or(fault.downcast_ref::<String>().map(String::as_str));
            let said = said.unwrap_or("it did not say why");
            format!(
                "the keeper failed: {said}: what is in force may be out of date; please report this"
            )
        });
    if let Some(fault) = &fault {
        tracing::error!(fault, "the keeper panicked, and goes on");
        counter!("sealwire_reloads_total", "what" => "trust", "outcome" => "panicked").increment(1);
    }
    state.note("keeper", fault);
}

fn last_good_stays(problem: &str) -> String {
    format!("{problem} (the last good one stays in force)")
}

#[cfg(test)]
mod tests;
