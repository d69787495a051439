//! Signatures by one version of a transit key: asked for in as few requests as there are, since a
//! request costs the server more than a signature.
//!
//! A bounded number of requests is under way. While all are, signatures gather, and the next
//! request carries them together: a lone signature never waits for company.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::trim::Trimmer;
use super::{PROOF, TransitReference, key};
use crate::public_key::PublicKey;
use crate::vault::{Inner, Method, Request, VaultError, printable};
use crate::{KeyFigures, KeyHealth, Scheme, SignError, TransitConfig};

/// Pauses between attempts to have a key that failed sign again: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The longest pause while somebody has to help first.
const HELPLESS: Duration = Duration::from_secs(5);

/// Asks for signatures.
pub(super) struct Signer {
    queue: mpsc::Sender<Order>,
    wait: Duration,
    limit: usize,
    requests: usize,
    vault: Arc<Inner>,
    standing: Mutex<Option<SignError>>,
    /// Why the key is not to be used, though it would sign: its server lets it be taken out now.
    unfit: Mutex<Option<String>>,
    /// Told when the key has failed, and when it is dropped.
    failed: Notify,
    ended: AtomicBool,
    waiting: AtomicUsize,
    under_way: AtomicUsize,
    recoveries: AtomicU64,
    pub(super) signatures: AtomicU64,
    /// The newest version that the server has been seen to have.
    pub(super) newest: AtomicU64,
    /// Seconds that a certificate for this key lives; 0 as long as none has been in force.
    pub(super) certificate_lives: AtomicU64,
}

/// A signature that somebody waits for.
#[derive(Debug)]
struct Order {
    scheme: Scheme,
    /// Digest, or the message where the scheme wants that, in base64.
    input: String,
    deadline: Instant,
    /// Whether that is sooner than a signature may take.
    hurried: bool,
    reply: SyncSender<Result<Vec<u8>, SignError>>,
}

/// What every request of one key has in common.
struct Asking {
    /// Not the whole configuration: the session has to end with its owners, of which its own tasks
    /// must be none.
    reference: TransitReference,
    version: u64,
    batch: usize,
    requests: usize,
    wait: Duration,
    look: Duration,
    allow_exportable: bool,
    vault: Arc<Inner>,
    signer: Weak<Signer>,
}

/// One signature of an answer.
#[derive(Deserialize)]
struct Signed {
    #[serde(default)]
    signature: String,
    #[serde(default)]
    error: String,
}

impl Signer {
    /// Starts the tasks, on the session's runtime; they end with [`Signer::end`].
    pub(super) fn start(config: &TransitConfig, version: u64, public: &PublicKey) -> Arc<Self> {
        let (queue, orders) = mpsc::channel(config.queue.max(1));
        let signer = Arc::new(Self {
            queue,
            wait: config.wait,
            limit: config.queue.max(1),
            requests: config.requests.get(),
            vault: config.vault.inner().clone(),
            standing: Mutex::default(),
            unfit: Mutex::default(),
            failed: Notify::new(),
            ended: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            recoveries: AtomicU64::new(0),
            signatures: AtomicU64::new(0),
            newest: AtomicU64::new(version),
            certificate_lives: AtomicU64::new(0),
        });
        let asking = Arc::new(Asking {
            reference: config.reference.clone(),
            version,
            batch: config.batch.get(),
            requests: config.requests.get(),
            wait: config.wait,
            look: config.look,
            allow_exportable: config.allow_exportable,
            vault: config.vault.inner().clone(),
            signer: Arc::downgrade(&signer),
        });
        config.vault.spawn(take_orders(asking.clone(), orders));
        config
            .vault
            .spawn(recover(asking.clone(), signer.clone(), public.clone()));
        let trimmer = config
            .trim_after
            .map(|after| Trimmer::new(config.vault.inner(), &config.reference, version, after));
        config.vault.spawn(look_for_versions(asking, trimmer));
        signer
    }

