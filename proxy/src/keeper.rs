//! The trust keeper: one thread that opens the key, loads certificate and bundle, and puts a new
//! snapshot in force whenever a file has changed. It alone waits for disks and devices here; the
//! last good snapshot stays in force until a better one has been checked.
//!
//! Files are compared by content, once a second: that sees what Kubernetes does with symbolic
//! links in a ConfigMap, works on every file system, and cannot run out of watches.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use metrics::counter;
use rustls::time_provider::DefaultTimeProvider;
use sealwire_identity::{CertificateFacts, Epoch, EpochConfig, Issued};
use sealwire_keys::{KeyHealth, PrivateKey, SignError};
use sealwire_link::{CloseReason, LiveLink, Registry};
use time::OffsetDateTime;

use crate::config::{Config, Settings};
use crate::logging::LogLevel;
use crate::metered::Metered;
use crate::source::Source;
use crate::state::{Condition, InForce, Need, Online, State};

/// How often files are compared, and the key is tried while there is none.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a key that follows may wait for its certificate before the key in use has its turn.
const PATIENCE: Duration = Duration::from_secs(120);

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
    /// The configuration as it was at the start.
    pub settings: Arc<Settings>,
    /// Where to say what is in force.
    pub state: Arc<State>,
    /// The live links, which have to answer to what is in force as well.
    pub registry: Arc<Registry>,
    /// Where to change the log level.
    pub log_level: LogLevel,
}

impl Keeper {
    /// Starts the keeper's thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(config: KeeperConfig) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let work = Work {
            text: fs::read(&config.path).unwrap_or_default(),
            started_with: config.settings.clone(),
            settings: config.settings,
            path: config.path,
            state: config.state,
            registry: config.registry,
            log_level: config.log_level,
            source: Source::default(),
            key: None,
            next: None,
            loaded: None,
            number: 0,
        };
        thread::Builder::new()
            .name("sealwire-keeper".to_owned())
            .spawn(move || work.run(&stopped))?;
        Ok(Self { _stop: stop })
    }
}

struct Work {
    path: PathBuf,
    /// The configuration's file as it was last looked at.
    text: Vec<u8>,
    started_with: Arc<Settings>,
    settings: Arc<Settings>,
    state: Arc<State>,
    registry: Arc<Registry>,
    log_level: LogLevel,
    source: Source,
    key: Option<Arc<dyn PrivateKey>>,
    /// The key that follows, until there is a certificate for it.
    next: Option<Successor>,
    loaded: Option<Loaded>,
    /// Of the epoch in force.
    number: u64,
}

/// A key that is to follow the one in use.
struct Successor {
    key: Arc<dyn PrivateKey>,
    since: Instant,
}

/// What the epoch in force was made from.
struct Loaded {
    issued: Issued,
    settings: Arc<Settings>,
}

