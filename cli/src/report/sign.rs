//! Who signs the assessment results of `sealwire report`: a key in a PKCS#11 token, in the transit
//! engine of a Vault, or for development in a file. Whatever opens it (PIN, token) stands in a file;
//! arguments and environment are for everybody on the machine to read.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use sealwire_keys::{
    KeyConfig, MemoryConfig, Pkcs11Config, PrivateKey, TransitConfig, Vault, VaultAuth, VaultConfig,
};

/// How long the key may take, and its server.
const WAIT: Duration = Duration::from_secs(30);

/// How often to look whether a transit key has a new version; nobody asks here.
const LOOK: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Args)]
pub(super) struct Sign {
    /// Key that signs the assessment results: `pkcs11:token=…;object=…?pin-source=file:…`,
    /// `vault-transit:MOUNT/KEY`, or with --development a PKCS#8 file.
    #[arg(long, value_name = "KEY")]
    sign_key: Option<String>,
    /// PKCS#11 module that the key is reached by.
    #[arg(long, value_name = "LIBRARY", requires = "sign_key")]
    module: Option<PathBuf>,
    /// The server that has the transit key, as `https://` with name and port.
    #[arg(long, value_name = "URL", requires = "sign_key")]
    vault_address: Option<String>,
    /// PEM file with the CA of that server.
    #[arg(long, value_name = "FILE", requires = "vault_address")]
    vault_ca: Option<PathBuf>,
    /// File with a token that may sign with the key and read what the server says of it, mode 0600.
    #[arg(long, value_name = "FILE", requires = "vault_address")]
    vault_token_file: Option<PathBuf>,
    /// Namespace that the key is in.
    #[arg(long, value_name = "NAME", requires = "vault_address")]
    vault_namespace: Option<String>,
    /// Allows a key in a file.
    #[arg(long, requires = "sign_key")]
    development: bool,
}

impl Sign {
    /// Opens the key, which proves that it signs; none when nobody is to sign.
    pub(super) fn open(&self) -> anyhow::Result<Option<Arc<dyn PrivateKey>>> {
        let Some(named) = &self.sign_key else {
            return Ok(None);
        };
        let config = if named.starts_with("pkcs11:") {
            self.in_a_token(named)?
        } else if named.starts_with("vault-transit:") {
            self.in_transit(named)?
        } else {
            KeyConfig::Memory(MemoryConfig {
                path: named.into(),
                development: self.development,
            })
        };
        let key = sealwire_keys::open(&config).context("--sign-key")?;
        Ok(Some(key))
    }

    fn in_a_token(&self, named: &str) -> anyhow::Result<KeyConfig> {
        let Some(module) = self.module.clone() else {
            bail!("--sign-key: name the PKCS#11 module with --module");
        };
        Ok(KeyConfig::Pkcs11(Box::new(Pkcs11Config {
            module,
            uri: named.parse().context("--sign-key")?,
            max_sessions: NonZeroUsize::MIN,
            queue: 1,
            wait: WAIT,
            generate: None,
            state: None,
            certified: None,
        })))
    }

    fn in_transit(&self, named: &str) -> anyhow::Result<KeyConfig> {
        let (Some(address), Some(ca), Some(token)) =
            (&self.vault_address, &self.vault_ca, &self.vault_token_file)
        else {
            bail!(
                "--sign-key: name the server that has it with --vault-address, --vault-ca and --vault-token-file"
            );
        };
        let reference = named.parse().context("--sign-key")?;
        let vault = Vault::start(VaultConfig {
            address: address.clone(),
            ca: ca.clone(),
            client: None,
            namespace: self.vault_namespace.clone(),
            auth: VaultAuth::TokenFile {
                path: token.clone(),
            },
            timeout: WAIT,
        })
        .context("--vault-address")?;
        Ok(KeyConfig::Transit(TransitConfig {
            vault,
            reference,
            version: None,
            public_keys: None,
            allow_exportable: false,
            batch: NonZeroUsize::MIN,
            requests: NonZeroUsize::MIN,
            queue: 1,
            wait: WAIT,
            look: LOOK,
            trim_after: None,
        }))
    }
}
