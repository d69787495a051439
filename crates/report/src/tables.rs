//! The CSV files, for spreadsheets: RFC 4180, with a header, in UTF-8. What a spreadsheet would take
//! for a formula is made text, since parts of the records come from strangers.

use std::collections::HashMap;
use std::fmt::Write;

use sealwire_evidence::record::{Direction, StopCause};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::account::{Account, KeyAccount};
use crate::words::visible;

/// `links.csv`: connections by their ends and their cryptography, as one side recorded them.
pub(crate) fn links(account: &Account) -> String {
    let mut table = Table::new(&[
        "recorded_by",
        "direction",
        "peer",
        "destination",
        "tls_version",
        "suite",
        "key_exchange",
        "opened",
        "resumed",
        "closed",
        "failed",
        "bytes_sent",
        "bytes_received",
        "first",
        "last",
    ]);
    for flow in &account.flows {
        let direction = match flow.key.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        table.row(&[
            &flow.key.identity,
            direction,
            flow.key.peer.as_deref().unwrap_or("*"),
            flow.key.destination.as_deref().unwrap_or("*"),
            &flow.key.version,
            &flow.key.suite,
            &flow.key.group,
            &flow.opened.to_string(),
            &flow.resumed.to_string(),
            &flow.closed.to_string(),
            &flow.failed.to_string(),
            &flow.bytes.sent.to_string(),
            &flow.bytes.received.to_string(),
            &written(flow.first),
            &written(flow.last),
        ]);
    }
    table.text
}

/// `coverage.csv`: pods and their time, and the pods that are missing.
pub(crate) fn coverage(account: &Account) -> String {
    let mut table = Table::new(&[
        "namespace",
        "pod",
        "uid",
        "node",
        "identities",
        "alive_seconds",
        "accounted_seconds",
        "stretches_lost",
        "longest_lost_from",
        "longest_lost_to",
        "longest_lost_because",
        "key_in_use_seconds",
        "key_on_record_seconds",
        "windows",
        "runs",
        "stopped",
        "stopped_because",
        "on_the_list",
    ]);
    for pod in &account.pods {
        let longest = pod.losses.first();
        let identities: Vec<&str> = pod.identities.iter().map(AsRef::as_ref).collect();
        table.row(&[
            &pod.pod.namespace,
            &pod.pod.name,
            &pod.pod.uid,
            &pod.pod.node,
            &identities.join(" "),
            &format!("{:.3}", pod.alive.as_seconds_f64()),
            &format!("{:.3}", pod.accounted.as_seconds_f64()),
            &pod.losses_count.to_string(),
            &longest.map(|loss| written(loss.from)).unwrap_or_default(),
            &longest.map(|loss| written(loss.to)).unwrap_or_default(),
            longest.map(|loss| loss.why.words()).unwrap_or_default(),
            &format!("{:.3}", pod.custody.needed.as_seconds_f64()),
            &format!("{:.3}", pod.custody.attested.as_seconds_f64()),
            &pod.windows.to_string(),
            &pod.boots.to_string(),
            &pod.stopped.map(|(at, _)| written(at)).unwrap_or_default(),
            pod.stopped
                .map(|(_, cause)| stop(cause))
                .unwrap_or_default(),
            match pod.listed {
                None => "",
                Some(true) => "yes",
                Some(false) => "no",
            },
        ]);
    }
    for missing in &account.missing {
        let (namespace, name) = missing.split_once('/').unwrap_or(("", missing));
        let mut cells = [""; 18];
        cells[0] = namespace;
        cells[1] = name;
        cells[10] = "there is no log";
        cells[17] = "yes";
        table.row(&cells);
    }
    table.text
}

/// `bytes.csv`: what the kernel counted on the pods' interfaces, against what their sidecars moved.
pub(crate) fn bytes(account: &Account) -> String {
    let mut table = Table::new(&[
        "namespace",
        "pod",
        "uid",
        "windows",
        "windows_without_counters",
        "kernel_sent",
        "kernel_received",
        "moved_sent",
        "moved_received",
        "moved_sent_by_exceptions",
        "moved_received_by_exceptions",
        "explained_besides_at_most",
        "sent_unexplained",
        "sent_missing",
    ]);
    for pod in &account.pods {
        let own = &pod.bytes;
        table.row(&[
            &pod.pod.namespace,
            &pod.pod.name,
            &pod.pod.uid,
            &own.windows.to_string(),
            &own.left_out.to_string(),
            &own.counted.sent.to_string(),
            &own.counted.received.to_string(),
            &own.moved.sent.to_string(),
            &own.moved.received.to_string(),
            &own.excepted.sent.to_string(),
            &own.excepted.received.to_string(),
            &own.overhead.to_string(),
            &own.unexplained.to_string(),
            &own.missing.to_string(),
        ]);
    }
    table.text
}

