//! Checkpoints as signed notes (C2SP tlog-checkpoint and signed-note), signed by a workload's key.
//!
//! A signature line names its key by origin and key ID. Two kinds of signature are those of the
//! specification, so that others' tools verify them; the two that it has no number for are named
//! at length, as it recommends:
//!
//! | key | key ID: first four bytes of SHA-256 over | signature over the note's text |
//! |---|---|---|
//! | P-256 | SubjectPublicKeyInfo (type 0x02) | ECDSA with SHA-256, DER |
//! | Ed25519 | name, newline, 0x01, the 32 bytes of the key | Ed25519 |
//! | P-384 | name, newline, 0xff, `sealwire/note/v1/ecdsa_secp384r1_sha384`, newline, SubjectPublicKeyInfo | ECDSA with SHA-384, DER |
//! | RSA | the same with `sealwire/note/v1/rsa_pss_rsae_sha256` (or 384, 512) | RSA-PSS, MGF1 and salt length of that hash |

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sealwire_keys::{PrivateKey, PublicKey, Scheme, SignError};

use crate::merkle::Hash;
use crate::tile::MOST_RECORDS;

/// Most signatures on a note that are read.
const MOST_SIGNATURES: usize = 16;

/// Longest note that is read, in bytes: sixteen signatures of RSA 8192, with room.
pub(crate) const LONGEST_NOTE: usize = 32 * 1024;

const DASH: &str = "\u{2014} ";

/// The head of a tree, as it is signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many records.
    pub size: u64,
    /// Root of their tree.
    pub root: Hash,
}

/// A checkpoint with its signatures. That it was read says nothing about them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    signatures: Vec<Signature>,
}

/// A signature line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Signature {
    pub(crate) name: String,
    pub(crate) key: KeyId,
    signature: Vec<u8>,
}

/// What a signature line names its key by, beside the name. Short: it finds a key, and proves
/// nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct KeyId([u8; 4]);

/// Why a text is no signed checkpoint.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no signed checkpoint: {0}")]
pub struct NoteError(&'static str);

/// Why an origin cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "origin {0:?}: it must not be empty, nor have spaces, control characters or plus signs, nor more than 255 bytes"
)]
pub struct OriginError(String);

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, self.root)
    }

    /// Signs it. Blocks for as long as the device takes.
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn sign(self, key: &dyn PrivateKey) -> Result<SignedCheckpoint, SignError> {
        let none = SignError::Scheme { scheme: "any" };
        let scheme = key.schemes().first().copied().ok_or(none)?;
        let signature = key.sign(scheme, self.text().as_bytes())?;
        let signature = Signature {
            name: self.origin.clone(),
            key: KeyId::of(&self.origin, key.public_key(), scheme),
            signature,
        };
        Ok(SignedCheckpoint {
            checkpoint: self,
            signatures: vec![signature],
        })
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: size.parse().ok()?,
            root: Hash::from_base64(root)?,
        };
        // One way of writing it, and no other; extension lines are not ours either.
        let ours = check_origin(origin).is_ok()
            && checkpoint.size <= MOST_RECORDS
            && checkpoint.text() == text;
        ours.then_some(checkpoint)
    }
}

impl SignedCheckpoint {
    /// Reads a signed note whose text is a checkpoint.
    ///
    /// # Errors
    /// When it is not one, or is written in another way than it must be.
    pub fn read(note: &str) -> Result<Self, NoteError> {
        if note.len() > LONGEST_NOTE {
            return Err(NoteError("too long"));
        }
        let (text, signatures) = note
            .rsplit_once("\n\n")
            .ok_or(NoteError("no empty line before the signatures"))?;
        let checkpoint = Checkpoint::read(&format!("{text}\n")).ok_or(NoteError(
            "the text is not an origin, a size and a root hash, each in a line",
        ))?;
        let lines = signatures
            .strip_suffix('\n')
            .ok_or(NoteError("it does not end with a newline"))?;
        let signatures: Option<Vec<Signature>> = lines
            .split('\n')
            .take(MOST_SIGNATURES + 1)
            .map(Signature::read)
            .collect();
        let signatures = signatures.ok_or(NoteError("a signature line is malformed"))?;
        if signatures.len() > MOST_SIGNATURES {
            return Err(NoteError("more than 16 signatures"));
        }
        Ok(Self {
            checkpoint,
            signatures,
        })
    }

    /// What was signed.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The signature lines that name this log as the signer; others are witnesses'.
    pub(crate) fn own_signatures(&self) -> impl Iterator<Item = &Signature> {
        let own = |line: &&Signature| line.name == self.checkpoint.origin;
        self.signatures.iter().filter(own)
    }

