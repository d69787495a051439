//! What could not be shown, as plainly as what could: first what the records of this period lack,
//! then what no such records can ever show.

use maud::{Markup, html};
use sealwire_evidence::record::GapCause;

use super::strips;
use crate::account::{Account, GapAccount};
use crate::words::{count, counted, duration, identity, minute};

/// Of each kind, so many are named.
const NAMED: usize = 10;

pub(super) fn unshown(account: &Account) -> Markup {
    let lacking = lacking(account);
    html! {
        h3 { "In this period" }
        @if lacking.is_empty() {
            p { "Nothing that the records are meant to show is missing from them." }
        } @else {
            ul { @for lack in &lacking { li { (lack) } } }
        }
        (unaccounted(account))
        h3 { "In any period" }
        ul {
            li {
                "Whether a key’s home tells the truth about it. Attributes are claims; see "
                a href="#custody" { "Keys and certificates" } "."
            }
            li {
                "Whether somebody who holds a log and its key has put the whole of it back to an earlier state. A copy of any \
                 later checkpoint, kept elsewhere, shows that: compare it with those under "
                a href="#verify" { "How to verify this page" } "."
            }
            li {
                "Whether a log was deleted and another begun while its pod lived. The time of its first record should be that of \
                 the pod’s start, which the cluster’s own audit log has."
            }
            li {
                "What a pod did before its sidecar started. The rules of capture are set before that and let nothing pass; \
                 that they were is in the records by the digest of the rules, not by the packets."
            }
            li {
                "Name lookups over UDP by an exception of kind dns: they pass in the kernel, are declared, and are not counted."
            }
            li { "What happens before sealing and after opening: inside the pods, and on whatever node runs them." }
        }
    }
}

fn lacking(account: &Account) -> Vec<Markup> {
    let mut lacking = Vec::new();
    if account.as_of < account.period.to() {
        lacking.push(html! {
            "The period is not over, or was cut short: this speaks of the time up to " (minute(account.as_of)) "."
        });
    }
    if account.listed.is_none() {
        lacking.push(html! {
            "Whether these are all the pods there were: nobody gave a list of them (" code { "--pods" } ")."
        });
    }
    let unlisted: Vec<String> = account
        .pods
        .iter()
        .filter(|pod| pod.listed == Some(false))
        .map(|pod| pod.name())
        .collect();
    lacking.extend(named(
        "Pods with a log here that the list does not name",
        &unlisted,
    ));
    lacking.extend(named(
        "Pods on the list of which there is no log here",
        &account.missing,
    ));
    let unheard: Vec<String> = account.unheard.iter().map(|id| identity(id)).collect();
    lacking.extend(named(
        "Workloads that pods here talked to, and of which there is no log here",
        &unheard,
    ));
    let losses: Vec<String> = account
        .pods
        .iter()
        .flat_map(|pod| {
            pod.losses
                .iter()
                .map(|loss| format!("{}, {}", pod.name(), strips::words(loss)))
        })
        .collect();
    lacking.extend(named("Time that is not accounted for", &losses));
    let custody: Vec<String> = account
        .pods
        .iter()
        .flat_map(|pod| {
            let losses = pod.custody.losses.iter();
            losses.map(|loss| format!("{}, {}", pod.name(), strips::words(loss)))
        })
        .collect();
    lacking.extend(named(
        "Time in which no record attests where a pod’s key was",
        &custody,
    ));
    let uncounted: Vec<String> = account
        .pods
        .iter()
        .filter(|pod| pod.bytes.left_out > 0)
        .map(|pod| {
            let windows = counted(pod.bytes.left_out, "window", "windows");
            format!("{}, {windows}", pod.name())
        })
        .collect();
    lacking.extend(named(
        "Time in which the kernel’s counters could not be had",
        &uncounted,
    ));
    if account.exceptions_unlisted > 0 {
        lacking.push(html! {
            "Exceptions that are declared and not listed in the records, or too many for this report: "
            (count(account.exceptions_unlisted)) " at least."
        });
    }
    if account.names_left_out {
        lacking.push(html! {
            "Whether every workload and certificate is on record: there were more of them than this report can keep in mind."
        });
    }
    if account.copies > 0 {
        lacking.push(html! {
            (counted(account.copies, "more copy of a log was", "more copies of logs were"))
            " given. Of each log the longest copy counts, and verification compared the others with it."
        });
    }
    for log in account.logs.iter().filter(|log| log.unsigned > 0) {
        lacking.push(html! {
            (log.name) ": " (counted(log.unsigned, "record", "records")) " at its end under no signed checkpoint."
        });
    }
    let taken_over: Vec<String> = account
        .logs
        .iter()
        .flat_map(|log| {
            let runs = log.taken_over.iter();
            runs.map(|records| format!("{}: {records}", log.name))
        })
        .collect();
    lacking.extend(named(
        "Whether these records are as they were written, since they waited unsigned from one run for the next",
        &taken_over,
    ));
    let findings: Vec<String> = account
        .logs
        .iter()
        .flat_map(|log| {
            log.findings
                .iter()
                .map(|finding| format!("{}: {finding}", log.name))
        })
        .collect();
    lacking.extend(named("What verification found in the logs", &findings));
    lacking.extend(account.gaps.iter().map(|(cause, sum)| gap(*cause, sum)));
    for ((what, why), times) in account.unavailable.iter().take(NAMED) {
        lacking.push(html! {
            "A figure that the kernel did not give: " (what) " (" (why) "), in " (counted(*times, "window", "windows")) "."
        });
    }
    if account.aggregated > 0 {
        lacking.push(html! {
            (counted(account.aggregated, "event was", "events were"))
            " counted in coarser groups by the sidecars, without address or peer: too many different ones came in a window. \
             None is left out of the sums."
        });
    }
    if account.merged > 0 {
        lacking.push(html! {
            (counted(account.merged, "connection", "connections"))
            " in this report are no longer told apart by destination: there were too many. The export has them."
        });
    }
    lacking
}

