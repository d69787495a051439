//! Logs whose files have any content: they are read and verified to an end, and nobody is believed
//! without a signature that the bundle vouches for.

#![no_main]

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use sealwire_evidence::{Expect, Log, Trust, verify};
use sealwire_identity::TrustBundle;

/// A CA whose key nobody has.
const CA: &str = include_str!("ca.pem");

const FILES: [&str; 6] = [
    "checkpoint",
    "journal",
    "tile/entries/000",
    "tile/entries/000.p/1",
    "tile/0/000",
    "tile/0/000.p/1",
];

fn trust() -> &'static Trust {
    static TRUST: OnceLock<Trust> = OnceLock::new();
    TRUST.get_or_init(|| Trust {
        bundle: Arc::new(TrustBundle::from_pem(CA.as_bytes()).unwrap()),
    })
}

fuzz_target!(|contents: (u8, [Vec<u8>; 6])| {
    let (there, contents) = contents;
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path();
    for (place, (name, content)) in FILES.iter().zip(&contents).enumerate() {
        if there >> place & 1 == 1 {
            let path = log.join(Path::new(name));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }
    if let Ok(log) = Log::open(log)
        && let Ok(records) = log.records()
    {
        records.for_each(drop);
    }
    let verdict = verify(&[log.to_owned()], trust(), &Expect::default(), &|_| {});
    assert_eq!(verdict.logs[0].checkpoints, 0);
});
