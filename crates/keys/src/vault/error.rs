//! Why the server did not do what it was asked, by what can be done about it.

use std::time::Duration;

use rustify::errors::ClientError as RestError;
use vaultrs::error::ClientError;

/// The longest part of a server's answer that is repeated.
const QUOTED: usize = 300;

/// Why the server did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VaultError {
    /// The configuration cannot be used as it is.
    #[error("vault: {0}")]
    Config(String),
    /// A file with a certificate or a secret cannot be used.
    #[error("vault: {0}")]
    File(String),
    /// There was no answer.
    #[error("Vault does not answer: {0}: it is tried again")]
    Unreachable(String),
    /// It answers that it cannot do anything now.
    #[error("Vault is {state} (status {status}: {said}): it is tried again")]
    Unavailable {
        /// In a word.
        state: &'static str,
        /// Status of the answer.
        status: u16,
        /// What it said.
        said: String,
    },
    /// The login was refused.
    #[error(
        "Vault refuses the login by {method}: {said}: correct vault.auth, the files it names, or the role in Vault"
    )]
    Login {
        /// How it was tried.
        method: &'static str,
        /// What the server said.
        said: String,
    },
    /// The policies of the token do not allow it.
    #[error("Vault does not allow this workload {what}: add it to the policy of its role")]
    Denied {
        /// What was asked.
        what: String,
        /// What the server said, which is more than that it is denied only for a login.
        said: String,
    },
    /// There is nothing of this name.
    #[error("Vault has no {0}: correct the name, or make it")]
    Missing(String),
    /// It refused for another reason.
    #[error("Vault refused {what}: {said} (status {status})")]
    Refused {
        /// What was asked.
        what: String,
        /// Status of the answer.
        status: u16,
        /// What it said.
        said: String,
    },
    /// The answer is not as documented.
    #[error("Vault's answer to {what} is not as documented: {problem}")]
    Answer {
        /// What was asked.
        what: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// Time was up.
    #[error("Vault did not answer within {:.1} s", .0.as_secs_f64())]
    Deadline(Duration),
}

impl VaultError {
    /// What `vaultrs` gave as an error, when the server was asked for `what`.
    pub(super) fn of(what: &str, error: ClientError) -> Self {
        match error {
            ClientError::APIError { code, errors } => {
                Self::of_status(what, code, &errors.join("; "))
            }
            ClientError::RestClientError {
                source: RestError::ServerResponseError { code, content },
            } => Self::of_status(what, code, &content.unwrap_or_default()),
            ClientError::RestClientError {
                source: RestError::RequestError { source, .. } | RestError::ResponseError { source },
            } => Self::Unreachable(chain(source.as_ref())),
            // Neither of them shows the answer itself, which may hold a token.
            other => Self::Answer {
                what: what.to_owned(),
                problem: other.to_string(),
            },
        }
    }

    fn of_status(what: &str, status: u16, said: &str) -> Self {
        let said = printable(said);
        let unavailable = |state| Self::Unavailable {
            state,
            status,
            said: said.clone(),
        };
        match status {
            403 => Self::Denied {
                what: what.to_owned(),
                said,
            },
            404 => Self::Missing(what.to_owned()),
            412 => unavailable("behind its leader"),
            429 => unavailable("busy, or a standby"),
            472 | 473 => unavailable("a standby"),
            503 => unavailable("sealed"),
            500..=599 => unavailable("failing"),
            _ => Self::Refused {
                what: what.to_owned(),
                status,
                said,
            },
        }
    }

    /// Whether it may pass by itself within moments.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unavailable { .. })
    }

    /// Whether nothing will change before somebody does something about it.
    pub(crate) fn needs_help(&self) -> bool {
        matches!(
            self,
            Self::Config(_)
                | Self::File(_)
                | Self::Login { .. }
                | Self::Denied { .. }
                | Self::Missing(_)
        )
    }
}

/// An error with everything below it, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        text.push_str(": ");
        text.push_str(&error.to_string());
        below = error.source();
    }
    printable(&text)
}

/// What a server said, short enough and safe to print.
pub(crate) fn printable(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line
        .chars()
        .filter(|c| !c.is_control())
        .take(QUOTED)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16) -> VaultError {
        VaultError::of_status("to sign", status, "because\nof this")
    }

    #[test]
    fn what_passes_is_tried_again_and_what_needs_help_is_not() {
        for status in [412, 429, 472, 473, 500, 502, 503] {
            assert!(of(status).passes() && !of(status).needs_help(), "{status}");
        }
        for status in [403, 404] {
            assert!(of(status).needs_help() && !of(status).passes(), "{status}");
        }
        assert!(!of(400).passes());
    }

    #[test]
    fn what_the_server_said_is_one_bounded_line() {
        assert!(of(503).to_string().contains("because of this"));
        let long = VaultError::of_status("to sign", 500, &"x".repeat(10_000));
        assert!(long.to_string().len() < 500);
    }
}
