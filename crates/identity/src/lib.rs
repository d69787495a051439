//! Who a workload is, and who its peers are.
//!
//! SPIFFE IDs and the certificates that carry them (X.509-SVIDs), the trust bundle that peers'
//! chains must end in, revocation lists, the check of a peer in both TLS roles, the TLS profiles,
//! and the [`Epoch`]: own key, certificate, bundle, lists and profile as one immutable snapshot,
//! from which TLS configurations are made and by which peers are verified.
//!
//! The crate `link` makes links from epochs; programs load credentials through an [`Issuer`].
//! Reading files and making requests block; verification and everything on an [`Epoch`] do not,
//! but for the signature itself.

mod bundle;
mod certificate;
mod epoch;
mod issuer;
mod peer_error;
mod profile;
mod request;
mod resumption;
mod revocation;
mod signing;
mod spiffe;
#[cfg(test)]
mod testing;
mod verify;

pub use bundle::{BundleError, TrustBundle};
pub use certificate::{CertificateError, CertificateFacts, Credentials, CredentialsError};
pub use epoch::{Epoch, EpochConfig, EpochError};
pub use issuer::{
    Authority, FilesIssuer, IssueError, Issued, Issuer, Renewal, Renewing, RenewingConfig,
    VaultPki, VaultPkiConfig,
};
pub use peer_error::PeerError;
pub use profile::{Profile, UnknownProfile};
pub use request::{RemoteKey, RequestError, certificate_request};
pub use revocation::{Crl, CrlError, CrlFacts, Revocation, RevocationDepth};
pub use signing::find_sign_error;
pub use spiffe::{SpiffeId, SpiffeIdError, SpiffeIdPattern, TrustDomain};
pub use verify::{Naming, Role, Verifier};
