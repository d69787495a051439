//! Whose signature counts: keys that the log has a certificate and a proof of custody for, where
//! the certificate chains to the bundle and was valid when the checkpoint was signed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use sealwire_identity::{CertificateFacts, Profile, Role, TrustBundle, TrustDomain, Verifier};
use sealwire_keys::PublicKey;

use super::Problem;
use crate::note::SignedCheckpoint;
use crate::record::{Certificate, CertificateEvent, Custody, Timestamp};

/// Certificates that are kept in memory: the youngest.
const MOST_CERTIFICATES: usize = 256;

/// For how long a chain that was verified at one time counts as verified: intermediates may end.
const VERIFIED_FOR: Duration = Duration::from_secs(600);

/// Who signs a log.
#[derive(Debug)]
pub(super) struct Signers {
    bundle: Arc<TrustBundle>,
    certificates: Vec<Known>,
    /// Keys whose custody is recorded, with the index of the first record that says so.
    custody: HashMap<String, (u64, PublicKey)>,
}

/// A certificate of the log.
#[derive(Debug)]
struct Known {
    index: u64,
    facts: CertificateFacts,
    chain: Vec<CertificateDer<'static>>,
    /// When its chain was verified last.
    verified: Option<Timestamp>,
}

/// Why a signature does not count.
pub(super) type Refused = (Problem, String);

impl Signers {
    pub(super) fn new(bundle: Arc<TrustBundle>) -> Self {
        Self {
            bundle,
            certificates: Vec::new(),
            custody: HashMap::new(),
        }
    }

    /// Takes up a certificate that a record brings into force.
    pub(super) fn certificate(&mut self, index: u64, record: &Certificate) -> Result<(), String> {
        let chain = record
            .chain_der()
            .ok_or("its chain cannot be read".to_owned())?;
        let leaf = chain.first().ok_or("it has no chain".to_owned())?;
        let facts = CertificateFacts::of(leaf).map_err(|error| error.to_string())?;
        let said = [
            ("serial", &record.serial, &facts.serial),
            ("issuer", &record.issuer, &facts.issuer),
            ("spiffe_id", &record.spiffe_id, &facts.spiffe_id.to_string()),
            (
                "public_key_sha256",
                &record.public_key_sha256,
                &facts.public_key_sha256,
            ),
            (
                "not_before",
                &record.not_before.to_string(),
                &Timestamp::from(facts.not_before).to_string(),
            ),
            (
                "not_after",
                &record.not_after.to_string(),
                &Timestamp::from(facts.not_after).to_string(),
            ),
        ];
        for (field, said, is) in said {
            if said != is {
                return Err(format!("{field} is {said}, the certificate says {is}"));
            }
        }
        if facts.ip_addresses != record.ip_addresses {
            return Err("ip_addresses are not those of the certificate".to_owned());
        }
        let counts = matches!(
            record.event,
            CertificateEvent::Issued | CertificateEvent::Renewed
        );
        if counts && self.certificates.iter().all(|known| known.chain != chain) {
            if self.certificates.len() == MOST_CERTIFICATES {
                self.certificates.remove(0);
            }
            self.certificates.push(Known {
                index,
                facts,
                chain,
                verified: None,
            });
        }
        Ok(())
    }

    /// Takes up a record of custody, if its proof verifies.
    pub(super) fn custody(&mut self, index: u64, record: &Custody) -> Result<(), String> {
        let public = record.check().map_err(|error| error.to_string())?;
        if self.custody.len() >= MOST_CERTIFICATES * 16 {
            self.custody.clear();
        }
        self.custody
            .entry(record.public_key_sha256.clone())
            .or_insert((index, public));
        Ok(())
    }

    /// Whether a certificate with this serial number came into force before.
    pub(super) fn knows_serial(&self, serial: &str) -> bool {
        // The youngest come last, and are asked for most.
        let mut known = self.certificates.iter().rev();
        known.any(|known| known.facts.serial == serial)
            || self.certificates.len() == MOST_CERTIFICATES
    }

    /// Checks a checkpoint whose last record was written at `time`.
    pub(super) fn check(
        &mut self,
        signed: &SignedCheckpoint,
        time: Timestamp,
    ) -> Result<(), Refused> {
        let size = signed.checkpoint().size;
        let mut why = None;
        for (key, (proven, public)) in &self.custody {
            match signed.is_signed_by(public) {
                None => continue,
                Some(false) => {
                    let problem =
                        format!("the signature is not that of the key {key} that it names");
                    return Err((Problem::Signature, problem));
                }
                Some(true) => {}
            }
            if *proven >= size {
                let problem = format!("signed by the key {key} before its custody was recorded");
                why = Some((Problem::Custody, problem));
                continue;
            }
            let mut own = self
                .certificates
                .iter_mut()
                .rev()
                .filter(|known| known.facts.public_key_sha256 == *key && known.index < size)
                .peekable();
            if own.peek().is_none() {
                let problem =
                    format!("signed by the key {key}, of which the log has no certificate");
                why = Some((Problem::UnknownSigner, problem));
            }
            for known in own {
                match known.verify(&self.bundle, time) {
                    Ok(()) => return Ok(()),
                    Err(problem) => {
                        let serial = &known.facts.serial;
                        let problem = format!("the signer's certificate {serial}: {problem}");
                        why = Some((Problem::Certificate, problem));
                    }
                }
            }
        }
        Err(why.unwrap_or_else(|| {
            let lines = signed.own_signatures();
            let keys: Vec<String> = lines.map(|line| line.key.to_string()).collect();
            let problem = format!(
                "signed by no key that the log has custody and certificate of (key IDs {})",
                keys.join(", ")
            );
            (Problem::UnknownSigner, problem)
        }))
    }
}

impl Known {
    fn verify(&mut self, bundle: &Arc<TrustBundle>, time: Timestamp) -> Result<(), String> {
        let within = Timestamp::from(self.facts.not_before) <= time
            && time <= Timestamp::from(self.facts.not_after);
        let lately = |at: Timestamp| at <= time && time.since(at) < VERIFIED_FOR;
        if within && self.verified.is_some_and(lately) {
            return Ok(());
        }
        let (leaf, intermediates) = self.chain.split_first().ok_or("it has no chain")?;
        let domain: TrustDomain = self
            .facts
            .spiffe_id
            .trust_domain()
            .parse()
            .map_err(|error| format!("{error}"))?;
        let profile: &'static Profile = Profile::by_name("default").map_err(|e| e.to_string())?;
        let verifier = Verifier::new(bundle.clone(), vec![domain], profile);
        let seconds = u64::try_from(time.get().unix_timestamp()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        verifier
            .verify(leaf, intermediates, Role::Client, now)
            .map_err(|error| error.to_string())?;
        self.verified = Some(time);
        Ok(())
    }
}
