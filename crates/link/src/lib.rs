//! Sealed links between two pods.
//!
//! Asking for a link ([`Links::connect`]) and accepting one ([`Links::accept`]) are the whole
//! interface; what comes back, a [`Link`], relays one application's bytes until it ends and says
//! how it ended. How links are kept, framed or reused stays behind these two calls.
//!
//! The rooms, in the order a connection passes them:
//!
//! - [`pool`]: the threads on which every signature and every handshake's arithmetic runs;
//! - [`background`]: how those threads let others go first;
//! - `admission`: how many handshakes may ask for a signature at once, and who is next;
//! - `driver`: one TLS handshake, step by step, its sockets on the runtime and its steps on the
//!   pool, told by `hello`, from the [`fields`] of a message, which of them sign;
//! - [`registry`]: every live link, and how to close it with a reason;
//! - `relay`: bytes between an application's socket and a link, each direction on its own;
//! - [`record`]: what is known about a connection once it has ended. Logs, metrics and everything
//!   written for auditors are made from it alone.
//!
//! Callers are the proxy's inbound and outbound sides. Nothing here reads configuration files.

pub mod background;
pub mod error;
pub mod fields;
pub mod pool;
pub mod record;
pub mod registry;

mod admission;
mod driver;
mod hello;
mod links;
mod relay;
mod socket;

#[cfg(fuzzing)]
pub use hello::fuzz as fuzz_hello;

pub use error::LinkError;
pub use links::{Link, LinkLimits, Links, LinksConfig, Request};
pub use pool::SigningPool;
pub use record::{Direction, LinkFacts, Moved, Moving, Outcome, Record, Treatment};
pub use registry::{CloseReason, LiveLink, Registry};
pub use relay::{Ended, relay_plain};
pub use socket::{prepare, reset};
