//! A small world for tests: certificate authorities, keys and certificates with any fault one
//! likes, clocks that stand still, and TLS handshakes in memory. Nothing here waits.

mod wire;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList,
    CertificateRevocationListParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, RsaKeySize, SanType,
    SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use sealwire_keys::{Custody, KeyConfig, MemoryConfig, PrivateKey, PublicKey, Scheme, SignError};
use time::OffsetDateTime;
use time::macros::datetime;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(crate) use self::wire::{Anybody, Outcome, Stranger, everything, handshake};
use crate::bundle::TrustBundle;
use crate::certificate::Credentials;
use crate::epoch::{Epoch, EpochConfig, EpochError};
use crate::profile::Profile;

/// When everything here happens.
pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-24 12:00 UTC);

/// The workload that most tests are about, and its addresses.
pub(crate) const WEB: &str = "spiffe://m.example/ns/shop/sa/web";
pub(crate) const V4: &str = "198.18.0.7";
pub(crate) const V6: &str = "fd00:5ea1::7";

/// Where it is dialled.
pub(crate) const DIALLED: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 7)), 443);

/// A clock that stands still.
#[derive(Debug)]
pub(crate) struct At(pub(crate) OffsetDateTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(self.0))
    }
}

/// A clock that a test moves.
#[derive(Debug)]
pub(crate) struct Moving(Mutex<OffsetDateTime>);

impl Moving {
    pub(crate) fn at(time: OffsetDateTime) -> Arc<Self> {
        Arc::new(Self(Mutex::new(time)))
    }

    pub(crate) fn set(&self, time: OffsetDateTime) {
        *self.0.lock().unwrap() = time;
    }
}

impl TimeProvider for Moving {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(*self.0.lock().unwrap()))
    }
}

pub(crate) fn unix(time: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(
        time.unix_timestamp().try_into().unwrap(),
    ))
}

/// A key, as a file would hold it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    P256,
    P384,
    Ed25519,
    Rsa2048,
    Rsa3072,
}

impl Kind {
    pub(crate) fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
            Self::Rsa2048 | Self::Rsa3072 => &rcgen::PKCS_RSA_SHA256,
        }
    }

    pub(crate) fn generate(self) -> KeyPair {
        match self {
            Self::Rsa2048 => {
                KeyPair::generate_rsa_for(self.algorithm(), RsaKeySize::_2048).unwrap()
            }
            Self::Rsa3072 => {
                KeyPair::generate_rsa_for(self.algorithm(), RsaKeySize::_3072).unwrap()
            }
            _ => KeyPair::generate_for(self.algorithm()).unwrap(),
        }
    }
}

/// The same key as the crate `keys` opens it.
pub(crate) fn open(pair: &KeyPair) -> Arc<dyn PrivateKey> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    fs::write(&path, pair.serialize_pem()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let config = MemoryConfig {
        path,
        development: true,
    };
    sealwire_keys::open(&KeyConfig::Memory(config)).unwrap()
}

/// A key whose device has gone.
#[derive(Debug)]
pub(crate) struct Failing(Arc<dyn PrivateKey>);

impl Failing {
    pub(crate) fn new(key: Arc<dyn PrivateKey>) -> Arc<Self> {
        Arc::new(Self(key))
    }
}

impl PrivateKey for Failing {
    fn reference(&self) -> &str {
        self.0.reference()
    }

    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    fn schemes(&self) -> &[Scheme] {
        self.0.schemes()
    }

    fn sign(&self, _: Scheme, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Err(SignError::Device("CKR_DEVICE_REMOVED".to_owned()))
    }

    fn custody(&self) -> Result<Custody, SignError> {
        self.0.custody()
    }

    fn parallelism(&self) -> usize {
        1
    }

    fn signatures(&self) -> u64 {
        0
    }
}

