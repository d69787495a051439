//! Fills a software token (SoftHSM) with what a sealed mesh needs: tokens, key pairs that cannot
//! leave them, a CA whose key is in a token as well, and certificates. For trying Sealwire out and
//! for tests; the keys are as real as the token is.
//!
//! SoftHSM finds its configuration through the environment variable `SOFTHSM2_CONF` when the
//! module is initialised. Whoever uses this library has to have it set to
//! [`Store::softhsm_conf`]; the program `hsm-sim` does that for itself.

mod certificates;
mod crl;
mod store;
mod tokens;

pub use certificates::{Certified, Issue, Subject};
pub use crl::IssuedCrl;
pub use store::{Error, Initialised, Store};
pub use tokens::{KeyAlgorithm, MadeKey, NewKey, ShownObject, ShownToken};
