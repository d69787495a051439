//! What is in force, and whether the proxy may let anything flow. Written by the trust keeper and
//! the prover, read by everything else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sealwire_identity::{Epoch, Renewal};
use sealwire_keys::{KeyHealth, VaultFigures};
use serde::Serialize;
use tokio::sync::watch;

use crate::config::Settings;

/// One immutable snapshot: the policy together with the trust that it is applied with. A decision
/// and the link that follows from it come from the same one.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Own key and certificate, and whom to trust. Its number is the snapshot's.
    pub epoch: Arc<Epoch>,
}

/// Something that has to be so before anything may flow.
#[derive(Copy, Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// The private key signs.
    Key,
    /// The certificate is valid and belongs to the key.
    Certificate,
    /// The kernel's capture rules work.
    Capture,
    /// Evidence is written, where the configuration requires it.
    Evidence,
}

impl Need {
    /// Those that every proxy has.
    pub const ALL: [Self; 3] = [Self::Key, Self::Certificate, Self::Capture];

    /// Name in health and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Certificate => "certificate",
            Self::Capture => "capture",
            Self::Evidence => "evidence",
        }
    }
}

/// Whether a need is met.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "detail")]
pub enum Condition {
    /// It is.
    Met,
    /// Not so, and what to do about it.
    Unmet(String),
}

/// The proxy's state.
#[derive(Debug)]
pub struct State {
    in_force: watch::Sender<Option<Arc<InForce>>>,
    conditions: Mutex<BTreeMap<Need, Condition>>,
    notes: Mutex<BTreeMap<&'static str, String>>,
    key: Mutex<Option<KeyHealth>>,
    online: Mutex<Online>,
    renew: AtomicBool,
    /// Whether a revocation list names the own certificate.
    revoked: AtomicBool,
    /// Who is told of every snapshot.
    listener: OnceLock<Listener>,
    /// As it was last said in the log.
    ready: AtomicBool,
    draining: watch::Sender<bool>,
    closing: watch::Sender<bool>,
}

/// Is told of every snapshot.
struct Listener(Box<Tell>);

type Tell = dyn Fn(&Arc<InForce>) + Send + Sync;

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// How it stands with what is asked over the network.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Online {
    /// The session with Vault or OpenBao, if there is one.
    pub vault: Option<VaultFigures>,
    /// Renewing the certificate, if an authority issues it.
    pub renewal: Option<Renewal>,
}

/// Health as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// Whether traffic should be sent here.
    pub ready: bool,
    /// Whether the pod is ending.
    pub draining: bool,
    /// Each need.
    pub needs: BTreeMap<Need, Condition>,
    /// How it stands with the key, once there is one.
    pub key: Option<KeyHealth>,
    /// How it stands with what is asked over the network.
    pub online: Online,
    /// What is not as it should be, without stopping anything.
    pub notes: BTreeMap<&'static str, String>,
}

impl State {
    /// Nothing is in force, and nothing may flow.
    pub fn new() -> Arc<Self> {
        let waiting = |need: Need| (need, Condition::Unmet("not yet looked at".to_owned()));
        Arc::new(Self {
            in_force: watch::Sender::new(None),
            conditions: Mutex::new(Need::ALL.map(waiting).into()),
            notes: Mutex::default(),
            key: Mutex::default(),
            online: Mutex::default(),
            renew: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            listener: OnceLock::new(),
            ready: AtomicBool::new(false),
            draining: watch::Sender::new(false),
            closing: watch::Sender::new(false),
        })
    }

