//! Where the keys are by their homes' own account, and the certificates for them.

use std::collections::BTreeMap;

use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use super::strips;
use super::table::{Column, Row, shortened, table};
use crate::account::{Account, CertificateAccount, KeyAccount, PodAccount};
use crate::words::{count, counted, duration, identity, minute, share};

/// Keys and certificates in their tables.
const SHOWN: usize = 100;

pub(super) fn custody(account: &Account) -> Markup {
    let attested = account
        .keys
        .iter()
        .filter(|key| key.attestations > 0)
        .count();
    html! {
        p {
            strong {
                "The attributes below are what the module or the server that holds a key says of itself. They are claims, "
                "not proof."
            }
            " What is shown is that each key was at hand: it signed something new, again and again, and the signatures "
            "verify with its public half. Proof of where a key lives is the vendor’s attestation, made by the device itself: "
            @if attested == 0 { "none of these keys has one." } @else {
                (attested) " of these keys have one in the records; this report does not check it."
            }
        }
        (keys(account))
        @if !account.keys_unknown.is_empty() {
            p.no {
                strong { "Nothing is known of " (counted(number(account.keys_unknown.len()), "key", "keys")) }
                " that a certificate names. By the SHA-256 of the public half: "
                (account.keys_unknown.iter().take(5).map(|key| short(key)).collect::<Vec<_>>().join(", ")) "."
            }
        }
        (on_record(account))
        (certificates(account))
    }
}

/// For how long the records attest all that.
fn on_record(account: &Account) -> Markup {
    let mut holed: Vec<&PodAccount> = account
        .pods
        .iter()
        .filter(|pod| pod.custody.lost() > Duration::ZERO)
        .collect();
    holed.sort_by_key(|pod| std::cmp::Reverse(pod.custody.lost()));
    let rows: Vec<Row> = holed
        .iter()
        .take(SHOWN)
        .map(|pod| {
            let custody = &pod.custody;
            Row {
                cells: vec![
                    html! { (pod.name()) },
                    html! { (share(custody.attested, custody.needed)) },
                    html! { (duration(custody.lost())) },
                    html! { (strips::told(&custody.losses, custody.losses_count)) },
                ],
                bad: true,
            }
        })
        .collect();
    let columns = [
        Column::text("Pod"),
        Column::number("On record"),
        Column::number("Not on record"),
        Column::text("When, and why not"),
    ];
    html! {
        h3 { "For how long that is on record" }
        p {
            "A key’s home is asked at the start, at a change of key and every hour, and the key signs something new each time. \
             What was said then counts for two hours at most. Keys were in use for "
            (duration(account.custody_needed())) ", all pods together; where they were is on record for "
            (share(account.custody_attested(), account.custody_needed())) " of that."
        }
        @if !rows.is_empty() {
            (table("Time in which no record attests where the key in use was", &columns, &rows))
            (shortened(rows.len(), holed.len(), "coverage.csv"))
        }
    }
}

/// Keys that follow one another in the same home, with the same claims.
struct Succession<'a> {
    newest: &'a KeyAccount,
    keys: u64,
    proofs: u64,
    failed: u64,
}

/// What is not as it should be comes first.
fn successions(account: &Account) -> Vec<Succession<'_>> {
    let mut rows: BTreeMap<String, Succession<'_>> = BTreeMap::new();
    for key in &account.keys {
        let row = rows.entry(kind(key)).or_insert(Succession {
            newest: key,
            keys: 0,
            proofs: 0,
            failed: 0,
        });
        if key.last > row.newest.last {
            row.newest = key;
        }
        row.keys += 1;
        row.proofs += key.proofs;
        row.failed += key.proofs_failed;
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by_key(|row| (!row.is_bad(), row.newest.reference.as_str()));
    rows
}

/// What keys that follow one another have in common: all but the version, where there are versions.
fn kind(key: &KeyAccount) -> String {
    let place = key.reference.split("?version=").next();
    format!(
        "{place:?} {} {} {:?} {:?} {:?} {:?}",
        key.provider,
        key.algorithm,
        key.claims,
        key.token,
        key.identities,
        key.cannot_leave()
    )
}

