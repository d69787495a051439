//! Why a key cannot be opened or does not sign, one variant for each thing that can be done
//! about it.

use std::path::PathBuf;
use std::time::Duration;

use crate::public_key::PublicKeyError;
use crate::secret::SecretFileError;
use crate::vault::VaultError;

/// Why a key cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The vendor's library is not where the configuration says.
    #[error(
        "PKCS#11 module {path}: {problem}: install the vendor's library, or correct key.pkcs11.module"
    )]
    Module {
        /// The configured path.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No token matches.
    #[error(
        "no token matches {uri}: the module shows {seen}: correct the URI, or connect and initialise the token"
    )]
    TokenMissing {
        /// What was asked for.
        uri: String,
        /// Labels of the tokens there are.
        seen: String,
    },
    /// Several tokens match.
    #[error("several tokens match {uri}: {seen}: add serial= to the URI")]
    TokenAmbiguous {
        /// What was asked for.
        uri: String,
        /// Labels and serial numbers of those that match.
        seen: String,
    },
    /// The PIN's file cannot be used.
    #[error(transparent)]
    PinFile(#[from] SecretFileError),
    /// The token wants a login, and the URI names no PIN.
    #[error("token {token:?} wants a PIN: add ?pin-source=file:/path to {uri}")]
    PinNotConfigured {
        /// Label of the token.
        token: String,
        /// What was asked for.
        uri: String,
    },
    /// The token refused the PIN. It is not tried again before its file changes.
    #[error(
        "token {token:?} refused the PIN from {path}: not tried again before that file changes, since repeated \
         failures lock the token: write the right PIN there"
    )]
    PinIncorrect {
        /// Label of the token.
        token: String,
        /// The PIN's file.
        path: PathBuf,
    },
    /// The token would lock at the next wrong PIN, or has.
    #[error(
        "token {token:?}: {state}: have the security officer reset the PIN; the last try is never spent here"
    )]
    PinLocked {
        /// Label of the token.
        token: String,
        /// What the token's flags say.
        state: &'static str,
    },
    /// No key matches.
    #[error(
        "no private key matches {uri} in token {token:?}, which holds {seen}: correct object= or id=, or make the key"
    )]
    KeyMissing {
        /// What was asked for.
        uri: String,
        /// Label of the token.
        token: String,
        /// Labels and ids of the private keys there are.
        seen: String,
    },
    /// Several keys match.
    #[error(
        "several private keys match {uri}: {ids}: choose one by adding id= to the URI, or by a certificate in \
         identity.certificate"
    )]
    KeyAmbiguous {
        /// What was asked for.
        uri: String,
        /// Their CKA_IDs, percent encoded as the URI wants them.
        ids: String,
    },
    /// The public half cannot be found or is of an unknown kind.
    #[error(
        "public key of {uri}: {source}: keep the public key object beside the private one, with the same CKA_ID"
    )]
    PublicKey {
        /// What was asked for.
        uri: String,
        /// What is wrong.
        source: PublicKeyError,
    },
    /// The token cannot sign with this key as TLS 1.3 needs it.
    #[error(
        "token {token:?} cannot sign with {uri} for TLS 1.3: {problem}: use a P-256 key, or another token"
    )]
    Mechanism {
        /// Label of the token.
        token: String,
        /// What was asked for.
        uri: String,
        /// What is missing.
        problem: String,
    },
    /// The token makes no key.
    #[error(
        "token {token:?} makes no key: {source}: let its user generate session objects, or name a key that is there and say \
         key.pkcs11.generate: none"
    )]
    Generate {
        /// Label of the token.
        token: String,
        /// What the token said.
        source: SignError,
    },
    /// A test signature does not verify with the public key.
    #[error(
        "a test signature by {uri} with {scheme} does not verify: private and public key do not belong together"
    )]
    SelfTest {
        /// What was asked for.
        uri: String,
        /// The scheme.
        scheme: &'static str,
    },
    /// The token failed in another way.
    #[error("{uri}: {source}")]
    Token {
        /// What was asked for.
        uri: String,
        /// What the token said.
        source: SignError,
    },
    /// Vault or OpenBao did not say what is needed to open the key.
    #[error("{reference}: {source}")]
    Vault {
        /// What was asked for.
        reference: String,
        /// What is wrong.
        source: VaultError,
    },
    /// The key in Vault or OpenBao is not one to use.
    #[error("{reference}: {problem}")]
    Transit {
        /// What was asked for.
        reference: String,
        /// What is wrong, with the fix.
        problem: String,
    },
    /// A key in memory without saying that this is development.
    #[error(
        "a key in memory can be copied out of this process: use a PKCS#11 key, or say development: true"
    )]
    DevelopmentOnly,
    /// The key file holds no usable key.
    #[error(
        "{path}: {problem}: make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
    )]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Why there is no signature.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SignError {
    /// Too many signatures wait already.
    #[error(
        "{limit} signatures wait already: the key's home is slower than the demand; raise maxSessions, or add devices"
    )]
    Overloaded {
        /// The configured bound.
        limit: usize,
    },
    /// No session became free in time.
    #[error("no session became free within {waited:?}: the device is slow or frozen")]
    Deadline {
        /// How long the signature waited.
        waited: Duration,
    },
    /// The device has been asked and does not answer.
    #[error(
        "the device has not answered for more than {longer_than:?}: it is slow or frozen; look after it, nothing else is needed"
    )]
    Silent {
        /// How long it may take.
        longer_than: Duration,
    },
    /// The device gives out no session at all.
    #[error(
        "the device has no session left for this workload: close other clients' sessions, lower their maxSessions, or add devices"
    )]
    NoSession,
    /// The key cannot make such a signature.
    #[error("the key cannot sign with {scheme}")]
    Scheme {
        /// What was asked for.
        scheme: &'static str,
    },
    /// The token wants a login again, and it does not succeed.
    #[error("login failed: {0}")]
    Login(String),
    /// The device or its library failed in a way that may pass; it is tried again by itself.
    #[error("the device does not sign now: {0}: it is tried again until it does")]
    Unusable(String),
    /// The token refused.
    #[error("the key's home answered {0}")]
    Device(String),
    /// Vault or OpenBao does not let this workload sign.
    #[error("the key may not be used: {0}")]
    Refused(String),
    /// Asked for where nothing may wait for a device: the peer broke off a resumption that it had
    /// begun.
    #[error("no signature for a resumption that turned into a full handshake: try again")]
    WrongThread,
    /// The key is not where it was any more.
    #[error(
        "the key is not in its place any more: restore it, or make a new one with its certificate"
    )]
    KeyGone,
    /// Another key is where the key was.
    #[error(
        "another key is in its place: have a certificate issued for that one, or restore the first"
    )]
    KeyChanged,
}

