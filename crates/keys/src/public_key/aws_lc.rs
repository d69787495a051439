//! For tests: how aws-lc itself, strict as it is about DER, reads an ECDSA signature. Its safe
//! interface does not show r and s.
#![allow(unsafe_code, reason = "calls aws-lc's C interface")]

use aws_lc_sys::{
    BN_bn2bin_padded, ECDSA_SIG_free, ECDSA_SIG_from_bytes, ECDSA_SIG_get0_r, ECDSA_SIG_get0_s,
};

/// r and s, 32 bytes each, of an ECDSA-Sig-Value (RFC 3279 section 2.2.3); nothing when aws-lc
/// refuses it.
pub(super) fn r_and_s(der: &[u8]) -> Option<[u8; 64]> {
    let mut raw = [0; 64];
    let (r, s) = raw.split_at_mut(32);
    // SAFETY: the pointer and the length are those of a slice, which is only read.
    let signature = unsafe { ECDSA_SIG_from_bytes(der.as_ptr(), der.len()) };
    if signature.is_null() {
        return None;
    }
    // SAFETY: `signature` is valid until it is freed below; its two numbers live as long as it
    // does, and each output is a slice of the length that is given.
    let written = unsafe {
        BN_bn2bin_padded(r.as_mut_ptr(), r.len(), ECDSA_SIG_get0_r(signature)) == 1
            && BN_bn2bin_padded(s.as_mut_ptr(), s.len(), ECDSA_SIG_get0_s(signature)) == 1
    };
    // SAFETY: it came from ECDSA_SIG_from_bytes and is not used again.
    unsafe { ECDSA_SIG_free(signature) };
    written.then_some(raw)
}