impl Work {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            self.look_at_config();
            self.look_at_key();
            self.load_certificate();
            if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn look_at_config(&mut self) {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) => {
                let problem = format!(
                    "cannot read {}: {error}: the last good one stays in force",
                    self.path.display()
                );
                return self.state.note("config", Some(problem));
            }
        };
        if text == self.text {
            return;
        }
        self.text = text;
        // Loaded again from the file, for its limits and its messages; a change in between is
        // seen at the next look.
        match Config::load(&self.path).and_then(Config::settings) {
            Ok(settings) => {
                self.settings = Arc::new(settings);
                self.state.note("config", None);
                self.say_what_needs_a_restart();
                if let Err(problem) = self.log_level.set(&self.settings.config.log.level) {
                    self.state
                        .note("config", Some(format!("log.level: {problem}")));
                }
                counter!("sealwire_reloads_total", "what" => "config", "outcome" => "ok")
                    .increment(1);
            }
            Err(error) => {
                counter!("sealwire_reloads_total", "what" => "config", "outcome" => "refused")
                    .increment(1);
                self.state.note(
                    "config",
                    Some(format!("{error} (the last good one stays in force)")),
                );
            }
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

    /// Opens the key while there is none, and again when it is gone for good: somebody may have
    /// made a new one by the same name. Else says how it stands.
    fn look_at_key(&mut self) {
        // The certificate in force may still be that of the key before.
        let in_use = self
            .loaded
            .as_ref()
            .map(|loaded| loaded.issued.credentials.key());
        if let Some(in_use) = in_use.or(self.key.as_ref()) {
            self.state.key_health(in_use.health());
        }
        self.state.online(Online {
            vault: self.source.vault_figures(),
            renewal: self.source.renewal(),
        });
        if let Some(key) = self.key.clone()
            && !is_gone(key.as_ref())
        {
            return self.look_for_successor(key.as_ref());
        }
        match self.source.open(&self.settings) {
            Ok(key) => {
                say_opened(key.as_ref());
                if key.development() {
                    self.state.note(
                        "development",
                        Some(
                            "the key is in memory: anybody who reads this process has it"
                                .to_owned(),
                        ),
                    );
                }
                if self.loaded.is_none() {
                    self.state.key_health(key.health());
                }
                self.key = Some(Arc::new(Metered::new(key)));
            }
            // Its own health says what is wrong with the one there was.
            Err(error) if self.key.is_some() => {
                tracing::debug!(error, "no other key is in its place");
            }
            Err(error) => self.state.set(Need::Key, Condition::Unmet(error)),
        }
    }

    /// A newer version of the key is another key: it serves as soon as it has a certificate.
    fn look_for_successor(&mut self, key: &dyn PrivateKey) {
        match (&self.next, key.successor()) {
            (None, Some(version)) => match self.source.open(&self.settings) {
                Ok(next) if next.public_key() != key.public_key() => {
                    tracing::info!(
                        version,
                        "the key has a successor: a certificate is asked for"
                    );
                    say_opened(next.as_ref());
                    self.next = Some(Successor {
                        key: Arc::new(Metered::new(next)),
                        since: Instant::now(),
                    });
                }
                Ok(_) => {}
                Err(error) => self.state.note("rotation", Some(error)),
            },
            (Some(next), _) if next.since.elapsed() > PATIENCE => {
                // The certificate of the key in use has to be renewed meanwhile.
                self.state.note(
                    "rotation",
                    Some("no certificate for the key's successor: it is tried again".to_owned()),
                );
                self.next = None;
            }
            _ => {}
        }
    }

    fn load_certificate(&mut self) {
        let Some(key) = self.key.clone() else { return };
        if let Some(next) = self.next.as_ref().map(|next| next.key.clone()) {
            match self.obtain(&next) {
                Ok(Some((issued, epoch))) => {
                    tracing::info!(key = next.reference(), "rotated to the key's successor");
                    self.key = Some(next);
                    self.next = None;
                    self.state.note("rotation", None);
                    return self.put_in_force(issued, epoch);
                }
                // An authority serves one key at a time; files may be for either.
                _ if self.source.is_online() => return self.warn_of_the_end(),
                _ => {}
            }
        }
        let result = self.obtain(&key);
        match result {
            Ok(None) => {
                self.state.note("certificate", None);
                self.warn_of_the_end();
            }
            Ok(Some((issued, epoch))) => self.put_in_force(issued, epoch),
            Err(problem) if self.loaded.is_none() => {
                self.state.set(Need::Certificate, Condition::Unmet(problem))
            }
            Err(problem) => {
                self.state.note(
                    "certificate",
                    Some(format!("{problem} (the last good one stays in force)")),
                );
            }
        }
    }

    /// What is issued for a key now, with an epoch made of it; none when that is in force.
    fn obtain(&mut self, key: &Arc<dyn PrivateKey>) -> Result<Option<(Issued, Epoch)>, String> {
        let issued = self.source.obtain(&self.settings, key)?;
        let loaded = self.loaded.as_ref();
        if loaded.is_some_and(|loaded| loaded.is_same(&issued, &self.settings)) {
            return Ok(None);
        }
        let epoch = self.epoch(&issued)?;
        Ok(Some((issued, epoch)))
    }

    fn epoch(&self, issued: &Issued) -> Result<Epoch, String> {
        Epoch::new(EpochConfig {
            number: self.number + 1,
            credentials: issued.credentials.clone(),
            bundle: issued.bundle.clone(),
            trust_domains: self.settings.trust_domains.clone(),
            profile: self.settings.profile,
            resumption: self.settings.resumption,
            time: Arc::new(DefaultTimeProvider),
        })
        .map_err(|error| error.to_string())
    }

    fn put_in_force(&mut self, issued: Issued, epoch: Epoch) {
        self.number = epoch.number();
        let facts = epoch.credentials().facts();
        tracing::info!(
            epoch = self.number,
            identity = %facts.spiffe_id,
            serial = facts.serial,
            not_after = %facts.not_after,
            "trust epoch in force"
        );
        self.loaded = Some(Loaded {
            issued,
            settings: self.settings.clone(),
        });
        let epoch = Arc::new(epoch);
        self.state.publish(InForce {
            settings: self.settings.clone(),
            epoch: epoch.clone(),
        });
        self.state.note("certificate", None);
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
    fn is_same(&self, issued: &Issued, settings: &Arc<Settings>) -> bool {
        self.issued.credentials.chain() == issued.credentials.chain()
            && Arc::ptr_eq(self.issued.credentials.key(), issued.credentials.key())
            && self.issued.bundle_pem == issued.bundle_pem
            && Arc::ptr_eq(&self.settings, settings)
    }
}

fn say_opened(key: &dyn PrivateKey) {
    tracing::info!(
        key = key.reference(),
        algorithm = %key.public_key().algorithm(),
        public_key_sha256 = key.public_key().fingerprint(),
        schemes = ?key.schemes(),
        "key signs"
    );
}

/// Whether the key cannot come back by itself, but a new one by its name may.
fn is_gone(key: &dyn PrivateKey) -> bool {
    matches!(
        key.health(),
        KeyHealth::Down(SignError::KeyGone | SignError::KeyChanged)
    )
}
