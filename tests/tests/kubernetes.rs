//! Logging in to OpenBao by service accounts' tokens, with a real Kubernetes API that issues and
//! reviews them, and what may be done then under the policies that are shipped.
//! `make test SUITE=kubernetes`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

#[path = "kubernetes/sidecar.rs"]
mod sidecar;

use std::fs::{self, Permissions};
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sealwire_identity::{Authority, Profile, VaultPki, VaultPkiConfig};
use sealwire_keys::{KeyConfig, PrivateKey, TransitConfig, Vault, VaultAuth, VaultConfig, open};
use sealwire_pods::{Bao, KubeApi, Programs, Release, Storage, assert_eventually};
use sealwire_tests::SOON;
use sealwire_tests::names::{Workload, may_be_nobody_else};
use serde_json::json;

/// What a projected token is for.
const AUDIENCE: &str = "sealwire-vault";

const WEB: Workload<'_> = Workload {
    key: "shop.web",
    path: "ns/shop/sa/web",
};
const API: Workload<'_> = Workload {
    key: "shop.api",
    path: "ns/shop/sa/api",
};

/// How OpenBao learns whether a token is good.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Login {
    /// It asks Kubernetes.
    Kubernetes,
    /// It has the issuer's keys.
    Jwt,
}

/// A Kubernetes API with the service accounts `web` and `api` in the namespace `shop`, and an
/// OpenBao that `sealwire vault setup` has set up for them.
struct Ground {
    api: KubeApi,
    bao: Bao,
    login: Login,
    /// UID of `web`.
    web: String,
}

impl Ground {
    fn new(login: Login) -> Self {
        let api = KubeApi::start(Release::V1_34).unwrap();
        api.namespace("shop").unwrap();
        let web = api.service_account("shop", "web").unwrap();
        api.service_account("shop", "api").unwrap();
        let ground = Self {
            api,
            bao: Bao::start(Storage::Memory).unwrap(),
            login,
            web,
        };
        ground.set_up();
        match login {
            Login::Kubernetes => ground.let_openbao_ask(),
            Login::Jwt => ground.give_keys(),
        }
        ground
    }

    /// Runs `sealwire vault setup --apply`, as an operator would.
    fn set_up(&self) {
        let own = std::env::current_exe().unwrap();
        let operator = self.secret("operator", self.bao.root_token());
        let done = Command::new(Programs::beside(&own).unwrap().cli)
            .args(["vault", "setup", "--apply", "--let-rotate"])
            .args(["--trust-domain", "mesh.example", "--auth", self.method()])
            .args(["--workload", WEB.key, "--workload", API.key])
            .args(["--address", &self.bao.address(), "--ca"])
            .arg(self.bao.ca())
            .arg("--token-file")
            .arg(operator)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    /// Gives OpenBao a service account of its own, which may have tokens reviewed and nothing else.
    fn let_openbao_ask(&self) {
        let api = &self.api;
        api.namespace("vault").unwrap();
        api.service_account("vault", "reviewer").unwrap();
        self.let_review();
        let config = json!({
            "kubernetes_host": api.address(), "kubernetes_ca_cert": api.ca(),
            "token_reviewer_jwt": api.token("vault", "reviewer", None).unwrap(),
            "disable_local_ca_jwt": true,
        });
        self.bao.write("auth/kubernetes/config", &config).unwrap();
    }

    /// Gives OpenBao the issuer's keys, and no way to ask.
    fn give_keys(&self) {
        let config = json!({
            "jwt_validation_pubkeys": [self.api.issuer_public_key()],
            "bound_issuer": self.api.issuer(),
        });
        self.bao.write("auth/jwt/config", &config).unwrap();
    }

    fn let_review(&self) {
        self.kubectl(
            "create clusterrolebinding reviewer --clusterrole=system:auth-delegator \
             --serviceaccount=vault:reviewer",
        );
    }

    fn kubectl(&self, line: &str) {
        let words: Vec<_> = line.split_whitespace().collect();
        self.api.kubectl(&words).unwrap();
    }

    fn method(&self) -> &'static str {
        match self.login {
            Login::Kubernetes => "kubernetes",
            Login::Jwt => "jwt",
        }
    }

