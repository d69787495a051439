//! Where certificates come from. An issuer is asked at the start and again whenever something may
//! have changed; whoever asks compares and decides what to put in force.

mod files;
mod renewing;
mod vault;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject, SectionKind};
use sealwire_keys::{PrivateKey, VaultError, pem_problem};

pub use self::files::FilesIssuer;
pub use self::renewing::{Authority, Renewal, Renewing, RenewingConfig};
pub use self::vault::{VaultPki, VaultPkiConfig};
use crate::bundle::{BundleError, TrustBundle};
use crate::certificate::{Credentials, CredentialsError};
use crate::peer_error::PeerError;
use crate::request::RequestError;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Most certificates in a chain.
const MAX_CHAIN: usize = 10;

/// Gives certificates for a key.
pub trait Issuer: Send + Sync {
    /// The certificate for `key`, and whom to trust. Blocks.
    ///
    /// # Errors
    /// See [`IssueError`]; what was obtained before stays good.
    fn obtain(&self, key: &Arc<dyn PrivateKey>) -> Result<Issued, IssueError>;
}

/// What an issuer gave.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The key with its certificate.
    pub credentials: Arc<Credentials>,
    /// Whom to trust.
    pub bundle: Arc<TrustBundle>,
    /// The bundle as it came, to see whether it changed.
    pub bundle_pem: Vec<u8>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A file cannot be read.
    #[error(
        "cannot read {path}: {source}: mount the certificate and the bundle where identity names them"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is larger than any chain or bundle.
    #[error("{path} is larger than {MAX_BYTES} bytes: is it the right file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The certificate file is not what it should be.
    #[error("{path}: {problem}: put the certificate chain there as PEM, leaf first")]
    Chain {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The bundle is not what it should be.
    #[error("{path}: {source}")]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BundleError,
    },
    /// Key and certificate cannot be used together.
    #[error("{path}: {source}")]
    Credentials {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        source: CredentialsError,
    },
    /// The first certificate has been asked for and is not there yet.
    #[error("the certificate is being requested: {0}")]
    Pending(String),
    /// Vault or OpenBao did not issue it.
    #[error("certificate: {0}")]
    Vault(#[from] VaultError),
    /// The request could not be made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What the authority gave cannot be used.
    #[error("what {authority} issued cannot be used: {problem}")]
    Issued {
        /// Who issued it.
        authority: String,
        /// What is wrong, with the fix.
        problem: String,
    },
    /// Peers that trust the authority's own bundle would refuse what it issued.
    #[error(
        "what {authority} issued would be refused by every peer: {source}: complete the issuer's chain, or import its root"
    )]
    Untrusted {
        /// Who issued it.
        authority: String,
        /// Why.
        source: PeerError,
    },
    /// It would end before it could be renewed in peace.
    #[error(
        "a certificate of {authority} lives for {lifetime:?} only, too short to renew in peace: raise the TTL of the role to at \
         least {least:?}"
    )]
    TooShort {
        /// Who issued it.
        authority: String,
        /// For how long it would have been good.
        lifetime: Duration,
        /// The shortest that is accepted.
        least: Duration,
    },
}

/// All certificates of a PEM text, in order.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut chain = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(|error| pem_problem(&error))?;
        match kind {
            SectionKind::Certificate if chain.len() < MAX_CHAIN => {
                chain.push(CertificateDer::from(der));
            }
            SectionKind::Certificate => {
                return Err(format!("a chain of more than {MAX_CHAIN} certificates"));
            }
            // A key that lies about in a file is what all of this is there to prevent.
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                return Err("holds a private key, which has to stay in its token".to_owned());
            }
            _ => {}
        }
    }
    Ok(chain)
}
