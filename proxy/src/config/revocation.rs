//! The section `identity.revocation`, checked.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::Scheme;
use sealwire_identity::RevocationDepth;

use super::{Config, ConfigError, CrlSource, Depth};

/// Where revocation lists come from, and how strictly they count.
#[derive(Clone, Debug)]
pub struct RevocationSettings {
    /// The sources as written; what is a URL can be fetched.
    pub sources: Vec<CrlSource>,
    /// The CAs of servers of `https` URLs.
    pub ca: Option<PathBuf>,
    /// Which certificates have to be covered.
    pub depth: RevocationDepth,
    /// How long a list counts after its nextUpdate.
    pub grace: Duration,
    /// Between two fetches of a URL.
    pub refresh: Duration,
}

impl Config {
    pub(super) fn revocation(&self) -> Result<Option<RevocationSettings>, ConfigError> {
        let Some(section) = &self.identity.revocation else {
            return Ok(None);
        };
        let field = |name: &str| format!("identity.revocation.{name}");
        if section.crls.is_empty() {
            return Err(ConfigError::invalid(
                field("crls"),
                "without a list everybody would be refused",
                "name at least one file or url, or leave the section out",
            ));
        }
        if section.refresh_seconds == 0 {
            return Err(ConfigError::invalid(
                field("refreshSeconds"),
                "fetching without a pause would be an attack",
                "use at least 1; minutes are usual",
            ));
        }
        for (i, source) in section.crls.iter().enumerate() {
            if section.crls[..i].contains(source) {
                return Err(ConfigError::invalid(
                    field(&format!("crls[{i}]")),
                    "the same source twice",
                    "name it once",
                ));
            }
            let CrlSource::Url(url) = source else {
                continue;
            };
            let scheme = scheme(url).map_err(|problem| {
                ConfigError::invalid(
                    field(&format!("crls[{i}].url")),
                    problem,
                    "write it like http://ca.example/root.crl",
                )
            })?;
            if scheme == Scheme::HTTPS && section.ca.is_none() {
                return Err(ConfigError::invalid(
                    field("ca"),
                    format!("crls[{i}] is an https URL, whose server nothing here vouches for"),
                    "name the PEM file with the CA that its certificate chains to; http will do as well, since lists are signed",
                ));
            }
        }
        Ok(Some(RevocationSettings {
            sources: section.crls.clone(),
            ca: section.ca.clone(),
            depth: match section.depth {
                Depth::Chain => RevocationDepth::Chain,
                Depth::Leaf => RevocationDepth::Leaf,
            },
            grace: Duration::from_secs(section.grace_seconds),
            refresh: Duration::from_secs(section.refresh_seconds),
        }))
    }
}

/// Does not repeat the URL in what it says: there may be a password in it.
fn scheme(url: &str) -> Result<Scheme, String> {
    let url: Uri = url.parse().map_err(|_| "not a URL".to_owned())?;
    let authority = url.authority().ok_or("it names no server")?;
    if authority.as_str().contains('@') {
        return Err("a user name or password in it would be shown to everybody".to_owned());
    }
    match url.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => Ok(scheme.clone()),
        _ => Err("neither http nor https".to_owned()),
    }
}
