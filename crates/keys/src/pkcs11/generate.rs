//! Making a key in a token: a pair of session objects, which no other application sees, and which
//! are gone when the session that made them ends. Pods live and die together with their keys, and
//! leave nothing behind in the token.

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::Session;
use rustix::rand::{GetRandomFlags, getrandom};

use super::token::TokenSlot;
use super::trouble::sign_error;
use crate::{Curve, OpenError, Pkcs11Config};

/// Named curves in DER: OBJECT IDENTIFIER prime256v1, secp384r1.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// The session that a made key lives in. It is to stay open, and to be closed by whoever has it.
pub(super) struct Holder {
    pub(super) session: Session,
    /// Generation of the module.
    pub(super) module: u64,
}

/// Makes a key, and gives the configuration that names it by an id of its own.
pub(super) fn pair(
    token: &TokenSlot,
    session: &Session,
    config: &Pkcs11Config,
    curve: Curve,
) -> Result<Pkcs11Config, OpenError> {
    let mut id = [0; 16];
    // The kernel's generator does not fail, and gives this much at once.
    let _ = getrandom(&mut id, GetRandomFlags::empty());
    generate(session, config.uri.object(), &id, curve).map_err(|error| OpenError::Generate {
        token: token.label().to_owned(),
        source: sign_error(&error),
    })?;
    Ok(Pkcs11Config {
        uri: config.uri.with_id(&id),
        ..config.clone()
    })
}

fn generate(session: &Session, label: Option<&str>, id: &[u8], curve: Curve) -> Result<(), Error> {
    let mut named = vec![Attribute::Token(false), Attribute::Id(id.to_vec())];
    named.extend(label.map(|label| Attribute::Label(label.as_bytes().to_vec())));
    let mut public = named.clone();
    public.extend([
        Attribute::Verify(true),
        Attribute::EcParams(
            match curve {
                Curve::P256 => P256,
                Curve::P384 => P384,
            }
            .to_vec(),
        ),
    ]);
    let mut private = named;
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]);
    session
        .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
        .map(drop)
}
