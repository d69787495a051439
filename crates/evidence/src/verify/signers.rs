//! Whose signature counts: keys that the log has a certificate and a proof of custody for, where
//! the certificate chains to the bundle and was valid when the checkpoint was signed.

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

/// Keys whose custody is kept in memory: the youngest.
const MOST_KEYS: usize = 4096;

/// Certificates of one key that are looked at for one checkpoint, of those that were valid then. A
/// chain takes time to verify, and whoever made the log has made them.
const MOST_CHAINS: usize = 8;

/// For how long a chain that was verified at one time counts as verified: intermediates may end.
const VERIFIED_FOR: Duration = Duration::from_secs(600);

/// Who signs a log.
#[derive(Debug)]
pub(super) struct Signers {
    bundle: Arc<TrustBundle>,
    certificates: Vec<Known>,
    /// Keys whose custody is recorded.
    custody: Vec<Proven>,
}

/// A key that was shown to be at hand.
#[derive(Debug)]
struct Proven {
    /// Index of the first record that says so.
    index: u64,
    fingerprint: String,
    public: PublicKey,
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
            custody: Vec::new(),
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
        let fingerprint = &record.public_key_sha256;
        let mut known = self.custody.iter().rev();
        if known.any(|known| known.fingerprint == *fingerprint) {
            return Ok(());
        }
        if self.custody.len() == MOST_KEYS {
            self.custody.remove(0);
        }
        self.custody.push(Proven {
            index,
            fingerprint: fingerprint.clone(),
            public,
        });
        Ok(())
    }

    /// Whether a certificate with this serial number came into force before.
    pub(super) fn knows_serial(&self, serial: &str) -> bool {
        // The youngest come last, and are asked for most.
        let mut known = self.certificates.iter().rev();
        known.any(|known| known.facts.serial == serial)
            || self.certificates.len() == MOST_CERTIFICATES
    }

    /// Checks a checkpoint whose last record was written at `time`, under the SPIFFE ID `written_as`,
    /// and says under which it is signed.
    pub(super) fn check(
        &mut self,
        signed: &SignedCheckpoint,
        time: Timestamp,
        written_as: Option<&str>,
    ) -> Result<String, Refused> {
        let size = signed.checkpoint().size;
        let mut why = None;
        for proven in self.custody.iter().rev() {
            let key = &proven.fingerprint;
            match signed.is_signed_by(&proven.public) {
                None => continue,
                Some(false) => {
                    let problem =
                        format!("the signature is not that of the key {key} that it names");
                    return Err((Problem::Signature, problem));
                }
                Some(true) => {}
            }
            if proven.index >= size {
                let problem = format!("signed by the key {key} before its custody was recorded");
                why.get_or_insert((Problem::Custody, problem));
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
                why.get_or_insert((Problem::UnknownSigner, problem));
            }
            let mut chains = 0;
            for known in own {
                let found = match known
                    .is_valid_at(time)
                    .and_then(|()| known.is_of(written_as))
                {
                    Ok(()) if chains == MOST_CHAINS => break,
                    Ok(()) => {
                        chains += 1;
                        known.verify(&self.bundle, time)
                    }
                    early => early,
                };
                match found {
                    Ok(()) => return Ok(known.facts.spiffe_id.to_string()),
                    Err(problem) => {
                        let serial = &known.facts.serial;
                        let problem = format!("the signer's certificate {serial}: {problem}");
                        why.get_or_insert((Problem::Certificate, problem));
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
    fn is_valid_at(&self, time: Timestamp) -> Result<(), String> {
        let from = Timestamp::from(self.facts.not_before);
        let to = Timestamp::from(self.facts.not_after);
        match time {
            _ if time < from => Err(format!("not valid before {from}, and signed at {time}")),
            _ if time > to => Err(format!("expired at {to}, and signed at {time}")),
            _ => Ok(()),
        }
    }

    /// Any workload of the mesh has a certificate that chains to the bundle: it must be this one's.
    fn is_of(&self, written_as: Option<&str>) -> Result<(), String> {
        let own = self.facts.spiffe_id.to_string();
        match written_as {
            Some(written_as) if written_as == own => Ok(()),
            Some(other) => Err(format!("it is of {own}, and the records are of {other}")),
            None => Err(format!("it is of {own}, and the last record names nobody")),
        }
    }

    /// Whether its chain leads to the bundle.
    fn verify(&mut self, bundle: &Arc<TrustBundle>, time: Timestamp) -> Result<(), String> {
        let lately = |at: Timestamp| at <= time && time.since(at) < VERIFIED_FOR;
        if self.verified.is_some_and(lately) {
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