impl Succession<'_> {
    fn is_bad(&self) -> bool {
        self.failed > 0 || !self.newest.held() || self.newest.cannot_leave() != Some(true)
    }

    fn row(&self) -> Row {
        let key = self.newest;
        let who: Vec<String> = key.identities.iter().map(|id| identity(id)).collect();
        let cells = vec![
            html! {
                (who.join(", "))
                span.small.soft {
                    (key.algorithm) " · " code { (key.reference) }
                    @if self.keys > 1 { " · " (count(self.keys)) " keys in turn" }
                }
            },
            home(key),
            match (key.held(), key.cannot_leave()) {
                (false, _) => {
                    html! { strong.no { "In memory" } span.small { "for development only" } }
                }
                (true, Some(true)) => {
                    html! { span.ok { span aria-hidden="true" { "✓ " } "No, it claims" } }
                }
                (true, Some(false)) => {
                    html! { strong.no { span aria-hidden="true" { "✗ " } "Yes" } }
                }
                (true, None) => {
                    html! { span.open { span aria-hidden="true" { "? " } "It does not say" } }
                }
            },
            claims(key),
            html! {
                (counted(self.proofs, "time", "times"))
                @if self.failed > 0 {
                    strong.small.no { (count(self.failed)) " signatures do not verify" }
                }
                span.small.soft { "last " (minute(key.last)) }
            },
        ];
        let bad = self.is_bad();
        Row { cells, bad }
    }
}

fn keys(account: &Account) -> Markup {
    let all = successions(account);
    let rows: Vec<Row> = all.iter().take(SHOWN).map(Succession::row).collect();
    let columns = [
        Column::text("Key"),
        Column::text("Home"),
        Column::text("Can it leave?"),
        Column::text("Its home’s claims"),
        Column::number("Shown at hand"),
    ];
    html! {
        (table("Custody by key; what is not as it should be comes first", &columns, &rows))
        (shortened(rows.len(), all.len(), "cbom.json"))
    }
}

fn home(key: &KeyAccount) -> Markup {
    html! {
        @if let Some(token) = &key.token {
            (token.manufacturer) " " (token.model)
            span.small.soft {
                "token " (token.label) ", serial " (token.serial) ", firmware " (token.firmware)
            }
        } @else if let Some(transit) = &key.transit {
            "Transit engine of a Vault"
            span.small.soft {
                (transit.key_type) ", version " (transit.version) " of " (transit.latest_version)
                @if transit.external { ", in an HSM of the server’s" } @else { ", in the server itself: no HSM" }
            }
        } @else {
            (key.provider)
        }
    }
}

fn claims(key: &KeyAccount) -> Markup {
    let claims = &key.claims;
    let transit = key.transit.as_ref();
    let listed: Vec<(&str, Option<bool>)> = match transit {
        Some(transit) => vec![
            ("exportable", Some(transit.exportable)),
            ("backup in plaintext", Some(transit.allow_plaintext_backup)),
            ("came from outside", Some(transit.imported)),
            ("may be deleted", Some(transit.deletion_allowed)),
        ],
        None => vec![
            ("sensitive", claims.sensitive),
            ("always sensitive", claims.always_sensitive),
            ("extractable", claims.extractable),
            ("never extractable", claims.never_extractable),
            ("made there", claims.local),
        ],
    };
    html! {
        span.small {
            @for (place, (what, said)) in listed.into_iter().enumerate() {
                @if place > 0 { ", " }
                (what) ": "
                @match said {
                    Some(true) => "yes",
                    Some(false) => "no",
                    None => { em { "not said" } }
                }
            }
        }
    }
}

fn certificates(account: &Account) -> Markup {
    let mut sorted: Vec<&CertificateAccount> = account.certificates.iter().collect();
    sorted.sort_by_key(|certificate| (&certificate.spiffe_id, certificate.not_before));
    let shown = 20;
    let rows: Vec<Row> = sorted
        .iter()
        .take(shown)
        .map(|certificate| certificate_row(certificate, account.as_of))
        .collect();
    let columns = [
        Column::text("Workload"),
        Column::text("Serial number"),
        Column::text("Issuer"),
        Column::text("Valid"),
    ];
    html! {
        h3 { "Certificates" }
        @if rows.is_empty() {
            p { "There is no record of a certificate." }
        } @else {
            (table("Certificates of the workloads here that were valid in the period", &columns, &rows))
            (shortened(rows.len(), sorted.len(), "certificates.csv"))
        }
    }
}

fn certificate_row(certificate: &CertificateAccount, as_of: OffsetDateTime) -> Row {
    let lifetime = duration(certificate.not_after - certificate.not_before);
    Row::new(vec![
        html! { (identity(&certificate.spiffe_id)) },
        html! { code { (short(&certificate.serial)) } },
        html! { (certificate.issuer) },
        html! {
            (lifetime) ", until " (minute(certificate.not_after))
            @if let Some(revoked) = certificate.revoked {
                strong.small.no { "revoked " (minute(revoked)) }
            } @else if certificate.not_after <= as_of {
                span.small.soft { "over" }
            }
        },
    ])
}

/// Enough of a long number to find it again.
fn short(number: &str) -> String {
    match number.char_indices().nth(20) {
        Some((end, _)) => format!("{}…", &number[..end]),
        None => number.to_owned(),
    }
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