    /// Whether a key has signed it; none when no line names this key.
    pub fn is_signed_by(&self, key: &PublicKey) -> Option<bool> {
        let text = self.checkpoint.text();
        let schemes = key.algorithm().schemes().iter();
        let mut named = schemes.flat_map(|scheme| {
            let id = KeyId::of(&self.checkpoint.origin, key, *scheme);
            let lines = self.own_signatures().filter(move |line| line.key == id);
            lines.map(|line| key.verifies(*scheme, text.as_bytes(), &line.signature))
        });
        // A line that names the key and is not its signature spoils the note.
        let first = named.next()?;
        Some(first && named.all(|verified| verified))
    }
}

/// The signed note.
impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.checkpoint.text())?;
        for line in &self.signatures {
            let bytes = [&line.key.0[..], &line.signature].concat();
            writeln!(f, "{DASH}{} {}", line.name, BASE64.encode(bytes))?;
        }
        Ok(())
    }
}

impl Signature {
    fn read(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix(DASH)?.split_once(' ')?;
        let bytes = BASE64.decode(signature).ok()?;
        let (key, signature) = bytes.split_first_chunk::<4>()?;
        check_origin(name).ok()?;
        Some(Self {
            name: name.to_owned(),
            key: KeyId(*key),
            signature: signature.to_vec(),
        })
    }
}

impl KeyId {
    /// The ID of a key in signature lines with this name.
    pub(crate) fn of(name: &str, key: &PublicKey, scheme: Scheme) -> Self {
        let spki = key.spki_der();
        let hashed = match scheme {
            Scheme::EcdsaP256Sha256 => digest(&SHA256, spki),
            Scheme::Ed25519 => digest(&SHA256, &[name.as_bytes(), b"\n\x01", key.bits()].concat()),
            other => {
                let kind = format!("sealwire/note/v1/{}\n", other.name());
                let parts = [name.as_bytes(), b"\n\xff", kind.as_bytes(), spki];
                digest(&SHA256, &parts.concat())
            }
        };
        let first = hashed.as_ref().first_chunk::<4>();
        Self(first.copied().unwrap_or_default())
    }
}

/// In hexadecimal.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex(&self.0))
    }
}

/// Whether an origin can be a key's name as well.
pub(crate) fn check_origin(origin: &str) -> Result<(), OriginError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if origin.is_empty() || origin.len() > 255 || origin.contains(bad) {
        return Err(OriginError(origin.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Kind, key};

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: "m.example/ns/shop/pod/web-0/1".to_owned(),
            size: 42,
            root: Hash::leaf(b"root"),
        }
    }

    #[test]
    fn every_kind_of_key_signs_a_checkpoint_that_its_public_half_verifies() {
        for kind in Kind::ALL {
            let key = key(kind);
            let signed = checkpoint().sign(key.as_ref()).unwrap();
            let read = SignedCheckpoint::read(&signed.to_string()).unwrap();
            assert_eq!(read, signed);
            assert_eq!(read.is_signed_by(key.public_key()), Some(true), "{kind:?}");
            let other = crate::testing::key(kind);
            assert_eq!(read.is_signed_by(other.public_key()), None, "{kind:?}");
        }
    }

    #[test]
    fn a_signature_over_another_size_is_none() {
        let key = key(Kind::P256);
        let signed = checkpoint().sign(key.as_ref()).unwrap().to_string();
        let other = SignedCheckpoint::read(&signed.replacen("\n42\n", "\n43\n", 1)).unwrap();
        assert_eq!(other.is_signed_by(key.public_key()), Some(false));
    }

    #[test]
    fn an_origin_that_could_end_a_line_is_refused() {
        for bad in ["", "a b", "a\nb", "a+b", "a\u{2003}b"] {
            assert!(check_origin(bad).is_err(), "{bad:?}");
        }
        assert!(check_origin("m.example/ns/a/pod/b/c").is_ok());
    }

    proptest! {
        #[test]
        fn one_changed_byte_of_a_note_never_verifies(at in any::<prop::sample::Index>(), by in 1..=255_u8) {
            let key = key(Kind::P256);
            let mut note = checkpoint().sign(key.as_ref()).unwrap().to_string().into_bytes();
            let at = at.index(note.len());
            note[at] ^= by;
            let read = String::from_utf8(note).ok().and_then(|note| SignedCheckpoint::read(&note).ok());
            let verified = read.and_then(|read| read.is_signed_by(key.public_key()));
            prop_assert_ne!(verified, Some(true));
        }

        #[test]
        fn arbitrary_text_is_no_note_and_does_not_panic(text in ".{0,300}") {
            prop_assert!(SignedCheckpoint::read(&text).is_err());
        }
    }
}
