//! What a workload may ask of Vault, and what it is refused, under the policies that
//! `sealwire vault setup` writes: for whoever has logged in, by whatever method.

use std::process::Command;

use sealwire_pods::Bao;
use serde_json::{Value, json};

/// Somebody, by the name of its key and the path of its SPIFFE ID.
#[derive(Copy, Clone, Debug)]
pub struct Workload<'a> {
    /// Key in transit.
    pub key: &'a str,
    /// Path in `spiffe://mesh.example/`.
    pub path: &'a str,
}

/// Asks with the token of `own` for all that is its own, and for much that is not.
///
/// # Panics
/// When the server grants too much or too little.
pub fn may_be_nobody_else(bao: &Bao, token: &str, own: Workload<'_>, other: Workload<'_>) {
    let ask = |method: &str, path: &str, body: &Value| {
        let (status, said) = bao.ask(method, path, body, token).unwrap();
        (status, said.to_string())
    };
    let sign = |names: &str| {
        let asked = json!({ "csr": csr(names), "exclude_cn_from_sans": true });
        ask("POST", "pki/sign/sealwire", &asked)
    };
    let id = |path: &str| format!("spiffe://mesh.example/{path}");
    let own_id = id(own.path);
    let said = sign(&own_id);
    assert_eq!(said.0, 200, "its own name: {said:?}");
    for names in [
        id(other.path),
        own_id.replace("mesh.example", "other.example"),
        format!("{own_id}/more"),
        format!("{own_id},URI:{}", id(other.path)),
        format!("{own_id},IP:198.18.0.11"),
        format!("{own_id},DNS:api.example"),
        id("*"),
    ] {
        let said = sign(&names);
        assert_eq!(said.0, 400, "{names}: {said:?}");
    }
    let (own, other) = (own.key, other.key);
    let input = json!({ "input": "AAAA" });
    let said = ask("POST", &format!("transit/sign/{own}/sha2-256"), &input);
    assert_eq!(said.0, 200, "its own key: {said:?}");
    for (method, path) in [
        ("POST", format!("transit/sign/{other}/sha2-256")),
        ("GET", format!("transit/keys/{other}")),
        ("POST", format!("transit/keys/{other}/rotate")),
        ("POST", format!("transit/keys/{own}/config")),
        ("GET", format!("transit/export/signing-key/{own}")),
        ("POST", "transit/keys/fresh".to_owned()),
        ("DELETE", format!("transit/keys/{own}")),
        ("POST", "pki/sign/other".to_owned()),
        ("POST", "pki/sign-verbatim/sealwire".to_owned()),
        ("POST", "pki/issue/sealwire".to_owned()),
        ("POST", "pki/roles/sealwire".to_owned()),
        ("POST", "pki/root/generate/internal".to_owned()),
        ("GET", format!("auth/approle/role/{other}/role-id")),
        ("POST", format!("auth/approle/role/{other}/secret-id")),
        ("GET", "sys/policies/acl/sealwire-workload".to_owned()),
    ] {
        let said = ask(method, &path, &input);
        assert_eq!(said.0, 403, "{method} {path}: {said:?}");
    }
}

/// A request, by a key that nobody keeps.
fn csr(names: &str) -> String {
    let made = Command::new("openssl")
        .args(["req", "-new", "-newkey", "ec", "-nodes", "-subj", "/"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-keyout", "/dev/null", "-addext"])
        .arg(format!("subjectAltName=URI:{names}"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap()
}