    /// Signs. Blocks.
    pub(super) fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if let Some(error) = self.unfit().or_else(|| self.standing())
            && error.needs_help()
        {
            return Err(error);
        }
        let input = match scheme.digest(message) {
            Some(digest) => STANDARD.encode(digest.as_ref()),
            None => STANDARD.encode(message),
        };
        let (reply, replied) = std::sync::mpsc::sync_channel(1);
        let begun = Instant::now();
        let own = begun + self.wait;
        let deadline = Instant::from_std(crate::deadline_to_sign(own.into_std()));
        let hurried = deadline < own;
        let order = Order {
            scheme,
            input,
            deadline,
            hurried,
            reply,
        };
        self.queue
            .try_send(order)
            .map_err(|_| SignError::Overloaded { limit: self.limit })?;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let left = deadline.saturating_duration_since(begun);
        let said = replied.recv_timeout(left + Duration::from_millis(100));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let outcome = said.unwrap_or_else(|_| {
            Err(match self.vault.problem() {
                Some(problem) => problem.into(),
                None if hurried => SignError::Deadline {
                    waited: begun.elapsed(),
                },
                None => SignError::Silent {
                    longer_than: self.wait,
                },
            })
        });
        match &outcome {
            Ok(_) => {
                self.signatures.fetch_add(1, Ordering::Relaxed);
                self.works();
            }
            Err(error)
                if error.blames_the_device() || matches!(error, SignError::Silent { .. }) =>
            {
                self.fails(error.clone());
            }
            Err(_) => {}
        }
        outcome
    }

    pub(super) fn health(&self) -> KeyHealth {
        match self.unfit().or_else(|| self.standing()) {
            Some(error) if error.needs_help() => KeyHealth::Down(error),
            Some(error) => KeyHealth::Degraded(error),
            // Nothing has been asked of the key since the server was seen to be of no use.
            None => match self.vault.problem().map(SignError::from) {
                Some(error) => KeyHealth::Degraded(error),
                None => KeyHealth::Ready,
            },
        }
    }

    pub(super) fn figures(&self) -> KeyFigures {
        let busy = self.under_way.load(Ordering::Relaxed);
        KeyFigures {
            signatures: self.signatures.load(Ordering::Relaxed),
            sessions_open: busy,
            sessions_busy: busy,
            sessions_limit: self.requests,
            waiting: self.waiting.load(Ordering::Relaxed),
            recoveries: self.recoveries.load(Ordering::Relaxed),
            ..KeyFigures::default()
        }
    }

    /// Ends the tasks.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.failed.notify_one();
    }

    fn unfit(&self) -> Option<SignError> {
        let unfit = self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        unfit.clone().map(SignError::Refused)
    }

    /// Says whether the key may be used, by what the server says of it now.
    fn judge(&self, unfit: Option<String>, reference: &TransitReference) {
        let mut before = self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        if *before != unfit {
            match &unfit {
                Some(problem) => {
                    tracing::error!(key = %reference, problem, "the key is not used any more")
                }
                None => tracing::info!(key = %reference, "the key is used again"),
            }
            *before = unfit;
        }
    }

    fn standing(&self) -> Option<SignError> {
        self.standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn works(&self) {
        let before = self
            .standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if before.is_some() {
            self.recoveries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It does not sign as it should: it is tried again until it does.
    pub(super) fn fails(&self, error: SignError) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.failed.notify_one();
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("standing", &self.standing())
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}

/// Gathers orders into requests.
async fn take_orders(asking: Arc<Asking>, mut orders: mpsc::Receiver<Order>) {
    let places = Arc::new(Semaphore::new(asking.requests));
    while let Some(first) = orders.recv().await {
        // While there is no place, orders gather in the queue.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let mut batch = vec![first];
        while batch.len() < asking.batch
            && let Ok(next) = orders.try_recv()
        {
            batch.push(next);
        }
        let asking = asking.clone();
        tokio::spawn(async move {
            asking.serve(batch).await;
            drop(place);
        });
    }
}

/// Has a key that failed sign again and again until it does.
async fn recover(asking: Arc<Asking>, signer: Arc<Signer>, public: PublicKey) {
    let Some(scheme) = public.algorithm().schemes().first().copied() else {
        return;
    };
    loop {
        signer.failed.notified().await;
        let mut pause = RETRY.0;
        while !signer.ended.load(Ordering::Relaxed)
            && let Some(error) = signer.standing()
        {
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            let longest = if error.needs_help() {
                HELPLESS
            } else {
                RETRY.1
            };
            pause = (pause * 2).min(longest);
            match asking.prove(scheme, &public).await {
                Ok(()) => {
                    tracing::info!(key = %asking.reference, "the key signs again");
                    signer.works();
                }
                Err(error) => {
                    let standing = signer.standing.lock();
                    let mut standing = standing.unwrap_or_else(PoisonError::into_inner);
                    if standing.is_some() {
                        *standing = Some(error);
                    }
                }
            }
        }
        if signer.ended.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Looks now and then whether the key has a new version, or old ones to trim.
async fn look_for_versions(asking: Arc<Asking>, mut trimmer: Option<Trimmer>) {
    loop {
        sleep(asking.look.mul_f64(0.8 + fastrand::f64() * 0.4)).await;
        let question = key::question(&asking.reference);
        let within = Instant::now() + asking.wait;
        let answer = asking.vault.ask(&question, within).await;
        let Some(signer) = asking.signer.upgrade() else {
            return;
        };
        if signer.ended.load(Ordering::Relaxed) {
            return;
        }
        match answer.and_then(|answer| key::described(answer, question.what)) {
            Ok(described) => {
                signer
                    .newest
                    .store(described.latest_version, Ordering::Relaxed);
                let unfit = described.check_custody(asking.allow_exportable).err();
                signer.judge(unfit, &asking.reference);
                let lives = signer.certificate_lives.load(Ordering::Relaxed);
                // The key may be dropped while the server is asked.
                drop(signer);
                if let Some(trimmer) = &mut trimmer
                    && lives > 0
                {
                    let lives = Duration::from_secs(lives);
                    let within = Instant::now() + asking.wait;
                    trimmer.look(&described, lives, within).await;
                }
            }
            Err(error @ VaultError::Missing(_)) => signer.fails(error.into()),
            // Whoever needs a signature will say so.
            Err(error) => tracing::debug!(%error, "cannot look for a new version"),
        }
    }
}

impl Asking {
    /// Asks for a batch and gives every order its answer.
    async fn serve(&self, batch: Vec<Order>) {
        if let Some(signer) = self.signer.upgrade() {
            signer.under_way.fetch_add(1, Ordering::Relaxed);
        }
        let mut by_scheme: BTreeMap<u16, Vec<Order>> = BTreeMap::new();
        let now = Instant::now();
        // Whoever waited too long has gone.
        for order in batch.into_iter().filter(|order| order.deadline > now) {
            by_scheme
                .entry(order.scheme.code())
                .or_default()
                .push(order);
        }
        for orders in by_scheme.into_values() {
            let outcomes = self.ask(&orders).await;
            for (order, outcome) in orders.into_iter().zip(outcomes) {
                // Whoever waited may have gone.
                let _ = order.reply.try_send(outcome);
            }
        }
        if let Some(signer) = self.signer.upgrade() {
            signer.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// One outcome for each order, which are all of one scheme.
    async fn ask(&self, orders: &[Order]) -> Vec<Result<Vec<u8>, SignError>> {
        let all = |error: SignError| orders.iter().map(|_| Err(error.clone())).collect();
        let Some(first) = orders.first() else {
            return Vec::new();
        };
        let inputs: Vec<&str> = orders.iter().map(|order| order.input.as_str()).collect();
        let request = self.request(first.scheme, &inputs);
        let deadline = orders.iter().map(|order| order.deadline).max();
        let deadline = deadline.unwrap_or(first.deadline);
        let answer = match self.vault.ask(&request, deadline).await {
            Ok(answer) => answer,
            // Vault's words for a key that is not there.
            Err(VaultError::Refused { said, .. }) if said.contains("signing key not found") => {
                return all(SignError::KeyGone);
            }
            // Nobody knows yet whether the server would have answered in its time.
            Err(VaultError::Deadline(waited)) if orders.iter().all(|order| order.hurried) => {
                return all(SignError::Deadline { waited });
            }
            Err(error) => return all(error.into()),
        };
        match Vec::<Signed>::deserialize(&answer["batch_results"]) {
            Ok(results) if results.len() == orders.len() => results
                .into_iter()
                .map(|signed| self.take(signed))
                .collect(),
            Ok(results) => all(SignError::Device(format!(
                "{} signatures instead of {}",
                results.len(),
                orders.len()
            ))),
            Err(error) => all(SignError::Device(format!("no signatures: {error}"))),
        }
    }

    fn request(&self, scheme: Scheme, inputs: &[&str]) -> Request {
        let hash = match scheme {
            Scheme::EcdsaP256Sha256 | Scheme::RsaPssSha256 => "sha2-256",
            Scheme::EcdsaP384Sha384 | Scheme::RsaPssSha384 => "sha2-384",
            // Ed25519 has its own.
            Scheme::RsaPssSha512 | Scheme::Ed25519 => "sha2-512",
        };
        // Also for one: only then is a refusal told apart from a server that fails.
        let inputs = inputs.iter().map(|input| json!({ "input": input }));
        let mut body = json!({
            "key_version": self.version,
            "batch_input": inputs.collect::<Value>(),
        });
        match scheme {
            Scheme::EcdsaP256Sha256 | Scheme::EcdsaP384Sha384 => {
                body["prehashed"] = json!(true);
                body["marshaling_algorithm"] = json!("asn1");
            }
            Scheme::RsaPssSha256 | Scheme::RsaPssSha384 | Scheme::RsaPssSha512 => {
                body["prehashed"] = json!(true);
                body["signature_algorithm"] = json!("pss");
                // The server's own default is as long as the key allows, which TLS refuses.
                body["salt_length"] = json!("hash");
            }
            Scheme::Ed25519 => {}
        }
        let reference = &self.reference;
        Request {
            method: Method::Post,
            path: format!("{}/sign/{}/{hash}", reference.mount(), reference.key()),
            body: Some(body),
            what: format!("to sign with {reference}"),
        }
    }

    /// `vault:v3:…`, where 3 has to be the version that was asked for.
    fn take(&self, signed: Signed) -> Result<Vec<u8>, SignError> {
        if !signed.error.is_empty() {
            // Below min_encryption_version, or beyond the latest: it will not come back by itself.
            return Err(SignError::Refused(format!(
                "version {} of {}: {}: keep min_encryption_version at or below it until its certificate has been replaced",
                self.version,
                self.reference,
                printable(&signed.error)
            )));
        }
        let mut parts = signed.signature.splitn(3, ':');
        let expected = format!("v{}", self.version);
        match (parts.next(), parts.next(), parts.next()) {
            (Some("vault"), Some(version), Some(signature)) if version == expected => STANDARD
                .decode(signature)
                .map_err(|_| SignError::Device("a signature that is no base64".to_owned())),
            (Some("vault"), Some(version), Some(_)) => Err(SignError::Device(format!(
                "a signature by version {version:?} where {expected} was asked for"
            ))),
            _ => Err(SignError::Device(
                "a signature that is not vault:vN:…".to_owned(),
            )),
        }
    }

    async fn prove(&self, scheme: Scheme, public: &PublicKey) -> Result<(), SignError> {
        let (reply, replied) = std::sync::mpsc::sync_channel(1);
        let input = scheme.digest(PROOF).map_or_else(
            || STANDARD.encode(PROOF),
            |digest| STANDARD.encode(digest.as_ref()),
        );
        let order = Order {
            scheme,
            input,
            deadline: Instant::now() + self.wait,
            hurried: false,
            reply,
        };
        // In time even where the server keeps silent.
        let _ = timeout(self.wait, self.serve(vec![order])).await;
        let signature = replied.try_recv().unwrap_or(Err(SignError::Silent {
            longer_than: self.wait,
        }))?;
        if public.verifies(scheme, PROOF, &signature) {
            Ok(())
        } else {
            Err(SignError::KeyChanged)
        }
    }
}
