//! From files to a token, by each of the server's methods. Files are read anew for every login.

use std::path::Path;

use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError as RestError;
use serde::Deserialize;
use serde_json::{Value, json};
use vaultrs::api::{self, AuthInfo};
use vaultrs::auth::{approle, kubernetes, oidc};
use vaultrs::sys::wrapping;
use zeroize::{Zeroize, Zeroizing};

use super::client::{Connection, Method, Request, Session};
use super::{VaultAuth, VaultConfig, VaultError};
use crate::SecretFile;

/// A secret id that came out of its wrapping, which can be opened once.
#[derive(Default)]
pub(super) struct Unwrapped(Option<(String, Zeroizing<String>)>);

/// A login that succeeded.
pub(super) struct Login {
    pub(super) session: Session,
    pub(super) lease: Lease,
}

/// For how long a token lives.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Lease {
    /// Seconds; 0 for ever.
    pub(super) seconds: u64,
    pub(super) renewable: bool,
}

/// What is needed of `auth/token/lookup-self`.
#[derive(Deserialize)]
struct Looked {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

struct CertificateLogin<'a> {
    mount: &'a str,
    role: &'a str,
}

impl Endpoint for CertificateLogin<'_> {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("auth/{}/login", self.mount)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::POST
    }

    fn body(&self) -> Result<Option<Vec<u8>>, RestError> {
        Ok(Some(json!({ "name": self.role }).to_string().into_bytes()))
    }
}

impl VaultAuth {
    /// The method's name in messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::TokenFile { .. } => "token file",
            Self::AppRole { .. } => "AppRole",
            Self::Jwt { .. } => "JWT",
            Self::Kubernetes { .. } => "Kubernetes",
            Self::Certificate { .. } => "certificate",
        }
    }
}

/// Logs in.
pub(super) async fn login(
    config: &VaultConfig,
    unwrapped: &mut Unwrapped,
) -> Result<Login, VaultError> {
    let connection = Connection::new(config)?;
    let call = connection.call("");
    let method = config.auth.name();
    let said = match &config.auth {
        VaultAuth::TokenFile { path } => return by_token(connection.clone(), path, method).await,
        VaultAuth::AppRole {
            mount,
            role_id,
            secret_id,
            wrapped,
        } => {
            let role_id = text(role_id)?;
            let secret_id = match wrapped {
                true => unwrapped.open(&connection, mount, secret_id).await?,
                false => text(secret_id)?,
            };
            approle::login(&call, mount, &role_id, &secret_id).await
        }
        VaultAuth::Jwt { mount, role, token } => {
            let jwt = text(token)?;
            oidc::login(&call, mount, &jwt, Some(role.clone())).await
        }
        VaultAuth::Kubernetes { mount, role, token } => {
            let jwt = text(token)?;
            kubernetes::login(&call, mount, role, &jwt).await
        }
        VaultAuth::Certificate { mount, role } => {
            // `vaultrs` names the role by a field that the server ignores, and so logs in to any.
            api::auth(&call, CertificateLogin { mount, role }).await
        }
    };
    let info = said.map_err(|error| refusal(method, VaultError::of("to log in", error)))?;
    let (token, lease) = taken_from(info);
    Ok(Login {
        session: Session::new(connection.clone(), token)?,
        lease,
    })
}

/// Renews the token, and gives its new lease.
pub(super) async fn renew(session: &Session) -> Result<Lease, VaultError> {
    let info = vaultrs::token::renew_self(&session.call(), None)
        .await
        .map_err(|error| VaultError::of("to renew its token", error))?;
    Ok(taken_from(info).1)
}

/// The token in the file, if it can be read.
pub(super) fn token_in(path: &Path) -> Option<Zeroizing<String>> {
    text(path).ok()
}

async fn by_token(
    connection: Connection,
    path: &Path,
    method: &'static str,
) -> Result<Login, VaultError> {
    let session = Session::new(connection, text(path)?)?;
    let request = Request {
        method: Method::Get,
        path: "auth/token/lookup-self".to_owned(),
        body: None,
        what: "to look up its token".to_owned(),
    };
    let mut said = session
        .ask(&request)
        .await
        .map_err(|error| refusal(method, error))?;
    wipe(&mut said);
    let looked: Looked = serde_json::from_value(said).map_err(|error| VaultError::Answer {
        what: request.what,
        problem: error.to_string(),
    })?;
    Ok(Login {
        session,
        lease: Lease {
            seconds: looked.ttl,
            renewable: looked.renewable,
        },
    })
}

