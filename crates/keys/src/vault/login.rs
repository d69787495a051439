//! From files to a token, by each of the server's methods. Files are read anew for every login,
//! by [`Material::read`], which blocks, and so not on the session's own thread.

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

/// What is read from files for a login.
pub(super) struct Material {
    connection: Connection,
    secret: Secret,
}

enum Secret {
    Token(Zeroizing<String>),
    AppRole {
        role_id: Zeroizing<String>,
        secret_id: Zeroizing<String>,
        /// Of the secret id's file.
        stamp: String,
    },
    Jwt(Zeroizing<String>),
    /// The connection itself has it.
    Certificate,
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

impl Material {
    /// Reads what a login needs. Blocks.
    pub(super) fn read(config: &VaultConfig) -> Result<Self, VaultError> {
        Ok(Self {
            connection: Connection::new(config)?,
            secret: match &config.auth {
                VaultAuth::TokenFile { path } => Secret::Token(text(path)?),
                VaultAuth::AppRole {
                    role_id, secret_id, ..
                } => {
                    let secret = secret_file(secret_id)?;
                    Secret::AppRole {
                        role_id: text(role_id)?,
                        secret_id: utf8(secret_id, &secret)?,
                        stamp: secret.stamp().to_owned(),
                    }
                }
                VaultAuth::Jwt { token, .. } | VaultAuth::Kubernetes { token, .. } => {
                    Secret::Jwt(text(token)?)
                }
                VaultAuth::Certificate { .. } => Secret::Certificate,
            },
        })
    }
}

/// Logs in.
pub(super) async fn login(
    auth: &VaultAuth,
    material: Material,
    unwrapped: &mut Unwrapped,
) -> Result<Login, VaultError> {
    let Material { connection, secret } = material;
    let call = connection.call("");
    let method = auth.name();
    let said = match (auth, secret) {
        (VaultAuth::TokenFile { .. }, Secret::Token(token)) => {
            return by_token(connection.clone(), token, method).await;
        }
        (
            VaultAuth::AppRole {
                mount,
                secret_id: file,
                wrapped,
                ..
            },
            Secret::AppRole {
                role_id,
                mut secret_id,
                stamp,
            },
        ) => {
            if *wrapped {
                let wrapping = Wrapping {
                    token: secret_id,
                    file,
                    stamp,
                    mount,
                };
                secret_id = unwrapped.open(&connection, wrapping).await?;
            }
            approle::login(&call, mount, &role_id, &secret_id).await
        }
        (VaultAuth::Jwt { mount, role, .. }, Secret::Jwt(jwt)) => {
            oidc::login(&call, mount, &jwt, Some(role.clone())).await
        }
        (VaultAuth::Kubernetes { mount, role, .. }, Secret::Jwt(jwt)) => {
            kubernetes::login(&call, mount, role, &jwt).await
        }
        (VaultAuth::Certificate { mount, role }, _) => {
            // `vaultrs` names the role by a field that the server ignores, and so logs in to any.
            api::auth(&call, CertificateLogin { mount, role }).await
        }
        (_, _) => {
            return Err(VaultError::Config(
                "what was read is not for this way to log in".to_owned(),
            ));
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

/// The token in the file that somebody else keeps, if there is one and it can be read. Blocks.
pub(super) fn token_in_file(config: &VaultConfig) -> Option<Zeroizing<String>> {
    match &config.auth {
        VaultAuth::TokenFile { path } => text(path).ok(),
        _ => None,
    }
}

async fn by_token(
    connection: Connection,
    token: Zeroizing<String>,
    method: &'static str,
) -> Result<Login, VaultError> {
    let session = Session::new(connection, token)?;
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

/// A secret id in its wrapping.
struct Wrapping<'a> {
    /// By which it is opened.
    token: Zeroizing<String>,
    /// The file that this was in.
    file: &'a Path,
    stamp: String,
    /// Where AppRole is mounted.
    mount: &'a str,
}

impl Unwrapped {
    /// The secret id, out of the wrapping in the file; from the memory of this process where that
    /// wrapping has been opened already.
    async fn open(
        &mut self,
        connection: &Connection,
        wrapping: Wrapping<'_>,
    ) -> Result<Zeroizing<String>, VaultError> {
        let Wrapping { file, mount, .. } = wrapping;
        if let Some((stamp, secret_id)) = &self.0
            && *stamp == wrapping.stamp
        {
            return Ok(secret_id.clone());
        }
        let session = Session::new(connection.clone(), wrapping.token.clone())?;
        let invalid = |error| match error {
            VaultError::Refused { said, .. } | VaultError::Denied { said, .. } => {
                VaultError::Login {
                    method: "AppRole",
                    said: format!(
                        "the wrapping in {} cannot be opened ({said}): unless this workload opened it before, somebody else did: \
                     revoke that secret id and find out who",
                        file.display()
                    ),
                }
            }
            error => error,
        };
        // Who made the wrapping: something else than a secret id may have been put in its place.
        let request = Request {
            method: Method::Post,
            path: "sys/wrapping/lookup".to_owned(),
            body: Some(json!({ "token": wrapping.token.as_str() })),
            what: "to look up the wrapping".to_owned(),
        };
        // Without an answer to this it stays closed.
        let looked = session.ask(&request).await.map_err(invalid)?;
        let path = looked["creation_path"].as_str().unwrap_or_default();
        let expected = format!("auth/{}/role/", mount.trim_matches('/'));
        let of_role = ["/secret-id", "/custom-secret-id"];
        if !(path.starts_with(&expected) && of_role.iter().any(|end| path.ends_with(end))) {
            return Err(VaultError::Login {
                method: "AppRole",
                said: format!("{} wraps {path:?}, which is no secret id", file.display()),
            });
        }
        let mut data: Value = wrapping::unwrap(&session.call(), None)
            .await
            .map_err(|error| invalid(VaultError::of("to unwrap the secret id", error)))?;
        let secret_id = data["secret_id"]
            .as_str()
            .map(|id| Zeroizing::new(id.to_owned()));
        wipe(&mut data);
        let secret_id = secret_id.ok_or_else(|| VaultError::Login {
            method: "AppRole",
            said: format!("{} wraps no secret id", file.display()),
        })?;
        self.0 = Some((wrapping.stamp, secret_id.clone()));
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
    utf8(path, &secret_file(path)?)
}

fn secret_file(path: &Path) -> Result<SecretFile, VaultError> {
    SecretFile::read(path).map_err(|error| VaultError::File(error.to_string()))
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
