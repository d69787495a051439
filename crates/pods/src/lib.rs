//! Pods as network namespaces on one machine, as root and without, and what their wire carries.
//! For tests and for `sealwire demo`; nothing that is shipped to a cluster uses it.
//!
//! A [`World`] is a network of its own, held by one process; everything in it ends with it. It is
//! built with the tools of the system (`unshare`, `nsenter`, `ip`, `setpriv`, `tcpdump`), so that
//! what runs in a pod is started as a container runtime would start it.

mod bao;
mod command;
mod kube;
mod mesh;
mod vaulted;
mod wire;
mod world;

pub use bao::{Bao, Storage};
pub use command::{Capabilities, Finished, PodCommand, Process, assert_eventually};
pub use kube::{KubeApi, Release, helm};
pub use mesh::{Mesh, OPEN_MESH, PROXY_UID, Programs, Sealing, Sidecar, TRUST_DOMAIN};
pub use vaulted::{KeyFrom, OPEN_SERVICES, Vaulted};
pub use wire::{Capture, Flow, Wire};
pub use world::{Pod, Privilege, World, WorldError};
