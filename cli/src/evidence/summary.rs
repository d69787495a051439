//! A record in a line.

use sealwire_evidence::record::{Event, Record, Refusal, Window};

/// What a record says, in short.
pub(super) fn summary(record: &Record) -> String {
    match &record.event {
        Event::Start(start) => format!(
            "boot {}, version {}, {} exceptions declared{}",
            record.boot,
            start.version,
            start.policy.exceptions.len(),
            match &start.previous {
                None => ", the first run".to_owned(),
                Some(previous) => format!(", after boot {}", previous.boot),
            }
        ),
        Event::Stop(stop) => format!("{:?}: {}", stop.cause, stop.detail),
        Event::Policy(policy) => format!(
            "profile {}, {} exceptions declared, configuration {:.12}",
            policy.profile,
            policy.exceptions.len(),
            policy.config_sha256
        ),
        Event::Window(window) => of_window(window),
        Event::Refusal(refusal) => of_refusal(refusal),
        Event::Custody(custody) => format!(
            "{:?}: {} in {}, {}; the home's own claims, with a signature made at {}",
            custody.occasion,
            custody.algorithm,
            custody.provider,
            custody.reference,
            custody.proof.made
        ),
        Event::Certificate(certificate) => format!(
            "{:?}: {} of {}, until {}",
            certificate.event, certificate.serial, certificate.spiffe_id, certificate.not_after
        ),
        Event::Gap(gap) => format!(
            "{:?}, {} to {}: {}",
            gap.cause, gap.from, gap.to, gap.detail
        ),
        Event::Retention(note) => format!(
            "records {} to {} are dropped ({:?} over {})",
            note.dropped_from,
            note.minimum.saturating_sub(1),
            note.rule,
            note.limit
        ),
    }
}

fn of_window(window: &Window) -> String {
    let opened: u64 = window.links.iter().map(|group| group.opened).sum();
    let open: u64 = window.links.iter().map(|group| group.open).sum();
    let bytes: u64 = window
        .links
        .iter()
        .map(|group| group.bytes.sent + group.bytes.received)
        .sum();
    let refused: u64 = window.refusals.iter().map(|one| one.count).sum();
    let excepted: u64 = window.exceptions.iter().map(|one| one.connections).sum();
    let mut text = format!(
        "{} to {}: {opened} sealed, {open} open, {bytes} bytes, {excepted} by exception, {refused} refused",
        window.from, window.to
    );
    if window.parts > 1 {
        text += &format!(" (part {} of {})", window.part, window.parts);
    }
    if let Some(census) = &window.census {
        let listed = u64::try_from(census.unaccounted.len()).unwrap_or(u64::MAX);
        text += &format!(", {} sockets unaccounted", listed + census.unaccounted_more);
    }
    if window.aggregated.is_some() {
        text += ", aggregated";
    }
    text
}

fn of_refusal(refusal: &Refusal) -> String {
    let address = |address: Option<std::net::SocketAddr>| {
        address.map_or_else(|| "?".to_owned(), |address| address.to_string())
    };
    format!(
        "{:?} {:?} {}, {} to {}: {}",
        refusal.direction,
        refusal.protocol,
        refusal.reason,
        address(refusal.source),
        address(refusal.destination),
        refusal.detail
    )
}
