//! What may pass unsealed: by whose word, until when, and what did.

use maud::{Markup, html};
use time::OffsetDateTime;

use super::table::{Column, Row, shortened, table};
use crate::account::{Account, ExceptionAccount};
use crate::words::{bytes, count, counted, day, duration, minute};

/// Exceptions in the table.
const SHOWN: usize = 100;

pub(super) fn exceptions(account: &Account) -> Markup {
    let expired = account
        .exceptions
        .iter()
        .filter(|exception| exception.expired(account.as_of))
        .count();
    let all = account.exceptions.len();
    let rows: Vec<Row> = account
        .exceptions
        .iter()
        .take(SHOWN)
        .map(|exception| row(exception, account.as_of))
        .collect();
    let columns = [
        Column::text("Exception"),
        Column::text("Ends"),
        Column::text("Owner"),
        Column::text("Lets through"),
        Column::number("Connections"),
        Column::number("Carried"),
    ];
    html! {
        @if all == 0 {
            p { "No pod declares an exception." }
        } @else {
            p {
                "Whatever is not sealed has to be declared, with a reason, an owner and an end, after which it refuses. "
                @if expired > 0 {
                    strong { (counted(u64::try_from(expired).unwrap_or(u64::MAX), "has ended:", "have ended:")) }
                    " what has ended refuses, and should be taken out of the configuration."
                } @else {
                    "None has ended."
                }
            }
            (table("Declared exceptions, those that end first, first", &columns, &rows))
            (shortened(rows.len(), all, "exceptions.csv"))
            p.small.soft {
                "Name lookups over UDP by an exception of kind dns pass in the kernel: they are not counted here. What \
                 require-tls lets through is sealed by the application itself, which Sealwire checks no further."
            }
        }
    }
}

fn row(exception: &ExceptionAccount, as_of: OffsetDateTime) -> Row {
    let key = &exception.key;
    let ports: Vec<String> = key.ports.iter().map(ToString::to_string).collect();
    let cells = vec![
        html! {
            (key.rule)
            span.small.soft { (counted(exception.pods, "pod", "pods")) }
        },
        html! {
            @match key.expires {
                Some(expires) if expires <= as_of => {
                    strong.no { "Ended " (day(expires)) }
                    span.small { (duration(as_of - expires)) " ago" }
                }
                Some(expires) => {
                    (day(expires))
                    span.small.soft { "in " (duration(expires - as_of)) }
                }
                None => { strong.no { "Not declared" } }
            }
        },
        html! {
            @if key.owner.is_empty() { strong.no { "No owner" } } @else { (key.owner) }
            span.small.soft { (key.reason) }
        },
        html! {
            (key.what)
            span.small.soft { (key.destination) @if !ports.is_empty() { ", port " (ports.join(", ")) } }
            @if !exception.observed_tls.is_empty() {
                span.small.soft {
                    "TLS seen: "
                    (exception.observed_tls.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", "))
                }
            }
        },
        html! {
            (count(exception.connections))
            @if exception.is_used() && exception.connections == 0 { span.small { "one goes on" } }
            @if exception.late > 0 {
                strong.small.no { (count(exception.late)) " after its end" }
            } @else if exception.is_late() {
                strong.small.no { "one goes on after its end" }
            }
        },
        html! {
            (bytes(exception.moved()))
            @if let Some((_, last)) = exception.used { span.small.soft { "last " (minute(last)) } }
        },
    ];
    Row {
        cells,
        bad: exception.is_late() || exception.expired(as_of),
    }
}
