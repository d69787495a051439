//! Session resumption (RFC 8446 section 2.2), which spares both sides their signatures. Tickets
//! and sessions belong to one [`Epoch`](crate::Epoch), which alone makes and uses what is here: a
//! ticket of another epoch does not open, a session of another is not offered.
//!
//! Resumption is always with a fresh key exchange, and never carries data before it is finished:
//! rustls does not offer the first any other way, and the second is off. It verifies nobody; that
//! is for whoever makes links from an epoch to do again.

mod sessions;
mod tickets;

pub(crate) use sessions::{Peer, Sessions, SessionsTo};
pub(crate) use tickets::Tickets;

/// Tickets for a full handshake: one to resume it with, and one for a connection beside that, so
/// that a burst finds twice as many as there were connections before.
pub(crate) const TICKETS: u8 = 2;

/// Tickets for a resumed handshake: one in place of the one that was used.
pub(crate) const TICKETS_AGAIN: u8 = 1;

/// Most tickets that a client gets, however many it asks for.
pub(crate) const MOST_TICKETS: usize = 4;

#[cfg(test)]
mod tests;