impl SignError {
    /// A short, bounded name for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Overloaded { .. } => "overloaded",
            Self::Deadline { .. } => "deadline",
            Self::Silent { .. } => "silent",
            Self::NoSession => "no_session",
            Self::Scheme { .. } => "scheme",
            Self::Login(_) => "login",
            Self::Unusable(_) => "unusable",
            Self::Device(_) => "device",
            Self::Refused(_) => "refused",
            Self::WrongThread => "wrong_thread",
            Self::KeyGone => "key_gone",
            Self::KeyChanged => "key_changed",
        }
    }

    /// Whether the device failed, and not the demand on it.
    pub(crate) fn blames_the_device(&self) -> bool {
        matches!(
            self,
            Self::Login(_)
                | Self::Unusable(_)
                | Self::Device(_)
                | Self::Refused(_)
                | Self::KeyGone
                | Self::KeyChanged
        )
    }

    /// Whether nothing will change before somebody does something about it.
    pub fn needs_help(&self) -> bool {
        matches!(
            self,
            Self::Login(_) | Self::Refused(_) | Self::KeyGone | Self::KeyChanged
        )
    }
}

/// What Vault said, as a signature meets it.
impl From<VaultError> for SignError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Missing(_) => Self::KeyGone,
            VaultError::Denied { .. } => Self::Refused(error.to_string()),
            VaultError::Login { .. } | VaultError::File(_) | VaultError::Config(_) => {
                Self::Login(error.to_string())
            }
            VaultError::Unreachable(_)
            | VaultError::Unavailable { .. }
            | VaultError::Deadline(_) => Self::Unusable(error.to_string()),
            VaultError::Refused { .. } | VaultError::Answer { .. } => {
                Self::Device(error.to_string())
            }
        }
    }
}

/// An error at opening, as one that a signature meets later.
impl From<OpenError> for SignError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Token { source, .. } | OpenError::Generate { source, .. } => source,
            OpenError::TokenMissing { .. } => Self::Unusable(error.to_string()),
            OpenError::PinFile(_)
            | OpenError::PinNotConfigured { .. }
            | OpenError::PinIncorrect { .. }
            | OpenError::PinLocked { .. } => Self::Login(error.to_string()),
            OpenError::KeyMissing { .. } => Self::KeyGone,
            other => Self::Device(other.to_string()),
        }
    }
}
