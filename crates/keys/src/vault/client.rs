//! One login's session: a token with the connections it is used on. Built on `vaultrs`; nothing of
//! the process's environment counts, no proxy, no address, no "skip verify".

use std::path::Path;
use std::sync::Arc;
use std::{fmt, fs};

use rustify::clients::reqwest::Client as Http;
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError as RestError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use vaultrs::api::{self, EndpointMiddleware};
use vaultrs::client::{Client, VaultClientSettings, VaultClientSettingsBuilder};
use vaultrs::error::ClientError;
use zeroize::{Zeroize, Zeroizing};

use super::{VaultConfig, VaultError};
use crate::SecretFile;
use crate::pem::pem_problem;

/// Connections kept open for the next request.
const IDLE_CONNECTIONS: usize = 8;

/// Something to ask of the server. Its body may hold a secret, and is in no `Debug`.
#[derive(Clone)]
pub struct Request {
    /// How.
    pub method: Method,
    /// The path behind `/v1/`.
    pub path: String,
    /// JSON to send.
    pub body: Option<Value>,
    /// What is asked, in words, for errors: "to sign with transit/web".
    pub what: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("what", &self.what)
            .finish_non_exhaustive()
    }
}

/// How something is asked.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Method {
    /// To read.
    Get,
    /// To write, or to do something.
    Post,
    /// To list.
    List,
}

/// A token with the connections it is used on. It has no Debug; the token is overwritten when
/// dropped.
pub(super) struct Session {
    connection: Connection,
    token: Zeroizing<String>,
}

/// Connections to the server, without a token.
#[derive(Clone)]
pub(super) struct Connection {
    http: Arc<Http>,
    settings: Arc<VaultClientSettings>,
    namespace: Option<String>,
}

/// One use of a connection, as `vaultrs` wants it: with a copy of the token that does not outlive
/// the request.
pub(super) struct Call<'a> {
    connection: &'a Connection,
    middle: EndpointMiddleware,
}

/// Refuses what could not be used.
pub(super) fn check(config: &VaultConfig) -> Result<(), VaultError> {
    let address = &config.address;
    let host = address.strip_prefix("https://").unwrap_or_default();
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(VaultError::Config(format!(
            "address {address:?} is no https:// URL: write it like https://vault.example:8200"
        )));
    }
    if let Some(namespace) = &config.namespace {
        let good = |part: &str| {
            let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
            part.bytes().all(allowed) && part.bytes().any(|c| c != b'.')
        };
        // It becomes a header, which `vaultrs` takes for granted that it can be.
        if !namespace.trim_end_matches('/').split('/').all(good) {
            return Err(VaultError::Config(format!(
                "namespace {namespace:?} is none: write it like team or team/shop, of letters, digits, -, _ and ."
            )));
        }
    }
    if config.client.is_none() && matches!(config.auth, super::VaultAuth::Certificate { .. }) {
        return Err(VaultError::Config(
            "login by certificate needs vault.client: name its certificate and key".to_owned(),
        ));
    }
    Ok(())
}

