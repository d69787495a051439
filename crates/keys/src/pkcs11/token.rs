//! A token: found by its properties, logged in to without ever spending a PIN try twice.

use std::sync::{Arc, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Limit, Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use zeroize::Zeroizing;

use super::gate::Pass;
use super::module::{Module, Rejected};
use super::refused;
use super::trouble::sign_error;
use crate::secret::SecretFile;
use crate::{OpenError, Pkcs11Config, Pkcs11Uri, SignError, Token};

/// A slot with the token that was asked for in it, as one initialisation of the module shows it.
#[derive(Debug)]
pub(super) struct TokenSlot {
    module: Arc<Module>,
    slot: Slot,
    info: Token,
    session_limit: Option<usize>,
    login_required: bool,
    config: Pkcs11Config,
    /// Generation of the module: in another one the slot may hold another token.
    generation: u64,
}

impl TokenSlot {
    /// Finds the one token that the URI names.
    pub(super) fn find(
        module: &Arc<Module>,
        config: &Pkcs11Config,
        pass: &Pass<'_>,
    ) -> Result<Self, OpenError> {
        let context = &module.context;
        let uri = &config.uri;
        let slots = context
            .get_slots_with_token()
            .map_err(|error| failed(uri, &error))?;
        let mut seen = Vec::new();
        let mut problem = None;
        for slot in slots {
            // One slot that fails does not hide the others.
            match context.get_token_info(slot) {
                Ok(info) if info.token_initialized() => seen.push((slot, describe(&info), info)),
                Ok(_) => {}
                Err(error) => problem = Some(error),
            }
        }
        let matching: Vec<_> = seen
            .iter()
            .filter(|(slot, token, _)| uri.matches_token(token, slot.id()))
            .collect();
        match (matching.as_slice(), problem) {
            ([(slot, token, info)], _) => Ok(Self {
                module: module.clone(),
                slot: *slot,
                info: token.clone(),
                session_limit: session_limit(info),
                login_required: info.login_required(),
                config: config.clone(),
                generation: pass.generation(),
            }),
            ([], Some(error)) => Err(failed(uri, &error)),
            ([], None) => Err(OpenError::TokenMissing {
                uri: uri.to_string(),
                seen: list(&seen.iter().collect::<Vec<_>>()),
            }),
            (several, _) => Err(OpenError::TokenAmbiguous {
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
        &self.config.uri
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

    /// Opens a session and sees to it that it is logged in. Whoever gets it has to close it: it
    /// does not close itself, since after the module was initialised anew its handle may be
    /// another session's.
    pub(super) fn open_session(&self, pass: &Pass<'_>) -> Result<Session, OpenError> {
        if pass.generation() != self.generation {
            return Err(self.unusable("the PKCS#11 module was initialised anew"));
        }
        let context = &self.module.context;
        let session = match context.open_ro_session_no_drop(self.slot) {
            // Some devices have no read-only sessions for users.
            Err(Error::Pkcs11(
                RvError::SessionParallelNotSupported | RvError::SessionReadOnly,
                _,
            )) => context.open_rw_session_no_drop(self.slot),
            other => other,
        }
        .map_err(|error| failed(self.uri(), &error))?;
        if self.login_required
            && let Err(error) = self.login(&session)
        {
            // What failed is said already.
            let _ = session.close();
            return Err(error);
        }
        Ok(session)
    }

    fn login(&self, session: &Session) -> Result<(), OpenError> {
        let failed = |error: Error| failed(self.uri(), &error);
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
            .uri()
            .pin_source()
            .ok_or_else(|| OpenError::PinNotConfigured {
                token: self.info.label.clone(),
                uri: self.uri().to_string(),
            })?;
        let pin = SecretFile::read(path)?;
        let refused = || OpenError::PinIncorrect {
            token: self.info.label.clone(),
            path: path.to_owned(),
        };
        let token = format!("{}/{}", self.info.serial, self.info.label);
        let before = refused::Memory::new(self.config.state.as_deref(), &token);
        if logins
            .get(&token)
            .is_some_and(|Rejected(before)| before.as_slice() == pin.expose())
            || before.holds(&pin)
        {
            return Err(refused());
        }
        self.check_pin_state()?;
        let raw = RawAuthPin::new(Box::new(pin.expose().to_vec()));
        match session.login_with_raw(UserType::User, &raw) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                logins.remove(&token);
                before.forget();
                Ok(())
            }
            Err(Error::Pkcs11(
                RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired,
                _,
            )) => {
                before.remember(&pin);
                logins.insert(token, Rejected(Zeroizing::new(pin.expose().to_vec())));
                Err(refused())
            }
            // Says nothing about this PIN, which may be right.
            Err(Error::Pkcs11(RvError::PinLocked, _)) => Err(self.locked("its PIN is locked")),
            Err(error) => Err(failed(error)),
        }
    }

    /// The token is still the one that was found. The flags are read before every try: another client may have spent the others.
    fn check_pin_state(&self) -> Result<(), OpenError> {
        let info = self
            .module
            .context
            .get_token_info(self.slot)
            .map_err(|error| failed(self.uri(), &error))?;
        let found = describe(&info);
        if (&found.serial, &found.label) != (&self.info.serial, &self.info.label) {
            return Err(self.unusable("another token is in its slot"));
        }
        if info.user_pin_locked() {
            Err(self.locked("its PIN is locked"))
        } else if info.user_pin_final_try() {
            Err(self.locked("one more wrong PIN would lock it"))
        } else {
            Ok(())
        }
    }

    fn locked(&self, state: &'static str) -> OpenError {
        OpenError::PinLocked {
            token: self.info.label.clone(),
            state,
        }
    }

    fn unusable(&self, why: &str) -> OpenError {
        OpenError::Token {
            uri: self.uri().to_string(),
            source: SignError::Unusable(why.to_owned()),
        }
    }
}

fn failed(uri: &Pkcs11Uri, error: &Error) -> OpenError {
    OpenError::Token {
        uri: uri.to_string(),
        source: sign_error(error),
    }
}

fn list(tokens: &[&(Slot, Token, TokenInfo)]) -> String {
    let labels: Vec<_> = tokens
        .iter()
        .map(|(_, token, _)| format!("{:?} (serial {})", token.label, token.serial))
        .collect();
    if labels.is_empty() {
        "none".to_owned()
    } else {
        labels.join(", ")
    }
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