fn named(what: &str, all: &[String]) -> Option<Markup> {
    (!all.is_empty()).then(|| {
        html! {
            (what) ":"
            ul {
                @for one in all.iter().take(NAMED) { li { (one) } }
                @if all.len() > NAMED { li { "and " (all.len() - NAMED) " more." } }
            }
        }
    })
}

fn gap(cause: GapCause, sum: &GapAccount) -> Markup {
    let cause = match cause {
        GapCause::Crash => "a sidecar was killed or crashed",
        GapCause::NotRunning => "no sidecar ran",
        GapCause::Overload => "more happened than could be recorded",
        GapCause::Storage => "the disk took no records",
        GapCause::Unsigned => "the key did not sign, and records were signed later",
        GapCause::Clock => "a clock was set back or jumped",
        GapCause::Census => "no census could be taken",
        GapCause::Other => "another reason",
    };
    html! {
        "The sidecars themselves state " (counted(sum.count, "gap", "gaps")) " of " (duration(sum.time)) " altogether: "
        (cause)
        @if sum.lost > 0 { ", " (counted(sum.lost, "record", "records")) " lost" }
        ". One of them: " (sum.example)
    }
}

fn unaccounted(account: &Account) -> Markup {
    let sockets = &account.sockets;
    html! {
        @if !sockets.examples.is_empty() {
            h3 { "Sockets that nobody accounts for" }
            ul {
                @for example in sockets.examples.iter().take(NAMED * 2) {
                    li {
                        (example.pod) ": "
                        (address(example.socket.local)) " to " (address(example.socket.remote)) ", "
                        (example.socket.state)
                        @if let Some(uid) = example.socket.process.uid { ", of UID " (uid) }
                        @if let Some(command) = &example.socket.process.command { " (" (command) ")" }
                        ", seen " (minute(example.first))
                        @if example.last > example.first { " to " (minute(example.last)) }
                    }
                }
                @if sockets.examples.len() > NAMED * 2 {
                    li { "and " (count(u64::try_from(sockets.examples.len() - NAMED * 2).unwrap_or(u64::MAX))) " more." }
                }
            }
        }
    }
}

fn address(address: Option<std::net::SocketAddr>) -> String {
    address.map_or_else(|| "nowhere".to_owned(), |address| address.to_string())
}
