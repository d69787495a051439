//! The webhooks' serving certificate. The injector makes it itself ([`generations`], [`keeping`]),
//! or it is in files that somebody else keeps ([`files`]). Either way a new one is put in force
//! without a connection refused.

pub mod files;
pub mod generations;
pub mod keeping;

use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificate in force, which can be replaced at any time.
#[derive(Debug, Default)]
pub struct Serving {
    current: RwLock<Option<Arc<CertifiedKey>>>,
}

/// Why a certificate cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}: mount certificate and key (webhook.certificate.files)")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Chain or key are none, or do not belong together.
    #[error("the certificate cannot serve: {0}: give a PEM chain, leaf first, and its key")]
    Unusable(String),
    /// It could not be made.
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl Serving {
    /// TLS for the webhooks, with whatever is in force.
    ///
    /// # Errors
    /// When the TLS library refuses its own defaults.
    pub fn tls(self: &Arc<Self>) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Puts a certificate in force, for connections from now on.
    ///
    /// # Errors
    /// [`CertificateError::Unusable`]; what was in force stays.
    pub fn put(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), CertificateError> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let unusable = |error: rustls::Error| CertificateError::Unusable(error.to_string());
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(unusable)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Arc::new(key));
        Ok(())
    }

    /// Whether there is one.
    pub fn is_ready(&self) -> bool {
        self.get().is_some()
    }

    fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}