    /// The snapshot in force, where everything that is needed is so; else the needs that are not.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn flowing(&self) -> Result<Arc<InForce>, String> {
        let conditions = lock(&self.conditions);
        let missing: Vec<_> = conditions
            .iter()
            .filter_map(|(need, condition)| match condition {
                Condition::Met => None,
                Condition::Unmet(why) => Some(format!("{}: {why}", need.name())),
            })
            .collect();
        drop(conditions);
        if !missing.is_empty() {
            return Err(missing.join("; "));
        }
        match self.in_force() {
            Some(in_force) => match in_force.epoch.problem() {
                None => Ok(in_force),
                Some(problem) => Err(format!(
                    "certificate: every peer would refuse this workload: {problem}"
                )),
            },
            None => Err("certificate: not yet loaded".to_owned()),
        }
    }

    /// The snapshot in force, if any.
    pub fn in_force(&self) -> Option<Arc<InForce>> {
        self.in_force.borrow().clone()
    }

    /// Puts a snapshot in force.
    pub fn publish(&self, in_force: InForce) {
        let in_force = Arc::new(in_force);
        self.revoked.store(false, Ordering::Relaxed);
        if let Some(Listener(tell)) = self.listener.get() {
            tell(&in_force);
        }
        self.in_force.send_replace(Some(in_force));
    }

    /// Has `tell` called with every snapshot that is put in force from now on, before anything is
    /// sealed under it: whoever looks from time to time would miss those in between. It must not
    /// block. There is one listener.
    pub fn listen(&self, tell: impl Fn(&Arc<InForce>) + Send + Sync + 'static) {
        let _ = self.listener.set(Listener(Box::new(tell)));
    }

    /// A revocation list names the own certificate.
    pub fn is_revoked(&self, problem: String) {
        self.revoked.store(true, Ordering::Relaxed);
        self.set(Need::Certificate, Condition::Unmet(problem));
    }

    /// Whether a revocation list names the own certificate.
    pub fn revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    /// Waits until a snapshot is in force.
    pub async fn first_in_force(&self) -> Arc<InForce> {
        let mut changes = self.in_force.subscribe();
        loop {
            if let Some(in_force) = changes.borrow_and_update().clone() {
                return in_force;
            }
            // The sender lives in self, so the channel cannot close.
            let _ = changes.changed().await;
        }
    }

    /// Says whether a need is met; one log line a change.
    pub fn set(&self, need: Need, condition: Condition) {
        let mut conditions = lock(&self.conditions);
        let before = conditions.insert(need, condition.clone());
        if before.as_ref() == Some(&condition) {
            return;
        }
        match condition {
            Condition::Met => tracing::info!(need = need.name(), "need met"),
            Condition::Unmet(why) if before == Some(Condition::Met) => {
                tracing::error!(
                    need = need.name(),
                    why,
                    "need no longer met: nothing new flows"
                );
            }
            Condition::Unmet(why) => tracing::warn!(need = need.name(), why, "waiting for a need"),
        }
    }

    /// Says how it stands with the key; one log line a transition. Degraded, the need for it is
    /// still met: what is sealed goes on, and sessions are resumed.
    pub fn key_health(&self, health: KeyHealth) {
        let before = lock(&self.key).replace(health.clone());
        let problem = health.problem().map(ToString::to_string);
        if before.as_ref().map(KeyHealth::name) != Some(health.name()) {
            let (state, problem) = (health.name(), problem.as_deref());
            match (&health, &before) {
                (KeyHealth::Ready, None) => {}
                (KeyHealth::Ready, Some(_)) => tracing::info!(state, "the key signs again"),
                (KeyHealth::Degraded(_), _) => {
                    tracing::warn!(state, problem, "the key does not sign now");
                }
                (KeyHealth::Down(_), _) => tracing::error!(state, problem, "the key is down"),
            }
        }
        self.set(
            Need::Key,
            match health {
                KeyHealth::Ready | KeyHealth::Degraded(_) => Condition::Met,
                KeyHealth::Down(_) => Condition::Unmet(problem.unwrap_or_default()),
            },
        );
    }

    /// Says how it stands with what is asked over the network.
    pub fn online(&self, online: Online) {
        *lock(&self.online) = online;
    }

    /// Somebody wants the certificate to be renewed now.
    pub fn ask_to_renew(&self) {
        self.renew.store(true, Ordering::Relaxed);
    }

    /// Whether somebody did, since this was last asked.
    pub fn asked_to_renew(&self) -> bool {
        self.renew.swap(false, Ordering::Relaxed)
    }

    /// Sets or clears a note: something to mend that stops nothing.
    pub fn note(&self, name: &'static str, note: Option<String>) {
        let mut notes = lock(&self.notes);
        if notes.get(name) == note.as_ref() {
            return;
        }
        match note {
            Some(note) => {
                tracing::warn!(name, note, "to mend");
                notes.insert(name, note);
            }
            None => {
                notes.remove(name);
            }
        }
    }

    /// Says in the log when readiness has changed. To be called often.
    pub fn say_readiness(&self) {
        let health = self.health();
        if self.ready.swap(health.ready, Ordering::Relaxed) != health.ready {
            if health.ready {
                tracing::info!("ready");
            } else {
                tracing::warn!(draining = health.draining, needs = ?health.needs, "not ready any more");
            }
        }
    }

    /// Begins to drain: readiness is false from here on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Ends every connection that is still open.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Waits until every connection is to end.
    pub async fn closed(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Health as it is now.
    pub fn health(&self) -> Health {
        let draining = *self.draining.borrow();
        let mut needs = lock(&self.conditions).clone();
        if let Err(why) = self.flowing()
            && needs
                .values()
                .all(|condition| matches!(condition, Condition::Met))
        {
            needs.insert(Need::Certificate, Condition::Unmet(why));
        }
        // What is here goes on to the end; what is new had better go elsewhere before.
        let in_force = self.in_force();
        let ending = in_force.and_then(|in_force| in_force.epoch.is_ending());
        if let Some(end) = ending
            && needs.get(&Need::Certificate) == Some(&Condition::Met)
        {
            let why = format!("the certificate ends at {end} and has not been renewed");
            needs.insert(Need::Certificate, Condition::Unmet(why));
        }
        Health {
            ready: !draining && ending.is_none() && self.flowing().is_ok(),
            draining,
            needs,
            key: lock(&self.key).clone(),
            online: lock(&self.online).clone(),
            notes: lock(&self.notes).clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can leave a map half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
