//! Trimming of a key's old versions: after a rotation, once nobody can need them any more, they are
//! made unusable (`min_encryption_version`, `min_decryption_version`). Run by the key itself, when
//! it looks for new versions.
//!
//! Two things have to be so. Nothing in this process holds an older version: no certificate, and no
//! link, which ends at the latest with its certificate. And this version has been in use here for
//! so long that the certificates of other replicas for an older one have ended as well: as long as
//! is configured, and at least as long as a certificate lives here, of which there has to be one.
//! That time is counted by this process's own clock and from its own start, so that neither a wrong
//! clock nor a restart makes it shorter.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use tokio::time::{Duration, Instant};

use super::TransitReference;
use super::key::Described;
use crate::vault::{Inner, Method, Request};

/// How many keys of this process there are, by their reference and version. The session that they
/// share has it.
#[derive(Debug, Default)]
pub(crate) struct InUse(Mutex<BTreeMap<(String, u64), usize>>);

/// A version is in use as long as this lives.
pub(super) struct Use {
    vault: Arc<Inner>,
    reference: String,
    version: u64,
}

/// Trims what is older than one version.
pub(super) struct Trimmer {
    reference: TransitReference,
    version: u64,
    after: Duration,
    since: Instant,
    vault: Arc<Inner>,
    /// Whether it has been said that the server does not let it.
    said: bool,
}

impl InUse {
    fn has_older(&self, reference: &str, version: u64) -> bool {
        let older = (reference.to_owned(), 0)..(reference.to_owned(), version);
        self.lock().range(older).next().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, u64), usize>> {
        // Each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Use {
    pub(super) fn begin(vault: &Arc<Inner>, reference: &TransitReference, version: u64) -> Self {
        let reference = reference.to_string();
        let key = (reference.clone(), version);
        *vault.transit_keys.lock().entry(key).or_default() += 1;
        Self {
            vault: vault.clone(),
            reference,
            version,
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut in_use = self.vault.transit_keys.lock();
        let key = (self.reference.clone(), self.version);
        if let Some(count) = in_use.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                in_use.remove(&key);
            }
        }
    }
}

impl std::fmt::Debug for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Use").field(&self.version).finish()
    }
}

impl Trimmer {
    pub(super) fn new(
        vault: &Arc<Inner>,
        reference: &TransitReference,
        version: u64,
        after: Duration,
    ) -> Self {
        Self {
            reference: reference.clone(),
            version,
            after,
            since: Instant::now(),
            vault: vault.clone(),
            said: false,
        }
    }

    /// Trims, if there is something to trim and it is time: not before a certificate's life has
    /// passed, whatever is configured. Tried again at the next look where the server does not do it.
    pub(super) async fn look(
        &mut self,
        described: &Described,
        certificate_lives: Duration,
        within: Instant,
    ) {
        let reference = self.reference.to_string();
        if described.latest_version != self.version
            || !described.has_usable_before(self.version)
            || self.since.elapsed() < self.after.max(certificate_lives)
            || self.vault.transit_keys.has_older(&reference, self.version)
        {
            return;
        }
        let request = Request {
            method: Method::Post,
            path: format!(
                "{}/keys/{}/config",
                self.reference.mount(),
                self.reference.key()
            ),
            body: Some(json!({
                "min_encryption_version": self.version,
                "min_decryption_version": self.version,
            })),
            what: format!("to trim old versions of {reference}"),
        };
        match self.vault.ask(&request, within).await {
            Ok(_) => {
                self.said = false;
                tracing::info!(
                    key = reference,
                    version = self.version,
                    "older versions are trimmed"
                );
            }
            Err(error) if !std::mem::replace(&mut self.said, true) => {
                tracing::warn!(key = reference, %error, "older versions cannot be trimmed");
            }
            Err(_) => {}
        }
    }
}
