//! What a mesh needs in Vault, as steps: pure, so that what is printed and what is applied are the
//! same. The policies are the files of `deploy/vault/`.

use std::fmt::Write;

use clap::ValueEnum;
use serde_json::{Value, json};

const WORKLOAD: &str = include_str!("../../../deploy/vault/workload.hcl");
const ROTATE: &str = include_str!("../../../deploy/vault/rotate.hcl");
const TRIM: &str = include_str!("../../../deploy/vault/trim.hcl");

/// How workloads log in.
#[derive(Copy, Clone, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Login {
    /// By role id and secret id; one role for each workload.
    Approle,
    /// By a service account's token, which Kubernetes checks.
    Kubernetes,
    /// By a service account's token, which Vault checks by the issuer's keys.
    Jwt,
    /// By a client certificate, whose common name is the workload's.
    Cert,
}

/// A mesh, as its operator describes it.
#[derive(Clone, Debug)]
pub(super) struct Mesh {
    pub(super) trust_domain: String,
    pub(super) login: Login,
    pub(super) auth_path: String,
    pub(super) transit: String,
    pub(super) pki: String,
    pub(super) ttl: String,
    pub(super) workloads: Vec<String>,
    pub(super) key_type: String,
    pub(super) rotate_every: Option<String>,
    pub(super) let_rotate: bool,
    pub(super) let_trim: bool,
    pub(super) audience: String,
    /// PEM with the CA of the workloads' client certificates.
    pub(super) client_ca: Option<String>,
}

/// What is there already.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) mounts: Value,
    pub(super) methods: Value,
}

/// One thing to write.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) why: String,
    pub(super) path: String,
    pub(super) body: Value,
    /// Whether it makes a key, which is never made twice.
    pub(super) is_key: bool,
}

impl Login {
    /// Type of the method.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Approle => "approle",
            Self::Kubernetes => "kubernetes",
            Self::Jwt => "jwt",
            Self::Cert => "cert",
        }
    }

    /// What the server calls the caller, for policies and roles.
    fn name(self, accessor: &str) -> String {
        let of = |what: &str| format!("{{{{identity.entity.aliases.{accessor}.{what}}}}}");
        match self {
            Self::Approle => of("metadata.role_name"),
            Self::Cert => of("name"),
            // No namespace has a dot in it, so that the first one divides them.
            Self::Kubernetes | Self::Jwt => format!(
                "{}.{}",
                of("metadata.service_account_namespace"),
                of("metadata.service_account_name")
            ),
        }
    }

    /// Path of the caller's SPIFFE ID.
    fn spiffe_path(self, accessor: &str) -> String {
        let name = self.name(accessor);
        match self {
            Self::Approle | Self::Cert => format!("workload/{name}"),
            Self::Kubernetes | Self::Jwt => {
                let (namespace, account) = name.split_once("}}.").unwrap_or((&name, ""));
                format!("ns/{namespace}}}}}/sa/{account}")
            }
        }
    }
}

impl Mesh {
    /// Refuses names that would reach beyond themselves in a path or a policy.
    pub(super) fn check(&self) -> Result<(), String> {
        let plain = |text: &str| {
            let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
            !text.is_empty() && text.bytes().all(allowed) && !text.starts_with('.')
        };
        let names = [
            &self.trust_domain,
            &self.auth_path,
            &self.transit,
            &self.pki,
        ];
        for name in names.into_iter().chain(&self.workloads) {
            if !plain(name) {
                return Err(format!(
                    "{name:?}: use letters, digits, -, _ and . in names"
                ));
            }
        }
        for workload in &self.workloads {
            let account = matches!(self.login, Login::Kubernetes | Login::Jwt);
            if account && !workload.contains('.') {
                return Err(format!(
                    "{workload:?}: write a workload of Kubernetes as NAMESPACE.SERVICEACCOUNT"
                ));
            }
        }
        // The rest stands in the commands as it is, where a shell would read these.
        let quoted = [Some(&self.ttl), Some(&self.key_type), Some(&self.audience)]
            .into_iter()
            .chain([self.rotate_every.as_ref(), self.client_ca.as_ref()]);
        for text in quoted.flatten() {
            if text.contains(['$', '`', '\\']) {
                return Err(format!(
                    "{:?}: leave $, ` and \\ out",
                    text.chars().take(40).collect::<String>()
                ));
            }
        }
        if self.login == Login::Cert && self.client_ca.is_none() {
            return Err("--auth cert needs --client-ca: whose certificates may log in".to_owned());
        }
        Ok(())
    }

    /// Engines and the login's method, as far as they are not there.
    pub(super) fn mounts(&self, state: &State) -> Vec<Step> {
        let there = |of: &Value, path: &str| !of[format!("{path}/")].is_null();
        let mut steps = Vec::new();
        if !there(&state.mounts, &self.transit) {
            steps.push(step(
                "mount the engine that keeps the keys",
                format!("sys/mounts/{}", self.transit),
                json!({ "type": "transit" }),
            ));
        }
        if !there(&state.mounts, &self.pki) {
            steps.push(step(
                "mount the engine that issues the certificates",
                format!("sys/mounts/{}", self.pki),
                json!({ "type": "pki", "config": { "max_lease_ttl": "87600h" } }),
            ));
        }
        if !there(&state.methods, &self.auth_path) {
            steps.push(step(
                "let workloads log in",
                format!("sys/auth/{}", self.auth_path),
                json!({ "type": self.login.kind() }),
            ));
        }
        steps
    }