/// `certificates.csv`: the register of certificates, and where their keys are.
pub(crate) fn certificates(account: &Account) -> String {
    let mut table = Table::new(&[
        "spiffe_id",
        "serial",
        "issuer",
        "not_before",
        "not_after",
        "in_force_since",
        "revoked",
        "addresses",
        "pods",
        "key",
        "public_key_sha256",
        "key_algorithm",
        "key_provider",
        "key_home",
        "key_cannot_leave_by_its_homes_claim",
    ]);
    let keys: HashMap<&str, &KeyAccount> = account
        .keys
        .iter()
        .map(|key| (key.public_key_sha256.as_ref(), key))
        .collect();
    for certificate in &account.certificates {
        let key = keys.get(certificate.public_key_sha256.as_ref()).copied();
        table.row(&[
            &certificate.spiffe_id,
            &certificate.serial,
            &certificate.issuer,
            &written(certificate.not_before),
            &written(certificate.not_after),
            &written(certificate.issued),
            &certificate.revoked.map(written).unwrap_or_default(),
            &certificate.addresses.join(" "),
            &certificate.pods.to_string(),
            &certificate.key,
            &certificate.public_key_sha256,
            key.map(|key| key.algorithm.as_str()).unwrap_or_default(),
            key.map(|key| key.provider.as_str()).unwrap_or_default(),
            &key.map(home).unwrap_or_default(),
            match key.and_then(KeyAccount::cannot_leave) {
                Some(true) => "yes",
                Some(false) => "no",
                None => "not said",
            },
        ]);
    }
    table.text
}

/// `exceptions.csv`: what may pass unsealed, those that end first, first.
pub(crate) fn exceptions(account: &Account) -> String {
    let mut table = Table::new(&[
        "exception",
        "kind",
        "destination",
        "ports",
        "owner",
        "reason",
        "expires",
        "expired",
        "pods",
        "connections",
        "connections_after_its_end",
        "bytes_after_its_end",
        "bytes_sent",
        "bytes_received",
        "first_used",
        "last_used",
    ]);
    for exception in &account.exceptions {
        let key = &exception.key;
        let ports: Vec<String> = key.ports.iter().map(ToString::to_string).collect();
        table.row(&[
            &key.rule,
            &key.what,
            &key.destination,
            &ports.join(" "),
            &key.owner,
            &key.reason,
            &key.expires.map(written).unwrap_or_default(),
            if exception.expired(account.as_of) {
                "yes"
            } else {
                "no"
            },
            &exception.pods.to_string(),
            &exception.connections.to_string(),
            &exception.late.to_string(),
            &exception.late_bytes.to_string(),
            &exception.bytes.sent.to_string(),
            &exception.bytes.received.to_string(),
            &exception
                .used
                .map(|(first, _)| written(first))
                .unwrap_or_default(),
            &exception
                .used
                .map(|(_, last)| written(last))
                .unwrap_or_default(),
        ]);
    }
    table.text
}

fn home(key: &KeyAccount) -> String {
    match (&key.token, &key.transit) {
        (Some(token), _) => format!(
            "{} {}, token {}, serial {}, firmware {}",
            token.manufacturer, token.model, token.label, token.serial, token.firmware
        ),
        (None, Some(transit)) => format!("transit, {}", transit.key_type),
        (None, None) => key.provider.clone(),
    }
}

fn stop(cause: StopCause) -> &'static str {
    match cause {
        StopCause::Drained => "drained",
        StopCause::DrainTimeout => "the drain time was over",
        StopCause::Failed => "it could not go on",
    }
}

fn written(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

struct Table {
    text: String,
}

impl Table {
    fn new(header: &[&str]) -> Self {
        let mut table = Self {
            text: String::new(),
        };
        table.row(header);
        table
    }

    fn row(&mut self, cells: &[&str]) {
        for (place, cell) in cells.iter().enumerate() {
            if place > 0 {
                self.text.push(',');
            }
            self.cell(cell);
        }
        self.text.push_str("\r\n");
    }

    fn cell(&mut self, cell: &str) {
        let text = guarded(&visible(cell));
        if text.contains(['"', ',', ';', '\n', '\r', '\t']) || text.starts_with('\'') {
            // Writing to a string cannot fail.
            let _ = write!(self.text, "\"{}\"", text.replace('"', "\"\""));
        } else {
            self.text.push_str(&text);
        }
    }
}

/// An apostrophe before whatever a spreadsheet would begin to reckon with: at the begin of a cell, and
/// after what is the end of a cell where the comma is not.
fn guarded(cell: &str) -> String {
    let mut guarded = String::with_capacity(cell.len());
    let mut begins = true;
    for letter in cell.chars() {
        // Full-width forms count as well.
        if begins && matches!(letter, '=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠') {
            guarded.push('\'');
        }
        begins = match letter {
            ';' | '\t' | '\n' => true,
            ' ' | '"' => begins,
            _ => false,
        };
        guarded.push(letter);
    }
    guarded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_where_it_has_to_be_and_never_a_formula() {
        let mut table = Table::new(&["a", "b"]);
        table.row(&["plain", "with, comma and \"quotes\""]);
        table.row(&["=HYPERLINK(\"x\")", "-1"]);
        assert_eq!(
            table.text,
            "a,b\r\nplain,\"with, comma and \"\"quotes\"\"\"\r\n\"'=HYPERLINK(\"\"x\"\")\",\"'-1\"\r\n"
        );
    }

    #[test]
    fn no_formula_begins_within_a_cell_where_another_program_would_end_it() {
        assert_eq!(guarded("a;=1"), "a;'=1");
        assert_eq!(guarded("a\n \"=1"), "a\n \"'=1");
        assert_eq!(guarded(" =1"), " '=1");
        assert_eq!(guarded("＝1"), "'＝1");
        assert_eq!(guarded("2026-11-25T00:00:00Z"), "2026-11-25T00:00:00Z");
    }
}
