//! The very end of the process, without the exit handlers of the libraries in it: signing threads
//! have used a vendor's PKCS#11 module, and its cryptography takes itself down in handlers of the
//! process and of each thread that ends, which race (seen with SoftHSM and OpenSSL 3, once in some
//! hundred ends, as a corrupted heap).
#![allow(unsafe_code, reason = "calls the C library")]

use std::io::Write;

use crate::run::Exit;

/// Ends the process with this exit code, at once.
pub fn leave(exit: Exit) -> ! {
    // Whoever reads the log may be gone.
    let _ = std::io::stdout().flush();
    // SAFETY: it takes a number and does not return; no other code of this process runs after it.
    unsafe { libc::_exit(exit.code()) }
}
