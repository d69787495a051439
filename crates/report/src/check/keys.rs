//! Where keys are and of what kind they are, and whether their certificates are known.

use std::collections::BTreeSet;

use serde::Deserialize;
use time::Duration;

use super::{Outcome, met, not_met, number, some, unknown};
use crate::account::{Account, KeyAccount};
use crate::words::{count, counted, duration, identity};

/// See [`Check::KeysHeldBy`](super::Check::KeysHeldBy).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct KeysHeldBy {
    providers: BTreeSet<String>,
}

/// See [`Check::KeyAlgorithms`](super::Check::KeyAlgorithms).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct KeyAlgorithms {
    accepted: BTreeSet<String>,
}

/// See [`Check::CertificatesAtMost`](super::Check::CertificatesAtMost).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct CertificatesAtMost {
    days: u32,
}

pub(super) fn custody_known(account: &Account) -> Outcome {
    if let Some(key) = account.keys.iter().find(|key| key.proofs_failed > 0) {
        return not_met(format!(
            "{} by which the key {} should have shown that it was at hand do not verify.",
            counted(key.proofs_failed, "signature", "signatures"),
            key.reference
        ));
    }
    let unknown_keys = account.keys_unknown.len();
    if unknown_keys > 0 || account.keys.is_empty() {
        return unknown(format!(
            "Of {} in use no record says where it is kept.",
            match unknown_keys {
                0 => "the keys".to_owned(),
                keys => counted(number(keys), "key", "keys"),
            }
        ));
    }
    met(format!(
        "{}, each described by its home; {} over something new show that they were at hand.",
        counted(number(account.keys.len()), "key", "keys"),
        counted(
            account.keys.iter().map(|key| key.proofs).sum(),
            "signature",
            "signatures"
        ),
    ))
}

/// Judges every key; what no record speaks of leaves it open.
fn keys(account: &Account, good: impl Fn(&KeyAccount) -> Option<bool>, so: &str) -> Outcome {
    let judged: Vec<_> = account.keys.iter().map(|key| (key, good(key))).collect();
    let is = |wanted: Option<bool>| judged.iter().filter(move |(_, good)| *good == wanted);
    if let Some((key, _)) = is(Some(false)).next() {
        return not_met(format!(
            "Not so for {} of {}, among them {} ({}, {}).",
            count(number(is(Some(false)).count())),
            counted(number(judged.len()), "key", "keys"),
            key.reference,
            key.provider,
            key.algorithm
        ));
    }
    if let Some((key, _)) = is(None).next() {
        return unknown(format!(
            "The home of the key {} does not say.",
            key.reference
        ));
    }
    if judged.is_empty() || !account.keys_unknown.is_empty() {
        return unknown("Not every key in use has a record that says.".to_owned());
    }
    met(format!(
        "{}: {so}.",
        counted(number(judged.len()), "key", "keys")
    ))
}

impl KeysHeldBy {
    pub(super) fn ask(&self, account: &Account) -> Outcome {
        keys(
            account,
            |key| Some(self.providers.contains(&key.provider)),
            "all in a token or in the transit engine of a Vault",
        )
    }
}

pub(super) fn keys_cannot_leave(account: &Account) -> Outcome {
    keys(
        account,
        KeyAccount::cannot_leave,
        "the home of each claims that it cannot leave",
    )
}

impl KeyAlgorithms {
    pub(super) fn ask(&self, account: &Account) -> Outcome {
        keys(
            account,
            |key| Some(self.accepted.contains(&key.algorithm)),
            "all of an accepted kind",
        )
    }
}

pub(super) fn certificates_known(account: &Account) -> Outcome {
    let missing = account.certificates_unknown.len();
    if missing > 0 {
        return unknown(format!(
            "Of {} that connections were made with there is no record: {}.",
            counted(number(missing), "certificate", "certificates"),
            some(
                account.certificates_unknown.iter().map(ToString::to_string),
                missing
            )
        ));
    }
    if account.names_left_out {
        return unknown(
            "There were more certificates than this report can keep in mind: whether each is on record is not known."
                .to_owned(),
        );
    }
    if account.certificates.is_empty() {
        return unknown("There is no record of a certificate.".to_owned());
    }
    met(format!(
        "{} on record, every one that a connection was made with among them.",
        counted(
            number(account.certificates.len()),
            "certificate",
            "certificates"
        )
    ))
}

impl CertificatesAtMost {
    pub(super) fn ask(&self, account: &Account) -> Outcome {
        let limit = Duration::days(self.days.into());
        let longest = account
            .certificates
            .iter()
            .max_by_key(|certificate| certificate.not_after - certificate.not_before);
        let Some(longest) = longest else {
            return unknown("There is no record of a certificate.".to_owned());
        };
        let lives = longest.not_after - longest.not_before;
        if lives > limit {
            return not_met(format!(
                "The certificate {} of {} is valid for {}, longer than {}.",
                longest.serial,
                identity(&longest.spiffe_id),
                duration(lives),
                counted(self.days.into(), "day", "days")
            ));
        }
        met(format!(
            "The longest certificate is valid for {}.",
            duration(lives)
        ))
    }
}
