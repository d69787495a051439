//! Whether anything passed that was not sealed.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Outcome, met, not_met, number, unknown};
use crate::account::{Account, ExceptionAccount};
use crate::words::{bytes, count, counted, minute};

/// See [`Check::Exceptions`](super::Check::Exceptions).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Exceptions {
    kinds: BTreeSet<String>,
}

pub(super) fn nothing_unaccounted(account: &Account) -> Outcome {
    let sockets = &account.sockets;
    if let Some(example) = sockets.examples.first() {
        let address = |address: Option<std::net::SocketAddr>| {
            address.map_or_else(|| "?".to_owned(), |address| address.to_string())
        };
        return not_met(format!(
            "Sockets that nobody accounts for were seen {}, one of them in {}: {} to {}.",
            times(sockets.unaccounted),
            example.pod,
            address(example.socket.local),
            address(example.socket.remote),
        ));
    }
    if sockets.unaccounted > 0 {
        return not_met(format!(
            "Sockets that nobody accounts for were seen {}.",
            times(sockets.unaccounted)
        ));
    }
    if sockets.without > 0 || sockets.censuses == 0 {
        return unknown(format!(
            "{} without a census of the sockets: nobody knows what else was open then.",
            counted(sockets.without, "window", "windows")
        ));
    }
    met(format!(
        "In {} the kernel knew {}, and each is accounted for.",
        counted(sockets.censuses, "census", "censuses"),
        counted(sockets.seen, "socket", "sockets"),
    ))
}

fn times(number: u64) -> String {
    match number {
        1 => "once".to_owned(),
        _ => format!("{} times", count(number)),
    }
}

impl Exceptions {
    pub(super) fn ask(&self, account: &Account) -> Outcome {
        let used: Vec<&ExceptionAccount> = account
            .exceptions
            .iter()
            .filter(|exception| exception.connections > 0)
            .collect();
        if let Some(late) = used.iter().find(|exception| exception.late > 0) {
            return not_met(match late.key.expires {
                Some(expires) => format!(
                    "{} passed by the exception {} after its end on {}.",
                    counted(late.connections.min(late.late), "connection", "connections"),
                    late.key.rule,
                    minute(expires)
                ),
                None => format!(
                    "{} passed by the exception {}, which no policy declares.",
                    counted(late.connections, "connection", "connections"),
                    late.key.rule
                ),
            });
        }
        if let Some(other) = used
            .iter()
            .find(|exception| !self.kinds.contains(exception.key.what.as_ref()))
        {
            return not_met(format!(
                "{} with {} passed unsealed by the exception {} ({}), which {} answers for.",
                counted(other.connections, "connection", "connections"),
                bytes(other.bytes.sent + other.bytes.received),
                other.key.rule,
                other.key.what,
                other.key.owner
            ));
        }
        let nameless = |exception: &&ExceptionAccount| {
            exception.key.owner.is_empty() || exception.key.reason.is_empty()
        };
        if let Some(nameless) = account.exceptions.iter().find(nameless) {
            return not_met(format!(
                "The exception {} has no owner or no reason.",
                nameless.key.rule
            ));
        }
        let connections = used.iter().map(|exception| exception.connections).sum();
        met(match account.exceptions.len() {
            0 => "No exception is declared.".to_owned(),
            all => format!(
                "{} declared, each with a reason, an owner and an end; {} passed by them.",
                counted(number(all), "exception is", "exceptions are"),
                counted(connections, "connection", "connections"),
            ),
        })
    }
}
