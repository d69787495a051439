//! Coverage by pod over time, as pictures: a strip a pod, worst first. Where anything is missing
//! in a slot of time, at least a third of its height says so, however short it was; the words
//! beside it are exact.

use maud::{Markup, html};
use time::Duration;

use crate::account::{Account, Loss, PodAccount, SLOTS, Slot};
use crate::words::{count, duration, minute, second, share};

/// Pods with a strip of their own.
const PODS: usize = 60;

/// Losses told in words for each.
const LOSSES: usize = 3;

/// Height of a strip in its own units.
const HEIGHT: u32 = 12;

pub(super) fn strips(account: &Account) -> Markup {
    let holed = account
        .pods
        .iter()
        .filter(|pod| pod.lost() > Duration::ZERO)
        .count();
    html! {
        p {
            @if account.pods.is_empty() {
                "No pod has records in this time."
            } @else if holed == 0 {
                "Every moment of every pod’s life is in a window that is signed, has a census, and leaves no socket \
                 unaccounted for."
            } @else {
                (holed) " of " (account.pods.len()) " pods have time that is not accounted for. They come first."
            }
            " A pod lives from the first record of its log to its stop record; what no window speaks of is not covered."
        }
        @if !account.missing.is_empty() {
            p.no {
                strong { "No log here: " }
                (account.missing.iter().take(PODS).cloned().collect::<Vec<_>>().join(", "))
                @if account.missing.len() > PODS { ", and " (account.missing.len() - PODS) " more" }
                ". They are on the list of pods that ran, and nothing is known of them."
            }
        }
        @if !account.pods.is_empty() {
            ul.legend aria-label="Legend" {
                li { (swatch("sealed")) "sealed and accounted for" }
                li { (swatch("lost")) "not accounted for" }
                li { (swatch("away")) "did not run" }
            }
            div.axis aria-hidden="true" {
                span {
                    span { (minute(account.period.from())) }
                    span { (minute(account.as_of)) }
                }
            }
            ul.strips {
                @for pod in account.pods.iter().take(PODS) {
                    li {
                        span.name { (pod.name()) }
                        (strip(pod.slots.as_slice(), &spoken(pod)))
                        span.share { (share(pod.accounted, pod.alive)) }
                        @if !pod.losses.is_empty() { p.losses { (told(&pod.losses, pod.losses_count)) } }
                    }
                }
            }
            @if account.pods.len() > PODS {
                p.small.soft {
                    "And " (count(u64::try_from(account.pods.len() - PODS).unwrap_or(u64::MAX))) " pods"
                    @if holed <= PODS { ", each accounted for all the time that it ran" }
                    ". All of them are in " code { "coverage.csv" } "."
                }
            }
        }
    }
}

/// All pods in one strip.
pub(super) fn all(account: &Account) -> Markup {
    let mut sum = [(0_u64, 0_u64); SLOTS];
    for pod in &account.pods {
        for (sum, slot) in sum.iter_mut().zip(pod.slots.iter()) {
            sum.0 += u64::from(slot.alive);
            sum.1 += u64::from(slot.accounted);
        }
    }
    // As many thousandths of a slot, which is all that a strip needs.
    let slots: Vec<Slot> = sum
        .iter()
        .map(|&(alive, accounted)| {
            let thousandths = (accounted * 1000).checked_div(alive).unwrap_or(0);
            Slot {
                alive: if alive == 0 { 0 } else { 1000 },
                accounted: u32::try_from(thousandths).unwrap_or(0),
            }
        })
        .collect();
    let spoken = format!(
        "Coverage of all pods from {} to {}",
        minute(account.period.from()),
        minute(account.as_of)
    );
    strip(&slots, &spoken)
}

fn strip(slots: &[Slot], spoken: &str) -> Markup {
    let width = slots.len();
    html! {
        svg viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(spoken)
            shape-rendering="crispEdges" {
            line.away x1="0" x2=(width) y1=(HEIGHT) y2=(HEIGHT) {}
            @for (from, to, lost) in runs(slots) {
                @if lost < HEIGHT {
                    rect.sealed x=(from) y=(lost) width=(to - from) height=(HEIGHT - lost) {}
                }
                @if lost > 0 {
                    rect.lost x=(from) y="0" width=(to - from) height=(lost) {}
                }
            }
        }
    }
}

/// Neighbouring slots that look alike: from, to, and how much of the height is lost.
fn runs(slots: &[Slot]) -> Vec<(usize, usize, u32)> {
    let mut runs: Vec<(usize, usize, u32)> = Vec::new();
    for (place, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.alive > 0) {
        let lost = height_lost(*slot);
        match runs.last_mut() {
            Some((_, to, same)) if *to == place && *same == lost => *to = place + 1,
            _ => runs.push((place, place + 1, lost)),
        }
    }
    runs
}

fn height_lost(slot: Slot) -> u32 {
    let lost = slot.alive.saturating_sub(slot.accounted);
    if lost == 0 {
        return 0;
    }
    let height = u64::from(lost) * u64::from(HEIGHT) / u64::from(slot.alive);
    u32::try_from(height).unwrap_or(HEIGHT).max(HEIGHT / 3)
}

fn swatch(class: &str) -> Markup {
    html! {
        svg viewBox="0 0 24 12" aria-hidden="true" preserveAspectRatio="none" {
            @if class == "away" {
                line.away x1="0" x2="24" y1="11" y2="11" {}
            } @else {
                rect class=(class) width="24" height="12" {}
            }
        }
    }
}

fn spoken(pod: &PodAccount) -> String {
    format!(
        "{}: {} of {} accounted for, {} not",
        pod.name(),
        share(pod.accounted, pod.alive),
        duration(pod.alive),
        match pod.losses_count {
            0 => "nothing".to_owned(),
            1 => "one stretch".to_owned(),
            more => format!("{more} stretches"),
        }
    )
}

/// Some losses in words, of so many.
pub(super) fn told(losses: &[Loss], all: u64) -> String {
    let told: Vec<String> = losses.iter().take(LOSSES).map(words).collect();
    let more = all.saturating_sub(u64::try_from(told.len()).unwrap_or(u64::MAX));
    let mut told = told.join("; ");
    if more > 0 {
        told.push_str(&format!("; and {} more", count(more)));
    }
    told
}

/// A loss in words.
pub(super) fn words(loss: &Loss) -> String {
    format!(
        "{} from {}: {}",
        duration(loss.to - loss.from),
        second(loss.from),
        loss.why.words()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_loss_is_seen() {
        let slot = Slot {
            alive: 60_000,
            accounted: 59_999,
        };
        assert_eq!(height_lost(slot), HEIGHT / 3);
        let slot = Slot {
            alive: 60_000,
            accounted: 0,
        };
        assert_eq!(height_lost(slot), HEIGHT);
    }

    #[test]
    fn slots_that_look_alike_are_one() {
        let good = Slot {
            alive: 10,
            accounted: 10,
        };
        let lost = Slot {
            alive: 10,
            accounted: 0,
        };
        let none = Slot::default();
        let runs = runs(&[good, good, none, good, lost, lost]);
        assert_eq!(runs, [(0, 2, 0), (3, 4, 0), (4, 6, HEIGHT)]);
    }
}
