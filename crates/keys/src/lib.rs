//! Private keys that stay where they are.
//!
//! A [`PrivateKey`] signs and says where it lives; it never gives the key itself. [`open`] finds
//! one by its configuration: in a PKCS#11 token, in a transit mount of Vault or OpenBao, or, for
//! development only, in memory. A session with Vault ([`Vault`]) is shared with whoever else asks
//! something of the same server.
//!
//! Everything here blocks, for as long as a device takes to answer: call it on threads of its
//! own, never on a runtime's workers. The crates `identity` and `link` see keys only through the
//! trait; programs call [`open`].

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod custody;
mod error;
mod health;
mod memory;
mod pem;
mod pkcs11;
mod public_key;
mod scheme;
mod secret;
mod transit;
mod uri;
mod vault;

pub use custody::{Custody, Token, TransitCustody};
pub use error::{OpenError, SignError};
pub use health::{KeyFigures, KeyHealth};
pub use pem::pem_problem;
pub use public_key::{Algorithm, PublicKey, PublicKeyError};
pub use scheme::Scheme;
pub use secret::{SecretFile, SecretFileError};
pub use transit::{TransitReference, TransitReferenceError};
pub use uri::{Pkcs11Uri, UriError};
pub use vault::{Method, Request, Vault, VaultAuth, VaultConfig, VaultError, VaultFigures};

/// A private key that stays where it is.
pub trait PrivateKey: Send + Sync + fmt::Debug {
    /// Where the key is, as a URI without secrets.
    fn reference(&self) -> &str;

    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// The TLS schemes that the key has been seen to sign correctly, best first.
    fn schemes(&self) -> &[Scheme];

    /// Signs `message` (not a digest of it) in the form that TLS wants (RFC 8446 section 4.2.3).
    /// Blocks.
    ///
    /// # Errors
    /// See [`SignError`].
    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignError>;

    /// What the key's home says about it now. Blocks.
    ///
    /// # Errors
    /// See [`SignError`].
    fn custody(&self) -> Result<Custody, SignError>;

    /// How many signatures can run at once.
    fn parallelism(&self) -> usize;

    /// How many signatures have been made since the key was opened.
    fn signatures(&self) -> u64;

    /// Numbers about its use since it was opened. Does not block.
    fn figures(&self) -> KeyFigures {
        KeyFigures {
            signatures: self.signatures(),
            ..KeyFigures::default()
        }
    }

    /// How it stands now. Does not block.
    fn health(&self) -> KeyHealth {
        KeyHealth::Ready
    }

    /// Whether another key is to follow this one: opened anew, its home gives that. Does not block.
    fn has_successor(&self) -> bool {
        false
    }

    /// Told how long a certificate for this key lives that is in force: replicas that share the key
    /// may use one for as long. Does not block.
    fn certified(&self, _life: Duration) {}

    /// Has another key follow this one. Blocks.
    ///
    /// # Errors
    /// Where its home cannot make one, or does not let this workload do so.
    fn rotate(&self) -> Result<(), SignError> {
        Err(SignError::Refused(
            "it has no versions: have a new key made in its place by whoever made this one"
                .to_owned(),
        ))
    }

    /// Whether this kind of key is for development only.
    fn development(&self) -> bool {
        false
    }
}

/// Where a key is.
#[derive(Clone, Debug)]
pub enum KeyConfig {
    /// In a PKCS#11 token.
    Pkcs11(Box<Pkcs11Config>),
    /// In a transit mount of Vault or OpenBao.
    Transit(TransitConfig),
    /// In this process's memory.
    Memory(MemoryConfig),
}

