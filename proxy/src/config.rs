//! The proxy's configuration: one YAML file, unknown keys refused, every mistake named with its
//! line or field and the way out.
//!
//! [`Config`] is the file as written (and the source of its JSON Schema and reference);
//! [`Config::settings`] checks it as a whole and gives [`Settings`], which the rest of the proxy
//! uses. Nothing else in the proxy reads the file.

mod evidence;
mod revocation;
mod settings;
mod types;
mod vault;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use evidence::EvidenceSettings;
pub use revocation::RevocationSettings;
pub use settings::Settings;
pub(crate) use settings::{check_net, patterns};
pub use types::{
    CaptureSection, Config, Confinement, CrlSource, Depth, DrainSection, EvidenceSection,
    ExceptionKind, ExceptionRule, GenerateKey, IdentitySection, InboundRule, InboundSection,
    KeySection, LimitsSection, LogFormat, LogSection, MemorySection, MeshSection, Pkcs11Section,
    PodSection, Ports, ResumptionSection, RetentionSection, RevocationSection, ServiceRule,
    VaultAppRoleSection, VaultAuthSection, VaultCertificateSection, VaultClientSection,
    VaultJwtSection, VaultPkiSection, VaultSection, VaultTokenFileSection, VaultTransitSection,
};
pub use vault::{CertificatesFrom, KeyIn, PkiSettings, TransitSettings};

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
    #[error("{message}: the keys and their types are in docs/configuration.md")]
    Syntax {
        /// The fault with its line and column.
        message: String,
    },
    /// Well formed, but it contradicts itself or names something that cannot be.
    #[error("{field}: {problem}: {fix}")]
    Invalid {
        /// Path of the field, such as `exceptions[2].expires`.
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

impl Config {
    /// Reads and parses a file. Blocks: for start-up and the reload thread only.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?)
    }

    /// Parses a configuration.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], without quoting the file: it may hold what should not be in it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = serde_saphyr::options! { with_snippet: false };
        let parsed = serde_saphyr::from_str_with_options(text, options);
        let parsed: Self = parsed.map_err(|error| ConfigError::Syntax {
            message: error.to_string(),
        })?;
        let digest = Sha256::digest(text);
        Ok(Self {
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            ..parsed
        })
    }
}

