//! A token: found by its properties, logged in to without ever spending a PIN try twice.

use std::sync::{Arc, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Limit, Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use zeroize::Zeroizing;

use super::module::{Module, Rejected};
use crate::secret::SecretFile;
use crate::{OpenError, Pkcs11Uri, SignError, Token};

/// A slot with the token that was asked for in it.
#[derive(Debug)]
pub(super) struct TokenSlot {
    module: Arc<Module>,
    slot: Slot,
    info: Token,
    session_limit: Option<usize>,
    login_required: bool,
    uri: Pkcs11Uri,
}

impl TokenSlot {
    /// Finds the one token that the URI names.
    pub(super) fn find(module: &Arc<Module>, uri: &Pkcs11Uri) -> Result<Self, OpenError> {
        let context = &module.context;
        let failed = |error: Error| OpenError::Token {
            uri: uri.to_string(),
            source: device(error),
        };
        let mut seen = Vec::new();
        for slot in context.get_slots_with_initialized_token().map_err(failed)? {
            let info = context.get_token_info(slot).map_err(failed)?;
            seen.push((slot, describe(&info), info));
        }
        let list = |tokens: &[&(Slot, Token, TokenInfo)]| {
            let labels: Vec<_> = tokens
                .iter()
                .map(|(_, token, _)| format!("{:?} (serial {})", token.label, token.serial))
                .collect();
            if labels.is_empty() {
                "none".to_owned()
            } else {
                labels.join(", ")
            }
        };
        let matching: Vec<_> = seen
            .iter()
            .filter(|(slot, token, _)| uri.matches_token(token, slot.id()))
            .collect();
        match matching.as_slice() {
            [(slot, token, info)] => Ok(Self {
                module: module.clone(),
                slot: *slot,
                info: token.clone(),
                session_limit: session_limit(info),
                login_required: info.login_required(),
                uri: uri.clone(),
            }),
            [] => Err(OpenError::TokenMissing {
                uri: uri.to_string(),
                seen: list(&seen.iter().collect::<Vec<_>>()),
            }),
            several => Err(OpenError::TokenAmbiguous {
                uri: uri.to_string(),
                seen: list(several),
            }),
        }
    }

    pub(super) fn label(&self) -> &str {
        &self.info.label
    }

    pub(super) fn info(&self) -> &Token {
        &self.info
    }

    pub(super) fn uri(&self) -> &Pkcs11Uri {
        &self.uri
    }

    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    pub(super) fn context(&self) -> &Pkcs11 {
        &self.module.context
    }

    /// How many sessions the token allows; none where it says no number.
    pub(super) fn session_limit(&self) -> Option<usize> {
        self.session_limit
    }

    /// Opens a session and sees to it that it is logged in.
    pub(super) fn open_session(&self) -> Result<Session, OpenError> {
        let failed = |error: Error| OpenError::Token {
            uri: self.uri.to_string(),
            source: device(error),
        };
        let context = &self.module.context;
        let session = match context.open_ro_session(self.slot) {
            // Some devices have no read-only sessions for users.
            Err(Error::Pkcs11(
                RvError::SessionParallelNotSupported | RvError::SessionReadOnly,
                _,
            )) => context.open_rw_session(self.slot),
            other => other,
        }
        .map_err(failed)?;
        if self.login_required {
            self.login(&session)?;
        }
        Ok(session)
    }

    fn login(&self, session: &Session) -> Result<(), OpenError> {
        let failed = |error: Error| OpenError::Token {
            uri: self.uri.to_string(),
            source: device(error),
        };
        let logged_in = |state| matches!(state, SessionState::RoUser | SessionState::RwUser);
        // Whoever comes second finds the token logged in.
        let mut logins = self
            .module
            .logins
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if logged_in(session.get_session_info().map_err(failed)?.session_state()) {
            return Ok(());
        }
        let path = self
            .uri
            .pin_source()
            .ok_or_else(|| OpenError::PinNotConfigured {
                token: self.info.label.clone(),
                uri: self.uri.to_string(),
            })?;
        let pin = SecretFile::read(path)?;
        let refused = || OpenError::PinIncorrect {
            token: self.info.label.clone(),
            path: path.to_owned(),
        };
        let token = format!("{}/{}", self.info.serial, self.info.label);
        if logins
            .get(&token)
            .is_some_and(|Rejected(before)| before.as_slice() == pin.expose())
        {
            return Err(refused());
        }
        self.check_pin_state()?;
        let raw = RawAuthPin::new(Box::new(pin.expose().to_vec()));
        match session.login_with_raw(UserType::User, &raw) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                logins.remove(&token);
                Ok(())
            }
            Err(Error::Pkcs11(
                RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinLocked,
                _,
            )) => {
                logins.insert(token, Rejected(Zeroizing::new(pin.expose().to_vec())));
                Err(refused())
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The flags are read before every try: another client may have spent the others.
    fn check_pin_state(&self) -> Result<(), OpenError> {
        let info = self
            .module
            .context
            .get_token_info(self.slot)
            .map_err(|error| OpenError::Token {
                uri: self.uri.to_string(),
                source: device(error),
            })?;
        let state = if info.user_pin_locked() {
            "its PIN is locked"
        } else if info.user_pin_final_try() {
            "one more wrong PIN would lock it"
        } else {
            return Ok(());
        };
        Err(OpenError::PinLocked {
            token: self.info.label.clone(),
            state,
        })
    }
}

/// What the token said, in words.
pub(super) fn device(error: Error) -> SignError {
    SignError::Device(error.to_string())
}

fn describe(info: &TokenInfo) -> Token {
    Token {
        label: info.label().trim_end().to_owned(),
        manufacturer: info.manufacturer_id().trim_end().to_owned(),
        model: info.model().trim_end().to_owned(),
        serial: info.serial_number().trim_end().to_owned(),
        hardware: info.hardware_version().to_string(),
        firmware: info.firmware_version().to_string(),
    }
}

/// "Unknown" and "infinite" are states, not numbers.
fn session_limit(info: &TokenInfo) -> Option<usize> {
    match info.max_session_count() {
        Limit::Max(limit) => usize::try_from(limit).ok(),
        Limit::Unavailable | Limit::Infinite => None,
    }
}