/// A key in a PKCS#11 token.
#[derive(Clone, Debug)]
pub struct Pkcs11Config {
    /// The vendor's library.
    pub module: PathBuf,
    /// Which key, in which token, with the PIN from which file.
    pub uri: Pkcs11Uri,
    /// Sessions used at most. Where the token says a smaller limit, that holds.
    pub max_sessions: NonZeroUsize,
    /// Signatures that may wait for a session.
    pub queue: usize,
    /// How long a signature may wait for a session.
    pub wait: Duration,
    /// Makes a key in the token instead of finding one: a session object, which dies with the
    /// process.
    pub generate: Option<Generate>,
    /// SHA-256 of the public key that there is a certificate for, in hexadecimal: which key it is,
    /// where several match the URI.
    pub certified: Option<String>,
    /// Directory in which a refused PIN is remembered across restarts of the process, without the
    /// PIN.
    pub state: Option<PathBuf>,
}

/// A key to make in a token, named as the URI says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Generate {
    /// On which curve.
    pub curve: Curve,
    /// Age at which another is to follow it.
    pub max_age: Option<Duration>,
}

/// A curve that keys can be made on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

/// A key in a transit mount.
#[derive(Clone, Debug)]
pub struct TransitConfig {
    /// The session with the server.
    pub vault: Arc<Vault>,
    /// Which key, in which mount.
    pub reference: TransitReference,
    /// Which version of it; the newest when none.
    pub version: Option<u64>,
    /// PEM file with public halves, one for each version in use: for a key that the server has in an
    /// HSM, of which it does not tell them.
    pub public_keys: Option<PathBuf>,
    /// Whether a key that can be taken out of the server is let pass.
    pub allow_exportable: bool,
    /// Most signatures asked for in one request.
    pub batch: NonZeroUsize,
    /// Requests under way at once.
    pub requests: NonZeroUsize,
    /// Signatures that may wait for a request.
    pub queue: usize,
    /// How long a signature may take.
    pub wait: Duration,
    /// How often to look whether the key has a new version.
    pub look: Duration,
    /// How long after a rotation older versions are made unusable, at the earliest after a
    /// certificate's life; never when none.
    pub trim_after: Option<Duration>,
}

/// A key in memory.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// PKCS#8 PEM file that nobody else may read.
    pub path: PathBuf,
    /// Must be true.
    pub development: bool,
}

/// Finds a key and proves that it signs. Blocks.
///
/// # Errors
/// See [`OpenError`]; each says what to do.
pub fn open(config: &KeyConfig) -> Result<Arc<dyn PrivateKey>, OpenError> {
    Ok(match config {
        KeyConfig::Pkcs11(config) => Arc::new(pkcs11::Pkcs11Key::open(config)?),
        KeyConfig::Transit(config) => Arc::new(transit::TransitKey::open(config)?),
        KeyConfig::Memory(config) => Arc::new(memory::MemoryKey::open(config)?),
    })
}

thread_local! {
    static NEVER_SIGNS: Cell<bool> = const { Cell::new(false) };
    static SIGN_BY: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Does some work on this thread, in which no signature is waited for beyond `deadline`, however
/// long its key may take: whoever needs it has gone by then.
pub fn sign_by<T>(deadline: Instant, work: impl FnOnce() -> T) -> T {
    /// Put back however the work ends.
    struct Before(Option<Instant>);
    impl Drop for Before {
        fn drop(&mut self) {
            SIGN_BY.set(self.0);
        }
    }
    let _before = Before(SIGN_BY.replace(Some(deadline)));
    work()
}

/// The end of the wait for a signature on this thread: `own`, or that of [`sign_by`] before it.
pub fn deadline_to_sign(own: Instant) -> Instant {
    SIGN_BY.get().map_or(own, |by| own.min(by))
}

/// Keeps this thread, to its end, from ever waiting for a device: see [`may_sign_here`].
pub fn never_sign_on_this_thread() {
    NEVER_SIGNS.set(true);
}

/// Whether a signature may be asked for on this thread.
///
/// # Errors
/// [`SignError::WrongThread`].
pub fn may_sign_here() -> Result<(), SignError> {
    if NEVER_SIGNS.get() {
        Err(SignError::WrongThread)
    } else {
        Ok(())
    }
}

/// To be called before the process ends: no key is used after it, and no vendor's library is in
/// the middle of a call when the process takes it down, which crashes some. Waits at most
/// `patience` for calls that are under way.
pub fn finish(patience: Duration) {
    pkcs11::finish(patience);
}
