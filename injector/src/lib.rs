//! The injector: seals pods as they are created, refuses what would get past the seal, and hands
//! the sidecars their configuration.
//!
//! [`inject`] makes a sealed pod of a pod and [`validate`] says what may not be in one: both are
//! functions of a pod and the [`config`], and `sealwire inject` calls them too ([`offline`]). A [`review`] is one
//! question of the API server; [`webhook`] serves them under the [`certificate`] that it keeps, and
//! follows [`claims`]. [`controller`] writes the ConfigMaps, with the [`rules`] that namespaces
//! declare, in the replica that holds the [`lease`]. [`names`] are what all of it, the chart and
//! the sidecar agree on.

pub mod certificate;
pub mod claims;
pub mod config;
pub mod controller;
pub mod health;
pub mod inject;
pub mod lease;
pub mod names;
pub mod offline;
pub mod reference;
pub mod refusal;
pub mod review;
pub mod rules;
pub mod run;
pub mod validate;
pub mod webhook;

/// The sidecar's user, which no other container may have.
pub const UID: u32 = 1337;
