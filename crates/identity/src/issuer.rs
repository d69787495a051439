//! Where certificates come from. An issuer is asked at the start and again whenever something may
//! have changed; whoever asks compares and decides what to put in force.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sealwire_keys::PrivateKey;

use crate::bundle::{BundleError, TrustBundle};
use crate::certificate::{Credentials, CredentialsError};

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
    #[error("cannot read {path}: {source}: mount the certificate and the bundle where identity names them")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
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
}

/// Certificate and bundle in files that somebody else keeps up to date.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FilesIssuer {
    /// PEM file with the chain, leaf first.
    pub certificate: PathBuf,
    /// PEM file with the trust bundle.
    pub bundle: PathBuf,
}

impl Issuer for FilesIssuer {
    fn obtain(&self, key: &Arc<dyn PrivateKey>) -> Result<Issued, IssueError> {
        let bundle_pem = read(&self.bundle)?;
        let bundle = TrustBundle::from_pem(&bundle_pem).map_err(|source| IssueError::Bundle {
            path: self.bundle.clone(),
            source,
        })?;
        let credentials =
            Credentials::new(key.clone(), self.chain()?).map_err(|source| IssueError::Credentials {
                path: self.certificate.clone(),
                source,
            })?;
        Ok(Issued {
            credentials: Arc::new(credentials),
            bundle: Arc::new(bundle),
            bundle_pem,
        })
    }
}

impl FilesIssuer {
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let bad = |problem: String| IssueError::Chain {
            path: self.certificate.clone(),
            problem,
        };
        let pem = read(&self.certificate)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| bad(error.to_string()))?;
        if chain.len() > MAX_CHAIN {
            return Err(bad(format!("a chain of {} certificates, at most {MAX_CHAIN} are sent", chain.len())));
        }
        Ok(chain)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IssueError> {
    let failed = |source| IssueError::Read {
        path: path.to_owned(),
        source,
    };
    let mut content = Vec::new();
    File::open(path)
        .map_err(failed)?
        .take(MAX_BYTES)
        .read_to_end(&mut content)
        .map_err(failed)?;
    Ok(content)
}
