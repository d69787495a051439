//! The first screen: the answer, what speaks against it, the four questions with their figures,
//! and the coverage.

use maud::{Markup, html};

use super::{Section, strips};
use crate::account::{self, Account, ExceptionAccount, KeyAccount};
use crate::answer::Question;
use crate::check::Verdict;
use crate::made::Made;
use crate::words::{bytes, count, counted, duration, share};

/// Reasons named at once; the sections have them all.
const REASONS: usize = 6;

pub(super) fn first(made: &Made, sections: &[Section]) -> Markup {
    let account = &made.account;
    let yes = made.answer.yes();
    let reasons = made.answer.reasons();
    html! {
        header {
            p.kicker { b { "Sealwire evidence report" } " · " (made.period_in_words()) }
            h1 { "Was every connection sealed, by a key that cannot leave?" }
            @if yes {
                p.answer.ok { "Yes." }
                p.lead { (lead(account)) }
            } @else {
                p.answer.no { "No." }
                p.lead {
                    @if account.pods.is_empty() {
                        "There is nothing to see: no record speaks of this time."
                    } @else {
                        "It is not shown. What the records hold, and what speaks against a yes:"
                    }
                }
                ul.why {
                    @for reason in reasons.iter().take(REASONS) {
                        li { (mark(reason.verdict)) " " (reason.says) }
                    }
                    @if reasons.len() > REASONS {
                        li { "and " (counted_more(reasons.len() - REASONS)) "." }
                    }
                }
            }
            ul.cards aria-label="The four questions" {
                @for (question, (figure, below)) in made.answer.questions.iter().zip(figures(account)) {
                    (card(question, &figure, &below))
                }
            }
            (cover(account))
            nav aria-label="Contents" {
                ol {
                    @for section in sections {
                        li { a href={ "#" (section.id) } { (section.title) } }
                    }
                }
            }
        }
    }
}

/// A verdict as a sign; whatever stands beside it says the same in words.
pub(super) fn mark(verdict: Verdict) -> Markup {
    let (class, sign, spoken) = match verdict {
        Verdict::Met => ("mark ok", "✓", "Yes:"),
        Verdict::NotMet => ("mark no", "✗", "No:"),
        Verdict::Unknown => ("mark open", "?", "Not shown:"),
    };
    html! {
        span class=(class) aria-hidden="true" { (sign) }
        span.visually-hidden { (spoken) }
    }
}

fn lead(account: &Account) -> String {
    let sealed = account.sealed();
    format!(
        "{} of {} between them and with others were sealed in mutual TLS 1.3, and nothing {}. The records account for {} \
         of the time that the pods ran.",
        capitalised(&counted(sealed.opened, "connection", "connections")),
        counted(number(account.pods.len()), "pod", "pods"),
        passed_unsealed(account),
        share(account.accounted(), account.alive()),
    )
}

/// What passed unsealed, after "nothing".
fn passed_unsealed(account: &Account) -> String {
    let used = account.exceptions.iter().any(ExceptionAccount::is_used);
    let by_exceptions = used.then(|| match excepted(account) {
        0 => "what goes on by declared exceptions".to_owned(),
        ended => format!(
            "{} by declared exceptions",
            counted(ended, "connection", "connections")
        ),
    });
    let mut kinds = account.exceptions.iter().map(|of| of.key.what.as_ref());
    let lookups = kinds
        .any(|what| what == "dns")
        .then(|| "name lookups, which are declared and not counted".to_owned());
    let but: Vec<String> = by_exceptions.into_iter().chain(lookups).collect();
    match but.is_empty() {
        true => "passed unsealed".to_owned(),
        false => format!("passed unsealed but {}", but.join(" and ")),
    }
}

/// Connections that exceptions let through.
fn excepted(account: &Account) -> u64 {
    account::total(account.exceptions.iter().map(|of| of.connections))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

fn counted_more(more: usize) -> String {
    counted(number(more), "more reason, below", "more reasons, below")
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// For each question, one figure and what it is of.
fn figures(account: &Account) -> [(String, String); 4] {
    let sealed = account.sealed();
    let refused = account::total(account.refusals.iter().map(|refusal| refusal.count));
    let kept = account
        .keys
        .iter()
        .filter(|key| key.held() && KeyAccount::cannot_leave(key) == Some(true))
        .count();
    let keys = account.keys.len() + account.keys_unknown.len();
    let good = account
        .logs
        .iter()
        .filter(|log| log.findings.is_empty() && log.unsigned == 0 && log.checkpoints > 0)
        .count();
    let checkpoints: u64 = account.logs.iter().map(|log| log.checkpoints).sum();
    [
        (
            count(sealed.opened),
            format!("connections sealed, which carried {}", bytes(sealed.bytes)),
        ),
        (
            count(account.sockets.unaccounted),
            format!(
                "{} that nobody accounts for. Sent past all that explains it: {}. By exceptions: {}. Refused: {}.",
                match account.sockets.unaccounted {
                    1 => "sighting of a socket",
                    _ => "sightings of sockets",
                },
                match account.bytes().unexplained {
                    0 => "nothing".to_owned(),
                    beyond => bytes(beyond),
                },
                counted(excepted(account), "connection", "connections"),
                counted(refused, "attempt", "attempts")
            ),
        ),
        (
            format!("{kept} of {keys}"),
            format!(
                "keys live where, by their home’s own claim, they cannot leave. On record for {} of the time that they \
                 were in use",
                share(account.custody_attested(), account.custody_needed())
            ),
        ),
        (
            format!("{good} of {}", account.logs.len()),
            format!(
                "logs verify, with {}",
                counted(checkpoints, "signed checkpoint", "signed checkpoints")
            ),
        ),
    ]
}

fn card(question: &Question, figure: &str, below: &str) -> Markup {
    let (class, sign, said) = match question.verdict() {
        Verdict::Met => ("said ok", "✓", good_answer(&question.asks)),
        Verdict::NotMet => ("said no", "✗", bad_answer(&question.asks)),
        Verdict::Unknown => ("said open", "?", "Not shown"),
    };
    html! {
        li.card {
            h2 { (question.asks) }
            p class=(class) { span aria-hidden="true" { (sign) " " } (said) }
            p.figure { (figure) }
            p { (below) }
        }
    }
}

/// The answer that is hoped for: yes to the first question, no to the others.
fn good_answer(asks: &str) -> &'static str {
    if asks.starts_with("Was") {
        "Yes"
    } else if asks.starts_with("Whose") {
        "The workloads’ own; no"
    } else {
        "No"
    }
}

fn bad_answer(asks: &str) -> &'static str {
    if asks.starts_with("Was") {
        "No"
    } else if asks.starts_with("Whose") {
        "Not as it should be"
    } else {
        "Yes"
    }
}

fn cover(account: &Account) -> Markup {
    let (alive, accounted) = (account.alive(), account.accounted());
    html! {
        div.cover {
            p.figure { "Coverage: " (share(accounted, alive)) }
            (strips::all(account))
            p {
                "Pods × time sealed and accounted for, over pods × time that they ran: "
                (duration(accounted)) " of " (duration(alive)) ", "
                (counted(number(account.pods.len()), "pod", "pods")) "."
            }
        }
    }
}