    /// A token of `web`.
    fn token(&self, audience: Option<&str>) -> String {
        self.api.token("shop", "web", audience).unwrap()
    }

    /// A token of `web` that its issuer has signed, and that ends so many seconds from now.
    fn token_that_ends(&self, seconds: i64) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = i64::try_from(now.unwrap().as_secs()).unwrap();
        let begun = now - 3600;
        let claims = json!({
            "iss": self.api.issuer(), "sub": "system:serviceaccount:shop:web", "aud": [AUDIENCE],
            "exp": now + seconds, "iat": begun, "nbf": begun,
            "kubernetes.io": {
                "namespace": "shop", "serviceaccount": { "name": "web", "uid": self.web },
            },
        });
        self.api.sign(&claims).unwrap()
    }

    /// Ends what OpenBao has given to whoever has logged in.
    fn revoke_logins(&self) {
        let path = format!("sys/leases/revoke-prefix/auth/{}", self.method());
        self.bao.write(&path, &json!({})).unwrap();
    }

    /// What OpenBao says when somebody logs in with a token: a token of its own, or why not.
    fn log_in(&self, role: &str, token: &str) -> Result<String, String> {
        let asked = json!({ "role": role, "jwt": token });
        let said = self.bao.login(self.method(), &asked);
        said.map_err(|error| error.to_string())
    }

    /// A session that logs in with the token in a file, as a sidecar has one.
    fn session(&self, token: PathBuf) -> Arc<Vault> {
        let (mount, role) = (self.method().to_owned(), "sealwire".to_owned());
        Vault::start(VaultConfig {
            address: self.bao.address(),
            ca: self.bao.ca(),
            client: None,
            namespace: None,
            auth: match self.login {
                Login::Kubernetes => VaultAuth::Kubernetes { mount, role, token },
                Login::Jwt => VaultAuth::Jwt { mount, role, token },
            },
            timeout: Duration::from_secs(5),
        })
        .unwrap()
    }

    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.bao.directory().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }
}

fn key(vault: &Arc<Vault>, workload: Workload<'_>) -> Result<Arc<dyn PrivateKey>, String> {
    let config = TransitConfig {
        vault: vault.clone(),
        reference: format!("vault-transit:transit/{}", workload.key)
            .parse()
            .unwrap(),
        version: None,
        public_keys: None,
        allow_exportable: false,
        batch: NonZeroUsize::MIN,
        requests: NonZeroUsize::MIN,
        queue: 8,
        wait: SOON,
        look: Duration::from_secs(60),
        trim_after: None,
    };
    open(&KeyConfig::Transit(config)).map_err(|error| error.to_string())
}

/// The SPIFFE ID in the certificate that is issued for `workload` and this key.
fn certificate(
    vault: &Arc<Vault>,
    key: &Arc<dyn PrivateKey>,
    workload: Workload<'_>,
) -> Result<String, String> {
    let pki = VaultPki::new(VaultPkiConfig {
        vault: vault.clone(),
        mount: "pki".to_owned(),
        role: "sealwire".to_owned(),
        id: format!("spiffe://mesh.example/{}", workload.path)
            .parse()
            .unwrap(),
        addresses: Vec::new(),
        ttl: None,
        profile: Profile::by_name("default").unwrap(),
    });
    let issued = pki.issue(key).map_err(|error| error.to_string())?;
    Ok(issued.credentials.facts().spiffe_id.to_string())
}

fn signs(key: &dyn PrivateKey) -> bool {
    let scheme = key.schemes()[0];
    let signature = key.sign(scheme, b"message");
    signature.is_ok_and(|signature| key.public_key().verifies(scheme, b"message", &signature))
}

