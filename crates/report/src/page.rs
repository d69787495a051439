//! `report.html`: one page without scripts, fonts or pictures from elsewhere, for people who read
//! such a thing once a year. The first screen answers; below it, each section opens with its
//! point. Everything comes from the [`Account`](crate::account::Account); nothing is worked out
//! here but how to show it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::files::Produced;
use crate::made::Made;
use crate::words::visible;

mod bytes;
mod controls;
mod custody;
mod exceptions;
mod first;
mod links;
mod refusals;
mod strips;
mod table;
mod trust;
mod unshown;

const STYLE: &str = include_str!("page/style.css");

/// A section: its anchor, its title, and its content.
struct Section {
    id: &'static str,
    title: &'static str,
    body: Markup,
}

/// The page; `others` are the files beside it, of which it tells the digests.
pub(crate) fn page(made: &Made, others: &[Produced]) -> String {
    let sections = [
        Section {
            id: "controls",
            title: "Verdict by control",
            body: controls::controls(made),
        },
        Section {
            id: "coverage",
            title: "Coverage",
            body: strips::strips(&made.account),
        },
        Section {
            id: "links",
            title: "Who talked to whom",
            body: links::links(&made.account),
        },
        Section {
            id: "bytes",
            title: "What the kernel counted",
            body: bytes::bytes(&made.account),
        },
        Section {
            id: "exceptions",
            title: "Exceptions",
            body: exceptions::exceptions(&made.account),
        },
        Section {
            id: "custody",
            title: "Keys and certificates",
            body: custody::custody(&made.account),
        },
        Section {
            id: "refusals",
            title: "What was refused",
            body: refusals::refusals(&made.account),
        },
        Section {
            id: "unshown",
            title: "What could not be shown",
            body: unshown::unshown(&made.account),
        },
        Section {
            id: "verify",
            title: "How to verify this page",
            body: trust::trust(made, others),
        },
    ];
    // Nothing may be fetched, and no style but this one applies: the browser is told so.
    let digest = BASE64.encode(Sha256::digest(STYLE.as_bytes()));
    let policy = format!("default-src 'none'; style-src 'sha256-{digest}'");
    let title = format!("Was every connection sealed? {}", made.period_in_words());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#controls" { "Skip to the verdict by control" }
                div.page {
                    (first::first(made, &sections))
                    main {
                        @for section in &sections {
                            section id=(section.id) aria-labelledby={ (section.id) "-title" } {
                                h2 id={ (section.id) "-title" } { (section.title) }
                                (section.body)
                            }
                        }
                    }
                    footer {
                        p { "Made by sealwire " (made.version) " from the records alone. All times are in UTC." }
                    }
                }
            }
        }
    }
    .into_string();
    // Whatever stands in it, names of strangers among that, is seen as it is.
    visible(&page).into_owned()
}
