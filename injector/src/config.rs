//! The injector's configuration: one YAML file, unknown keys refused, every mistake named with its
//! field and the way out.
//!
//! [`InjectorConfig`] is the file as written (and the source of its JSON Schema and reference);
//! [`InjectorConfig::checked`] checks it as a whole, the sidecars' own part by the sidecar's own
//! checks. Both the program and `sealwire inject` read it.

mod check;
mod types;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use check::sample_pod;
pub use types::{
    Capabilities, CertificateSource, Claims, ControllerSection, ImageSection, InjectorConfig,
    MeshException, ModuleSource, Native, OptOut, PolicySection, ResourceList, ResourcesSection,
    SecretKey, SidecarSection, TokenSource, Users, VolumesSection, WebhookCertificate,
    WebhookSection,
};

/// The largest configuration that is read, in bytes: what a ConfigMap can hold.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error(
        "cannot read {path}: {source}: mount the configuration there, or name another with --config"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than any configuration needs to be.
    #[error("{path} is larger than {MAX_BYTES} bytes: is it the right file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not YAML, an unknown key, a missing key or a value of the wrong type.
    #[error("{message}: the keys and their types are in docs/injector.md")]
    Syntax {
        /// The fault with its line and column.
        message: String,
    },
    /// Well formed, but it contradicts itself or names something that cannot be.
    #[error("{field}: {problem}: {fix}")]
    Invalid {
        /// Path of the field, such as `volumes.pin`.
        field: String,
        /// What is wrong, with the value.
        problem: String,
        /// What to do.
        fix: String,
    },
}

impl ConfigError {
    pub(crate) fn invalid(
        field: impl Into<String>,
        problem: impl ToString,
        fix: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            field: field.into(),
            problem: problem.to_string(),
            fix: fix.into(),
        }
    }
}

impl InjectorConfig {
    /// Reads, parses and checks a file. Blocks: for the start only.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?)?.checked()
    }

    /// Parses a configuration, without checking it as a whole.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], without quoting the file.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        // A volume's mode is written as in a pod.
        let options = serde_saphyr::options! { with_snippet: false, legacy_octal_numbers: true };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| ConfigError::Syntax {
            message: error.to_string(),
        })
    }
}

/// The text of a configuration's file. Blocks.
fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    fs::File::open(path)
        .map_err(failed)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(text)
}
