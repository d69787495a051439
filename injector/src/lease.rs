//! Which replica leads: the one that holds a Lease. Time is measured by one's own clock from when a
//! change was seen, so that clocks may differ.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use metrics::gauge;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use crate::names;

/// How long a holder that says nothing more is the leader still.
const DURATION: Duration = Duration::from_secs(15);
/// How long after it began to say so a leader that cannot say so again takes itself for the leader.
/// With the time until it looks again, less than the others wait, so that there are never two.
const RENEWED_WITHIN: Duration = Duration::from_secs(8);
/// How often it is said and looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long one look may take.
const STEP: Duration = Duration::from_secs(4);
const _: () =
    assert!(RENEWED_WITHIN.as_secs() + INTERVAL.as_secs() + STEP.as_secs() < DURATION.as_secs());

/// Takes part in the election.
pub struct Election {
    leases: Api<Lease>,
    identity: String,
    leader: watch::Sender<bool>,
    seen: Option<Seen>,
    renewed: Option<Instant>,
}

/// Another's last sign of life.
struct Seen {
    version: Option<String>,
    at: Instant,
}

impl Election {
    /// Takes part by a name of one's own. The receiver says whether one leads.
    pub fn new(client: Client, namespace: &str, identity: String) -> (Self, watch::Receiver<bool>) {
        let (leader, receiver) = watch::channel(false);
        let election = Self {
            leases: Api::namespaced(client, namespace),
            identity,
            leader,
            seen: None,
            renewed: None,
        };
        (election, receiver)
    }

    /// Takes part until told to end, then lets the Lease go.
    pub async fn run(mut self, mut end: watch::Receiver<bool>) {
        let mut due = tokio::time::interval(INTERVAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*end.borrow() {
            tokio::select! {
                _ = due.tick() => {}
                _ = end.changed() => break,
            }
            // The others count from when it was written, which is after this.
            let begun = Instant::now();
            match timeout(STEP, self.step()).await {
                Ok(Ok(true)) => self.renewed = Some(begun),
                Ok(Ok(false)) => self.renewed = None,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the Lease could not be had: it is tried again")
                }
                Err(_) => tracing::debug!("the API server does not answer"),
            }
            let leads = self.renewed.is_some_and(|at| at.elapsed() < RENEWED_WITHIN);
            self.say(leads);
        }
        if self.renewed.is_some() {
            self.say(false);
            let _ = timeout(INTERVAL, self.release()).await;
        }
    }

    fn say(&self, leads: bool) {
        gauge!("sealwire_injector_leader").set(if leads { 1.0 } else { 0.0 });
        let changed = self
            .leader
            .send_if_modified(|said| std::mem::replace(said, leads) != leads);
        if changed {
            tracing::info!(leads, identity = self.identity, "the leader has changed");
        }
    }

    /// Whether one holds the Lease now. Nobody writes over what somebody else has written since.
    async fn step(&mut self) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.leases.get_opt(names::LEASE).await? else {
            let mut lease = Lease::default();
            lease.metadata.name = Some(names::LEASE.to_owned());
            lease.spec = Some(self.held(now, 0));
            // Applied rather than created: creating could not be allowed by name. Whoever is second
            // is told of a conflict, since each replica applies by a name of its own.
            let params = PatchParams::apply(&self.identity);
            return written(
                self.leases
                    .patch(names::LEASE, &params, &Patch::Apply(&lease))
                    .await,
            );
        };
        let spec = lease.spec.get_or_insert_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder == self.identity {
            spec.renew_time = Some(now);
        } else {
            if !holder.is_empty() && !self.is_silent(lease.metadata.resource_version.as_deref()) {
                return Ok(false);
            }
            let spec = lease.spec.get_or_insert_default();
            let transitions = spec.lease_transitions.unwrap_or_default().saturating_add(1);
            *spec = self.held(now, transitions);
        }
        let params = PostParams::default();
        written(self.leases.replace(names::LEASE, &params, &lease).await)
    }

    /// Whether the holder has said nothing for too long.
    fn is_silent(&mut self, version: Option<&str>) -> bool {
        match &self.seen {
            Some(seen) if seen.version.as_deref() == version => seen.at.elapsed() >= DURATION,
            _ => {
                self.seen = Some(Seen {
                    version: version.map(str::to_owned),
                    at: Instant::now(),
                });
                false
            }
        }
    }

    fn held(&self, now: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Lets another lead at once.
    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.leases.get_opt(names::LEASE).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        let params = PostParams::default();
        written(self.leases.replace(names::LEASE, &params, &lease).await).map(drop)
    }
}

/// Whether it was written; not when somebody else was first.
fn written(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

impl std::fmt::Debug for Election {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Election")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}
