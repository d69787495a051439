//! Whether anything passed that was not sealed.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Outcome, met, not_met, number, unknown};
use crate::account::{self, Account, ExceptionAccount};
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

/// Whether what left the pods is explained by what their sidecars moved. Of what came in there is no
/// such sum: what peers sent again and what the rules kept out counts at the interface as well.
pub(super) fn bytes_add_up(account: &Account) -> Outcome {
    let sum = account.bytes();
    let differs = account.pods.iter().filter(|pod| pod.bytes.differs());
    let worst = differs
        .clone()
        .max_by_key(|pod| pod.bytes.unexplained.max(pod.bytes.missing));
    if let Some(pod) = worst {
        let own = pod.bytes;
        let (what, how_much) = if own.unexplained >= own.missing {
            ("left that nothing on record explains", own.unexplained)
        } else {
            ("are said to have been sent and never left", own.missing)
        };
        return not_met(format!(
            "By the kernel’s count, the bytes of {} do not add up; most in {}: the kernel counted {}, the sidecar moved {}, \
             and {} {what}.",
            counted(number(differs.count()), "pod", "pods"),
            pod.name(),
            bytes(own.counted.sent),
            bytes(own.moved.sent),
            bytes(how_much),
        ));
    }
    let open = account.pods.iter().filter(|pod| pod.bytes.left_out > 0);
    if let Some(pod) = open.clone().next() {
        return unknown(format!(
            "For {} of {}, {} among them, the kernel’s counters could not be had: nobody knows what else left then.",
            counted(sum.left_out, "window", "windows"),
            counted(number(open.count()), "pod", "pods"),
            pod.name(),
        ));
    }
    if sum.windows == 0 {
        return unknown(
            "In no window that is signed and in order did the kernel count anything.".to_owned(),
        );
    }
    met(format!(
        "The kernel counted {} that left the pods; {} of applications and what comes around them explain that, in every hour.",
        bytes(sum.counted.sent),
        bytes(sum.moved.sent),
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
            .filter(|exception| exception.is_used())
            .collect();
        if let Some(late) = used.iter().find(|exception| exception.is_late()) {
            let passed = passed(late.late, late.late_bytes);
            return not_met(match late.key.expires {
                Some(expires) => format!(
                    "{passed} passed by the exception {} after its end on {}.",
                    late.key.rule,
                    minute(expires)
                ),
                None => format!(
                    "{passed} passed by the exception {}, which no policy declares.",
                    late.key.rule
                ),
            });
        }
        if let Some(other) = used
            .iter()
            .find(|exception| !self.kinds.contains(exception.key.what.as_ref()))
        {
            return not_met(format!(
                "{} passed unsealed by the exception {} ({}), which {} answers for.",
                passed(other.connections, other.moved()),
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
        if account.exceptions_unlisted > 0 {
            return unknown(format!(
                "More exceptions are declared than the records list, by {} at least: nobody knows what these let through.",
                count(account.exceptions_unlisted)
            ));
        }
        let connections = account::total(used.iter().map(|exception| exception.connections));
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

/// Connections that ended, and bytes; of what goes on there are bytes alone.
fn passed(connections: u64, moved: u64) -> String {
    match connections {
        0 => format!("A connection that goes on, with {},", bytes(moved)),
        _ => format!(
            "{} with {}",
            counted(connections, "connection", "connections"),
            bytes(moved)
        ),
    }
}
