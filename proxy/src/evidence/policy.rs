//! What is in force, as it stands in evidence.

use sealwire_evidence::record::{DeclaredException, Policy};

use crate::config::{ExceptionKind, ExceptionRule, Settings};

/// Most exceptions that are listed; the others are counted.
const MAX_LISTED: usize = 128;

/// Most bytes that they may take in a record, which itself has to fit into 65,535.
const MAX_BYTES: usize = 48 * 1024;

/// The policy of these settings.
pub(super) fn policy(settings: &Settings) -> Policy {
    let exceptions = &settings.config.exceptions;
    let mut bytes = 0;
    let listed: Vec<_> = exceptions
        .iter()
        .take(MAX_LISTED)
        .map(declared)
        .take_while(|declared| {
            bytes += serde_json::to_vec(declared).map_or(MAX_BYTES, |json| json.len());
            bytes <= MAX_BYTES
        })
        .collect();
    let more = exceptions.len().saturating_sub(listed.len());
    Policy {
        config_sha256: settings.config.digest.clone(),
        profile: settings.config.identity.profile.clone(),
        exceptions: listed,
        exceptions_more: u64::try_from(more).unwrap_or(u64::MAX),
    }
}

fn declared(rule: &ExceptionRule) -> DeclaredException {
    let what = match rule.kind {
        ExceptionKind::Dns => "dns",
        ExceptionKind::Passthrough => "passthrough",
        ExceptionKind::RequireTls => "require-tls",
    };
    DeclaredException {
        rule: rule.name.clone(),
        what: what.to_owned(),
        destination: rule.destination.to_string(),
        ports: rule.ports.clone(),
        reason: rule.reason.clone(),
        owner: rule.owner.clone(),
        expires: rule.expires.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn with_exceptions(count: usize, reason: &str) -> Policy {
        let mut text = include_str!("../config/example.yaml").replace("capture:", "  #\ncapture:");
        let at = text.find("  #\ncapture:").unwrap();
        let more: String = (0..count)
            .map(|i| {
                format!(
                    "  - {{ name: e{i}, kind: passthrough, destination: 203.0.{}.{}/32, ports: [80], \
                     reason: {reason}, owner: o, expires: 2099-12-31T00:00:00Z }}\n",
                    i / 200 + 120,
                    i % 200
                )
            })
            .collect();
        text.insert_str(at, &more);
        policy(&Config::parse(&text).unwrap().settings().unwrap())
    }

    #[test]
    fn every_exception_is_listed_or_counted() {
        let all = with_exceptions(3, "r");
        assert_eq!((all.exceptions.len(), all.exceptions_more), (5, 0));
        assert_eq!(all.exceptions[0].what, "dns");
        assert_eq!(all.config_sha256.len(), 64);
        let many = with_exceptions(300, "r");
        assert_eq!(
            (many.exceptions.len(), many.exceptions_more),
            (MAX_LISTED, 302 - 128)
        );
        let long = with_exceptions(60, &"r".repeat(4000));
        assert!(long.exceptions.len() < 20);
        assert_eq!(long.exceptions.len() as u64 + long.exceptions_more, 62);
    }
}