    /// Whether the PKI mount has no issuer.
    pub(super) fn needs_root(&self, issuers: usize) -> bool {
        issuers == 0
    }

    /// A root that names the trust domain, and so vouches for no other.
    pub(super) fn root(&self) -> Step {
        step(
            "make a root for the mesh, which vouches for its trust domain alone",
            format!("{}/root/generate/internal", self.pki),
            json!({
                "common_name": format!("{} root", self.trust_domain),
                "uri_sans": format!("spiffe://{}", self.trust_domain),
                "key_type": "ec", "key_bits": 384, "ttl": "87600h",
            }),
        )
    }

    /// Policies and roles. `accessor` is the login method's.
    pub(super) fn roles(&self, accessor: &str) -> Vec<Step> {
        let name = self.login.name(accessor);
        let filled = |policy: &str| {
            let lines = policy.lines().skip_while(|line| line.starts_with('#'));
            let text: Vec<_> = lines.collect();
            text.join("\n")
                .replace("TRANSIT/", &format!("{}/", self.transit))
                .replace("PKI/", &format!("{}/", self.pki))
                .replace("NAME", &name)
        };
        let uri = format!(
            "spiffe://{}/{}",
            self.trust_domain,
            self.login.spiffe_path(accessor)
        );
        let mut steps = vec![
            step(
                "let a workload use its own key and name, and no other",
                "sys/policies/acl/sealwire-workload",
                json!({ "policy": filled(WORKLOAD) }),
            ),
            step(
                "sign certificates for the caller's own name alone",
                format!("{}/roles/sealwire", self.pki),
                json!({
                    "allowed_uri_sans": uri, "allowed_uri_sans_template": true,
                    "allow_ip_sans": false, "allow_any_name": false, "allow_localhost": false,
                    "allow_subdomains": false, "allow_bare_domains": false,
                    "require_cn": false, "use_csr_common_name": false,
                    "key_type": "any", "key_usage": "DigitalSignature",
                    "server_flag": true, "client_flag": true,
                    "ttl": self.ttl, "max_ttl": self.ttl, "not_before_duration": "30s",
                }),
            ),
        ];
        if self.let_rotate {
            steps.push(step(
                "let a workload rotate its own key",
                "sys/policies/acl/sealwire-rotate",
                json!({ "policy": filled(ROTATE) }),
            ));
        }
        if self.let_trim {
            steps.push(step(
                "let a workload put an end to old versions of its own key",
                "sys/policies/acl/sealwire-trim",
                json!({ "policy": filled(TRIM) }),
            ));
        }
        if self.login != Login::Approle {
            steps.push(self.common_role());
        }
        steps
    }

    /// Keys, and with AppRole a role each.
    pub(super) fn keys(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for workload in &self.workloads {
            let mut body = json!({ "type": self.key_type });
            if let Some(period) = &self.rotate_every {
                body["auto_rotate_period"] = json!(period);
            }
            steps.push(Step {
                is_key: true,
                ..step(
                    format!("make the key of {workload}, which cannot leave the server"),
                    format!("{}/keys/{workload}", self.transit),
                    body,
                )
            });
            if self.login == Login::Approle {
                steps.push(step(
                    format!("let {workload} log in, and be that"),
                    format!("auth/{}/role/{workload}", self.auth_path),
                    json!({
                        "token_policies": self.policies(), "token_no_default_policy": true,
                        "token_ttl": "1h", "token_max_ttl": "24h", "secret_id_num_uses": 0,
                    }),
                ));
            }
        }
        steps
    }

