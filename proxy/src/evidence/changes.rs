//! What comes into force, told to evidence: certificates with their keys, and policy. The keeper's
//! thread tells of it as it happens; what was so before the log was open is told then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealwire_evidence::Recorder;
use sealwire_evidence::record::{Certificate, CertificateEvent};
use sealwire_identity::Credentials;
use time::OffsetDateTime;

use super::policy::policy;
use crate::config::Settings;
use crate::state::{InForce, State};

/// Tells of changes.
#[derive(Debug)]
pub(super) struct Changes(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    /// Where to tell, once the log is open.
    recorder: Option<Recorder>,
    in_force: Option<Arc<InForce>>,
    /// The certificate that was last told of.
    told: Option<Arc<Credentials>>,
    /// Digest of the configuration that was last told of.
    config: String,
    /// Serial number of a certificate whose end or revocation was told.
    gone: Option<String>,
}

impl Changes {
    /// Beginning with a configuration that the start tells of.
    pub(super) fn new(settings: &Settings) -> Self {
        Self(Mutex::new(Seen {
            recorder: None,
            in_force: None,
            told: None,
            config: settings.config.digest.clone(),
            gone: None,
        }))
    }

    /// The log is open.
    pub(super) fn begin(&self, recorder: Recorder) {
        let mut seen = self.lock();
        seen.recorder = Some(recorder);
        seen.tell();
    }

    /// This is in force now.
    pub(super) fn in_force(&self, in_force: &Arc<InForce>) {
        let mut seen = self.lock();
        seen.in_force = Some(in_force.clone());
        seen.tell();
    }

    /// Sees whether the certificate in force has ended or was revoked, and tells so once.
    pub(super) fn look(&self, state: &State) {
        let mut seen = self.lock();
        let Some(credentials) = seen.told.clone() else {
            return;
        };
        let facts = credentials.facts();
        let event = if state.revoked() {
            CertificateEvent::Revoked
        } else if OffsetDateTime::now_utc() >= facts.not_after {
            CertificateEvent::Expired
        } else {
            return;
        };
        if seen.gone.as_ref() != Some(&facts.serial)
            && let Some(recorder) = &seen.recorder
        {
            recorder.certificate(Certificate::of(&credentials, event));
            seen.gone = Some(facts.serial.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Nothing under the lock can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn tell(&mut self) {
        let (Some(recorder), Some(in_force)) = (&self.recorder, &self.in_force) else {
            return;
        };
        let credentials = in_force.epoch.credentials();
        let before = self.told.as_ref();
        if before.is_none_or(|before| before.chain() != credentials.chain()) {
            let event = match before {
                None => CertificateEvent::Issued,
                Some(_) => CertificateEvent::Renewed,
            };
            recorder.credentials(credentials, event);
            self.told = Some(credentials.clone());
        }
        let config = &in_force.settings.config.digest;
        if self.config != *config {
            recorder.policy(policy(&in_force.settings));
            self.config = config.clone();
        }
    }
}
