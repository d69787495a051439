//! OpenBao for tests, tested by itself.

#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

use sealwire_pods::{Bao, Storage};
use serde_json::json;

#[test]
fn a_server_is_unsealed_and_administered_and_keeps_its_keys_across_a_restart() {
    let mut bao = Bao::start(Storage::Raft).unwrap();
    bao.write("sys/mounts/transit", &json!({ "type": "transit" }))
        .unwrap();
    bao.write("transit/keys/web", &json!({ "type": "ecdsa-p256" }))
        .unwrap();
    bao.restart().unwrap();
    assert!(bao.read("transit/keys/web").is_err(), "it is sealed");
    bao.unseal().unwrap();
    let key = bao.read("transit/keys/web").unwrap();
    assert_eq!(key["data"]["type"], "ecdsa-p256");
}
