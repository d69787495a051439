//! The trust epoch: own key and certificate, whom to trust and how, as one immutable snapshot
//! with a number. A change makes a new epoch; links hold the one they were made in, and nothing
//! made under one serves under another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use time::OffsetDateTime;

use crate::bundle::TrustBundle;
use crate::certificate::Credentials;
use crate::peer_error::PeerError;
use crate::profile::Profile;
use crate::signing::{OwnCertificate, usable_schemes};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::verify::{ClientVerifier, Naming, Role, ServerVerifier, Verifier};

/// Most client configurations kept: as many as a policy has rules, within reason.
const MAX_CLIENT_CONFIGS: usize = 1024;

/// What an epoch is made of.
#[derive(Clone, Debug)]
pub struct EpochConfig {
    /// The epoch's number.
    pub number: u64,
    /// Own key and certificate.
    pub credentials: Arc<Credentials>,
    /// Whom to trust.
    pub bundle: Arc<TrustBundle>,
    /// Accepted trust domains; the first is our own.
    pub trust_domains: Vec<TrustDomain>,
    /// What is offered in handshakes.
    pub profile: &'static Profile,
    /// The clock by which certificates are judged.
    pub time: Arc<dyn TimeProvider>,
}

/// A trust epoch.
#[derive(Debug)]
pub struct Epoch {
    config: EpochConfig,
    verifier: Arc<Verifier>,
    own: Arc<OwnCertificate>,
    server: Arc<ServerConfig>,
    /// One for each naming, so that what is the same for many links is made once.
    clients: Mutex<HashMap<Naming, Arc<ClientConfig>>>,
}

/// Why an epoch cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// Peers that trust what we trust would refuse us.
    #[error("own certificate would be refused by every peer: {0}")]
    Own(PeerError),
    /// We are of an accepted trust domain, but not of our own.
    #[error(
        "own certificate is for {found}, but the first of identity.trustDomains, our own, is {own:?}: reorder them, or have another certificate issued"
    )]
    OtherDomain {
        /// The own SPIFFE ID.
        found: SpiffeId,
        /// The first trust domain.
        own: String,
    },
    /// The key can sign nothing that the profile allows.
    #[error(
        "the key signs {key}, which the TLS profile {profile:?} does not allow: use another key, or another profile"
    )]
    Schemes {
        /// What the key can do.
        key: String,
        /// Name of the profile.
        profile: &'static str,
    },
    /// rustls refuses the profile.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
}

impl Epoch {
    /// Makes an epoch, and checks that a peer who trusts what we trust would accept us in both
    /// roles.
    ///
    /// # Errors
    /// See [`EpochError`]; the epoch in force stays good.
    pub fn new(config: EpochConfig) -> Result<Self, EpochError> {
        let verifier = Arc::new(Verifier::new(
            config.bundle.clone(),
            config.trust_domains.clone(),
            config.profile,
        ));
        check_own(&config, &verifier)?;
        let allowed = config.profile.signature_schemes();
        let key = config.credentials.key();
        if usable_schemes(key.as_ref(), allowed).is_empty() {
            let names: Vec<_> = key.schemes().iter().map(ToString::to_string).collect();
            return Err(EpochError::Schemes {
                key: names.join(", "),
                profile: config.profile.name,
            });
        }
        let own = Arc::new(OwnCertificate::new(&config.credentials, allowed));
        let server = Arc::new(server_config(&config, &verifier, own.clone())?);
        Ok(Self {
            config,
            verifier,
            own,
            server,
            clients: Mutex::default(),
        })
    }

    /// The epoch's number.
    pub fn number(&self) -> u64 {
        self.config.number
    }

