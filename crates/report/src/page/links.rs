//! Who talked to whom: a matrix while there are few enough workloads to see anything in it, the
//! busiest pairs as a table beyond that, and the cryptography that was used.

use std::collections::BTreeMap;
use std::sync::Arc;

use maud::{Markup, html};

use super::table::{Column, Row, shortened, table};
use crate::account::{Account, Pair, add};
use crate::words::{bytes, count, identity};

/// Workloads in the matrix; the others are one line and one column.
const WORKLOADS: usize = 12;

/// Exceptions with a column of their own.
const OUTSIDE: usize = 4;

/// Pairs in the table.
const PAIRS: usize = 40;

type Pairs = BTreeMap<(Arc<str>, Arc<str>), Pair>;

pub(super) fn links(account: &Account) -> Markup {
    let pairs = account.pairs();
    html! {
        @if pairs.is_empty() {
            p { "No connection was sealed in this time." }
        } @else {
            p {
                "Sealed connections by who opened them (down) and to whom (across). Each is counted where it was opened, or "
                "where it came in when there is no log of who opened it."
            }
            (matrix(account, &pairs))
            @if busiest(&pairs).len() > WORKLOADS { (table_of_pairs(&pairs)) }
            (cryptography(account))
        }
    }
}

/// Workloads by how much they have to do, the busiest first.
fn busiest(pairs: &Pairs) -> Vec<Arc<str>> {
    let mut busy: BTreeMap<&Arc<str>, u64> = BTreeMap::new();
    for ((from, to), pair) in pairs {
        add(busy.entry(from).or_default(), pair.connections());
        add(busy.entry(to).or_default(), pair.connections());
    }
    let mut busy: Vec<_> = busy.into_iter().collect();
    busy.sort_by_key(|&(name, connections)| (std::cmp::Reverse(connections), name.clone()));
    busy.into_iter().map(|(name, _)| name.clone()).collect()
}

/// A line or column of the matrix: one workload, or all the others.
type Place = Option<Arc<str>>;

fn matrix(account: &Account, pairs: &Pairs) -> Markup {
    let all = busiest(pairs);
    let mut shown: Vec<Arc<str>> = all.iter().take(WORKLOADS).cloned().collect();
    shown.sort();
    let others = all.len() > WORKLOADS;
    let place = |name: &Arc<str>| -> Place { shown.contains(name).then(|| name.clone()) };
    let mut cells: BTreeMap<(Place, Place), Pair> = BTreeMap::new();
    for ((from, to), pair) in pairs {
        let cell = cells.entry((place(from), place(to))).or_default();
        add(&mut cell.opened, pair.connections());
        add(&mut cell.bytes, pair.bytes);
    }
    let most = cells.values().map(|cell| cell.opened).max().unwrap_or(1);
    let mut places: Vec<Place> = shown.iter().cloned().map(Some).collect();
    if others {
        places.push(None);
    }
    let rests = all.len().saturating_sub(WORKLOADS);
    let outside: Vec<_> = account
        .exceptions
        .iter()
        .filter(|exception| exception.is_used())
        .take(OUTSIDE)
        .collect();
    html! {
        div.scroll tabindex="0" role="region" aria-label="Matrix of connections" {
            table.matrix {
                caption.visually-hidden { "Sealed connections, by who opened them and to whom" }
                thead {
                    tr {
                        th scope="col" { "from ↓ to →" }
                        @for to in &places { th scope="col" { span { (name_of(to, rests)) } } }
                        @for exception in &outside {
                            th.open scope="col" { span { "exception: " (exception.key.rule) } }
                        }
                    }
                }
                tbody {
                    @for from in &places {
                        tr {
                            th scope="row" { (name_of(from, rests)) }
                            @for to in &places {
                                @match cells.get(&(from.clone(), to.clone())) {
                                    Some(cell) if cell.opened > 0 => {
                                        td class=(shade(cell.opened, most)) {
                                            (count(cell.opened)) small { (bytes(cell.bytes)) }
                                        }
                                    }
                                    _ => { td.nothing { span aria-hidden="true" { "·" } span.visually-hidden { "none" } } }
                                }
                            }
                            @for exception in &outside {
                                @match from.as_ref().and_then(|from| exception.by_identity.get(from)) {
                                    Some(0) => { td.out { "goes on" } }
                                    Some(connections) => { td.out { (count(*connections)) } }
                                    None => { td.nothing { span aria-hidden="true" { "·" } span.visually-hidden { "none" } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn name_of(place: &Place, rests: usize) -> String {
    match place {
        Some(name) if name.is_empty() => "not told apart".to_owned(),
        Some(name) => identity(name),
        None => format!("{rests} others"),
    }
}

/// In four steps, each ten times the one below the greatest.
fn shade(connections: u64, most: u64) -> &'static str {
    match most / connections.max(1) {
        0..10 => "q4",
        10..100 => "q3",
        100..1_000 => "q2",
        _ => "q1",
    }
}

fn table_of_pairs(pairs: &Pairs) -> Markup {
    let mut sorted: Vec<_> = pairs.iter().collect();
    sorted.sort_by_key(|(names, pair)| (std::cmp::Reverse(pair.connections()), *names));
    let rows: Vec<Row> = sorted
        .iter()
        .take(PAIRS)
        .map(|((from, to), pair)| {
            Row::new(vec![
                html! { (identity(from)) },
                html! { (identity(to)) },
                html! { (count(pair.connections())) },
                html! { (bytes(pair.bytes)) },
            ])
        })
        .collect();
    let columns = [
        Column::text("From"),
        Column::text("To"),
        Column::number("Connections"),
        Column::number("Carried"),
    ];
    html! {
        (table("The busiest pairs", &columns, &rows))
        (shortened(rows.len(), sorted.len(), "links.csv"))
    }
}

fn cryptography(account: &Account) -> Markup {
    let mut used: BTreeMap<(&str, &str, &str), (u64, u64)> = BTreeMap::new();
    for flow in &account.flows {
        let key = (
            flow.key.version.as_ref(),
            flow.key.suite.as_ref(),
            flow.key.group.as_ref(),
        );
        let sum = used.entry(key).or_default();
        add(&mut sum.0, flow.opened);
        add(&mut sum.1, flow.resumed);
    }
    let mut used: Vec<_> = used.into_iter().collect();
    used.sort_by_key(|(_, (opened, _))| std::cmp::Reverse(*opened));
    let rows: Vec<Row> = used
        .into_iter()
        .map(|((version, suite, group), (opened, resumed))| {
            Row::new(vec![
                html! { (version.replace("TLSv1_", "TLS 1.")) },
                html! { (suite) },
                html! { (group) },
                html! { (count(opened)) },
                html! { (count(resumed)) },
            ])
        })
        .collect();
    let columns = [
        Column::text("Version"),
        Column::text("Suite"),
        Column::text("Key exchange"),
        Column::number("Connections"),
        Column::number("Of them resumed"),
    ];
    html! {
        h3 { "By which cryptography" }
        (table("As both sides recorded it, each side by itself", &columns, &rows))
    }
}