    /// All of it as commands, for review; the accessor is looked up by one of them.
    pub(super) fn as_commands(&self) -> String {
        let nothing = State {
            mounts: Value::Null,
            methods: Value::Null,
        };
        let mut text = String::from(
            "#!/bin/sh\n# Reads VAULT_ADDR and the rest as `vault` does; `bao` works the same.\nset -eu\n",
        );
        let mut steps = self.mounts(&nothing);
        steps.push(self.root());
        for step in &steps {
            text.push_str(&command(step));
        }
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n# what the method is called in policies\nACCESSOR=$(vault auth list -format=json | \
             sed -n '/\"{}\\/\"/,/}}/s/.*\"accessor\": \"\\(.*\\)\",*/\\1/p')\n",
            self.auth_path
        );
        for step in self.roles("$ACCESSOR").into_iter().chain(self.keys()) {
            text.push_str(&command(&step));
        }
        text
    }

    fn policies(&self) -> Vec<&'static str> {
        let mut policies = vec!["sealwire-workload"];
        if self.let_rotate {
            policies.push("sealwire-rotate");
        }
        if self.let_trim {
            policies.push("sealwire-trim");
        }
        policies
    }

    /// One role for all: what each may do follows from who it is.
    fn common_role(&self) -> Step {
        let (kind, mut body) = match self.login {
            Login::Cert => ("certs", json!({ "certificate": self.client_ca })),
            Login::Kubernetes => (
                "role",
                json!({
                    "bound_service_account_names": "*", "bound_service_account_namespaces": "*",
                    "audience": self.audience,
                }),
            ),
            Login::Jwt | Login::Approle => (
                "role",
                json!({
                    "role_type": "jwt", "bound_audiences": [self.audience], "user_claim": "sub",
                    "claim_mappings": {
                        "/kubernetes.io/namespace": "service_account_namespace",
                        "/kubernetes.io/serviceaccount/name": "service_account_name",
                    },
                }),
            ),
        };
        body["token_policies"] = json!(self.policies());
        body["token_no_default_policy"] = json!(true);
        body["token_ttl"] = json!("1h");
        body["token_max_ttl"] = json!("24h");
        step(
            "let workloads log in, and be who they are",
            format!("auth/{}/{kind}/sealwire", self.auth_path),
            body,
        )
    }
}

fn step(why: impl Into<String>, path: impl Into<String>, body: Value) -> Step {
    Step {
        why: why.into(),
        path: path.into(),
        body,
        is_key: false,
    }
}

/// A step for a shell. Inside the text only `$ACCESSOR` is special to it.
fn command(step: &Step) -> String {
    if let (Some(name), Some(policy)) = (
        step.path.strip_prefix("sys/policies/acl/"),
        step.body["policy"].as_str(),
    ) {
        let policy = policy.trim();
        return format!(
            "\n# {}\nvault policy write {name} - <<HCL\n{policy}\nHCL\n",
            step.why
        );
    }
    let body = serde_json::to_string_pretty(&step.body).unwrap_or_default();
    format!(
        "\n# {}\nvault write {} - <<JSON\n{body}\nJSON\n",
        step.why, step.path
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(login: Login) -> Mesh {
        Mesh {
            trust_domain: "mesh.example".to_owned(),
            login,
            auth_path: login.kind().to_owned(),
            transit: "transit".to_owned(),
            pki: "pki".to_owned(),
            ttl: "24h".to_owned(),
            workloads: vec!["shop.web".to_owned()],
            key_type: "ecdsa-p256".to_owned(),
            rotate_every: None,
            let_rotate: false,
            let_trim: false,
            audience: "sealwire-vault".to_owned(),
            client_ca: Some("PEM".to_owned()),
        }
    }

    #[test]
    fn no_role_signs_any_name_or_any_address() {
        for login in [Login::Approle, Login::Kubernetes, Login::Jwt, Login::Cert] {
            for step in mesh(login).roles("auth_1") {
                if step.path == "pki/roles/sealwire" {
                    assert_eq!(step.body["allow_ip_sans"], false);
                    assert_eq!(step.body["allowed_uri_sans_template"], true);
                    let uri = step.body["allowed_uri_sans"].as_str().unwrap();
                    assert!(uri.contains("{{identity.entity.aliases.auth_1."), "{uri}");
                    assert!(!uri.contains('*'), "{uri}");
                }
            }
        }
    }

    #[test]
    fn a_policy_leaves_no_placeholder_behind_and_names_the_caller() {
        let steps = mesh(Login::Kubernetes).roles("auth_1");
        let policy = steps[0].body["policy"].as_str().unwrap();
        for placeholder in ["TRANSIT", "PKI", "NAME", "ACCESSOR"] {
            assert!(!policy.contains(placeholder), "{policy}");
        }
        let own =
            "transit/sign/{{identity.entity.aliases.auth_1.metadata.service_account_namespace}}.";
        assert!(policy.contains(own), "{policy}");
    }

    #[test]
    fn a_name_that_reaches_beyond_itself_is_refused() {
        for bad in ["a/b", "..", "", "a\" { }", "a*"] {
            let mesh = Mesh {
                workloads: vec![bad.to_owned()],
                ..mesh(Login::Approle)
            };
            assert!(mesh.check().is_err(), "{bad}");
        }
        let hidden = Mesh {
            client_ca: Some("$(rm -r /)".to_owned()),
            ..mesh(Login::Cert)
        };
        assert!(hidden.check().unwrap_err().contains("leave $"));
        mesh(Login::Cert).check().unwrap();
        let mesh = Mesh {
            workloads: vec!["web".to_owned()],
            ..mesh(Login::Kubernetes)
        };
        assert!(mesh.check().unwrap_err().contains("NAMESPACE"));
    }

    #[test]
    fn what_is_there_is_not_mounted_again() {
        let state = State {
            mounts: json!({ "transit/": {}, "pki/": {} }),
            methods: json!({ "approle/": {} }),
        };
        assert!(mesh(Login::Approle).mounts(&state).is_empty());
    }
}
