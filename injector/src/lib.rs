//! The injector: seals pods as they are created, refuses what would get past the seal, and hands
//! the sidecars their configuration.
//!
//! [`inject`] makes a sealed pod of a pod and [`validate`] says what may not be in one: both are
//! functions of a pod and the [`config`], and `sealwire inject` calls them too. [`webhook`] serves
//! them to the API server, under the [`certificate`] that it keeps; [`controller`] writes the
//! ConfigMaps. [`names`] are what all of it, the chart and the sidecar agree on.

pub mod config;
pub mod names;

/// The sidecar's user, which no other container may have.
pub const UID: u32 = 1337;