impl Unwrapped {
    /// The secret id, out of the wrapping in the file; from the memory of this process where that
    /// wrapping has been opened already.
    async fn open(
        &mut self,
        connection: &Connection,
        mount: &str,
        file: &Path,
    ) -> Result<Zeroizing<String>, VaultError> {
        let secret = SecretFile::read(file).map_err(|error| VaultError::File(error.to_string()))?;
        if let Some((stamp, secret_id)) = &self.0
            && stamp == secret.stamp()
        {
            return Ok(secret_id.clone());
        }
        let wrapping_token = utf8(file, &secret)?;
        let session = Session::new(connection.clone(), wrapping_token.clone())?;
        let invalid = |error| match VaultError::of("to unwrap the secret id", error) {
            VaultError::Refused { said, .. } => VaultError::Login {
                method: "AppRole",
                said: format!(
                    "the wrapping in {} cannot be opened ({said}): unless this workload opened it before, somebody else did: \
                     revoke that secret id and find out who",
                    file.display()
                ),
            },
            error => error,
        };
        // Who made the wrapping: something else than a secret id may have been put in its place.
        let request = Request {
            method: Method::Post,
            path: "sys/wrapping/lookup".to_owned(),
            body: Some(json!({ "token": wrapping_token.as_str() })),
            what: "to look up the wrapping".to_owned(),
        };
        if let Ok(looked) = session.ask(&request).await {
            let path = looked["creation_path"].as_str().unwrap_or_default();
            let expected = format!("auth/{}/role/", mount.trim_matches('/'));
            let of_role = ["/secret-id", "/custom-secret-id"];
            if !(path.starts_with(&expected) && of_role.iter().any(|end| path.ends_with(end))) {
                return Err(VaultError::Login {
                    method: "AppRole",
                    said: format!("{} wraps {path:?}, which is no secret id", file.display()),
                });
            }
        }
        let mut data: Value = wrapping::unwrap(&session.call(), None)
            .await
            .map_err(invalid)?;
        let secret_id = data["secret_id"]
            .as_str()
            .map(|id| Zeroizing::new(id.to_owned()));
        wipe(&mut data);
        let secret_id = secret_id.ok_or_else(|| VaultError::Login {
            method: "AppRole",
            said: format!("{} wraps no secret id", file.display()),
        })?;
        self.0 = Some((secret.stamp().to_owned(), secret_id.clone()));
        Ok(secret_id)
    }
}

/// What a refusal means, when it is one of the login itself.
fn refusal(method: &'static str, error: VaultError) -> VaultError {
    match error {
        VaultError::Refused { said, .. } | VaultError::Denied { said, .. } => {
            VaultError::Login { method, said }
        }
        VaultError::Missing(_) => VaultError::Login {
            method,
            said: "no such method is mounted".to_owned(),
        },
        other => other,
    }
}

fn taken_from(info: AuthInfo) -> (Zeroizing<String>, Lease) {
    let lease = Lease {
        seconds: info.lease_duration,
        renewable: info.renewable,
    };
    (Zeroizing::new(info.client_token), lease)
}

/// A secret file's text.
fn text(path: &Path) -> Result<Zeroizing<String>, VaultError> {
    let secret = SecretFile::read(path).map_err(|error| VaultError::File(error.to_string()))?;
    utf8(path, &secret)
}

fn utf8(path: &Path, secret: &SecretFile) -> Result<Zeroizing<String>, VaultError> {
    std::str::from_utf8(secret.expose())
        .map(|text| Zeroizing::new(text.trim().to_owned()))
        .map_err(|_| VaultError::File(format!("{} is not text", path.display())))
}

/// Overwrites every string of an answer that held a secret.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(values) => values.values_mut().for_each(wipe),
        _ => {}
    }
}