impl Connection {
    /// Reads the files anew and connects on demand.
    pub(super) fn new(config: &VaultConfig) -> Result<Self, VaultError> {
        let failed = |problem: &dyn fmt::Display| VaultError::Config(problem.to_string());
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(config)?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.timeout)
            .timeout(config.timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| failed(&error))?;
        // Every field is given, so that none is taken from the environment.
        let settings = VaultClientSettingsBuilder::default()
            .address(&config.address)
            .ca_certs(Vec::new())
            .identity(None)
            .token("")
            .verify(true)
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Self {
            http: Arc::new(Http::new(&config.address, http)),
            settings: Arc::new(settings),
            namespace: config.namespace.clone(),
        })
    }

    /// For one request, with a token where there is one.
    pub(super) fn call(&self, token: &str) -> Call<'_> {
        Call {
            connection: self,
            middle: EndpointMiddleware {
                token: token.to_owned(),
                version: "v1".to_owned(),
                wrap: None,
                namespace: self.namespace.clone(),
            },
        }
    }

    /// The server's state (`sys/health`), which belongs to no namespace and needs no token.
    pub(super) async fn health(&self) -> Result<(), VaultError> {
        let mut call = self.call("");
        call.middle.namespace = None;
        let endpoint = Ask {
            method: RequestMethod::GET,
            path: "sys/health".to_owned(),
            body: None,
        };
        let said = api::exec_with_empty(&call, endpoint).await;
        match said.map_err(|error| VaultError::of("its health", error)) {
            // A standby passes requests on, or answers reads itself.
            Err(VaultError::Unavailable {
                status: 429 | 472 | 473,
                ..
            }) => Ok(()),
            Err(VaultError::Refused { status: 501, .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Session {
    /// Refuses what cannot be a token.
    pub(super) fn new(
        connection: Connection,
        token: Zeroizing<String>,
    ) -> Result<Self, VaultError> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(VaultError::File(
                "what should be a token is empty or has characters that none has".to_owned(),
            ));
        }
        Ok(Self { connection, token })
    }

    pub(super) fn call(&self) -> Call<'_> {
        self.connection.call(&self.token)
    }

    pub(super) fn is_same_token(&self, token: &str) -> bool {
        self.token.as_str() == token
    }

    pub(super) async fn ask(&self, request: &Request) -> Result<Value, VaultError> {
        let endpoint = Ask {
            method: match request.method {
                Method::Get => RequestMethod::GET,
                Method::Post => RequestMethod::POST,
                Method::List => RequestMethod::LIST,
            },
            path: request.path.clone(),
            body: request
                .body
                .as_ref()
                .map(|body| body.to_string().into_bytes()),
        };
        match api::exec_with_result(&self.call(), endpoint).await {
            // Nothing more to say than that it has been done.
            Err(ClientError::ResponseDataEmptyError) => Ok(Value::Null),
            Err(ClientError::RestClientError {
                source:
                    RestError::ResponseParseError {
                        content: Some(content),
                        ..
                    },
            }) if content.is_empty() => Ok(Value::Null),
            said => said.map_err(|error| VaultError::of(&request.what, error)),
        }
    }

    /// Whether the server still knows the token.
    pub(super) async fn is_valid(&self) -> Result<bool, VaultError> {
        match vaultrs::token::lookup_self(&self.call()).await {
            Ok(_) => Ok(true),
            Err(error) => match VaultError::of("to look up its token", error) {
                VaultError::Denied { .. } => Ok(false),
                VaultError::Answer { .. } => Ok(true),
                error => Err(error),
            },
        }
    }
}

impl Client for Call<'_> {
    fn http(&self) -> &Http {
        &self.connection.http
    }

    fn middle(&self) -> &EndpointMiddleware {
        &self.middle
    }

    fn settings(&self) -> &VaultClientSettings {
        &self.connection.settings
    }

    fn set_token(&mut self, token: &str) {
        self.middle.token.zeroize();
        token.clone_into(&mut self.middle.token);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.middle.token.zeroize();
    }
}

/// An endpoint that `vaultrs` has not, or not with what is needed here.
struct Ask {
    method: RequestMethod,
    path: String,
    body: Option<Vec<u8>>,
}

impl Endpoint for Ask {
    type Response = Value;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        self.method.clone()
    }

    fn body(&self) -> Result<Option<Vec<u8>>, RestError> {
        Ok(self.body.clone())
    }
}

/// TLS 1.3 with the roots that are configured, and no others.
fn tls(config: &VaultConfig) -> Result<ClientConfig, VaultError> {
    let bad = |path: &Path, problem: &dyn fmt::Display| {
        VaultError::File(format!("{}: {problem}", path.display()))
    };
    let pem = fs::read(&config.ca).map_err(|error| bad(&config.ca, &error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad(&config.ca, &pem_problem(&error)))?;
        roots
            .add(certificate)
            .map_err(|error| bad(&config.ca, &error))?;
    }
    if roots.is_empty() {
        return Err(bad(
            &config.ca,
            &"holds no CERTIFICATE block: put the CA of the server there",
        ));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| VaultError::Config(error.to_string()))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &config.client else {
        return Ok(builder.with_no_client_auth());
    };
    let pem = fs::read(certificate).map_err(|error| bad(certificate, &error))?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(certificate, &pem_problem(&error)))?;
    let secret = SecretFile::read(key).map_err(|error| VaultError::File(error.to_string()))?;
    let key_der = PrivateKeyDer::from_pem_slice(secret.expose())
        .map_err(|_| bad(key, &"holds no private key in PEM form"))?;
    builder
        .with_client_auth_cert(chain, key_der)
        .map_err(|error| bad(certificate, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VaultAuth;

    #[test]
    fn a_namespace_that_could_not_be_a_header_is_refused() {
        let with = |namespace: &str| {
            check(&VaultConfig {
                address: "https://vault.example:8200".to_owned(),
                ca: "ca.pem".into(),
                client: None,
                namespace: Some(namespace.to_owned()),
                auth: VaultAuth::TokenFile {
                    path: "token".into(),
                },
                timeout: std::time::Duration::from_secs(1),
            })
        };
        for good in ["team", "team/", "team/shop"] {
            with(good).unwrap();
        }
        for bad in [
            "",
            "/",
            "team\nX-Vault-Token: x",
            "tëam",
            "team/../other",
            "/team",
        ] {
            assert!(matches!(with(bad), Err(VaultError::Config(_))), "{bad:?}");
        }
    }
}
