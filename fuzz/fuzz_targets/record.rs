//! Entries and notes of any content: what can be read is written again as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealwire_evidence::SignedCheckpoint;
use sealwire_evidence::record::Record;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = Record::decode(bytes) {
        assert_eq!(record.encode().unwrap(), bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(signed) = SignedCheckpoint::read(text)
    {
        assert_eq!(signed.to_string(), text);
    }
});
