//! Where the keeper gets key, certificate and bundle from: what the configuration names, and the
//! session with Vault or OpenBao that both of them may share. Used by the keeper alone.

use std::sync::Arc;

use sealwire_identity::{Issued, Issuer, Profile, Renewal, Renewing, VaultPki, VaultPkiConfig};
use sealwire_keys::{KeyConfig, PrivateKey, Vault, VaultConfig, VaultFigures};

use crate::config::{CertificatesFrom, KeyIn, PkiSettings, Settings};

/// Opens a key, or says why there is none.
pub(crate) type Opener = Box<dyn FnOnce() -> Result<Arc<dyn PrivateKey>, String> + Send>;

/// Sessions and threads that are started once, when they are first needed.
#[derive(Debug, Default)]
pub(crate) struct Source {
    vault: Option<Arc<Vault>>,
    renewing: Option<Renewing>,
}

impl Source {
    /// What opens the key; that blocks. Of several in a token by one name it is the one that there
    /// is a certificate for.
    pub(crate) fn opener(&mut self, settings: &Settings) -> Result<Opener, String> {
        let config = match &settings.key {
            KeyIn::Here(KeyConfig::Pkcs11(config)) => {
                let mut config = config.clone();
                config.certified = Self::certified_key(settings);
                KeyConfig::Pkcs11(config)
            }
            KeyIn::Here(config) => config.clone(),
            KeyIn::Transit(transit) => {
                KeyConfig::Transit(transit.with_session(self.session(settings)?))
            }
        };
        Ok(Box::new(move || {
            sealwire_keys::open(&config).map_err(|error| error.to_string())
        }))
    }

    /// Certificate and bundle for a key, as they are now. An authority is never waited for.
    pub(crate) fn obtain(
        &mut self,
        settings: &Settings,
        key: &Arc<dyn PrivateKey>,
    ) -> Result<Issued, String> {
        let obtained = match &settings.certificates {
            CertificatesFrom::Files(files) => files.obtain(key),
            CertificatesFrom::Pki(pki) => match &self.renewing {
                Some(renewing) => renewing.obtain(key),
                None => {
                    let renewing = start(pki, settings.profile, self.session(settings)?)?;
                    self.renewing.insert(renewing).obtain(key)
                }
            },
        };
        obtained.map_err(|error| error.to_string())
    }

    /// SHA-256 of the public key that the certificate in its file is for, where that decides which
    /// key of a token is used. Reads the file.
    pub(crate) fn certified_key(settings: &Settings) -> Option<String> {
        match (&settings.key, &settings.certificates) {
            (KeyIn::Here(KeyConfig::Pkcs11(config)), CertificatesFrom::Files(files))
                if config.generate.is_none() =>
            {
                files.certified_key().ok()
            }
            _ => None,
        }
    }

    /// Lets go of every key but these, and of their certificates.
    pub(crate) fn keep(&self, keys: &[&Arc<dyn PrivateKey>]) {
        if let Some(renewing) = &self.renewing {
            renewing.keep(keys);
        }
    }

    /// Has the certificate renewed now, where an authority issues it.
    pub(crate) fn renew(&self) {
        if let Some(renewing) = &self.renewing {
            renewing.renew();
        }
    }

    /// How it stands with the session, if there is one.
    pub(crate) fn vault_figures(&self) -> Option<VaultFigures> {
        self.vault.as_ref().map(|vault| vault.figures())
    }

    /// How it stands with renewing, if certificates come from an authority.
    pub(crate) fn renewal(&self) -> Option<Renewal> {
        self.renewing.as_ref().map(Renewing::renewal)
    }

    fn session(&mut self, settings: &Settings) -> Result<Arc<Vault>, String> {
        if let Some(vault) = &self.vault {
            return Ok(vault.clone());
        }
        let config: VaultConfig = settings
            .vault
            .clone()
            .ok_or("vault: missing: say where it is, and how to log in")?;
        let vault = Vault::start(config).map_err(|error| error.to_string())?;
        Ok(self.vault.insert(vault).clone())
    }
}

fn start(
    pki: &PkiSettings,
    profile: &'static Profile,
    vault: Arc<Vault>,
) -> Result<Renewing, String> {
    let authority = VaultPki::new(VaultPkiConfig {
        vault,
        mount: pki.mount.clone(),
        role: pki.role.clone(),
        id: pki.id.clone(),
        addresses: pki.addresses.clone(),
        ttl: pki.ttl,
        profile,
    });
    Renewing::start(Box::new(authority), pki.renewing)
        .map_err(|error| format!("no thread can be started to renew certificates: {error}"))
}