    /// Own key and certificate.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.config.credentials
    }

    /// The TLS profile.
    pub fn profile(&self) -> &'static Profile {
        self.config.profile
    }

    /// Whether the own certificate is within its validity now.
    pub fn is_valid(&self) -> bool {
        let facts = self.config.credentials.facts();
        now(&self.config).is_some_and(|now| facts.not_before <= now && now < facts.not_after)
    }

    /// The TLS configuration of the accepting side.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The TLS configuration of the dialling side, demanding `naming` of the peer.
    ///
    /// # Errors
    /// When rustls refuses the profile, which it did not when the epoch was made.
    pub fn client_config(&self, naming: &Naming) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(naming) {
            return Ok(client.clone());
        }
        let verifier = ServerVerifier {
            verifier: self.verifier.clone(),
            naming: naming.clone(),
        };
        let client = Arc::new(client_config(&self.config, verifier, self.own.clone())?);
        if clients.len() >= MAX_CLIENT_CONFIGS {
            clients.clear();
        }
        clients.insert(naming.clone(), client.clone());
        Ok(client)
    }
}

fn check_own(config: &EpochConfig, verifier: &Verifier) -> Result<(), EpochError> {
    let now = config
        .time
        .current_time()
        .ok_or(rustls::Error::FailedToGetCurrentTime)?;
    let Some((leaf, intermediates)) = config.credentials.chain().split_first() else {
        return Err(EpochError::Own(PeerError::NoCertificate));
    };
    for role in [Role::Client, Role::Server] {
        verifier
            .verify(leaf, intermediates, role, now)
            .map_err(EpochError::Own)?;
    }
    // One of them is accepted, so there is a first.
    let own = config.trust_domains.first().map_or("", TrustDomain::as_str);
    let id = &config.credentials.facts().spiffe_id;
    if id.trust_domain() == own {
        Ok(())
    } else {
        Err(EpochError::OtherDomain {
            found: id.clone(),
            own: own.to_owned(),
        })
    }
}

fn server_config(
    config: &EpochConfig,
    verifier: &Arc<Verifier>,
    own: Arc<OwnCertificate>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(config.profile.provider());
    let mut server = ServerConfig::builder_with_details(provider, config.time.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(ClientVerifier(verifier.clone())))
        .with_cert_resolver(own);
    // No session outlives its handshake until what it was made under is checked on resumption.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(server)
}

