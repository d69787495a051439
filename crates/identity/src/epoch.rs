//! The trust epoch: own key and certificate, whom to trust and how, as one immutable snapshot
//! with a number. A change makes a new epoch; links hold the one they were made in, and nothing
//! made under one serves under another.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::{Resumption, TicketRequest};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use time::OffsetDateTime;

use crate::bundle::TrustBundle;
use crate::certificate::{CertificateFacts, Credentials};
use crate::peer_error::PeerError;
use crate::profile::Profile;
use crate::resumption::{
    MOST_TICKETS, Peer, Sessions, SessionsTo, TICKETS, TICKETS_AGAIN, Tickets,
};
use crate::revocation::{CrlFacts, Revocation, instant};
use crate::signing::{OwnCertificate, usable_schemes};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::verify::{ClientVerifier, Naming, Role, ServerVerifier, Verifier};

/// Most client configurations kept: as many as a policy has rules, within reason.
const MAX_CLIENT_CONFIGS: usize = 1024;

/// The longest time before its end that a certificate counts as ending. Long enough for readiness
/// to be asked for and acted on.
const ENDING: time::Duration = time::Duration::MINUTE;

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
    /// Which certificates were taken back; nothing asks when none.
    pub revocation: Option<Arc<Revocation>>,
    /// What is offered in handshakes.
    pub profile: &'static Profile,
    /// For how long sessions may be resumed, at most [`Epoch::LONGEST_SESSION`]; never when none.
    pub resumption: Option<Duration>,
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
    clients: Mutex<Clients>,
    sessions: Option<Arc<Sessions>>,
    /// The list that the own certificate is first to wait for a successor of, and until when.
    due: Option<(CrlFacts, OffsetDateTime)>,
}

#[derive(Debug, Default)]
struct Clients {
    by_naming: HashMap<Naming, Client>,
    /// How many there have been.
    made: u64,
}

/// The dialling side's configuration for one naming.
#[derive(Clone, Debug)]
struct Client {
    number: u64,
    config: Arc<ClientConfig>,
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
    /// The longest that a session may be resumed for: rustls replaces the keys of tickets every
    /// six hours, and opens those of the keys before for as long again.
    pub const LONGEST_SESSION: Duration = Duration::from_secs(6 * 3600);

