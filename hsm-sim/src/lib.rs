//! Two things for whoever writes software that uses PKCS#11:
//!
//! - [`Device`]: a PKCS#11 module, `libhsm_sim.so`, that stands before a real one and behaves like a
//!   device: slow, limited, failing; controlled from outside while it is in use.
//! - [`Store`]: fills a software token (SoftHSM) with what a sealed mesh needs: tokens, key pairs
//!   that cannot leave them, a CA whose key is in a token as well, and certificates.
//!
//! SoftHSM finds its configuration through the environment variable `SOFTHSM2_CONF` when the
//! module is initialised. Whoever uses [`Store`] has to have it set to [`Store::softhsm_conf`]; the
//! program `hsm-sim` does that for itself.

mod certificates;
mod crl;
mod device;
mod locate;
mod module;
mod pkcs11;
mod store;
mod tokens;

pub use certificates::{Certified, Issue, Subject};
pub use crl::IssuedCrl;
pub use device::log::{Operation, Violation};
pub use device::profile::Profile;
pub use device::script::{Action, Script, Step};
pub use device::settings::{
    Distribution, Fault, Frozen, Latency, LogLevel, PinLimit, Removed, SessionLimits, Settings,
    Shown,
};
pub use device::span::Span;
pub use device::{Counters, Device, DeviceError, ENVIRONMENT, PinTries};
pub use locate::find_module;
pub use pkcs11::{Function, Reach, Rv};
pub use store::{Error, Initialised, Store};
pub use tokens::{KeyAlgorithm, MadeKey, NewKey, ShownObject, ShownToken};