fn client_config(
    config: &EpochConfig,
    verifier: ServerVerifier,
    own: Arc<OwnCertificate>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(config.profile.provider());
    let mut client = ClientConfig::builder_with_details(provider, config.time.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(own);
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    Ok(client)
}

fn now(config: &EpochConfig) -> Option<OffsetDateTime> {
    let seconds = config.time.current_time().as_ref().map(UnixTime::as_secs)?;
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use rcgen::ExtendedKeyUsagePurpose;
    use time::macros::datetime;

    use super::*;
    use crate::find_sign_error;
    use crate::testing::{
        At, Ca, Failing, Kind, Leaf, NOW, V4, WEB, epoch, handshake, open, try_epoch, unix,
    };

    const DEFAULT: &str = "default";

    fn refused(wrong: impl FnOnce(&mut Leaf)) -> String {
        let mut leaf = Leaf::of(WEB);
        wrong(&mut leaf);
        try_epoch(&Ca::new("root"), leaf, Kind::P256, DEFAULT)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn an_own_certificate_that_peers_would_refuse_is_not_put_in_force() {
        let expired = refused(|leaf| leaf.not_after = datetime!(2026-11-24 11:30 UTC));
        assert!(
            expired.contains("own certificate") && expired.contains("expired"),
            "{expired}"
        );
        let one_role = refused(|leaf| leaf.extended = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        assert!(one_role.contains("clientAuth"), "{one_role}");
        let elsewhere = refused(|leaf| leaf.uris = vec!["spiffe://other.example/a"]);
        assert!(
            elsewhere.contains("other.example") && elsewhere.contains("m.example"),
            "{elsewhere}"
        );
    }

    #[test]
    fn the_first_trust_domain_has_to_be_our_own() {
        let (ca, pair) = (Ca::new("root"), Kind::P256.generate());
        let chain = vec![ca.issue(Leaf::of(WEB), &pair)];
        let config = EpochConfig {
            number: 1,
            credentials: Arc::new(Credentials::new(open(&pair), chain).unwrap()),
            bundle: ca.bundle(),
            trust_domains: ["other.example", "m.example"]
                .map(|domain| domain.parse().unwrap())
                .to_vec(),
            profile: Profile::by_name(DEFAULT).unwrap(),
            time: Arc::new(At(NOW)),
        };
        let text = Epoch::new(config).unwrap_err().to_string();
        assert!(
            text.contains(WEB) && text.contains("other.example"),
            "{text}"
        );
    }

    #[test]
    fn a_naming_has_one_configuration_and_they_are_bounded() {
        let us = epoch(&Ca::new("root"), Leaf::of(WEB), Kind::P256, DEFAULT);
        let naming = |number: usize| {
            Naming::Identity(vec![
                format!("spiffe://m.example/w{number}").parse().unwrap(),
            ])
        };
        let first = us.client_config(&naming(0)).unwrap();
        assert!(Arc::ptr_eq(&first, &us.client_config(&naming(0)).unwrap()));
        assert!(!Arc::ptr_eq(
            &first,
            &us.client_config(&Naming::Address).unwrap()
        ));
        for number in 0..=MAX_CLIENT_CONFIGS {
            us.client_config(&naming(number)).unwrap();
        }
        assert!(us.clients.lock().unwrap().len() <= MAX_CLIENT_CONFIGS);
    }

    #[test]
    fn no_handshake_resumes_another() {
        let us = epoch(&Ca::new("root"), Leaf::of(WEB), Kind::P256, DEFAULT);
        for round in 1..=3 {
            let client = us.client_config(&Naming::Address).unwrap();
            assert_eq!(handshake(client, us.server_config(), V4).server, Ok(()));
            assert_eq!(us.credentials().key().signatures(), round * 2);
        }
    }

    /// A clock that a test moves.
    #[derive(Debug)]
    struct Moving(Mutex<OffsetDateTime>);

    impl TimeProvider for Moving {
        fn current_time(&self) -> Option<UnixTime> {
            Some(unix(*self.0.lock().unwrap()))
        }
    }

    #[test]
    fn an_epoch_is_valid_until_its_certificate_ends_and_so_are_its_handshakes() {
        let (ca, pair) = (Ca::new("root"), Kind::P256.generate());
        let clock = Arc::new(Moving(Mutex::new(NOW)));
        let config = EpochConfig {
            number: 1,
            credentials: Arc::new(
                Credentials::new(open(&pair), vec![ca.issue(Leaf::of(WEB), &pair)]).unwrap(),
            ),
            bundle: ca.bundle(),
            trust_domains: vec!["m.example".parse().unwrap()],
            profile: Profile::by_name(DEFAULT).unwrap(),
            time: clock.clone(),
        };
        let us = Epoch::new(config).unwrap();
        let seals = || {
            handshake(
                us.client_config(&Naming::Address).unwrap(),
                us.server_config(),
                V4,
            )
            .server
            .is_ok()
        };
        assert!(us.is_valid() && seals());
        *clock.0.lock().unwrap() = datetime!(2026-11-24 13:00:01 UTC);
        assert!(!us.is_valid() && !seals());
    }

    #[test]
    fn a_key_that_fails_is_found_in_the_error_of_either_role() {
        let (ca, pair) = (Ca::new("root"), Kind::P256.generate());
        let chain = vec![ca.issue(Leaf::of(WEB), &pair)];
        let broken = Epoch::new(EpochConfig {
            number: 1,
            credentials: Arc::new(Credentials::new(Failing::new(open(&pair)), chain).unwrap()),
            bundle: ca.bundle(),
            trust_domains: vec!["m.example".parse().unwrap()],
            profile: Profile::by_name(DEFAULT).unwrap(),
            time: Arc::new(At(NOW)),
        })
        .unwrap();
        let whole = epoch(&ca, Leaf::of(WEB), Kind::P256, DEFAULT);
        let naming = Naming::Address;
        let as_client = handshake(
            broken.client_config(&naming).unwrap(),
            whole.server_config(),
            V4,
        )
        .client;
        let as_server = handshake(
            whole.client_config(&naming).unwrap(),
            broken.server_config(),
            V4,
        )
        .server;
        for error in [as_client.unwrap_err(), as_server.unwrap_err()] {
            assert!(
                find_sign_error(&error)
                    .unwrap()
                    .to_string()
                    .contains("CKR_DEVICE_REMOVED"),
                "{error}"
            );
            assert_eq!(PeerError::find(&error), None);
        }
    }
}