/// The text of a configuration's file. Blocks.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("config/example.yaml");

    fn settings(text: &str) -> Result<Settings, ConfigError> {
        Config::parse(text)?.settings()
    }

    /// The example with one piece replaced, which must be in it.
    fn example_with(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "the example has no {from:?}");
        GOOD.replacen(from, to, 1)
    }

    fn refusal(text: &str) -> String {
        settings(text).unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_accepted() {
        settings(GOOD).unwrap();
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_line() {
        let message = refusal(&example_with("mesh:", "meshes: {}\nmesh:"));
        assert!(message.contains("meshes"), "{message}");
        assert!(message.contains("line"), "{message}");
    }

    #[test]
    fn an_inline_pin_is_refused_and_not_repeated() {
        let message = refusal(&example_with(
            "pin-source=file:/run/secrets/sealwire/pin",
            "pin-value=98765",
        ));
        assert!(message.contains("pin-source"), "{message}");
        assert!(!message.contains("98765"), "{message}");
    }

    #[test]
    fn a_syntax_error_does_not_quote_the_file() {
        let message = refusal(&example_with(
            "pin-source=file:/run/secrets/sealwire/pin\"",
            "pin-value=98765\"\n    nonsense: 1",
        ));
        assert!(!message.contains("98765"), "{message}");
    }

    #[test]
    fn a_memory_key_needs_development_to_be_said() {
        let text = GOOD.split_once("key:").unwrap().0.to_owned()
            + "key:\n  memory: { file: /tmp/key.pem }\n"
            + &GOOD[GOOD.find("mesh:").unwrap()..];
        assert!(refusal(&text).contains("development: true"));
        settings(&format!("development: true\n{text}")).unwrap();
    }

    #[test]
    fn a_session_lifetime_that_tickets_cannot_keep_is_refused() {
        for seconds in ["0", "21601"] {
            let field = format!("identity:\n  resumption: {{ lifetimeSeconds: {seconds} }}\n");
            let message = refusal(&example_with("identity:\n", &field));
            assert!(
                message.contains("identity.resumption.lifetimeSeconds"),
                "{message}"
            );
        }
    }

    #[test]
    fn revocation_that_could_check_nothing_or_nobody_is_refused_with_its_field() {
        let with = |section: &str| {
            let section = format!("identity:\n  revocation: {{ {section} }}\n");
            settings(&example_with("identity:\n", &section))
        };
        with("crls: [{ file: /crl.pem }, { url: \"http://ca.example/crl?of=root\" }]").unwrap();
        with("crls: [{ url: \"https://ca.example/crl\" }], ca: /ca.pem, depth: leaf").unwrap();
        for (section, field) in [
            ("crls: []", "identity.revocation.crls"),
            (
                "crls: [{ url: \"https://ca.example/crl\" }]",
                "identity.revocation.ca",
            ),
            ("crls: [{ url: \"ftp://ca.example/crl\" }]", "crls[0].url"),
            ("crls: [{ url: \"/crl\" }]", "crls[0].url"),
            (
                "crls: [{ file: /a }, { url: \"http://me:secret@ca.example/\" }]",
                "crls[1].url",
            ),
            ("crls: [{ file: /a }], refreshSeconds: 0", "refreshSeconds"),
            ("crls: [{ file: /a }, { file: /a }]", "crls[1]"),
            ("crls: [{ path: /a }]", "path"),
            ("crls: [{ file: /a }], dept: leaf", "dept"),
        ] {
            let message = with(section).unwrap_err().to_string();
            assert!(message.contains(field), "{section}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn the_kernel_lets_the_proxy_to_an_hsm_in_the_network_whose_addresses_and_ports_are_named() {
        let with = |fields: &str| {
            let uri = GOOD
                .lines()
                .find(|line| line.trim().starts_with("uri:"))
                .unwrap();
            settings(&example_with(uri, &format!("{uri}\n{fields}")))
        };
        let both = "    ranges: [203.0.113.30/31, \"fd00:30::1/128\"]\n    ports: [1792, 1793]";
        let ruleset = with(both).unwrap().capture.ruleset();
        for place in [
            "203.0.113.30/31 . 1792",
            "203.0.113.30/31 . 1793",
            "fd00:30::1/128 . 1793",
        ] {
            assert!(ruleset.contains(place), "{place} in {ruleset}");
        }
        for (fields, said) in [
            ("    ranges: [203.0.113.30/32]", "key.pkcs11.ports"),
            ("    ports: [1792]", "key.pkcs11.ports"),
            (
                "    ranges: [203.0.113.30/32]\n    ports: [0]",
                "key.pkcs11.ports",
            ),
            (
                "    ranges: [203.0.113.31/31]\n    ports: [1792]",
                "key.pkcs11.ranges[0]",
            ),
        ] {
            let refused = with(fields).unwrap_err().to_string();
            assert!(refused.contains(said), "{fields}: {refused}");
        }
    }

    #[test]
    fn an_exception_without_a_reason_is_refused() {
        let message = refusal(&example_with(
            "reason: Names of Services and hosts",
            "reason: \"\"",
        ));
        assert!(message.contains("exceptions[0].reason"), "{message}");
    }

    #[test]
    fn two_rules_for_the_same_destination_and_port_are_refused() {
        let message = refusal(
            &example_with("destination: 203.0.113.7/32", "destination: 198.19.0.10/32")
                .replace("[5432]", "[443]"),
        );
        assert!(message.contains("198.19.0.10/32"), "{message}");
    }

    #[test]
    fn a_service_without_identities_is_refused() {
        let message = refusal(&example_with(
            "identities: [\"spiffe://mesh.example/ns/shop/sa/web\"]",
            "identities: []",
        ));
        assert!(message.contains("mesh.services[0].identities"), "{message}");
    }

    #[test]
    fn a_bad_spiffe_pattern_is_named() {
        let message = refusal(&example_with(
            "spiffe://mesh.example/ns/shop/**",
            "https://mesh.example",
        ));
        assert!(message.contains("inbound.allow[0].from"), "{message}");
    }

    #[test]
    fn a_range_with_host_bits_is_refused_with_the_network_it_means() {
        let message = refusal(&example_with("10.64.0.0/12", "10.64.0.1/12"));
        assert!(message.contains("10.64.0.0/12"), "{message}");
    }
}
