//! The sidecar: every TCP connection of a pod goes through it, sealed in mutual TLS, as a declared
//! exception, or not at all.
//!
//! The way of a connection is the way through the modules: [`capture`] steers it here, [`policy`]
//! decides, [`outbound`] and [`inbound`] carry it over sealed links (crate `sealwire-link`), and
//! [`observe`] writes down how it went, for logs, metrics and [`evidence`], which the [`census`]
//! of what else there is belongs to. [`keeper`] keeps key, certificate, [`revocation`] lists and
//! configuration up to date ([`pod`] is what the pod adds to it), [`state`] knows whether anything
//! may flow, [`planes`] show it, [`probes`] are done for the node, [`confine`] locks the process
//! in, and [`run`] puts it all together.

#[cfg(fuzzing)]
pub use observed_tls::fuzz as fuzz_server_hello;

pub mod capture;
pub mod census;
pub mod config;
pub mod confine;
pub mod evidence;
pub mod inbound;
pub mod keeper;
pub mod leave;
pub mod listen;
pub mod logging;
pub mod observe;
pub mod outbound;
pub mod passing;
pub mod planes;
pub mod pod;
pub mod policy;
pub mod probes;
pub mod reference;
pub mod revocation;
pub mod run;
mod source;
pub mod state;

mod descriptors;
mod metered;
mod observed_tls;
#[cfg(test)]
mod testing;
