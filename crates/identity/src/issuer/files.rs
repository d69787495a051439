//! Certificate and bundle in files that somebody else keeps up to date.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use sealwire_keys::PrivateKey;

use super::{IssueError, Issued, Issuer, MAX_BYTES, certificates};
use crate::bundle::TrustBundle;
use crate::certificate::{CertificateFacts, Credentials, CredentialsError};

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
        let credentials = Credentials::new(key.clone(), self.chain()?).map_err(|source| {
            IssueError::Credentials {
                path: self.certificate.clone(),
                source,
            }
        })?;
        Ok(Issued {
            credentials: Arc::new(credentials),
            bundle: Arc::new(bundle),
            bundle_pem,
        })
    }
}

impl FilesIssuer {
    /// SHA-256 of the public key that the certificate is for, in hexadecimal. Blocks.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn certified_key(&self) -> Result<String, IssueError> {
        let problem = |source| IssueError::Credentials {
            path: self.certificate.clone(),
            source,
        };
        let chain = self.chain()?;
        let leaf = chain
            .first()
            .ok_or(CredentialsError::Empty)
            .map_err(problem)?;
        let facts = CertificateFacts::of(leaf).map_err(|error| problem(error.into()))?;
        Ok(facts.public_key_sha256)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let bad = |problem: String| IssueError::Chain {
            path: self.certificate.clone(),
            problem,
        };
        let pem = read(&self.certificate)?;
        certificates(&pem).map_err(bad)
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
        .take(MAX_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    // Half a bundle would be taken for a whole one.
    if u64::try_from(content.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(IssueError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::{Ca, Kind, Leaf, WEB, open};

    struct Files {
        directory: tempfile::TempDir,
        key: Arc<dyn PrivateKey>,
    }

    impl Files {
        fn new(certificate: &str, bundle: &str, key: Arc<dyn PrivateKey>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("tls.pem"), certificate).unwrap();
            fs::write(directory.path().join("bundle.pem"), bundle).unwrap();
            Self { directory, key }
        }

        fn obtain(&self) -> Result<Issued, IssueError> {
            let issuer = FilesIssuer {
                certificate: self.directory.path().join("tls.pem"),
                bundle: self.directory.path().join("bundle.pem"),
            };
            issuer.obtain(&self.key)
        }

        fn refused(&self) -> String {
            self.obtain().unwrap_err().to_string()
        }
    }

    fn pem(certificate: &[u8]) -> String {
        der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, certificate).unwrap()
    }

    /// A CA, a workload's certificate in PEM and its key, also in PEM.
    fn world() -> (Ca, String, Arc<dyn PrivateKey>, String) {
        let (ca, pair) = (Ca::new("root"), Kind::P256.generate());
        let certificate = pem(&ca.issue(Leaf::of(WEB), &pair));
        (ca, certificate, open(&pair), pair.serialize_pem())
    }

    #[test]
    fn chain_and_bundle_come_from_their_files_with_several_roots() {
        let (ca, certificate, key, _) = world();
        let chain = format!("the leaf\n{certificate}\nand above\n{}", ca.pem);
        let issued = Files::new(&chain, &format!("{}{}", ca.pem, Ca::new("next").pem), key)
            .obtain()
            .unwrap();
        assert_eq!(issued.credentials.chain().len(), 2);
        assert_eq!(issued.credentials.facts().spiffe_id.as_str(), WEB);
        assert_eq!(issued.bundle.len(), 2);
    }

    #[test]
    fn a_missing_file_is_named() {
        let (ca, certificate, key, _) = world();
        let files = Files::new(&certificate, &ca.pem, key);
        fs::remove_file(files.directory.path().join("bundle.pem")).unwrap();
        let text = files.refused();
        assert!(
            text.contains("bundle.pem") && text.contains("mount"),
            "{text}"
        );
    }

    #[test]
    fn a_file_too_large_is_refused_and_not_cut() {
        let (ca, certificate, key, _) = world();
        let mut bundle = ca.pem.clone();
        bundle.push_str(&"# a comment\n".repeat(100_000));
        bundle.push_str(&Ca::new("beyond").pem);
        let text = Files::new(&certificate, &bundle, key).refused();
        assert!(text.contains("bundle.pem is larger"), "{text}");
    }

    #[test]
    fn a_private_key_beside_the_certificate_is_refused() {
        let (ca, certificate, key, secret) = world();
        let text = Files::new(&format!("{certificate}{secret}"), &ca.pem, key).refused();
        assert!(
            text.contains("tls.pem") && text.contains("private key"),
            "{text}"
        );
        assert!(
            secret.lines().all(|line| !text.contains(line)),
            "the key is in the message"
        );
    }

    #[test]
    fn a_certificate_for_another_key_is_refused_with_both_keys() {
        let (ca, certificate, _, _) = world();
        let other = open(&Kind::P256.generate());
        let fingerprint = other.public_key().fingerprint().to_owned();
        let text = Files::new(&certificate, &ca.pem, other).refused();
        assert!(
            text.contains("tls.pem") && text.contains(&fingerprint),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_chain_or_bundle_is_refused_with_the_file_named() {
        let (ca, certificate, key, _) = world();
        let cut = &certificate[..certificate.len() / 2];
        let many = ca.pem.repeat(101);
        for (chain, bundle, part) in [
            ("", ca.pem.as_str(), "tls.pem: no certificate"),
            ("hello", &ca.pem, "tls.pem: no certificate"),
            (cut, &ca.pem, "tls.pem"),
            (&certificate.repeat(11), &ca.pem, "more than 10"),
            (&certificate, "", "bundle.pem: no CERTIFICATE"),
            (&certificate, &certificate, "not a CA certificate"),
            (&certificate, &many, "more than 100"),
        ] {
            let text = Files::new(chain, bundle, key.clone()).refused();
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }

    #[test]
    fn a_root_with_an_unclear_trust_domain_is_refused() {
        let (_, certificate, key, _) = world();
        for uris in [
            &["https://m.example"] as &[&str],
            &["spiffe://m.example", "spiffe://other.example"],
        ] {
            let ca = Ca::with("root", uris, &rcgen::PKCS_ECDSA_P256_SHA256);
            let text = Files::new(&certificate, &ca.pem, key.clone()).refused();
            assert!(text.contains("certificate 1: "), "{text}");
        }
    }
}
