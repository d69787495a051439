//! What was not let through, and why.

use maud::{Markup, html};
use sealwire_evidence::record::{Direction, Protocol};

use super::table::{Column, Row, table};
use crate::account::{Account, RefusalAccount};
use crate::words::{count, counted, minute};

pub(super) fn refusals(account: &Account) -> Markup {
    let rows: Vec<Row> = account.refusals.iter().map(row).collect();
    let columns = [
        Column::text("Reason"),
        Column::text("Direction"),
        Column::number("Times"),
        Column::text("When"),
        Column::text("One of them"),
    ];
    html! {
        p {
            @if rows.is_empty() {
                "Nothing was refused in this time."
            } @else {
                "A refusal is the seal at work: no byte of an application passed. A new or frequent one is worth a look, at \
                 who tries, or at what is not declared."
            }
        }
        @if !rows.is_empty() {
            (table("Refusals by reason, the most frequent first", &columns, &rows))
        }
    }
}

fn row(refusal: &RefusalAccount) -> Row {
    let direction = match refusal.direction {
        Direction::Inbound => "into a pod",
        Direction::Outbound => "out of a pod",
    };
    Row::new(vec![
        html! { (refusal.reason.replace('_', " ")) },
        html! { (direction) ", " (protocol(refusal.protocol)) },
        html! { (count(refusal.count)) span.small.soft { (counted(refusal.pods, "pod", "pods")) } },
        html! { (minute(refusal.first)) @if refusal.last > refusal.first { " to " (minute(refusal.last)) } },
        html! { @match &refusal.example { Some(example) => span.small { (example) }, None => "not recorded", } },
    ])
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::UdpLite => "UDP-Lite",
        Protocol::Sctp => "SCTP",
        Protocol::Dccp => "DCCP",
        Protocol::Raw => "raw IP",
        Protocol::Packet => "packet socket",
        Protocol::Other => "other",
    }
}
