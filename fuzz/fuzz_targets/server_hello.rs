//! What a server outside the mesh may answer where an exception requires TLS.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|stream: &[u8]| sealwire_proxy::fuzz_server_hello(stream));