    /// Makes an epoch, and checks that a peer who trusts what we trust would accept us in both
    /// roles.
    ///
    /// # Errors
    /// See [`EpochError`]; the epoch in force stays good.
    pub fn new(config: EpochConfig) -> Result<Self, EpochError> {
        let verifier = Verifier::new(
            config.bundle.clone(),
            config.trust_domains.clone(),
            config.profile,
        );
        let verifier = Arc::new(verifier.with_revocation(config.revocation.clone()));
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
        let sessions = config
            .resumption
            .map(|lifetime| Sessions::new(lifetime, config.time.clone()));
        let due = config.revocation.as_ref().and_then(|revocation| {
            let list = revocation.first_due(config.credentials.chain().iter())?;
            Some((list.clone(), revocation.ends(list)))
        });
        Ok(Self {
            due,
            config,
            verifier,
            own,
            server,
            clients: Mutex::default(),
            sessions,
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

    /// The revocation lists, where they are asked.
    pub fn revocation(&self) -> Option<&Revocation> {
        self.config.revocation.as_deref()
    }

    /// What has come over the own certificate since the epoch was made: every peer would refuse it
    /// now. It has ended, or the list that says that it is good has.
    pub fn problem(&self) -> Option<PeerError> {
        let facts = self.config.credentials.facts();
        let now = instant(self.now());
        if now < facts.not_before {
            let not_before = facts.not_before;
            return Some(PeerError::NotYetValid { not_before, now });
        }
        if now >= facts.not_after {
            let not_after = facts.not_after;
            return Some(PeerError::Expired { not_after, now });
        }
        let (list, end) = self.due.as_ref()?;
        (now >= *end).then(|| PeerError::CrlStale {
            issuer: list.issuer.clone(),
            next_update: list.next_update,
            now,
        })
    }

    /// When the own certificate ends, once that is so near that it should have been replaced long
    /// ago: within a tenth of its life, or a minute where that is shorter.
    pub fn is_ending(&self) -> Option<OffsetDateTime> {
        let facts = self.config.credentials.facts();
        let life = facts.not_after - facts.not_before;
        let near = (life / 10_i32).min(ENDING);
        (instant(self.now()) >= facts.not_after - near).then_some(facts.not_after)
    }

    /// The TLS configuration of the accepting side.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The TLS configuration for dialling `destination`, demanding `naming` of the peer. A session
    /// is offered only where both are as they were when it was made.
    ///
    /// # Errors
    /// When rustls refuses the profile, which it did not when the epoch was made.
    pub fn client_config(
        &self,
        naming: &Naming,
        destination: SocketAddr,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let Client { number, config } = self.client(naming)?;
        let Some(sessions) = &self.sessions else {
            return Ok(config);
        };
        // A handful of pointers. The verifier and the certificate stay the same ones, without
        // which rustls would resume nothing.
        let mut config = ClientConfig::clone(&config);
        config.resumption = Resumption::store(Arc::new(SessionsTo {
            sessions: sessions.clone(),
            peer: Peer {
                naming: number,
                destination,
            },
        }));
        Ok(Arc::new(config))
    }

    /// Verifies a peer's chain, leaf first, as a handshake does: for a session that was resumed,
    /// which rustls verifies in nothing, and for a link that was sealed under another epoch. What
    /// a [`Naming`] demands beside that is for [`Naming::check`]. Takes as long as verifying a few
    /// signatures does.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        peer: Role,
    ) -> Result<CertificateFacts, PeerError> {
        let (leaf, intermediates) = chain.split_first().ok_or(PeerError::NoCertificate)?;
        self.verifier.verify(leaf, intermediates, peer, self.now())
    }

    /// Forgets its sessions, since another epoch is in force. Links that were made under it go on,
    /// and hold it for as long.
    pub fn retire(&self) {
        if let Some(sessions) = &self.sessions {
            sessions.end();
        }
    }

    /// Whether a revocation list names a certificate of a chain: a look that costs little, and
    /// decides nothing but whom to verify first.
    pub fn is_listed(&self, chain: &[CertificateDer<'_>]) -> bool {
        let revocation = self.revocation();
        revocation.is_some_and(|revocation| revocation.entry(chain.iter()).is_some())
    }

    /// Without a clock it is 1970, and nothing is valid yet.
    fn now(&self) -> UnixTime {
        let now = self.config.time.current_time();
        now.unwrap_or(UnixTime::since_unix_epoch(Duration::ZERO))
    }

    #[cfg(test)]
    pub(crate) fn sessions(&self) -> Option<&Arc<Sessions>> {
        self.sessions.as_ref()
    }

    fn client(&self, naming: &Naming) -> Result<Client, rustls::Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.by_naming.get(naming) {
            return Ok(client.clone());
        }
        let verifier = ServerVerifier {
            verifier: self.verifier.clone(),
            naming: naming.clone(),
        };
        clients.made += 1;
        let client = Client {
            number: clients.made,
            config: Arc::new(client_config(&self.config, verifier, self.own.clone())?),
        };
        if clients.by_naming.len() >= MAX_CLIENT_CONFIGS {
            clients.by_naming.clear();
        }
        clients.by_naming.insert(naming.clone(), client.clone());
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
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    if let Some(lifetime) = config.resumption {
        server.ticketer = Arc::new(Tickets::new(lifetime, config.time.clone())?);
        server.send_tls13_tickets = usize::from(TICKETS);
        server.max_tls13_tickets = MOST_TICKETS;
    }
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
    client.send_ticket_request = config.resumption.map(|_| TicketRequest {
        new_session_count: TICKETS,
        resumption_count: TICKETS_AGAIN,
    });
    client.enable_sni = false;
    Ok(client)
}

#[cfg(test)]
mod tests;
