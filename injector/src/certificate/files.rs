//! A serving certificate in files that somebody else keeps, such as cert-manager. They are looked
//! at again and again, off the runtime: what has changed is put in force when it can serve.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::generations::parsed;
use super::{CertificateError, Serving};

/// How often they are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Where they are.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// Puts what is in the files in force, now and whenever it changes; for ever.
    pub async fn keep(self, serving: Arc<Serving>) {
        let mut last = None;
        let mut said = None;
        let mut due = tokio::time::interval(INTERVAL);
        loop {
            due.tick().await;
            let files = self.clone();
            let read = tokio::task::spawn_blocking(move || files.read()).await;
            let problem = match read {
                Ok(Ok(content)) if Some(&content) == last.as_ref() => None,
                Ok(Ok(content)) => match put(&serving, &content) {
                    Ok(()) => {
                        tracing::info!(file = %self.certificate.display(), "a serving certificate is in force");
                        last = Some(content);
                        None
                    }
                    Err(error) => Some(error.to_string()),
                },
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if problem != said {
                if let Some(problem) = &problem {
                    tracing::error!(problem, "the serving certificate in force stays");
                }
                said = problem;
            }
        }
    }

    fn read(&self) -> Result<(Vec<u8>, Vec<u8>), CertificateError> {
        Ok((read(&self.certificate)?, read(&self.key)?))
    }
}

fn put(serving: &Serving, (chain, key): &(Vec<u8>, Vec<u8>)) -> Result<(), CertificateError> {
    let (chain, key) = parsed(chain, key)?;
    let ends = chain.first().and_then(|leaf| {
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        Some(leaf.validity().not_after.timestamp())
    });
    serving.put(chain, key)?;
    if let Some(seconds) = ends.and_then(|seconds| i32::try_from(seconds / 60).ok()) {
        let end = f64::from(seconds) * 60.0;
        gauge!("sealwire_injector_certificate_not_after_seconds").set(end);
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|source| CertificateError::Read {
        path: path.to_owned(),
        source,
    })
}
