//! Every clause of every framework that was asked for, with its verdict and the reason.

use maud::{Markup, html};

use super::table::{Column, Row, table};
use crate::framework::{Clause, Finding, Judged};
use crate::made::Made;

pub(super) fn controls(made: &Made) -> Markup {
    html! {
        p {
            "Each verdict is worked out from the records by rules that come with Sealwire. What the records do not show is "
            "not satisfied. A verdict speaks of the connections of the pods here and of nothing else: no framework is "
            "satisfied by a tool."
        }
        @if made.judged.is_empty() {
            p { "No framework was asked for." }
        }
        @for framework in &made.judged {
            (self::framework(framework))
        }
    }
}

fn framework(judged: &Judged) -> Markup {
    let satisfied = judged
        .findings
        .iter()
        .filter(|finding| finding.satisfied)
        .count();
    let columns = [
        Column::text("Clause"),
        Column::text("What it asks here, in our words"),
        Column::text("Verdict"),
        Column::text("Why"),
    ];
    let rows: Vec<Row> = judged
        .mapping
        .clauses
        .iter()
        .zip(&judged.findings)
        .map(|(clause, finding)| row(clause, finding))
        .collect();
    let caption = format!("{satisfied} of {} clauses satisfied", judged.findings.len());
    html! {
        h3 { (judged.mapping.name) }
        (table(&caption, &columns, &rows))
    }
}

fn row(clause: &Clause, finding: &Finding) -> Row {
    let verdict = if finding.satisfied {
        html! { span.mark.ok aria-hidden="true" { "✓ " } span.ok { "Satisfied" } }
    } else {
        html! { span.mark.no aria-hidden="true" { "✗ " } span.no { "Not satisfied" } }
    };
    let why = if finding.satisfied {
        finding.answers()
    } else {
        finding.reasons()
    };
    Row::new(vec![
        html! { (clause.clause) },
        html! {
            (clause.topic)
            span.small.soft { "Rests on: " (clause.rests_on.join(", ")) }
        },
        verdict,
        html! { ul.plain { @for reason in why { li { (reason) } } } },
    ])
}
