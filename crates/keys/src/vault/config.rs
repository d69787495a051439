//! Where the server is, and how to log in. Secrets stand in files, and are read again for every
//! login.

use std::path::PathBuf;
use std::time::Duration;

/// Where a server is, and how to log in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VaultConfig {
    /// `https://` and the server's name or address, with the port.
    pub address: String,
    /// PEM file with the CA certificates that the server's certificate may end in.
    pub ca: PathBuf,
    /// PEM files with a client certificate and its key, for servers that ask for one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Namespace that everything is in.
    pub namespace: Option<String>,
    /// How to log in.
    pub auth: VaultAuth,
    /// How long one request may take.
    pub timeout: Duration,
}

/// How to log in. `mount` is the path of the method, such as `approle`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum VaultAuth {
    /// A token that somebody else keeps in a file, such as an agent.
    TokenFile {
        /// The file.
        path: PathBuf,
    },
    /// AppRole.
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// File with the role id.
        role_id: PathBuf,
        /// File with the secret id, or with the token that it is wrapped in.
        secret_id: PathBuf,
        /// Whether it is wrapped.
        wrapped: bool,
    },
    /// A JWT, checked by the server against the issuer's keys.
    Jwt {
        /// Where the method is mounted.
        mount: String,
        /// Role to log in to.
        role: String,
        /// File with the token.
        token: PathBuf,
    },
    /// A service account's token, checked by the server with Kubernetes.
    Kubernetes {
        /// Where the method is mounted.
        mount: String,
        /// Role to log in to.
        role: String,
        /// File with the projected token.
        token: PathBuf,
    },
    /// The client certificate.
    Certificate {
        /// Where the method is mounted.
        mount: String,
        /// Name of the role.
        role: String,
    },
}

impl VaultConfig {
    /// Every file that it names.
    pub fn files(&self) -> Vec<&PathBuf> {
        let mut files = vec![&self.ca];
        if let Some((certificate, key)) = &self.client {
            files.extend([certificate, key]);
        }
        match &self.auth {
            VaultAuth::TokenFile { path } => files.push(path),
            VaultAuth::AppRole {
                role_id, secret_id, ..
            } => files.extend([role_id, secret_id]),
            VaultAuth::Jwt { token, .. } | VaultAuth::Kubernetes { token, .. } => files.push(token),
            VaultAuth::Certificate { .. } => {}
        }
        files
    }
}
