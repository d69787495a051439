//! Capture: the kernel's rules that steer every TCP connection of the pod through the proxy and
//! let nothing else out or in.
//!
//! An init container with NET_ADMIN applies them (`sealwire-proxy capture`) and is gone; the
//! sidecar has no capability and only proves, again and again, that they work ([`prove`]).

pub mod accepted;
mod apply;
mod destination;
mod gateways;
pub mod prove;
mod rules;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::config::{ExceptionKind, Ports};

pub use apply::{CaptureError, apply, remove};
pub use destination::original_destination;
pub use gateways::gateways;

/// The name of the table, in the family `inet`.
pub const TABLE: &str = "sealwire";

/// What the rules are made from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaptureSpec {
    /// The proxy's UID.
    pub uid: u32,
    /// The proxy's ports.
    pub ports: Ports,
    /// Ranges of workloads' own addresses.
    pub mesh: Vec<IpNet>,
    /// Shared addresses, with their ports; all when empty.
    pub services: Vec<(IpNet, Vec<u16>)>,
    /// What may pass unsealed.
    pub exceptions: Vec<ExceptionSpec>,
    /// Servers that the proxy itself asks, and no application, with their ports.
    pub own: Vec<(IpNet, u16)>,
    /// Who may reach the health and metrics ports.
    pub node: Vec<IpNet>,
}

/// An exception, as far as the kernel is concerned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExceptionSpec {
    /// Its name, for the rule's comment.
    pub name: String,
    /// What is let through.
    pub kind: ExceptionKind,
    /// Where to.
    pub destination: IpNet,
    /// To which ports.
    pub ports: Vec<u16>,
    /// When it ends.
    pub expires: OffsetDateTime,
}

/// Whether capture is proven by connections to this address; no workload has it.
pub fn is_proof_address(ip: IpAddr) -> bool {
    prove::addresses().contains(&ip.to_canonical())
}

impl CaptureSpec {
    /// The ruleset as text for `nft -f`, to be read by people as well. Applying it replaces the
    /// former one in one step.
    pub fn ruleset(&self) -> String {
        rules::render(self)
    }

    /// SHA-256 of the ruleset, in hexadecimal.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(self.ruleset());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// An address as every part of the proxy has it: one of IPv4 is one, whatever socket it is used by.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