#[test]
fn a_service_account_gets_its_own_key_and_certificate_and_nobody_elses() {
    for login in [Login::Kubernetes, Login::Jwt] {
        let ground = Ground::new(login);
        let token = ground.token(Some(AUDIENCE));
        let vault = ground.session(ground.secret("token", &token));
        let own = key(&vault, WEB).unwrap();
        assert!(signs(own.as_ref()));
        let issued = certificate(&vault, &own, WEB).unwrap();
        assert_eq!(issued, "spiffe://mesh.example/ns/shop/sa/web");

        let refused = key(&vault, API).unwrap_err();
        assert!(refused.contains("does not allow"), "{refused}");
        let refused = certificate(&vault, &own, API).unwrap_err();
        assert!(refused.contains("URI"), "{refused}");
        let said = ground.log_in("sealwire", &token).unwrap();
        may_be_nobody_else(&ground.bao, &said, WEB, API);
    }
}

#[test]
fn the_role_of_another_service_account_is_refused() {
    let ground = Ground::new(Login::Kubernetes);
    let role = json!({
        "bound_service_account_names": "api", "bound_service_account_namespaces": "shop",
        "audience": AUDIENCE,
    });
    ground
        .bao
        .write("auth/kubernetes/role/other", &role)
        .unwrap();
    let own = ground.token(Some(AUDIENCE));
    let refused = ground.log_in("other", &own).unwrap_err();
    assert!(refused.contains("not authorized"), "{refused}");
    let other = ground.api.token("shop", "api", Some(AUDIENCE)).unwrap();
    ground.log_in("other", &other).unwrap();
}

#[test]
fn a_token_for_another_audience_is_refused() {
    for login in [Login::Kubernetes, Login::Jwt] {
        let ground = Ground::new(login);
        // Another's, and the one that every pod has: the API's own.
        for audience in [Some("somebody-else"), None] {
            let token = ground.token(audience);
            let refused = ground.log_in("sealwire", &token).unwrap_err();
            assert!(refused.contains("audience"), "{audience:?}: {refused}");
            // The sidecar's own login says why as well, and does not repeat the token.
            let vault = ground.session(ground.secret("token", &token));
            let refused = key(&vault, WEB).unwrap_err();
            assert!(
                refused.contains("refuses the login") && refused.contains("audience"),
                "{refused}"
            );
            assert!(!refused.contains(&token));
        }
        ground
            .log_in("sealwire", &ground.token(Some(AUDIENCE)))
            .unwrap();
    }
}

#[test]
fn a_token_that_has_ended_or_was_signed_by_somebody_else_is_refused() {
    let elsewhere = KubeApi::start(Release::V1_34).unwrap();
    elsewhere.namespace("shop").unwrap();
    elsewhere.service_account("shop", "web").unwrap();
    for login in [Login::Kubernetes, Login::Jwt] {
        let ground = Ground::new(login);
        ground
            .log_in("sealwire", &ground.token_that_ends(600))
            .expect("what this test signs differs by its end alone");
        // Clocks may differ by minutes.
        let ended = ground.token_that_ends(-1800);
        let refused = ground.log_in("sealwire", &ended).unwrap_err();
        assert!(refused.contains("expired"), "{login:?}: {refused}");
        let foreign = elsewhere.token("shop", "web", Some(AUDIENCE)).unwrap();
        assert!(ground.log_in("sealwire", &foreign).is_err(), "{login:?}");
    }
}

#[test]
fn a_token_ends_with_its_service_account_even_if_another_gets_the_name() {
    let ground = Ground::new(Login::Kubernetes);
    let token = ground.token(Some(AUDIENCE));
    let vault = ground.session(ground.secret("token", &token));
    let key = key(&vault, WEB).unwrap();
    ground.kubectl("delete serviceaccount web --namespace shop");
    // The API remembers for some seconds that a token was good.
    assert_eventually("it is refused", SOON, || {
        ground.log_in("sealwire", &token).err()
    });
    assert!(signs(key.as_ref()), "what it had got for it lasts");
    ground.revoke_logins();
    let refused = key.sign(key.schemes()[0], b"message").unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("refuses the login"), "{refused}");

    ground.api.service_account("shop", "web").unwrap();
    assert!(ground.log_in("sealwire", &token).is_err());
    ground
        .log_in("sealwire", &ground.token(Some(AUDIENCE)))
        .unwrap();
}

