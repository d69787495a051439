//! How to check this page without trusting whoever sent it.

use maud::{Markup, html};

use super::table::{Column, Row, table};
use crate::files::Produced;
use crate::made::Made;
use crate::words::{count, counted};

/// Logs and files in their tables.
const SHOWN: usize = 200;

pub(super) fn trust(made: &Made, others: &[Produced]) -> Markup {
    let account = &made.account;
    html! {
        p {
            "Nothing here has to be believed. The same logs give the same files again, byte for byte; and the logs show by "
            "themselves whether anyone edited them."
        }
        ol.steps {
            li {
                "Check the logs, offline, against the trust bundle of the mesh, which you have from its owner and not from "
                "whoever sent this:"
                pre { code { "sealwire verify LOG… --trust bundle.pem" } }
                "It needs nothing of Sealwire’s to be trusted: the format is tlog-tiles of C2SP, and its documentation says \
                 how to check a checkpoint with openssl."
            }
            li {
                "Make this report again, and compare:"
                pre { code { (made.command()) } }
            }
            li {
                "Check who signed the assessment results, where " code { "assessment-results.json.sig" } " is there:"
                pre {
                    code {
                        "trestle verify --beta -f assessment-results.json --signature assessment-results.json.sig \
                         --public-key signer.pem"
                    }
                }
            }
            li {
                "Compare the checkpoints below with copies that were kept elsewhere: a log that was put back to an earlier "
                "state is shorter than such a copy says."
            }
        }
        (logs(made))
        @if account.logs.len() > SHOWN {
            p.small.soft { "And " (count(u64::try_from(account.logs.len() - SHOWN).unwrap_or(u64::MAX))) " logs more." }
        }
        (files(others))
    }
}

fn logs(made: &Made) -> Markup {
    let rows: Vec<Row> = made
        .account
        .logs
        .iter()
        .take(SHOWN)
        .map(|log| {
            let findings = u64::try_from(log.findings.len()).unwrap_or(u64::MAX) + log.findings_more;
            let cells = vec![
                html! {
                    (log.origin)
                    span.small.soft { (log.name) }
                },
                html! { (count(log.size)) },
                html! { code.small { (log.root) } },
                html! { (count(log.checkpoints)) },
                html! {
                    @if findings > 0 {
                        strong.no { span aria-hidden="true" { "✗ " } (counted(findings, "fault", "faults")) }
                    } @else if log.checkpoints == 0 {
                        span.open { span aria-hidden="true" { "? " } "Not signed" }
                    } @else {
                        span.ok { span aria-hidden="true" { "✓ " } "Verified" }
                    }
                },
            ];
            let bad = findings > 0;
            Row { cells, bad }
        })
        .collect();
    let columns = [
        Column::text("Log"),
        Column::number("Records"),
        Column::text("Root hash"),
        Column::number("Checkpoints"),
        Column::text("Verification"),
    ];
    html! {
        h3 { "The logs that this rests on" }
        (table("Each at its newest checkpoint", &columns, &rows))
    }
}

fn files(others: &[Produced]) -> Markup {
    let rows: Vec<Row> = others
        .iter()
        .map(|file| {
            Row::new(vec![
                html! { (file.name) },
                html! { (file.about) },
                html! { code.small { (file.sha256()) } },
            ])
        })
        .collect();
    let columns = [
        Column::text("File"),
        Column::text("What it is"),
        Column::text("SHA-256"),
    ];
    html! {
        h3 { "The files beside this page" }
        (table("Made from the same records", &columns, &rows))
    }
}
