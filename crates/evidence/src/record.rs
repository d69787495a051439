//! What is written down: one JSON object a record, in the canonical form of RFC 8785. The types
//! here are the schema; whoever writes fills them in, whoever reads gets them back, and nothing
//! else has a say in what a record looks like.
//!
//! Units: times are RFC 3339 in UTC with milliseconds, other durations are in the unit that the
//! field's name ends with, bytes of applications are counted before sealing and after opening.
//! Every number is an integer of at most [`MOST`]: more than that, other readers of JSON get wrong.
//! Digests and serial numbers are in lower-case hexadecimal, DER and signatures in base64.

mod canonical;
mod census;
mod key;
mod life;
mod refusal;
mod retention;
mod time;
mod window;

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::canonical::{DecodeError, EncodeError};
pub use self::census::{
    Census, InterfaceCounters, ProtocolCounters, Socket, SocketClass, SocketCount, Unavailable,
};
pub use self::key::{
    Attestation, Certificate, CertificateEvent, Custody, CustodyOccasion, CustodyProof, KeyToken,
    KeyTransit, ProofError,
};
pub use self::life::{
    DeclaredException, Gap, GapCause, KeyFacts, Policy, Previous, Start, Stop, StopCause,
};
pub use self::refusal::{Process, Protocol, Refusal, RefusalCount};
pub use self::retention::{Retention, RetentionRule};
pub use self::time::Timestamp;
pub use self::window::{Aggregated, Bytes, Direction, ExceptionUse, Flow, LinkGroup, Window};

/// The schema that this version writes. The number changes when a reader of the old one would
/// misunderstand the new.
pub const SCHEMA: &str = "sealwire.evidence/1";

/// The greatest number in a record: what a double-precision float holds exactly (RFC 7493
/// section 2.2).
pub const MOST: u64 = (1 << 53) - 1;

/// Longest record in canonical form, in bytes: an entry of tlog-tiles has a length of 16 bits.
pub const LONGEST: usize = 65_535;

/// One record.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Record {
    /// Always [`SCHEMA`].
    pub schema: SchemaName,
    /// When it was written.
    pub time: Timestamp,
    /// Of which pod it speaks.
    pub pod: Pod,
    /// SPIFFE ID of the workload; missing before it has a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Which run of the proxy wrote it.
    pub boot: Boot,
    /// Its place in that run, from 0, without a hole.
    pub seq: u64,
    /// The newest checkpoint that was signed since the record before that carries one: the whole
    /// signed note. So the log holds every checkpoint there ever was but its last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened; `kind` says which.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Event {
    /// A run of the proxy begins. Always the first record of a boot.
    Start(Box<Start>),
    /// A run ends in an orderly way. Always the last record of a boot.
    Stop(Stop),
    /// Configuration or policy changed while running.
    Policy(Box<Policy>),
    /// What happened in a stretch of time. Written even when nothing did.
    Window(Box<Window>),
    /// The first refusal of its kind in a window; more of the kind are counted in the window.
    Refusal(Box<Refusal>),
    /// What a key's home says about it, with a signature that it makes there and then.
    Custody(Box<Custody>),
    /// A certificate came into force, or went.
    Certificate(Box<Certificate>),
    /// Something is missing or late, and this says so.
    Gap(Gap),
    /// Records were dropped by age or size, and this says which.
    Retention(Box<Retention>),
}

impl Event {
    /// The value of `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Stop(_) => "stop",
            Self::Policy(_) => "policy",
            Self::Window(_) => "window",
            Self::Refusal(_) => "refusal",
            Self::Custody(_) => "custody",
            Self::Certificate(_) => "certificate",
            Self::Gap(_) => "gap",
            Self::Retention(_) => "retention",
        }
    }
}

/// A pod, as Kubernetes names it.
#[derive(
    Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, which no other pod has ever had.
    pub uid: String,
    /// The node that it runs on.
    pub node: String,
}

/// One run of the proxy: 128 random bits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Boot([u8; 16]);

impl Boot {
    /// The run with this number. Draw it at random, one a process.
    pub fn new(bits: [u8; 16]) -> Self {
        Self(bits)
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex(&self.0))
    }
}

impl fmt::Debug for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Boot({self})")
    }
}

impl FromStr for Boot {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bits = crate::unhex(text).ok_or("not lower-case hexadecimal")?;
        bits.try_into().map(Self).map_err(|_| "not 128 bits")
    }
}

impl Serialize for Boot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Boot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Boot {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Boot".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "One run of the proxy: 128 random bits.",
            "type": "string",
            "pattern": "^[0-9a-f]{32}$"
        })
    }
}

/// The name of the schema, always [`SCHEMA`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SchemaName;

impl Serialize for SchemaName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(SCHEMA)
    }
}

impl<'de> Deserialize<'de> for SchemaName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name == SCHEMA {
            Ok(Self)
        } else {
            Err(de::Error::custom(format!(
                "schema {name:?} is not {SCHEMA:?}: read it with the version of sealwire that wrote it, or a newer one"
            )))
        }
    }
}

impl JsonSchema for SchemaName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SchemaName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": SCHEMA })
    }
}
