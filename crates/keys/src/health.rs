//! How a key stands right now, without asking its home: what health, metrics and readiness show.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::SignError;

/// Whether a key signs.
#[derive(Clone, Debug)]
pub enum KeyHealth {
    /// It signs, as far as is known.
    Ready,
    /// It does not sign now, and recovers by itself: established links go on, sessions are
    /// resumed, and what needs a signature waits for it in bounds.
    Degraded(SignError),
    /// It will not sign before somebody does something about it.
    Down(SignError),
}

impl KeyHealth {
    /// All states' names.
    pub const NAMES: [&'static str; 3] = ["ready", "degraded", "down"];

    /// The state's name in health and metrics.
    pub fn name(&self) -> &'static str {
        let [ready, degraded, down] = Self::NAMES;
        match self {
            Self::Ready => ready,
            Self::Degraded(_) => degraded,
            Self::Down(_) => down,
        }
    }

    /// What is wrong, with the way out.
    pub fn problem(&self) -> Option<&SignError> {
        match self {
            Self::Ready => None,
            Self::Degraded(problem) | Self::Down(problem) => Some(problem),
        }
    }
}

impl Serialize for KeyHealth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut health = serializer.serialize_struct("KeyHealth", 2)?;
        health.serialize_field("state", self.name())?;
        health.serialize_field("problem", &self.problem().map(ToString::to_string))?;
        health.end()
    }
}

/// Numbers about a key's use since it was opened.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct KeyFigures {
    /// Signatures made.
    pub signatures: u64,
    /// Sessions that are open, in use or not.
    pub sessions_open: usize,
    /// Sessions in use.
    pub sessions_busy: usize,
    /// Sessions that may be open.
    pub sessions_limit: usize,
    /// Signatures that wait for a session.
    pub waiting: usize,
    /// Sessions given up because they, their login or a handle were lost.
    pub sessions_lost: u64,
    /// Times that the token was begun anew and signed again.
    pub recoveries: u64,
    /// Times that the vendor's module was initialised anew.
    pub reloads: u64,
}