/// A certificate authority.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) pem: String,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, &[], &rcgen::PKCS_ECDSA_P384_SHA384)
    }

    pub(crate) fn with(name: &str, uris: &[&str], algorithm: &'static SignatureAlgorithm) -> Self {
        let params = ca_params(name, uris);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A CA below this one.
    pub(crate) fn below(&self, name: &str) -> Self {
        let params = ca_params(name, &[]);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn bundle(&self) -> Arc<TrustBundle> {
        Arc::new(TrustBundle::from_pem(self.pem.as_bytes()).unwrap())
    }

    /// A revocation list of this CA, of 11:00 on the day.
    pub(crate) fn crl(&self, list: &List<'_>) -> CertificateRevocationList {
        let revoked = |certificate: &CertificateDer<'_>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(
                X509Certificate::from_der(certificate)
                    .unwrap()
                    .1
                    .raw_serial(),
            ),
            revocation_time: datetime!(2026-11-24 10:00 UTC),
            reason_code: Some(rcgen::RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: datetime!(2026-11-24 11:00 UTC),
            next_update: list.next_update,
            crl_number: SerialNumber::from(list.number),
            issuing_distribution_point: None,
            revoked_certs: list.revoked.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap()
    }

    pub(crate) fn issue(&self, leaf: Leaf, key: &impl PublicKeyData) -> CertificateDer<'static> {
        leaf.params()
            .signed_by(key, &self.issuer)
            .unwrap()
            .der()
            .clone()
    }
}

/// A revocation list that is to be issued.
pub(crate) struct List<'a> {
    pub(crate) number: u64,
    pub(crate) next_update: OffsetDateTime,
    pub(crate) revoked: &'a [CertificateDer<'static>],
}

impl Default for List<'_> {
    fn default() -> Self {
        Self {
            number: 1,
            next_update: datetime!(2026-11-25 11:00 UTC),
            revoked: &[],
        }
    }
}

fn ca_params(name: &str, uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = uris.iter().map(|uri| uri_name(uri)).collect();
    params.not_before = datetime!(2020-01-01 00:00 UTC);
    params.not_after = datetime!(2040-01-01 00:00 UTC);
    params
}

fn uri_name(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

/// A workload's certificate, right unless a test makes it wrong.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) uris: Vec<&'static str>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) usages: Vec<KeyUsagePurpose>,
    pub(crate) extended: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) is_ca: IsCa,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) extensions: Vec<rcgen::CustomExtension>,
}

impl Leaf {
    pub(crate) fn of(uri: &'static str) -> Self {
        Self {
            uris: vec![uri],
            addresses: vec![V4.parse().unwrap(), V6.parse().unwrap()],
            usages: vec![KeyUsagePurpose::DigitalSignature],
            extended: vec![
                ExtendedKeyUsagePurpose::ClientAuth,
                ExtendedKeyUsagePurpose::ServerAuth,
            ],
            is_ca: IsCa::ExplicitNoCa,
            not_before: datetime!(2026-11-24 11:00 UTC),
            not_after: datetime!(2026-11-24 13:00 UTC),
            extensions: Vec::new(),
        }
    }

    fn params(self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = self.uris.into_iter().map(uri_name).collect();
        params
            .subject_alt_names
            .extend(self.addresses.into_iter().map(SanType::IpAddress));
        params.key_usages = self.usages;
        params.extended_key_usages = self.extended;
        params.is_ca = self.is_ca;
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.custom_extensions = self.extensions;
        params.use_authority_key_identifier_extension = true;
        params
    }
}

/// What an epoch of `leaf` with a key of `kind` is made of, trusting `ca` that issued it.
pub(crate) fn config(ca: &Ca, leaf: Leaf, kind: Kind, profile: &str) -> EpochConfig {
    let pair = kind.generate();
    let chain = vec![ca.issue(leaf, &pair)];
    EpochConfig {
        number: 1,
        credentials: Arc::new(Credentials::new(open(&pair), chain).unwrap()),
        bundle: ca.bundle(),
        trust_domains: vec!["m.example".parse().unwrap()],
        profile: Profile::by_name(profile).unwrap(),
        revocation: None,
        resumption: None,
        time: Arc::new(At(NOW)),
    }
}

pub(crate) fn try_epoch(
    ca: &Ca,
    leaf: Leaf,
    kind: Kind,
    profile: &str,
) -> Result<Epoch, EpochError> {
    Epoch::new(config(ca, leaf, kind, profile))
}

pub(crate) fn epoch(ca: &Ca, leaf: Leaf, kind: Kind, profile: &str) -> Epoch {
    try_epoch(ca, leaf, kind, profile).unwrap()
}
