//! What signatures by a transit mount cost, with as many callers as there may be, and with and
//! without batching: `cargo bench -p sealwire-keys`. A real OpenBao on loopback; the rounds of all
//! ways in turn, medians.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark fails loudly, and prints what it measured"
)]

use std::fs::{self, Permissions};
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealwire_keys::{KeyConfig, PrivateKey, TransitConfig, Vault, VaultAuth, VaultConfig, open};
use sealwire_pods::{Bao, Storage};
use serde_json::json;

const ROUNDS: usize = 7;
const EACH: Duration = Duration::from_millis(700);
const CALLERS: [usize; 3] = [1, 8, 64];
const KINDS: [&str; 2] = ["ecdsa-p256", "rsa-2048"];
/// Signatures in a request at most, and requests at once.
const WAYS: [(usize, usize); 5] = [(1, 4), (1, 16), (1, 64), (32, 2), (32, 4)];

/// What one round gave.
#[derive(Clone, Copy)]
struct Measured {
    a_second: f64,
    p50: Duration,
    p99: Duration,
}

fn main() {
    let bao = Bao::start(Storage::Memory).unwrap();
    bao.write("sys/mounts/transit", &json!({ "type": "transit" }))
        .unwrap();
    let token = bao.directory().join("token");
    fs::write(&token, bao.root_token()).unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    for kind in KINDS {
        bao.write(&format!("transit/keys/{kind}"), &json!({ "type": kind }))
            .unwrap();
        let keys = WAYS.map(|way| key(&bao, kind, way));
        let mut rounds = vec![Vec::new(); WAYS.len() * CALLERS.len()];
        for _ in 0..ROUNDS {
            for (number, callers) in CALLERS.iter().enumerate() {
                for (way, key) in keys.iter().enumerate() {
                    rounds[way * CALLERS.len() + number].push(round(key, *callers));
                }
            }
        }
        println!(
            "{kind}: callers, most in a request, requests at once: signatures a second, p50, p99"
        );
        for (way, (batch, requests)) in WAYS.iter().enumerate() {
            for (number, callers) in CALLERS.iter().enumerate() {
                let all = &mut rounds[way * CALLERS.len() + number];
                all.sort_by(|left, right| left.a_second.total_cmp(&right.a_second));
                let median = all[ROUNDS / 2];
                println!(
                    "  {callers:>2}, {batch:>2}, {requests:>2}: {:>6.0}, {:>8.2?}, {:>8.2?}",
                    median.a_second, median.p50, median.p99
                );
            }
        }
    }
}

fn key(bao: &Bao, kind: &str, (batch, requests): (usize, usize)) -> Arc<dyn PrivateKey> {
    let vault = Vault::start(VaultConfig {
        address: bao.address(),
        ca: bao.ca(),
        client: None,
        namespace: None,
        auth: VaultAuth::TokenFile {
            path: bao.directory().join("token"),
        },
        timeout: Duration::from_secs(10),
    });
    let config = TransitConfig {
        vault: vault.unwrap(),
        reference: format!("vault-transit:transit/{kind}").parse().unwrap(),
        version: None,
        public_keys: None,
        allow_exportable: false,
        batch: NonZeroUsize::new(batch).unwrap(),
        requests: NonZeroUsize::new(requests).unwrap(),
        queue: 1024,
        wait: Duration::from_secs(10),
        look: Duration::from_secs(60),
        trim_after: None,
    };
    open(&KeyConfig::Transit(config)).unwrap()
}

fn round(key: &Arc<dyn PrivateKey>, callers: usize) -> Measured {
    let begun = Instant::now();
    let scheme = key.schemes()[0];
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..callers)
            .map(|_| {
                scope.spawn(|| {
                    let mut took = Vec::new();
                    while begun.elapsed() < EACH {
                        let one = Instant::now();
                        key.sign(scheme, b"a message like any other").unwrap();
                        took.push(one.elapsed());
                    }
                    took
                })
            })
            .collect();
        calls
            .into_iter()
            .flat_map(|call| call.join().unwrap())
            .collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    took.sort();
    let count = u32::try_from(took.len()).unwrap();
    Measured {
        a_second: f64::from(count) / seconds,
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
    }
}