#[test]
fn by_the_issuers_keys_alone_a_token_outlives_its_service_account() {
    let ground = Ground::new(Login::Jwt);
    let token = ground.token(Some(AUDIENCE));
    ground.kubectl("delete serviceaccount web --namespace shop");
    // Nobody asks Kubernetes: docs/vault.md says so, and to keep such tokens short.
    ground.log_in("sealwire", &token).unwrap();
}

#[test]
fn the_issuers_keys_can_be_read_from_kubernetes_itself() {
    let ground = Ground::new(Login::Jwt);
    ground.kubectl(
        "create clusterrolebinding issuer --clusterrole=system:service-account-issuer-discovery \
         --group=system:unauthenticated",
    );
    let config = json!({
        "jwks_url": format!("{}/openid/v1/jwks", ground.api.address()),
        "jwks_ca_pem": ground.api.ca(), "bound_issuer": ground.api.issuer(),
        "jwt_validation_pubkeys": [],
    });
    ground.bao.write("auth/jwt/config", &config).unwrap();
    let said = ground
        .log_in("sealwire", &ground.token(Some(AUDIENCE)))
        .unwrap();
    may_be_nobody_else(&ground.bao, &said, WEB, API);
    ground
        .log_in("sealwire", &ground.token(Some("somebody-else")))
        .unwrap_err();
}

#[test]
fn a_token_that_was_replaced_in_its_file_serves_for_the_next_login() {
    let ground = Ground::new(Login::Kubernetes);
    let token = Projected::new(&ground, &ground.token(Some(AUDIENCE)));
    let vault = ground.session(token.path());
    let key = key(&vault, WEB).unwrap();
    assert!(signs(key.as_ref()));

    // The first token is of no use any more, as at its end.
    ground.kubectl("delete serviceaccount web --namespace shop");
    ground.api.service_account("shop", "web").unwrap();
    token.replace(&ground.token(Some(AUDIENCE)));
    assert!(signs(key.as_ref()), "its login lasts");
    ground.revoke_logins();
    assert!(signs(key.as_ref()), "logged in again by the second");
    assert_eq!(vault.figures().logins, 2);
}

#[test]
fn a_review_that_is_refused_is_named_and_tried_until_it_is_allowed() {
    let ground = Ground::new(Login::Kubernetes);
    ground.kubectl("delete clusterrolebinding reviewer");
    let vault = ground.session(ground.secret("token", &ground.token(Some(AUDIENCE))));
    assert_eventually("it is named", SOON, || {
        let problem = vault.figures().problem?;
        problem.contains("refuses the login").then_some(())
    });
    ground.let_review();
    assert_eventually("it logs in alone", SOON, || {
        vault.figures().logged_in.then_some(())
    });
}

/// A token in a file as the kubelet projects it: a link to a link to a directory, of which the
/// second is replaced.
struct Projected(PathBuf);

impl Projected {
    fn new(ground: &Ground, token: &str) -> Self {
        let volume = ground.bao.directory().join("volume");
        fs::create_dir(&volume).unwrap();
        let projected = Self(volume);
        projected.replace(token);
        let link = std::os::unix::fs::symlink("..data/token", projected.path());
        link.unwrap();
        projected
    }

    fn path(&self) -> PathBuf {
        self.0.join("token")
    }

    fn replace(&self, token: &str) {
        let taken = fs::read_dir(&self.0).unwrap().count();
        let directory = self.0.join(format!("..{taken}"));
        fs::create_dir(&directory).unwrap();
        let file = directory.join("token");
        fs::write(&file, token).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let fresh = self.0.join("..data_tmp");
        std::os::unix::fs::symlink(&directory, &fresh).unwrap();
        fs::rename(fresh, self.0.join("..data")).unwrap();
    }
}
