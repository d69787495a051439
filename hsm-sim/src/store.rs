//! The directory that holds everything: SoftHSM's configuration and tokens, PINs, the CA
//! certificate. Made for its owner alone.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use serde::Serialize;

/// Where Debian, Ubuntu and Fedora put SoftHSM.
const MODULES: [&str; 5] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
];

/// The token and the label of the CA's key.
pub(crate) const CA: &str = "ca";

/// The directory.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    module: PathBuf,
}

/// What [`Store::init`] made.
#[derive(Debug, Serialize)]
pub struct Initialised {
    /// The directory.
    pub dir: PathBuf,
    /// The PKCS#11 module.
    pub module: PathBuf,
    /// SoftHSM's configuration, for `SOFTHSM2_CONF`.
    pub softhsm_conf: PathBuf,
    /// The CA's token.
    pub token: String,
    /// The file with that token's PIN.
    pub pin_file: PathBuf,
    /// The CA certificate.
    pub ca_certificate: PathBuf,
    /// The trust domain.
    pub trust_domain: String,
}

/// What went wrong; the message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No module.
    #[error("SoftHSM is not installed: `apt-get install softhsm2`, or name a module with --module")]
    NoModule,
    /// The directory is in use.
    #[error("{0} exists already: choose another directory, or remove this one")]
    Exists(PathBuf),
    /// The directory was not made by `init`.
    #[error("{0} is not a directory made by `hsm-sim init`: run that first")]
    NotInitialised(PathBuf),
    /// A file operation failed.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The token refused.
    #[error("token: {0}")]
    Token(#[from] cryptoki::error::Error),
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] sealwire_keys::OpenError),
    /// A name cannot be used.
    #[error("{0:?} cannot be a name here: use letters, digits, '-' and '_', at most 32")]
    Name(String),
    /// There is a key of that label.
    #[error(
        "token {token:?} has a key labelled {label:?} already: choose another label, or say --allow-duplicate"
    )]
    Duplicate {
        /// The token.
        token: String,
        /// The label.
        label: String,
    },
    /// A certificate cannot be made.
    #[error("certificate: {0}")]
    Certificate(String),
}

impl Store {
    /// Takes an existing directory.
    ///
    /// # Errors
    /// When it was not made by [`Store::init`], or there is no module.
    pub fn open(directory: &Path, module: Option<PathBuf>) -> Result<Self, Error> {
        let store = Self::at(directory, module)?;
        if store.softhsm_conf().exists() {
            Ok(store)
        } else {
            Err(Error::NotInitialised(directory.to_owned()))
        }
    }

    /// Makes the directory with SoftHSM's configuration; nothing of the token yet.
    ///
    /// # Errors
    /// When the directory exists, or cannot be made.
    pub fn create(directory: &Path, module: Option<PathBuf>) -> Result<Self, Error> {
        let store = Self::at(directory, module)?;
        if directory.join("softhsm2.conf").exists() {
            return Err(Error::Exists(directory.to_owned()));
        }
        for path in [
            directory.to_owned(),
            store.directory.join("tokens"),
            store.directory.join("pins"),
        ] {
            DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(&path)
                .map_err(|source| Error::File { path, source })?;
        }
        let tokens = store.directory.join("tokens");
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        store.write(&store.softhsm_conf(), conf.as_bytes())?;
        Ok(store)
    }

    /// Makes the CA: a token, its key, its certificate.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn init(&self, trust_domain: &str) -> Result<Initialised, Error> {
        let certificate = self.make_ca(trust_domain)?;
        self.write(&self.ca_certificate(), certificate.as_bytes())?;
        Ok(Initialised {
            dir: self.directory.clone(),
            module: self.module.clone(),
            softhsm_conf: self.softhsm_conf(),
            token: CA.to_owned(),
            pin_file: self.pin_file(CA),
            ca_certificate: self.ca_certificate(),
            trust_domain: trust_domain.to_owned(),
        })
    }

    /// SoftHSM's configuration.
    pub fn softhsm_conf(&self) -> PathBuf {
        self.directory.join("softhsm2.conf")
    }

    /// The CA certificate.
    pub fn ca_certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The PKCS#11 module.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// The file with a token's PIN.
    pub fn pin_file(&self, token: &str) -> PathBuf {
        self.directory.join("pins").join(token)
    }

    /// The file with the security officer's PIN of a token.
    pub(crate) fn so_pin_file(&self, token: &str) -> PathBuf {
        self.directory.join("pins").join(format!("{token}.so"))
    }

    /// The module, initialised.
    pub(crate) fn context(&self) -> Result<Pkcs11, Error> {
        let context = Pkcs11::new(&self.module)?;
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        Ok(context)
    }

    /// Writes a file for its owner alone.
    pub(crate) fn write(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(content))
            .map_err(|source| Error::File {
                path: path.to_owned(),
                source,
            })
    }

    fn at(directory: &Path, module: Option<PathBuf>) -> Result<Self, Error> {
        let module = match module {
            Some(module) => module,
            None => find_softhsm().ok_or(Error::NoModule)?,
        };
        let directory = std::path::absolute(directory).map_err(|source| Error::File {
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self { directory, module })
    }
}

/// SoftHSM, where it is usually installed.
pub(crate) fn find_softhsm() -> Option<PathBuf> {
    MODULES.iter().map(PathBuf::from).find(|path| path.exists())
}
