//! The injector from outside: real-world pods before and after, any pod at all, any bytes at all,
//! and the webhook over TLS.

#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

#[path = "injection/bytes.rs"]
mod bytes;
#[path = "injection/offline.rs"]
mod offline;
#[path = "injection/properties.rs"]
mod properties;
#[path = "injection/snapshots.rs"]
mod snapshots;
#[path = "injection/webhook.rs"]
mod webhook;

use sealwire_injector::config::InjectorConfig;
use sealwire_injector::inject::Injector;

/// Keys and certificates in Vault.
const VAULT: &str = include_str!("../src/config/example.yaml");

/// Keys in a token, certificates in Secrets.
const PKCS11: &str = r#"
image: { name: "registry.example/sealwire/proxy:0.1.0" }
proxy:
  identity:
    trustDomains: [mesh.example]
    certificate: /etc/sealwire/identity/tls.pem
    bundle: /etc/sealwire/config/bundle.pem
  key:
    pkcs11:
      module: /etc/sealwire/module/lib/libvendor.so
      uri: "pkcs11:token=mesh;object={namespace}.{serviceAccount}?pin-source=file:/run/secrets/sealwire/pin/pin"
      state: /var/lib/sealwire/state
  mesh: { ranges: [10.64.0.0/12] }
bundle: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
volumes:
  pin: { secret: sealwire-pin, key: pin }
  certificate: { secret: "sealwire-{serviceAccount}" }
  module: { image: { name: "registry.example/vendor/pkcs11:1" } }
  evidence: 256Mi
"#;

fn config(text: &str) -> InjectorConfig {
    InjectorConfig::parse(text).unwrap().checked().unwrap()
}

/// An injector of the example's configuration.
fn injector() -> Injector {
    Injector::new(config(VAULT), true)
}
