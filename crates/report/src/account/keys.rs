//! Keys, by what their homes say of them, and certificates.

use std::collections::BTreeSet;
use std::sync::Arc;

use sealwire_evidence::record::{Custody, KeyToken, KeyTransit};
use time::OffsetDateTime;

/// A key, and what its home said about it.
#[derive(Clone, Debug)]
pub(crate) struct KeyAccount {
    pub(crate) public_key_sha256: Arc<str>,
    pub(crate) reference: String,
    pub(crate) provider: String,
    pub(crate) algorithm: String,
    pub(crate) token: Option<KeyToken>,
    pub(crate) transit: Option<KeyTransit>,
    pub(crate) claims: Claims,
    pub(crate) identities: BTreeSet<Arc<str>>,
    /// Signatures over something new that verified, and those that did not.
    pub(crate) proofs: u64,
    pub(crate) proofs_failed: u64,
    /// Statements of the vendor about it; this report does not verify them.
    pub(crate) attestations: u64,
    pub(crate) first: OffsetDateTime,
    pub(crate) last: OffsetDateTime,
}

/// The attributes of a key as its home states them, at their worst in the period: the claim that
/// speaks against the key wins, and a missing one over one that speaks for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Claims {
    pub(crate) sensitive: Option<bool>,
    pub(crate) always_sensitive: Option<bool>,
    pub(crate) extractable: Option<bool>,
    pub(crate) never_extractable: Option<bool>,
    pub(crate) local: Option<bool>,
}

/// A certificate of a workload here.
#[derive(Clone, Debug)]
pub(crate) struct CertificateAccount {
    pub(crate) serial: Arc<str>,
    pub(crate) issuer: String,
    pub(crate) spiffe_id: Arc<str>,
    pub(crate) addresses: Vec<String>,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) key: String,
    pub(crate) public_key_sha256: Arc<str>,
    /// When it first came into force.
    pub(crate) issued: OffsetDateTime,
    pub(crate) revoked: Option<OffsetDateTime>,
    pub(crate) pods: u64,
}

impl KeyAccount {
    /// Whether its home says that it cannot leave.
    pub(crate) fn cannot_leave(&self) -> Option<bool> {
        self.claims
            .cannot_leave(&self.provider, self.transit.as_ref())
    }

    /// Whether it is in a device or a service of its own, not in a process's memory.
    pub(crate) fn held(&self) -> bool {
        self.home() > Home::Memory
    }

    /// What kind of home that is.
    pub(crate) fn home(&self) -> Home {
        Home::of(&self.provider, self.cannot_leave())
    }
}

/// Kinds of homes of keys by what they claim, the weakest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Home {
    /// A process's memory.
    Memory,
    /// It lets the key out.
    Open,
    /// It does not say.
    Unsaid,
    /// It does not let the key out.
    Closed,
}

impl Home {
    fn of(provider: &str, cannot_leave: Option<bool>) -> Self {
        match (provider, cannot_leave) {
            ("memory", _) => Self::Memory,
            (_, Some(false)) => Self::Open,
            (_, None) => Self::Unsaid,
            (_, Some(true)) => Self::Closed,
        }
    }

    /// By the words of one record.
    pub(crate) fn stated(custody: &Custody) -> Self {
        let cannot_leave =
            Claims::of(custody).cannot_leave(&custody.provider, custody.transit.as_ref());
        Self::of(&custody.provider, cannot_leave)
    }
}

impl Claims {
    /// Those of one record.
    pub(crate) fn of(custody: &Custody) -> Self {
        Self {
            sensitive: custody.sensitive,
            always_sensitive: custody.always_sensitive,
            extractable: custody.extractable,
            never_extractable: custody.never_extractable,
            local: custody.local,
        }
    }

    /// Whether a home that says so claims that the key cannot leave.
    fn cannot_leave(self, provider: &str, transit: Option<&KeyTransit>) -> Option<bool> {
        if provider == "memory" {
            return Some(false);
        }
        if let Some(transit) = transit {
            return Some(!transit.exportable && !transit.allow_plaintext_backup);
        }
        let kept = [
            self.sensitive,
            self.extractable.map(|extractable| !extractable),
        ];
        if kept.contains(&Some(false)) {
            Some(false)
        } else if kept.contains(&None) {
            None
        } else {
            Some(true)
        }
    }

    /// Both, at their worst.
    pub(crate) fn worst(self, other: Self) -> Self {
        let good_is = |good: bool, one: Option<bool>, two: Option<bool>| {
            if one == Some(!good) || two == Some(!good) {
                Some(!good)
            } else if one.is_none() || two.is_none() {
                None
            } else {
                Some(good)
            }
        };
        Self {
            sensitive: good_is(true, self.sensitive, other.sensitive),
            always_sensitive: good_is(true, self.always_sensitive, other.always_sensitive),
            extractable: good_is(false, self.extractable, other.extractable),
            never_extractable: good_is(true, self.never_extractable, other.never_extractable),
            local: good_is(true, self.local, other.local),
        }
    }
}
