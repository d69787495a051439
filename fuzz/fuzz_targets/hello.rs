//! Streams in pieces, as a peer may send them before anything is known of it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<Vec<u8>>| sealwire_link::fuzz_hello(&pieces));
