//! Logs whose hashes and checksums are all in order, with entries of any content, one a line: what
//! they say is followed to its end, and nobody is believed without a signature.

#![no_main]

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use libfuzzer_sys::fuzz_target;
use sealwire_evidence::{Expect, Log, Trust, verify};
use sealwire_identity::TrustBundle;
use sha2::{Digest, Sha256};

/// A CA whose key nobody has.
const CA: &str = include_str!("ca.pem");

/// Entries that are looked at: one bundle is not full with them.
const MOST: usize = 200;

fn trust() -> &'static Trust {
    static TRUST: OnceLock<Trust> = OnceLock::new();
    TRUST.get_or_init(|| Trust {
        bundle: Arc::new(TrustBundle::from_pem(CA.as_bytes()).unwrap()),
    })
}

/// RFC 6962 section 2.1.
fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest(b"").into(),
        [one] => *one,
        several => {
            let (left, right) = several.split_at(several.len().next_power_of_two() / 2);
            Sha256::digest([&[1_u8][..], &root(left), &root(right)].concat()).into()
        }
    }
}

fn framed(base: u64, entries: &[&[u8]]) -> Vec<u8> {
    let sum = |bytes: &[u8], length: usize| Sha256::digest(bytes)[..length].to_vec();
    let mut journal = [&b"SWJ1"[..], &base.to_be_bytes()].concat();
    journal.extend(sum(&journal, 4));
    for (index, entry) in (base..).zip(entries) {
        let length = u32::try_from(entry.len()).unwrap().to_be_bytes();
        journal.extend(length);
        journal.extend(sum(&[&index.to_be_bytes()[..], &length].concat(), 4));
        journal.extend(*entry);
        journal.extend(sum(entry, 8));
    }
    journal
}

fuzz_target!(|bytes: &[u8]| {
    let Some((signed, text)) = bytes.split_first() else {
        return;
    };
    let entries: Vec<&[u8]> = text.split(|byte| *byte == b'\n').take(MOST).collect();
    let (tree, waiting) = entries.split_at(usize::from(*signed).min(entries.len()));
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path();
    let put = |name: &str, content: &[u8]| {
        let path = log.join(Path::new(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    put("journal", &framed(tree.len() as u64, waiting));
    if !tree.is_empty() {
        let leaf = |entry: &&[u8]| Sha256::digest([&[0_u8][..], entry].concat()).into();
        let leaves: Vec<[u8; 32]> = tree.iter().map(leaf).collect();
        let size = tree.len();
        let bundle = tree.iter().flat_map(|entry| {
            let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
            [&length.to_be_bytes()[..], entry].concat()
        });
        put(
            &format!("tile/entries/000.p/{size}"),
            &bundle.collect::<Vec<u8>>(),
        );
        put(&format!("tile/0/000.p/{size}"), &leaves.concat());
        let root = BASE64.encode(root(&leaves));
        let line = BASE64.encode([7_u8; 68]);
        let note = format!("m.example/log\n{size}\n{root}\n\n\u{2014} m.example/log {line}\n");
        put("checkpoint", note.as_bytes());
    }
    if let Ok(log) = Log::open(log)
        && let Ok(records) = log.records()
    {
        records.for_each(drop);
    }
    let verdict = verify(&[log.to_owned()], trust(), &Expect::default(), &|_| {});
    assert_eq!(verdict.logs[0].checkpoints, 0);
    assert!(
        verdict.logs[0]
            .findings
            .iter()
            .all(|one| !one.detail.contains("fault of the program"))
    );
});
