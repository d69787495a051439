//! The accepting side's tickets: everything about a session, sealed with a key that only this
//! epoch has and kept by the client.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;

/// Makes and opens tickets.
///
/// rustls seals them, with keys of its own making that it replaces every six hours and forgets
/// after twelve; it leaves it at that. A ticket here also carries the time it was made at, and
/// opens for its lifetime only.
#[derive(Debug)]
pub(crate) struct Tickets {
    seal: Arc<dyn ProducesTickets>,
    lifetime: u32,
    time: Arc<dyn TimeProvider>,
}

impl Tickets {
    /// Tickets that only this value opens.
    pub(crate) fn new(
        lifetime: Duration,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            seal: Ticketer::new()?,
            lifetime: u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX),
            time,
        })
    }

    fn now(&self) -> Option<u64> {
        self.time.current_time().as_ref().map(UnixTime::as_secs)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let made = self.now()?.to_be_bytes();
        self.seal.encrypt(&[&made, session].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let opened = self.seal.decrypt(ticket)?;
        let (made, session) = opened.split_first_chunk()?;
        // A clock that was put back makes no ticket younger than it is.
        let age = self.now()?.checked_sub(u64::from_be_bytes(*made))?;
        (age < u64::from(self.lifetime)).then(|| session.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use time::Duration as Span;

    use super::*;
    use crate::testing::{Moving, NOW};

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_ticket_opens_for_its_lifetime_and_not_before_it_was_made() {
        let clock = Moving::at(NOW);
        let tickets = Tickets::new(HOUR, clock.clone()).unwrap();
        let ticket = tickets.encrypt(b"session").unwrap();
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        clock.set(NOW + Span::seconds(3599));
        assert!(tickets.decrypt(&ticket).is_some());
        clock.set(NOW + Span::seconds(3600));
        assert_eq!(tickets.decrypt(&ticket), None);
        clock.set(NOW - Span::seconds(1));
        assert_eq!(tickets.decrypt(&ticket), None);
    }

    #[test]
    fn no_other_maker_opens_a_ticket_and_none_opens_a_changed_one() {
        let [ours, other] = [(); 2].map(|()| Tickets::new(HOUR, Moving::at(NOW)).unwrap());
        let ticket = ours.encrypt(b"session").unwrap();
        // Tickets longer than any it made are not even looked at.
        other.encrypt(&[0; 100]).unwrap();
        assert_eq!(other.decrypt(&ticket), None);
        for position in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[position] ^= 1;
            assert_eq!(ours.decrypt(&changed), None, "changed at {position}");
            assert_eq!(ours.decrypt(&ticket[..position]), None, "cut at {position}");
        }
    }
}
