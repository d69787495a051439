//! What the kernel counted at the pods' interfaces against what their sidecars moved: whether
//! anything else left.

use maud::{Markup, html};

use super::table::{Column, Row, shortened, table};
use crate::account::{Account, BytesAccount, PodAccount};
use crate::words::{bytes as written, counted};

/// Pods in the table.
const SHOWN: usize = 40;

pub(super) fn bytes(account: &Account) -> Markup {
    let sum = account.bytes();
    let mut pods: Vec<&PodAccount> = account.pods.iter().collect();
    pods.sort_by_key(|pod| {
        let own = pod.bytes;
        let beyond = own.unexplained.max(own.missing);
        std::cmp::Reverse((beyond, own.left_out, own.counted.sent))
    });
    let mut rows = vec![row("All pods".to_owned(), sum)];
    rows.extend(
        pods.iter()
            .take(SHOWN)
            .map(|pod| row(pod.name(), pod.bytes)),
    );
    let columns = [
        Column::text("Pod"),
        Column::number("The kernel counted"),
        Column::number("The sidecar moved"),
        Column::text("Beyond what explains it"),
    ];
    html! {
        p {
            "The kernel counts whole frames at a pod’s interfaces, whoever sends them. The sidecar counts what applications \
             hand to it, before it is sealed. What leaves a pod has to be at least what its sidecar moved outwards, and at \
             most that and what comes around it: the heads of packets, TLS’s own bytes, handshakes, what had to be sent \
             again, and answers to probes and for metrics. More, and something else sent it. Less, and what the sidecar \
             says never left."
        }
        p {
            "Each run of a sidecar is judged so, and each hour of it by itself, since what is allowed for a month is much. The \
             allowances are in Sealwire’s documentation of the census, and what they come to is in " code { "bytes.csv" } "."
        }
        @if account.pods.is_empty() {
            p { "No pod has records in this time." }
        } @else {
            (table("Bytes by both counts, over the windows that are signed and in order", &columns, &rows))
            (shortened(pods.len().min(SHOWN), pods.len(), "bytes.csv"))
            p.small.soft {
                "What came in is not judged: what peers sent again, and what the rules kept out, counts at the interface as \
                 well, and nobody in a pod can tell how much that was."
            }
        }
    }
}

fn row(name: String, own: BytesAccount) -> Row {
    let had = own.windows > 0;
    let or_nothing = |number: u64| {
        if had {
            written(number)
        } else {
            "–".to_owned()
        }
    };
    let excepted = own.excepted.sent;
    let cells = vec![
        html! { (name) },
        html! {
            (or_nothing(own.counted.sent)) " sent"
            span.small.soft { (or_nothing(own.counted.received)) " received" }
        },
        html! {
            (or_nothing(own.moved.sent)) " sent"
            span.small.soft { (or_nothing(own.moved.received)) " received" }
            @if excepted > 0 { span.small.soft { (written(excepted)) " sent by exceptions" } }
        },
        html! {
            @if own.unexplained > 0 {
                strong.no { span aria-hidden="true" { "✗ " } (written(own.unexplained)) " that nothing explains" }
            }
            @if own.missing > 0 {
                strong.no { span aria-hidden="true" { "✗ " } (written(own.missing)) " that never left" }
            }
            @if had && !own.differs() {
                span.ok { span aria-hidden="true" { "✓ " } "Nothing" }
            }
            @if own.left_out > 0 {
                span.small.open { "No counters for " (counted(own.left_out, "window", "windows")) }
            } @else if !had {
                span.open { span aria-hidden="true" { "? " } "No figures" }
            }
        },
    ];
    let bad = own.differs();
    Row { cells, bad }
}
