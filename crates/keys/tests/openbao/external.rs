//! Keys that the server has elsewhere (OpenBao's external keys): in an HSM by its PKCS#11 plugin, here
//! in another of its own mounts by the plugin that is built in, which it sees the same way.

use super::*;

/// A server whose key `transit/web` is `inner/hsm`.
fn external(kind: &str) -> Ground {
    let ground = Ground::new(Storage::Memory, "ecdsa-p256");
    let bao = &ground.bao;
    let deletable = json!({ "deletion_allowed": true });
    bao.write("transit/keys/web/config", &deletable).unwrap();
    bao.delete("transit/keys/web").unwrap();
    let inner = json!({ "type": "transit" });
    bao.write("sys/mounts/inner", &inner).unwrap();
    bao.write("inner/keys/hsm", &json!({ "type": kind }))
        .unwrap();
    let config = json!({
        "plugin": "transit", "address": bao.address(), "token": bao.root_token(),
        "mount_path": "inner",
        "tls_ca_cert_bytes": fs::read_to_string(bao.ca()).unwrap(),
    });
    bao.write("sys/external-keys/configs/hsm", &config).unwrap();
    grant(bao, 1);
    let key = json!({ "type": "external-key", "external_key_ref": "hsm:web-1" });
    bao.write("transit/keys/web", &key).unwrap();
    ground
}

/// Lets the mount use a version of the key.
fn grant(bao: &Bao, version: u64) {
    let path = format!("sys/external-keys/configs/hsm/keys/web-{version}");
    let key = json!({ "name": "hsm", "version": version });
    bao.write(&path, &key).unwrap();
    bao.write(&format!("{path}/grants/transit"), &json!({}))
        .unwrap();
}

/// The public halves of the versions, as whoever made them in the HSM has them.
fn public_halves(ground: &Ground, versions: &[u64]) -> PathBuf {
    let key = ground.bao.read("inner/keys/hsm").unwrap();
    let of = |version: &u64| {
        let pem = &key["data"]["keys"][version.to_string()]["public_key"];
        pem.as_str().unwrap().to_owned()
    };
    let path = ground.path("hsm.pub");
    fs::write(&path, versions.iter().map(of).collect::<String>()).unwrap();
    path
}

fn by(ground: &Ground, public_keys: Option<PathBuf>) -> Result<Arc<dyn PrivateKey>, OpenError> {
    open(&KeyConfig::Transit(TransitConfig {
        public_keys,
        ..ground.transit()
    }))
}

#[test]
fn a_key_in_an_hsm_of_the_server_signs_and_its_custody_says_where_it_is() {
    for kind in ["ecdsa-p256", "ecdsa-p384", "rsa-2048"] {
        let ground = external(kind);
        let key = by(&ground, Some(public_halves(&ground, &[1]))).unwrap();
        assert!(signs(key.as_ref()), "{kind}");
        let custody = key.custody().unwrap();
        // The server does not say what the HSM would let out.
        let unsaid = [custody.sensitive, custody.extractable, custody.local];
        assert_eq!(unsaid, [None; 3], "{kind}");
        let transit = custody.transit.unwrap();
        assert!(transit.external, "{kind}");
        assert_eq!(
            (transit.kind.as_str(), transit.version),
            ("external-key", 1)
        );
        assert!(!transit.exportable && !transit.allow_plaintext_backup);
    }
}

#[test]
fn without_the_public_half_that_belongs_to_it_a_key_in_an_hsm_is_refused_with_the_way_out() {
    let ground = external("ecdsa-p256");
    let said = |public| by(&ground, public).unwrap_err().to_string();
    assert!(said(None).contains("key.vaultTransit.publicKey"));
    let empty = ground.path("empty");
    fs::write(&empty, "").unwrap();
    assert!(said(Some(empty)).contains("no PUBLIC KEY block"));
    ground
        .bao
        .write("inner/keys/hsm/rotate", &json!({}))
        .unwrap();
    let other = said(Some(public_halves(&ground, &[2])));
    assert!(other.contains("belongs to version 1"), "{other}");
}

#[test]
fn a_key_in_an_hsm_is_rotated_by_naming_the_next_one() {
    let ground = external("ecdsa-p256");
    let bao = &ground.bao;
    let first = by(&ground, Some(public_halves(&ground, &[1]))).unwrap();
    let made = "inner/keys/hsm/rotate";
    bao.write(made, &json!({})).unwrap();
    grant(bao, 2);
    // The order of the file does not matter.
    let both = public_halves(&ground, &[2, 1]);
    let next = json!({ "external_key_ref": "hsm:web-2" });
    bao.write("transit/keys/web/rotate", &next).unwrap();
    assert_eventually("the successor is seen", SOON, || {
        first.has_successor().then_some(())
    });
    let second = by(&ground, Some(both)).unwrap();
    assert_ne!(second.public_key(), first.public_key());
    assert!(signs(first.as_ref()) && signs(second.as_ref()));
    assert!(second.reference().ends_with("?version=2"));
    // The server cannot make one by itself.
    let refused = second.rotate().unwrap_err().to_string();
    assert!(refused.contains("Vault"), "{refused}");
}
